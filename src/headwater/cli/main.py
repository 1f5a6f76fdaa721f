"""The command `headwater`: names its commands, loads the one that was asked for, and ends with its exit code."""

from __future__ import annotations

import sys
from importlib import import_module

import click

from headwater.cli.exits import ending

# Name, and the line that `headwater --help` shows: known here, so that showing it loads none of them.
_COMMANDS = {
    "up": "Start everything: stores, migrations, seeds, the HTTP service.",
    "down": "Stop everything of a home.",
    "health": "Tell each store's state and latency.",
    "status": "Tell which revisions are applied and which wait.",
    "migrate": "Bring the schema to the newest revision.",
    "validate": "Compare the database with what the migrations made.",
    "seed": "Plant the demo rows, or many rows for a load test.",
    "clear": "Remove what was seeded, and nothing else.",
    "cache": "Tell what the cache does, compare it with PostgreSQL, empty it.",
    "finance": "Seal the trails of savings, and prove that nothing in them changed.",
    "ledger": "Tell who has what, prove that it adds up, torture it.",
    "stream": "Tell where the change stream stands, and what it tells.",
    "backup": "Write a backup (comes with a later issue).",
    "restore": "Bring a backup back (comes with a later issue).",
    "new": "Make the package of a module of your own.",
    "version": "Tell the versions of Headwater, PostgreSQL and Valkey.",
}


class LazyCommands(click.Group):
    """Commands are files of their own, imported when they are asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None
        command = import_module(f"headwater.cli.{cmd_name}").command
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(_COMMANDS.items()))


@click.group(cls=LazyCommands, context_settings={"help_option_names": ["-h", "--help"]})
def headwater() -> None:
    """A hybrid data layer: PostgreSQL is the one truth, everything else follows its change stream.

    \b
    Example:
      headwater up                  # everything, on http://127.0.0.1:8003
      headwater status --json
      headwater down

    Exit codes: 0 ok, 1 failed, 2 usage, 3 pending, 4 drift, 5 unsafe, 6 verification failed,
    7 lock or time exhausted, 8 refused, 9 unreachable.
    """


def main() -> None:
    """Entry point of the command `headwater`."""
    as_json = "--json" in sys.argv[1:]
    sys.exit(ending(lambda: headwater.main(prog_name="headwater", standalone_mode=False), as_json=as_json))


if __name__ == "__main__":
    main()
