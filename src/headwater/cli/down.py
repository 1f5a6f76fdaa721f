"""headwater down: nothing of a home runs any more."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

import click

from headwater.cli.options import emit, home_option, json_option, progress

# Longer than `up` takes at worst: it drains, then stops Valkey, then PostgreSQL, each within its own limit.
_UP_SECONDS_MAX = 75.0


@click.command("down")
@home_option
@json_option
def command(home: Path, as_json: bool) -> None:
    """Stop the service, Valkey and PostgreSQL of a home, and wait until all are gone.

    Also ends what a killed `up` has left behind. Nothing running is fine. The data stays.

    \b
    Example:
      headwater down
      headwater down --home /tmp/trial --json
    """
    ended = asyncio.run(_down(home))
    text = f"Everything in {home} has ended." if ended else f"Nothing was running in {home}."
    emit(as_json, {"home": str(home), "stopped": ended}, text)


async def _down(path: Path) -> bool:
    """Whether there was anything to end."""
    from headwater.cli.stores import Running, forget_record, lock_or_running, read_record
    from headwater.embedded.home import Home
    from headwater.embedded.postgres import EmbeddedPostgres
    from headwater.embedded.processes import end
    from headwater.embedded.valkey import EmbeddedValkey

    home = Home(path)
    home.check()
    if not home.exists:
        return False
    ended_any = False
    while True:
        running = read_record(home)
        if running is not None:
            progress(f"Ending process {running.identity.pid}.")
            ended_any = True
            await end([running.identity], ((signal.SIGTERM, _UP_SECONDS_MAX), (signal.SIGKILL, 5.0)))
        held = await lock_or_running(home)
        if not isinstance(held, Running):
            break  # nobody else is at work in the home: what still runs there was left behind
    try:
        for store in (EmbeddedValkey(home), EmbeddedPostgres(home)):
            left_behind = await store.stop()
            ended_any = ended_any or left_behind
        forget_record(home)
    finally:
        os.close(held)
    return ended_any
