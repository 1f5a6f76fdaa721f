"""headwater restore: its place is kept; the command itself comes with a later issue."""

from __future__ import annotations

import click

from headwater.cli.exits import USAGE, CommandError
from headwater.cli.options import home_option, json_option


@click.command("restore", context_settings={"ignore_unknown_options": True})
@click.argument("arguments", nargs=-1, metavar="ARGUMENTS")
@home_option
@json_option
def command(arguments: tuple[str, ...], home: object, as_json: bool) -> None:
    """Bring a backup back from a file. Not there yet: ends with exit code 2.

    \b
    Example:
      headwater restore my_backup.json
    """
    raise CommandError(
        "`headwater restore` comes with a later issue; nothing was done.",
        remedy="Until then use pg_dump and pg_restore with the DSN that `headwater up --detach --json` prints.",
        exit_code=USAGE,
    )
