"""Stores: where a command finds PostgreSQL and Valkey: in the environment, in the running home, or started for it."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from headwater.cli.exits import UNREACHABLE, CommandError
from headwater.cli.options import progress
from headwater.embedded.home import Home
from headwater.embedded.processes import ProcessIdentity
from headwater.kernel.errors import LockNotAvailable
from headwater.kernel.settings import Settings

if TYPE_CHECKING:
    from headwater.kernel.module import System

_HOME_WAIT_SECONDS_MAX = 120.0
_RECORD = "up"
HOME_KEYRING = "keyring"
"""The secret of a home that holds its keys."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Running:
    """What a running `up` has written into its home."""

    identity: ProcessIdentity
    ready: bool
    system: str
    port: int
    facts: dict[str, Any]
    """What `up --json` prints."""
    database_url: str
    valkey_url: str


def write_record(home: Home, running: Running) -> None:
    """Say in the home who runs there."""
    home.write(
        _RECORD,
        {
            "pid": running.identity.pid,
            "started": running.identity.started,
            "ready": running.ready,
            "system": running.system,
            "port": running.port,
            "facts": running.facts,
            "database_url": running.database_url,
            "valkey_url": running.valkey_url,
        },
    )


def forget_record(home: Home) -> None:
    """Nobody runs there any more."""
    home.forget(_RECORD)


def read_record(home: Home) -> Running | None:
    """The `up` that runs in the home; None when none does, also when a killed one has left its record."""
    found = home.read(_RECORD)
    try:
        identity = ProcessIdentity(int(found["pid"]), str(found["started"]))
        running = Running(
            identity=identity,
            ready=bool(found["ready"]),
            system=str(found["system"]),
            port=int(found["port"]),
            facts=dict(found["facts"]),
            database_url=str(found["database_url"]),
            valkey_url=str(found["valkey_url"]),
        )
    except (KeyError, ValueError, TypeError):
        return None
    return running if identity.alive else None


def with_keyring(settings: Settings, home: Home) -> Settings:
    """The settings, with the home's own keys where the environment names none. They are made on first use."""
    if settings.keyring or settings.keyring_file:
        return settings
    if home.known_secret(HOME_KEYRING) is None:
        add_key(home)
    return replace(settings, keyring_file=str(home.path / f"{HOME_KEYRING}.secret"))


def add_key(home: Home) -> None:
    """Put a new key first in the home's keyring; those that are there stay."""
    from headwater.kernel.keyring import new_key

    known = (home.known_secret(HOME_KEYRING) or "").split()
    home.keep_secret(HOME_KEYRING, "\n".join([new_key(f"local-{len(known) + 1}"), *known]))


async def lock_or_running(home: Home) -> int | Running:
    """The home to ourselves (the descriptor that holds its lock), or the `up` that is ready there."""
    deadline = time.monotonic() + _HOME_WAIT_SECONDS_MAX
    while True:
        descriptor = home.try_lock()
        if descriptor is not None:
            return descriptor
        running = read_record(home)
        if running is not None and running.ready:
            return running
        if time.monotonic() > deadline:
            raise LockNotAvailable(
                f"Another command has kept the home {home.path} for {_HOME_WAIT_SECONDS_MAX:.0f} s.",
                remedy="Wait for it to end, or name another home with --home.",
            )
        await asyncio.sleep(0.05)


@asynccontextmanager
async def stores(home: Path, *, make_home: bool = True) -> AsyncIterator[Settings]:
    """Settings whose PostgreSQL answers, for one command.

    In this order: what the environment names; the stores of the `up` that runs in the home; the PostgreSQL of the home,
    started for as long as the command takes. `make_home=False` is for commands that only look.
    """
    settings = Settings.from_environment()
    place = Home(home)
    if settings.database_url:
        yield with_keyring(settings, place) if place.known_secret(HOME_KEYRING) is not None else settings
        return
    if not place.exists and not make_home:
        place.check()
        raise CommandError(
            f"There is no database to ask: {place.path} is not a home of Headwater, and no DATABASE_URL is set.",
            remedy="Start one with `headwater up`, or name it with --home or HEADWATER_DATABASE_URL.",
            exit_code=UNREACHABLE,
        )
    place.prepare()
    held = await lock_or_running(place)
    if isinstance(held, Running):
        found = Settings.from_environment(
            database_url=held.database_url, valkey_url=settings.valkey_url or held.valkey_url
        )
        yield with_keyring(found, place)
        return
    try:
        from headwater.embedded.postgres import (
            EmbeddedPostgres,
        )  # brings asyncpg, which the other ways do not need here

        async with EmbeddedPostgres(place) as postgres:
            yield with_keyring(Settings.from_environment(database_url=postgres.socket_dsn), place)
    finally:
        os.close(held)


@asynccontextmanager
async def migrated(home: Path, system: System) -> AsyncIterator[Settings]:
    """The same, with the system's schema up to date when the database is the home's own.

    Somebody else's database is migrated by `headwater migrate` alone, when its owner decides.
    """
    async with stores(home) as settings:
        if not Settings.from_environment().database_url:
            from headwater.kernel.migrations import migrate

            await migrate(system, settings, progress=progress)
        yield settings
