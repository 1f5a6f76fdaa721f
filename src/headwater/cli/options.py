"""Options and output that every command shares: data on stdout, progress on stderr."""

from __future__ import annotations

import json
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
        help="Which modules: construct, all, or package.module:NAME for a system of your own.",
    )(command)


def progress(line: str) -> None:
    """One line of what is going on, for the person who waits."""
    click.echo(line, err=True)


def emit(as_json: bool, facts: Mapping[str, Any], text: str) -> None:
    """What the command was asked for: as JSON, or as text."""
    click.echo(json.dumps(facts, default=str) if as_json else text)
