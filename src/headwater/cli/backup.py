"""headwater backup: its place is kept; the command itself comes with a later issue."""

from __future__ import annotations

import click

from headwater.cli.exits import USAGE, CommandError
from headwater.cli.options import home_option, json_option


@click.command("backup", context_settings={"ignore_unknown_options": True})
@click.argument("arguments", nargs=-1, metavar="ARGUMENTS")
@home_option
@json_option
def command(arguments: tuple[str, ...], home: object, as_json: bool) -> None:
    """Write a backup to a file. Not there yet: ends with exit code 2.

    \b
    Example:
      headwater backup --backup-file my_backup.json
    """
    raise CommandError(
        "`headwater backup` comes with a later issue; nothing was done.",
        remedy="Until then use pg_dump and pg_restore with the DSN that `headwater up --detach --json` prints.",
        exit_code=USAGE,
    )
