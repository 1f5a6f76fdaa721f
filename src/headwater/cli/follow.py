"""headwater follow: a process that follows the change stream: a ticker and the relay of the cache."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from pathlib import Path

import click

from headwater.cli.options import home_option, json_option, progress, system_option


@click.command("follow")
@system_option
@home_option
@json_option
def command(system_name: str, home: Path, as_json: bool) -> None:
    """Follow the change stream until Ctrl-C or SIGTERM: tell it, and carry it to the cache.

    `headwater up` does this too; start it beside an application that runs Headwater itself. Any number may run: one
    ticker and one relay lead, and others take over within seconds when they die. It says when they lead.

    \b
    Example:
      headwater follow --system shop.system:SHOP
    """
    asyncio.run(_follow(system_name, home, as_json))


async def _follow(system_name: str, home: Path, as_json: bool) -> None:
    from headwater.cli.stores import stores
    from headwater.followers.follow import follow
    from headwater.kernel.lifecycle import Headwater
    from headwater.systems import find

    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    async with (
        stores(home, make_home=False) as settings,
        Headwater.open(find(system_name), settings) as headwater,
        follow(headwater) as following,
    ):
        what = "the stream" if following.relay is None else "the stream, and its relay to the cache"
        if as_json:
            click.echo(json.dumps({"pid": os.getpid(), "ticker": True, "relay": following.relay is not None}))
        else:
            click.echo(f"Process {os.getpid()} follows {what}.")
        leading = asyncio.create_task(following.ticker.leads())
        stopped = asyncio.create_task(stop.wait())
        await asyncio.wait((leading, stopped), return_when=asyncio.FIRST_COMPLETED)
        if leading.done():
            progress("Its ticker leads.")
        await stopped
        leading.cancel()
