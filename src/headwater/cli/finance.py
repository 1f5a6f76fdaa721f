"""headwater finance: seal the trails of savings, and prove that nothing in them changed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from headwater.cli.exits import OK, VERIFICATION_FAILED
from headwater.cli.options import emit, home_option, json_option

if TYPE_CHECKING:
    from headwater.kernel.lifecycle import Headwater
    from headwater.modules.finance.repository import SealedDigest, Verification


@click.group("finance")
def command() -> None:
    """Savings: their trails, sealed and verified.

    \b
    Example:
      headwater finance seal
      headwater finance verify
    """


@command.command("seal")
@home_option
@json_option
def seal(home: Path, as_json: bool) -> None:
    """Bind all trails together as they stand, and print the seal's number and digest.

    Keep the digest where nobody who could change the database can: as long as `verify --digest` finds it, nothing from
    before the seal has changed.

    \b
    Example:
      headwater finance seal
      headwater finance seal --json
    """
    import msgspec

    made = asyncio.run(_seal(home))
    text = f"{made.number}:{made.digest}" if made is not None else "There is no trail to seal."
    emit(as_json, {} if made is None else msgspec.to_builtins(made), text)


@command.command("verify")
@click.option("--digest", metavar="NUMBER:DIGEST", help="What `seal` printed and was kept elsewhere; checked as well.")
@click.option("--limit", type=click.IntRange(min=1), default=20, show_default=True, help="Faults of each kind to tell.")
@home_option
@json_option
def verify(digest: str | None, limit: int, home: Path, as_json: bool) -> int:
    """Recompute every trail and seal, and compare them with the transactions, and these with the ledger.

    A changed byte, a removed row or a rewritten end of a trail is named, and the exit code is 6.

    \b
    Example:
      headwater finance verify
      headwater finance verify --digest 7:0fc2… --json
    """
    import msgspec

    kept = None if digest is None else _read_digest(digest)
    found = asyncio.run(_verify(home, kept, limit))
    lines = [f"{found.transactions:,} transactions, {found.entries:,} entries, {found.seals:,} seals."]
    lines += [f"{fault.check}: {fault.where}: {fault.fault}." for fault in found.faults]
    if not found.faults:
        lines.append("Everything is as it was written.")
    emit(as_json, msgspec.to_builtins(found), "\n".join(lines))
    return VERIFICATION_FAILED if found.faults else OK


def _read_digest(said: str) -> tuple[int, str]:
    number, _, digest = said.partition(":")
    if not number.isdigit() or len(digest) != 64 or set(digest.lower()) - set("0123456789abcdef"):
        raise click.BadParameter("write it as `seal` prints it, NUMBER:DIGEST.", param_hint="--digest")
    return int(number), digest


@asynccontextmanager
async def _headwater(home: Path) -> AsyncIterator[Headwater]:
    from headwater.cli.stores import stores
    from headwater.kernel.lifecycle import Headwater
    from headwater.systems.abunfi import ABUNFI

    async with stores(home, make_home=False) as settings, Headwater.open(ABUNFI, _patient(settings)) as headwater:
        yield headwater


def _patient(settings: Any) -> Any:
    """The same settings without a bound on a statement: whole tables are read."""
    from dataclasses import replace

    return replace(settings, statement_timeout_ms=0)


async def _seal(home: Path) -> SealedDigest | None:
    from headwater.modules.finance.repository import FinanceRepository

    async with _headwater(home) as headwater, headwater.transaction() as tx:
        return await headwater.repository(FinanceRepository).seal(tx)


async def _verify(home: Path, kept: tuple[int, str] | None, limit: int) -> Verification:
    from headwater.modules.finance.repository import FinanceRepository

    async with _headwater(home) as headwater:
        return await headwater.repository(FinanceRepository).verify(digest=kept, limit=limit)
