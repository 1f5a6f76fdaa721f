"""headwater stream: where the change stream stands, what it tells, and followers that begin again."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from headwater.cli.options import emit, home_option, json_option

if TYPE_CHECKING:
    from headwater.kernel.changes import Change, Position
    from headwater.kernel.postgres import Postgres


@click.group("stream")
def command() -> None:
    """The change stream: every committed change, in order, without gaps.

    \b
    Example:
      headwater stream status
      headwater stream tail --after 1.0 --no-follow
    """


@command.command("status")
@home_option
@json_option
def status(home: Path, as_json: bool) -> None:
    """Tell the position, and of each follower its lag and what it has parked.

    \b
    Example:
      headwater stream status
      headwater stream status --json
    """
    found = asyncio.run(_status(home))
    lines = [f"The stream is at {found['position']}; a ticker {'leads' if found['ticker'] else 'is NOT running'}."]
    if found["cache"]:
        relay = found["cache"]
        lines.append(
            f"{'the cache':<24} {'believed' if relay['trusted'] else 'NOT believed':<10} {'':<14}"
            f" {relay['lag_changes']:>9,} changes {relay['lag_seconds']:>8.1f} s behind"
        )
    if not found["followers"]:
        lines.append("Nobody else follows." if found["cache"] else "Nobody follows.")
    for one in found["followers"]:
        lines.append(
            f"{one['name']:<24} {one['state']:<10} {one['epoch']}.{one['position']:<12}"
            f" {one['lag_changes']:>9,} changes {one['lag_seconds']:>8.1f} s behind"
            + (f"  parked: {one['parked_changes']} of {one['parked_keys']} keys" if one["parked_keys"] else "")
        )
        if one["error"]:
            lines.append(f"    {one['error']}")
    lines += [f"parked {p['follower']} {p['name']} {json.dumps(p['key'])}: {p['error']}" for p in found["parked"]]
    emit(as_json, found, "\n".join(lines))


@command.command("tail")
@click.option("--after", metavar="POSITION", help="Begin after this position (epoch.number); default: from now on.")
@click.option("--table", "tables", multiple=True, metavar="NAME", help="Only this table, or topic:NAME; repeatable.")
@click.option("--count", type=click.IntRange(min=1), metavar="N", help="End after so many changes.")
@click.option("--follow/--no-follow", default=True, show_default=True, help="Wait for more when the end is reached.")
@home_option
@json_option
def tail(
    after: str | None, tables: tuple[str, ...], count: int | None, follow: bool, home: Path, as_json: bool
) -> None:
    """Print changes as they are committed, one line each.

    \b
    Example:
      headwater stream tail --table trading.orders
      headwater stream tail --after 1.0 --no-follow --json
    """
    import contextlib

    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(_tail(home, after, tables, count, follow, as_json))


@command.command("replay")
@click.argument("follower")
@click.option("--after", metavar="POSITION", help="Go back to this position; default: begin again from a snapshot.")
@home_option
@json_option
def replay(follower: str, after: str | None, home: Path, as_json: bool) -> None:
    """Let a follower begin again: from a snapshot of the tables, or from an earlier position.

    \b
    Example:
      headwater stream replay mirror.users
      headwater stream replay mirror.users --after 1.4711
    """
    asyncio.run(_replay(home, follower, after))
    place = f"after {after}" if after else "from a snapshot"
    emit(as_json, {"follower": follower, "after": after}, f"{follower} begins again {place}.")


@command.command("retry")
@click.argument("follower")
@click.option("--key", metavar="KEY", help="Only this key, as `stream status` shows it; default: all.")
@home_option
@json_option
def retry(follower: str, key: str | None, home: Path, as_json: bool) -> None:
    """Ask a follower to try again what it has parked.

    \b
    Example:
      headwater stream retry mirror.users
    """
    asked = asyncio.run(_parked(home, follower, key, drop=False))
    emit(as_json, {"follower": follower, "changes": asked}, f"{follower} will try {asked} parked changes again.")


@command.command("drop")
@click.argument("follower")
@click.option("--key", metavar="KEY", help="Only this key, as `stream status` shows it; default: all.")
@click.option("--force", is_flag=True, help="Do not ask.")
@home_option
@json_option
def drop(follower: str, key: str | None, force: bool, home: Path, as_json: bool) -> None:
    """Give up what a follower has parked; the next change of each key is followed again.

    \b
    Example:
      headwater stream drop mirror.users --force
    """
    if not force:
        click.confirm(f"Give up the parked changes of {follower}?", abort=True, err=True)
    dropped = asyncio.run(_parked(home, follower, key, drop=True))
    emit(as_json, {"follower": follower, "changes": dropped}, f"{dropped} parked changes were given up.")


@asynccontextmanager
async def _postgres(home: Path) -> AsyncIterator[Postgres]:
    from headwater.cli.stores import stores
    from headwater.kernel.postgres import Postgres

    async with stores(home, make_home=False) as settings:
        postgres = await Postgres.open(settings)
        try:
            yield postgres
        finally:
            await postgres.close()


async def _status(home: Path) -> dict[str, Any]:
    from headwater.cli.stores import stores
    from headwater.followers.invalidation import relay_standing
    from headwater.kernel.changes import Stream
    from headwater.kernel.errors import Unreachable
    from headwater.kernel.followers import parked, standings
    from headwater.kernel.lifecycle import Headwater
    from headwater.kernel.module import System
    from headwater.kernel.ticker import is_led
    from headwater.kernel.wire import ReplyError

    async with (
        stores(home, make_home=False) as settings,
        Headwater.open(System("stores", ()), settings) as headwater,
    ):
        postgres, relay = headwater.postgres, None
        if postgres.cache is not None:
            with suppress(Unreachable, ReplyError):
                relay = await relay_standing(postgres.cache)
        return {
            "position": str(await Stream(postgres).head()),
            "ticker": await is_led(postgres),
            "cache": None if relay is None else asdict(relay),
            "followers": [asdict(one) for one in await standings(postgres)],
            "parked": [asdict(one) for one in await parked(postgres, limit=100)],
        }


async def _tail(
    home: Path, after: str | None, tables: tuple[str, ...], count: int | None, follow: bool, as_json: bool
) -> None:
    from headwater.kernel.changes import Bell, Position, Stream

    start: Position | None = Position.parse(after) if after else None
    left = count if count is not None else -1
    async with _postgres(home) as postgres, Bell.listen(postgres.settings) as bell:
        stream = Stream(postgres)
        at = await stream.head() if start is None else start
        while left:
            batch = await stream.read(at, tables=tables or None, limit=500)
            if batch.to == at:
                if not follow:
                    return
                await bell.wait(0.05)
                continue
            at = batch.to
            await stream.settle()
            for change in batch.changes[: left if left > 0 else None]:
                click.echo(_line(change, as_json))
                left -= 1


def _line(change: Change, as_json: bool) -> str:
    if as_json:
        facts = change._asdict() | {"position": str(change.position)}
        return json.dumps(facts, default=str)
    content = change.new if change.new is not None else change.old
    said = "" if content is None else " " + json.dumps(content, default=str)
    return f"{change.position}  {change.at.isoformat()}  {change.op}  {change.table} {json.dumps(change.key)}{said}"


async def _replay(home: Path, follower: str, after: str | None) -> None:
    from headwater.kernel.changes import Position
    from headwater.kernel.followers import replay as begin_again

    place = Position.parse(after) if after else None
    async with _postgres(home) as postgres:
        await begin_again(postgres, follower, place)


async def _parked(home: Path, follower: str, key: str | None, *, drop: bool) -> int:
    from headwater.kernel.followers import drop_parked, retry_parked

    async with _postgres(home) as postgres:
        return await (drop_parked if drop else retry_parked)(postgres, follower, key)
