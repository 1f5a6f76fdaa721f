"""headwater keyring: make a key, tell which keys are in use, and seal everything again under the current one."""

from __future__ import annotations

import asyncio
from functools import partial
from pathlib import Path
from typing import Any

import click

from headwater.cli.options import emit, home_option, json_option, progress, system_option


@click.group("keyring")
def command() -> None:
    """The keys of what is encrypted at rest: private keys of wallets, credentials.

    \b
    Example:
      headwater keyring status
      headwater keyring rotate
    """


@command.command("new")
@click.argument("name")
@home_option
@json_option
def new(name: str, home: Path, as_json: bool) -> None:
    """Print a new key called NAME, for HEADWATER_KEYRING. Nothing is kept.

    \b
    Example:
      headwater keyring new 2026-11
    """
    from headwater.kernel.keyring import new_key

    del home  # every command has it; this one needs no home
    line = new_key(name)
    emit(as_json, {"name": name, "key": line}, line)


@command.command("status")
@system_option
@home_option
@json_option
def status(system_name: str, home: Path, as_json: bool) -> None:
    """Tell the current key, and how many secrets each key has sealed.

    \b
    Example:
      headwater keyring status
      headwater keyring status --json
    """
    found = asyncio.run(_status(system_name, home))
    lines = [f"The current key is '{found['current']}'." if found["current"] else "There is no key."]
    for column, by_key in found["secrets"].items():
        lines += [f"{column}: {n:,} " + _remark(key, found) for key, n in by_key.items()] or [f"{column}: 0"]
    emit(as_json, found, "\n".join(lines))


@command.command("rotate")
@system_option
@home_option
@json_option
def rotate(system_name: str, home: Path, as_json: bool) -> None:
    """Seal everything again under the current key; a home's own keyring gets a new key first.

    A keyring that comes from HEADWATER_KEYRING or HEADWATER_KEYRING_FILE is left as it is: put the new key first there.
    It can be stopped and run again, and works beside a running service, which must know the new key already.

    \b
    Example:
      headwater keyring rotate
    """
    found = asyncio.run(_rotate(system_name, home))
    lines = [f"{column}: {n:,} sealed again" for column, n in found["resealed"].items()]
    emit(as_json, found, "\n".join([*lines, f"The current key is '{found['current']}'."]))


def _remark(key: str, found: dict[str, Any]) -> str:
    if not key:
        return "that no keyring has sealed"
    if key not in found["keys"]:
        return f"by '{key}', WHICH IS NOT IN THE KEYRING"
    return f"by '{key}'" + ("" if key == found["current"] else ", which `headwater keyring rotate` seals again")


async def _status(system_name: str, home: Path) -> dict[str, Any]:
    from headwater.cli.stores import migrated
    from headwater.kernel.keyring import Keyring
    from headwater.kernel.lifecycle import Headwater
    from headwater.kernel.sealed import count_by_key, sealed_columns
    from headwater.systems import find

    system = find(system_name)
    async with migrated(home, system) as settings, Headwater.open(system, settings) as headwater:
        keys = Keyring.of(settings).names
        secrets = {c.name: await count_by_key(headwater.postgres, c) for c in sealed_columns(system)}
    return {"current": keys[0] if keys else None, "keys": list(keys), "secrets": secrets}


async def _rotate(system_name: str, home: Path) -> dict[str, Any]:
    from headwater.cli.stores import HOME_KEYRING, add_key, migrated
    from headwater.embedded.home import Home
    from headwater.kernel.keyring import Keyring
    from headwater.kernel.lifecycle import Headwater
    from headwater.kernel.sealed import reseal, sealed_columns
    from headwater.systems import find

    system = find(system_name)
    resealed: dict[str, int] = {}
    async with migrated(home, system) as settings, Headwater.open(system, settings) as headwater:
        place = Home(home)
        if settings.keyring_file and Path(settings.keyring_file) == place.path / f"{HOME_KEYRING}.secret":
            add_key(place)
            progress("The home has a new key; the old ones stay in its keyring.")
        keyring = Keyring.of(settings)
        for column in sealed_columns(system):
            resealed[column.name] = 0
            while done := await headwater.run(partial(reseal, column=column, keyring=keyring)):
                resealed[column.name] += done
                progress(f"{column.name}: {resealed[column.name]:,} sealed again.")
        return {"current": keyring.current, "keys": list(keyring.names), "resealed": resealed}
