"""Every command keeps the contract of the command line: --home, --json, --help with an example, and its exit codes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from headwater.cli import exits
from headwater.cli.main import headwater


def _commands(command: click.Command, names: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    if not isinstance(command, click.Group):
        yield names, command
        return
    context = click.Context(command)
    for name in command.list_commands(context):
        found = command.get_command(context, name)
        assert found is not None
        yield from _commands(found, (*names, name))


COMMANDS = list(_commands(headwater))
IDS = [" ".join(names) for names, _ in COMMANDS]

# What DESIGN.md promises; later issues add more.
PROMISED = {"up", "down", "status", "health", "migrate", "validate", "seed", "clear", "backup", "restore"}


def test_the_promised_commands_exist() -> None:
    assert {names[0] for names, _ in COMMANDS} >= PROMISED


@pytest.mark.parametrize(("names", "command"), COMMANDS, ids=IDS)
def test_a_command_has_home_json_and_a_help_with_an_example(names: tuple[str, ...], command: click.Command) -> None:
    options = {opt for parameter in command.params for opt in parameter.opts}
    assert {"--home", "--json"} <= options
    help_text = command.help or ""
    assert "Example:" in help_text
    assert f"headwater {' '.join(names)}" in help_text.partition("Example:")[2]


@pytest.mark.parametrize(("names", "command"), COMMANDS, ids=IDS)
def test_every_option_says_what_it_does(names: tuple[str, ...], command: click.Command) -> None:
    silent = [
        parameter.name
        for parameter in command.params
        if isinstance(parameter, click.Option) and not parameter.hidden and not parameter.help
    ]
    assert not silent


def test_the_line_shown_in_the_overview_speaks_of_the_same_thing() -> None:
    from headwater.cli.main import _COMMANDS

    assert set(_COMMANDS) == {names[0] for names, _ in COMMANDS}
    assert all(line.endswith(".") for line in _COMMANDS.values())


def test_the_exit_codes_are_those_of_the_contract() -> None:
    names = ("OK", "FAILED", "USAGE", "PENDING", "DRIFT", "UNSAFE", "VERIFICATION_FAILED", "EXHAUSTED", "REFUSED")
    assert [getattr(exits, name) for name in (*names, "UNREACHABLE")] == list(range(10))


def _run(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    code = "from headwater.cli.main import main; main()"
    environment = {n: v for n, v in os.environ.items() if not n.startswith("HEADWATER_") and "_URL" not in n}
    return subprocess.run(
        [sys.executable, "-c", code, *arguments], cwd=cwd, env=environment, capture_output=True, text=True, check=False
    )


def test_an_unknown_command_is_a_usage_error_and_says_so_on_stderr(tmp_path: Path) -> None:
    result = _run("migrat", "--json", cwd=tmp_path)
    assert result.returncode == exits.USAGE
    assert "migrat" in result.stderr
    assert json.loads(result.stdout)["error"]["exit_code"] == exits.USAGE


@pytest.mark.parametrize("name", ["backup", "restore"])
def test_what_comes_later_says_so_with_exit_code_2(name: str, tmp_path: Path) -> None:
    arguments = ("dump.tar",) if name == "restore" else ()
    result = _run(name, *arguments, cwd=tmp_path)
    assert result.returncode == exits.USAGE
    assert "later" in result.stderr
    assert list(tmp_path.iterdir()) == []
