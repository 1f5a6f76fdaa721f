"""headwater validate: every revision and every object that is not as the migrations left it, by name."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from headwater.cli.exits import DRIFT, OK, PENDING
from headwater.cli.options import emit, home_option, json_option, progress, system_option
from headwater.kernel.errors import RefusedError

if TYPE_CHECKING:
    from headwater.kernel.fingerprint import Difference
    from headwater.kernel.migrations import ValidationReport

_NAMED_MAX = 5


@click.command("validate")
@click.option("--verbose", is_flag=True, help="Name everything, with what is recorded and what is there.")
@click.option("--accept", is_flag=True, help="Take edited revisions and differing objects as they are now.")
@click.option("--force", is_flag=True, help="With --accept: do not ask.")
@system_option
@home_option
@json_option
def command(verbose: bool, accept: bool, force: bool, system_name: str, home: Path, as_json: bool) -> int:
    """Compare the revisions and the catalogue with what was applied.

    Ends with 4 when a revision was edited or is missing or an object differs, with 3 when revisions wait. Every object
    counts that is in a schema where a migration made something, also in `public`; members of extensions do not.

    \b
    Example:
      headwater validate --verbose
      headwater validate --accept      # after you looked and found it right
    """
    report = asyncio.run(_validate(system_name, home))
    if accept and report.drifted:
        _confirm(report, force)
        report = asyncio.run(_accept(system_name, home))
        emit(as_json, {"accepted": _facts(report)}, "\n".join([*_lines(report, verbose=True), "Accepted as they are."]))
        return OK
    emit(as_json, _facts(report), "\n".join(_lines(report, verbose)))
    if report.drifted:
        return DRIFT
    return PENDING if report.unapplied else OK


def _confirm(report: ValidationReport, force: bool) -> None:
    if force:
        return
    for line in _lines(report, verbose=True):
        progress(line)
    if not sys.stdin.isatty():
        raise RefusedError("Nothing was accepted: there is nobody to ask.", remedy="Add --force if you mean it.")
    if not click.confirm("Take all of this as it is now?", err=True):
        raise RefusedError("Nothing was accepted.")


async def _validate(system_name: str, home: Path) -> ValidationReport:
    from headwater.cli.stores import stores
    from headwater.kernel.migrations import validate
    from headwater.systems import find

    system = find(system_name)
    async with stores(home, make_home=False) as settings:
        return await validate(system, settings)


async def _accept(system_name: str, home: Path) -> ValidationReport:
    from headwater.cli.stores import stores
    from headwater.kernel.migrations import accept
    from headwater.systems import find

    system = find(system_name)
    async with stores(home, make_home=False) as settings:
        return await accept(system, settings)


def _facts(report: ValidationReport) -> dict[str, Any]:
    return {
        "valid": report.valid,
        "edited": [{"revision": e.revision, "module": e.module, "path": str(e.path)} for e in report.edited],
        "missing": [{"revision": m.revision, "module": m.module} for m in report.missing],
        "unapplied": [{"revision": p.revision, "module": p.module, "path": str(p.path)} for p in report.unapplied],
        "drift": [
            {"change": d.change, "object": str(d), "revision": d.revision, "recorded": d.recorded, "actual": d.actual}
            for d in report.drift
        ],
    }


def _lines(report: ValidationReport, verbose: bool) -> list[str]:
    if report.valid:
        return ["Valid: every revision is applied as it is, and the database is what they made."]
    lines: list[str] = []
    groups: list[tuple[str, list[str]]] = [
        ("edited since it was applied", [f"revision {e.revision}  {e.path}" for e in report.edited]),
        ("applied, but its file is missing", [f"revision {m.revision}  {m.name}" for m in report.missing]),
        ("not applied", [f"revision {p.revision}  {p.name}" for p in report.unapplied]),
    ]
    groups += [
        (words, [_told(d, verbose) for d in report.drift if d.change == change])
        for change, words in (
            ("changed", "changed by hand"),
            ("removed", "removed by hand"),
            ("added", "added by hand"),
        )
    ]
    for words, names in groups:
        if names:
            lines.append(f"{len(names)} {words}:")
            shown = names if verbose else names[:_NAMED_MAX]
            lines += [f"  {name}" for name in shown]
            if len(shown) < len(names):
                lines.append(f"  and {len(names) - len(shown)} more; --verbose names them")
    return lines


def _told(difference: Difference, verbose: bool) -> str:
    by = f"  (made by {difference.revision})" if difference.revision else ""
    if not verbose:
        return f"{difference}{by}"
    lines = [f"{difference}{by}"]
    for words, definition in (("recorded", difference.recorded), ("now", difference.actual)):
        if definition is not None:
            lines.append(f"    {words + ':':<10}{definition.strip().replace(chr(10), chr(10) + ' ' * 14)}")
    return "\n".join(lines)
