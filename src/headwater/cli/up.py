"""headwater up: everything of a home, running: stores, migrations, seeds, the HTTP service."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import click

from headwater.cli.options import home_option, json_option, progress, system_option


@click.command("up")
@system_option
@home_option
@click.option(
    "--port",
    type=click.IntRange(1, 65535),
    default=8003,
    show_default=True,
    help="The port of the HTTP service on 127.0.0.1.",
)
@click.option("--detach", is_flag=True, help="Return when the service is ready and leave it running.")
@click.option("--no-seed", is_flag=True, help="Plant no demo rows.")
@json_option
@click.option("--report-to", type=int, default=None, hidden=True)
def command(
    system_name: str, home: Path, port: int, detach: bool, no_seed: bool, as_json: bool, report_to: int | None
) -> int:
    """Start PostgreSQL and Valkey in a home, migrate, seed, and serve HTTP on 127.0.0.1.

    Stores that HEADWATER_DATABASE_URL (or DATABASE_URL) and HEADWATER_VALKEY_URL (or REDIS_URL) name are used
    instead of the home's own. A second `up` on a running home says so and prints the same. Ctrl-C, SIGTERM or
    `headwater down` end it.

    \b
    Example:
      headwater up
      headwater up --home /tmp/trial --port 8100 --detach --json
    """
    from headwater.cli.running import Plan, run_detached, run_here

    plan = Plan(home=home, system_name=system_name, port=port, seeded=not no_seed)
    if report_to is not None:
        return _run_as_child(plan, report_to)
    if detach:
        facts, fresh = run_detached(plan, progress)
        _print(facts, as_json, fresh=fresh, home=home)
        return 0
    return run_here(plan, progress, lambda facts, fresh: _print(facts, as_json, fresh=fresh, home=home))


def _run_as_child(plan: Any, report_to: int) -> int:
    """What `--detach` starts: the same, told line by line in JSON to the command that waits for it."""
    from headwater.cli.exits import CommandError, exit_code_of, told
    from headwater.cli.running import run_here
    from headwater.kernel.errors import HeadwaterError

    def tell(**what: object) -> None:
        nonlocal report_to
        if report_to < 0:
            return
        try:
            os.write(report_to, json.dumps(what, default=str).encode() + b"\n")
        except BrokenPipeError:  # nobody waits any more; the service goes on
            report_to = -1

    def say(line: str) -> None:
        progress(line)
        tell(progress=line)

    def ready(facts: dict[str, Any], fresh: bool) -> None:
        nonlocal report_to
        tell(ready=facts, fresh=fresh)
        if report_to >= 0:
            os.close(report_to)
            report_to = -1

    try:
        return run_here(plan, say, ready)
    except HeadwaterError as error:
        tell(error=told(error))
        progress(f"headwater: {error}")
        return exit_code_of(error)
    except Exception as unforeseen:
        tell(error=told(CommandError(f"This should not have happened: {type(unforeseen).__name__}: {unforeseen}")))
        raise


def _print(facts: dict[str, Any], as_json: bool, *, fresh: bool, home: Path) -> None:
    if as_json:
        click.echo(json.dumps(facts))
        return
    lines = [
        "Headwater is up." if fresh else "Headwater was up already in this home.",
        "",
        f"  HTTP        {facts['http']}",
        f"  API         {facts['http']}/openapi.json",
        f"  PostgreSQL  {facts['postgres']}",
        f"  Valkey      {facts['valkey']}",
        *([f"  admin key   {facts['admin_key']}"] if facts["admin_key"] else []),
        "",
        f"End it with Ctrl-C or `headwater down --home {home}`." if fresh else f"Process {facts['pid']}.",
    ]
    click.echo("\n".join(lines))
