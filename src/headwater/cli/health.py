"""headwater health: whether each store answers, and how fast."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING

import click

from headwater.cli.exits import OK, UNREACHABLE, CommandError
from headwater.cli.options import emit, home_option, json_option

if TYPE_CHECKING:
    from headwater.kernel.health import Health
    from headwater.kernel.settings import Settings


@click.command("health")
@home_option
@json_option
def command(home: Path, as_json: bool) -> int:
    """Ask PostgreSQL and Valkey, of the environment or of the running home, and tell state and latency.

    Exit code 9 when PostgreSQL does not answer; 0 when only Valkey does not (degraded).

    \b
    Example:
      headwater health
      headwater health --home /tmp/trial --json
    """
    import msgspec

    health = asyncio.run(_health(_settings(home)))
    lines = [f"{health.status}"]
    for name, store in health.stores.items():
        figure = f"{store.latency_ms:.2f} ms" if store.latency_ms is not None else store.reason or ""
        lines.append(f"  {name:<10} {store.status:<5} {figure}".rstrip())
    emit(as_json, msgspec.to_builtins(health), "\n".join(lines))
    return UNREACHABLE if health.status == "down" else OK


def _settings(path: Path) -> Settings:
    """Where to ask. Asking must not start anything."""
    from headwater.cli.stores import read_record
    from headwater.embedded.home import Home
    from headwater.kernel.settings import Settings

    settings = Settings.from_environment()
    if settings.database_url:
        return settings
    home = Home(path)
    home.check()
    running = read_record(home)
    if running is None or not running.database_url:
        raise CommandError(
            f"Nothing runs in the home {home.path}, and no DATABASE_URL is set.",
            remedy="Start it with `headwater up`, or name another home with --home.",
            exit_code=UNREACHABLE,
        )
    return Settings.from_environment(
        database_url=running.database_url, valkey_url=settings.valkey_url or running.valkey_url
    )


async def _health(settings: Settings) -> Health:
    from headwater.kernel.errors import Unreachable
    from headwater.kernel.health import Health, StoreHealth, probe
    from headwater.kernel.lifecycle import Headwater, open_valkey
    from headwater.kernel.module import System

    try:
        async with Headwater.open(System("stores", ()), settings) as headwater:
            return await probe(headwater)
    except Unreachable as unreachable:
        postgres = StoreHealth(status="down", reason=unreachable.message)
    client = open_valkey(settings.valkey_url)
    if client is None:
        return Health(status="down", stores={"postgres": postgres, "valkey": StoreHealth(status="off")})
    try:
        await client.ping()
        valkey = StoreHealth(status="ok")
    except Exception as error:  # a client raises what it likes; here each failure means the same
        valkey = StoreHealth(status="down", reason=f"It does not answer ({type(error).__name__}).")
    finally:
        await client.aclose()
    return Health(status="down", stores={"postgres": postgres, "valkey": valkey})
