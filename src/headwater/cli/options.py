"""Options and output that every command shares: data on stdout, progress on stderr."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import click

Command = TypeVar("Command", bound=Callable[..., Any])

HOME_DEFAULT = Path(".headwater")


def home_option(command: Command) -> Command:
    """--home DIR"""
    return click.option(
        "--home",
        type=click.Path(path_type=Path, file_okay=True, dir_okay=True),
        default=HOME_DEFAULT,
        show_default=True,
        metavar="DIR",
        help="The folder of the embedded stores.",
    )(command)


def json_option(command: Command) -> Command:
    """--json"""
    return click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of text.")(command)


def system_option(command: Command) -> Command:
    """--system NAME"""
    return click.option(
        "--system",
        "system_name",
        default="all",
        show_default=True,
        metavar="NAME",
        callback=_importable,
        help="Which modules: construct, all, or package.module:NAME for a system of your own.",
    )(command)


def _importable(_context: click.Context, _parameter: click.Parameter, name: str) -> str:
    """A system of your own is found from where you are, as `python -m` would find it."""
    here = str(Path.cwd())
    if ":" in name and here not in sys.path:
        sys.path.insert(0, here)
    return name


def progress(line: str) -> None:
    """One line of what is going on, for the person who waits."""
    click.echo(line, err=True)


def emit(as_json: bool, facts: Mapping[str, Any], text: str) -> None:
    """What the command was asked for: as JSON, or as text."""
    click.echo(json.dumps(facts, default=str) if as_json else text)


class TableProgress:
    """Rows per table, as they go: one line that is rewritten on a terminal, one line per finished table elsewhere."""

    def __init__(self) -> None:
        self._live = sys.stderr.isatty()
        self._table = ""
        self._done = 0

    def __call__(self, table: str, done: int, total: int | None) -> None:
        if table != self._table:
            self._finish()
        self._table, self._done = table, done
        if self._live:
            of = f" of {total:,}" if total else ""
            click.echo(f"\r\033[K  {table} {done:,}{of}", err=True, nl=False)

    def _finish(self) -> None:
        if self._table:
            start = "\r\033[K" if self._live else ""
            click.echo(f"{start}  {self._table} {self._done:,}", err=True)

    def __enter__(self) -> TableProgress:
        return self

    def __exit__(self, *_: object) -> None:
        self._finish()
        self._table = ""
