"""headwater status: at which revision each module is, what waits, and whether something differs."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from headwater.cli.exits import DRIFT, OK, PENDING
from headwater.cli.options import emit, home_option, json_option, system_option

if TYPE_CHECKING:
    from headwater.kernel.migrations import MigrationStatus


@click.command("status")
@click.option("--exit-code", "use_exit_code", is_flag=True, help="End with 3 when revisions wait, with 4 on drift.")
@system_option
@home_option
@json_option
def command(use_exit_code: bool, system_name: str, home: Path, as_json: bool) -> int:
    """Tell which revisions are applied and which wait. Changes nothing.

    With --exit-code drift (4) is told before what waits (3).

    \b
    Example:
      headwater status
      headwater status --exit-code --json
    """
    found = asyncio.run(_status(system_name, home))
    emit(as_json, _facts(found), _table(found))
    if not use_exit_code:
        return OK
    if found.drifted:
        return DRIFT
    return PENDING if found.pending else OK


async def _status(system_name: str, home: Path) -> MigrationStatus:
    from headwater.cli.stores import stores
    from headwater.kernel.migrations import status
    from headwater.systems import find

    system = find(system_name)
    async with stores(home, make_home=False) as settings:
        return await status(system, settings)


def _facts(found: MigrationStatus) -> dict[str, Any]:
    return {
        "system": found.system,
        "pending": len(found.pending),
        "drifted": found.drifted,
        "modules": [
            {
                "module": m.module,
                "current": m.current,
                "head": m.head,
                "applied": m.applied,
                "pending": [p.revision for p in m.pending],
            }
            for m in found.modules
        ],
        "others": list(found.others),
        "edited": [e.revision for e in found.edited],
        "missing": [m.revision for m in found.missing],
        "drift": [{"change": d.change, "object": str(d)} for d in found.drift],
    }


def _table(found: MigrationStatus) -> str:
    rows = [("module", "at", "newest", "waiting")]
    rows += [(m.module, m.current or "-", m.head or "-", str(len(m.pending) or "-")) for m in found.modules]
    widths = [max(len(row[i]) for row in rows) for i in range(4)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    if found.others:
        lines.append(f"The database also has modules that are not in '{found.system}': {', '.join(found.others)}.")
    waiting = len(found.pending)
    lines.append(f"{waiting} waiting: run `headwater migrate`." if waiting else "Nothing is waiting.")
    counts = {"edited": len(found.edited), "missing": len(found.missing), "differing": len(found.drift)}
    told = ", ".join(f"{count} {what}" for what, count in counts.items() if count)
    if told:
        lines.append(f"Drift: {told}; `headwater validate --verbose` names them.")
    return "\n".join(lines)
