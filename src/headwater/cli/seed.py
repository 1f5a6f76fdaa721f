"""headwater seed: rows that make a fresh system worth looking at, or many rows for a load test."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING

import click

from headwater.cli.options import TableProgress, emit, home_option, json_option, system_option

if TYPE_CHECKING:
    from headwater.kernel.seeds import SeedReport


@click.command("seed")
@click.option(
    "--profile",
    default="demo",
    show_default=True,
    metavar="PROFILE",
    help="demo, or load:N for N rows in all tables together.",
)
@system_option
@home_option
@json_option
def command(profile: str, system_name: str, home: Path, as_json: bool) -> None:
    """Plant the same rows every time; rows that are there already stay as they are.

    \b
    Example:
      headwater seed
      headwater seed --profile load:1000000 --json
    """
    report = asyncio.run(_seed(profile, system_name, home))
    added = {table: count for table, count in report.added.items() if count}
    total = sum(added.values())
    lines = [f"  {table:<40} {count:>12,}" for table, count in added.items()]
    text = "\n".join([f"Planted {total:,} rows.", *lines]) if total else "Every row was there already."
    emit(as_json, {"profile": report.profile, "rows": total, "added": added}, text)


async def _seed(profile: str, system_name: str, home: Path) -> SeedReport:
    from headwater.cli.stores import migrated
    from headwater.kernel.lifecycle import Headwater
    from headwater.kernel.seeds import parse_profile, seed
    from headwater.systems import find

    parse_profile(profile)  # a misspelt profile must not start a server first
    system = find(system_name)
    async with migrated(home, system) as settings, Headwater.open(system, settings) as headwater:
        with TableProgress() as progress:
            return await seed(headwater, profile, progress=progress)
