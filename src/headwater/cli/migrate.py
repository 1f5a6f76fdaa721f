"""headwater migrate: the schema brought to the newest revision of every module."""

from __future__ import annotations

import asyncio
from dataclasses import asdict
from pathlib import Path

import click

from headwater.cli.exits import OK
from headwater.cli.options import emit, home_option, json_option, progress, system_option


@click.command("migrate")
@click.option("--plan", "plan_only", is_flag=True, help="Only say what would be applied.")
@click.option("--new", "new_module", metavar="MODULE", help="Write a new revision of MODULE from its models instead.")
@click.option("-m", "--message", metavar="TEXT", help="What the new revision does, in a few words.")
@click.option(
    "--lock-wait",
    "lock_wait_seconds",
    type=click.FloatRange(min=0),
    default=60.0,
    show_default=True,
    metavar="SECONDS",
    help="How long to wait for the migrations of others, and for the table locks of each revision.",
)
@system_option
@home_option
@json_option
def command(
    plan_only: bool,
    new_module: str | None,
    message: str | None,
    lock_wait_seconds: float,
    system_name: str,
    home: Path,
    as_json: bool,
) -> int:
    """Apply every revision that waits, each in its own transaction.

    Any number of these may run at once. Exit code 4: an applied revision was edited; 7: a lock was not free in time.

    \b
    Example:
      headwater migrate --plan
      headwater migrate
      headwater migrate --new trading -m "orders get a note"
    """
    if (new_module is None) != (message is None):
        raise click.UsageError("--new MODULE and -m TEXT go together.")
    if new_module is not None and plan_only:
        raise click.UsageError("--plan and --new do not go together.")
    if new_module is not None and message is not None:
        return asyncio.run(_new(new_module, message, system_name, home, as_json))
    if plan_only:
        return asyncio.run(_plan(system_name, home, as_json))
    return asyncio.run(_migrate(lock_wait_seconds, system_name, home, as_json))


async def _migrate(lock_wait_seconds: float, system_name: str, home: Path, as_json: bool) -> int:
    from headwater.cli.stores import stores
    from headwater.kernel.migrations import migrate
    from headwater.systems import find

    system = find(system_name)
    async with stores(home) as settings:
        report = await migrate(system, settings, lock_wait_seconds=lock_wait_seconds, progress=progress)
    for missing in report.missing:
        progress(f"The file of the applied revision {missing.revision} is missing.")
    if report.drift:
        progress(f"{len(report.drift)} objects differ from what the migrations made; see `headwater validate`.")
    lines = [
        f"{r.revision:<24}  {r.duration_ms:>7,} ms  {r.name}"
        f"{f'  ({r.lock_retries} tries for its locks)' if r.lock_retries else ''}"
        for r in report.applied
    ]
    count = len(report.applied)
    lines.append(f"{count} {_revisions(count)} applied." if count else "Nothing to apply: the schema is up to date.")
    facts = {
        "system": system.name,
        "applied": [asdict(r) for r in report.applied],
        "missing": [r.revision for r in report.missing],
        "drift": [str(d) for d in report.drift],
    }
    emit(as_json, facts, "\n".join(lines))
    return OK


async def _plan(system_name: str, home: Path, as_json: bool) -> int:
    from headwater.cli.stores import stores
    from headwater.kernel.migrations import plan
    from headwater.systems import find

    system = find(system_name)
    async with stores(home) as settings:
        planned = await plan(system, settings)
    lines = [
        f"{p.revision:<24}  {p.name}"
        f"{'' if p.transactional else '  (outside a transaction)'}{'  (was interrupted)' if p.begun else ''}"
        for p in planned
    ]
    lines.append(f"{len(planned)} {_revisions(len(planned))} would be applied." if planned else "Nothing to apply.")
    emit(as_json, {"system": system.name, "planned": [asdict(p) for p in planned]}, "\n".join(lines))
    return OK


async def _new(module: str, message: str, system_name: str, home: Path, as_json: bool) -> int:
    from headwater.cli.stores import stores
    from headwater.kernel.new_revision import new_revision
    from headwater.systems import find

    async with stores(home) as settings:
        path = await new_revision(find(system_name), settings, module, message)
    progress("Read it before you apply it: renames, changed enum labels, functions and triggers are not seen.")
    emit(as_json, {"module": module, "path": str(path)}, str(path))
    return OK


def _revisions(count: int) -> str:
    return "revision" if count == 1 else "revisions"
