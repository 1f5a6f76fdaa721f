"""Fixtures of every test: real stores, one server of each for the run, one database for each test."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import uuid4

import asyncpg
import pytest
import pytest_asyncio

from headwater.embedded.home import Home
from headwater.embedded.postgres import EmbeddedPostgres
from headwater.embedded.processes import ProcessIdentity
from headwater.embedded.valkey import EmbeddedValkey
from headwater.kernel.settings import Settings

if TYPE_CHECKING:
    from headwater.kernel.lifecycle import Headwater

KEYRING = "test:" + "dGVzdCBrZXlyaW5nIG9mIHRoZSB3aG9sZSBzdWl0ZSE="  # 32 bytes that are no secret


@dataclass(frozen=True, slots=True)
class PostgresServer:
    """The PostgreSQL of this run. Databases are made and dropped through it."""

    embedded: EmbeddedPostgres

    def dsn_of(self, database: str) -> str:
        return self.embedded.socket_dsn_of(database)

    async def create(self, *, template: str = "template0") -> str:
        """A new database, copied from `template`; its name."""
        name = f"test_{uuid4().hex[:12]}"
        await self._execute(f'create database "{name}" template "{template}" strategy file_copy')
        return name

    async def drop(self, name: str) -> None:
        await self._execute(f'drop database if exists "{name}" with (force)')

    async def _execute(self, statement: str) -> None:
        connection = await asyncpg.connect(self.dsn_of("postgres"))
        try:
            await connection.execute(statement)
        finally:
            await connection.close()


@dataclass(frozen=True, slots=True)
class ValkeyServer:
    """The Valkey of this run."""

    embedded: EmbeddedValkey

    @property
    def url(self) -> str:
        return self.embedded.dsn


@pytest.fixture(scope="session", autouse=True)
def _no_settings_from_outside() -> Iterator[None]:
    """What the developer's shell points at must never be what the tests write to."""
    with pytest.MonkeyPatch.context() as patch:
        for name in list(os.environ):
            if name.startswith("HEADWATER_") or name in ("DATABASE_URL", "REDIS_URL"):
                patch.delenv(name)
        yield


@pytest.fixture(scope="session")
def server_home() -> Iterator[Path]:
    """The home of the servers of this run, in memory where there is room: a database per test is hundreds of files.

    A killed run takes its servers with it and leaves only this folder; the next run removes it.
    """
    memory = Path("/dev/shm")
    roomy = memory.is_dir() and os.access(memory, os.W_OK) and shutil.disk_usage(memory).free > 2 * 2**30
    place = memory if roomy else Path(tempfile.gettempdir())
    for left in place.glob("headwater-tests-*"):
        owner = Home(left).read("owner")
        if owner and not ProcessIdentity(owner["pid"], owner["started"]).alive and left.stat().st_uid == os.geteuid():
            shutil.rmtree(left, ignore_errors=True)
    folder = Path(tempfile.mkdtemp(prefix="headwater-tests-", dir=place))
    this = ProcessIdentity.of(os.getpid())
    assert this is not None
    Home(folder).write("owner", {"pid": this.pid, "started": this.started})
    yield folder / "home"
    shutil.rmtree(folder)


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def postgres_server(server_home: Path) -> AsyncIterator[PostgresServer]:
    """PostgreSQL that flushes nothing to disk."""
    async with EmbeddedPostgres(server_home, durable=False) as embedded:
        yield PostgresServer(embedded)


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def valkey_server(server_home: Path) -> AsyncIterator[ValkeyServer]:
    """Valkey, shared by the tests of the run: one that writes keys takes names that no other has."""
    async with EmbeddedValkey(server_home) as embedded:
        yield ValkeyServer(embedded)


@pytest_asyncio.fixture
async def empty_database(postgres_server: PostgresServer) -> AsyncIterator[str]:
    """The DSN of a database with nothing in it."""
    name = await postgres_server.create()
    yield postgres_server.dsn_of(name)
    await postgres_server.drop(name)


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def template_database(postgres_server: PostgresServer) -> str:
    """The name of a database in which every module is migrated. Nobody connects to it afterwards: it is copied."""
    from headwater.kernel.migrations import migrate
    from headwater.systems.everything import EVERYTHING

    name = await postgres_server.create()
    await migrate(EVERYTHING, Settings(database_url=postgres_server.dsn_of(name)))
    return name


@pytest_asyncio.fixture
async def database(postgres_server: PostgresServer, template_database: str) -> AsyncIterator[str]:
    """The DSN of a migrated database without rows."""
    name = await postgres_server.create(template=template_database)
    yield postgres_server.dsn_of(name)
    await postgres_server.drop(name)


@pytest.fixture
def settings(database: str, valkey_server: ValkeyServer) -> Settings:
    """Settings for a migrated database and Valkey, with a keyring of one key."""
    return Settings(database_url=database, valkey_url=valkey_server.url, keyring=KEYRING)


@pytest_asyncio.fixture
async def headwater(settings: Settings) -> AsyncIterator[Headwater]:
    """The opened data layer of the system that has every module."""
    from headwater.kernel.lifecycle import Headwater
    from headwater.systems.everything import EVERYTHING

    async with Headwater.open(EVERYTHING, settings) as opened:
        yield opened
