"""headwater clear: what was seeded is removed, and nothing else."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from headwater.cli.options import TableProgress, emit, home_option, json_option, system_option
from headwater.kernel.errors import RefusedError

if TYPE_CHECKING:
    from headwater.kernel.seeds import ClearReport


@click.command("clear")
@click.option("--force", is_flag=True, help="Do not ask.")
@system_option
@home_option
@json_option
def command(force: bool, system_name: str, home: Path, as_json: bool) -> int:
    """Remove the seeded rows. A seeded row that a row of yours refers to stays, and is named.

    Asks first on a terminal; without one it needs --force.

    \b
    Example:
      headwater clear --force
    """
    if not force:
        if not sys.stdin.isatty():
            raise RefusedError(
                "`clear` removes rows, and there is nobody to ask.", remedy="Add --force if you mean it."
            )
        if not click.confirm("Remove every seeded row?", err=True):
            raise RefusedError("Nothing was removed.")
    report = asyncio.run(_clear(system_name, home))
    total = sum(report.removed.values())
    lines = [f"Removed {total:,} seeded rows." if total else "There were no seeded rows."]
    lines += [f"  {table:<40} {count:>12,}" for table, count in report.removed.items()]
    lines += [f"  {table:<40} {count:>12,} kept: other rows refer to them" for table, count in report.kept.items()]
    facts = {"rows": total, "removed": dict(report.removed), "kept": dict(report.kept)}
    emit(as_json, facts, "\n".join(lines))
    return 0


async def _clear(system_name: str, home: Path) -> ClearReport:
    from headwater.cli.stores import migrated
    from headwater.kernel.lifecycle import Headwater
    from headwater.kernel.seeds import clear
    from headwater.systems import find

    system = find(system_name)
    async with migrated(home, system) as settings, Headwater.open(system, settings) as headwater:
        with TableProgress() as progress:
            return await clear(headwater, progress=progress)
