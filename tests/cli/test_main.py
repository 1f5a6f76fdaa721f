"""The command itself: its help, what it must not import, manage_db.py."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import click
import pytest

from headwater.cli.main import headwater

COMMANDS = headwater.list_commands(click.Context(headwater))


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "headwater.cli.main", *arguments], capture_output=True, text=True, timeout=60
    )


def each_with_its_name(name: str) -> list[tuple[str, click.Command]]:
    """A command, or the commands of a group."""
    command = headwater.get_command(click.Context(headwater), name)
    assert command is not None
    if isinstance(command, click.Group):
        return [(f"{name} {inner}", one) for inner, one in command.commands.items()]
    return [(name, command)]


@pytest.mark.parametrize(("name", "command"), [pair for name in COMMANDS for pair in each_with_its_name(name)])
def test_every_command_has_help_with_an_example_and_home_and_json(name: str, command: click.Command) -> None:
    with click.Context(command, info_name=f"headwater {name}") as context:
        text = command.get_help(context)
    assert "Example:" in text
    assert f"headwater {name}" in text.partition("Example:")[2]
    assert "--home DIR" in text
    assert "--json" in text


def test_help_names_every_command_and_loads_none_of_them() -> None:
    shown = run("--help")
    assert shown.returncode == 0
    assert all(f"  {name}" in shown.stdout for name in COMMANDS)
    heavy = "import sys, headwater.cli.main as m; m.headwater.main(['--help'], standalone_mode=False); "
    heavy += "print(sorted({'sqlalchemy', 'asyncpg', 'uvicorn', 'alembic', 'asyncio', 'msgspec'} & set(sys.modules)))"
    found = subprocess.run([sys.executable, "-c", heavy], capture_output=True, text=True, timeout=60)
    assert found.stdout.splitlines()[-1] == "[]", found.stderr


@pytest.mark.parametrize("arguments", [["frob"], ["up", "--frob"], ["seed", "extra"]], ids=" ".join)
def test_what_does_not_exist_is_a_usage_error(arguments: list[str]) -> None:
    done = run(*arguments)
    assert done.returncode == 2
    assert "--help" in done.stderr


def test_a_reader_that_has_gone_is_no_error_of_ours() -> None:
    done = subprocess.run(
        ["bash", "-c", f"{sys.executable} -m headwater.cli.main --help | true; exit 0"],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert "Traceback" not in done.stderr


MANAGE = Path(__file__).parents[2] / "manage_db.py"


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["health", "--home", "/nonexistent/home"], 9, "is not"),
        (["clear"], 8, "--force"),
        (["backup", "--backup-file", "my_backup.json"], 2, "later issue"),
        (["restore", "my_backup.json"], 2, "later issue"),
        (["frob"], 2, "No such command"),
    ],
    ids=lambda given: " ".join(given) if isinstance(given, list) else "",
)
def test_manage_db_is_the_same_command(arguments: list[str], code: int, said: str) -> None:
    done = subprocess.run(
        [sys.executable, str(MANAGE), *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        stdin=subprocess.DEVNULL,
    )
    assert done.returncode == code, done.stderr
    if code != 9:
        assert said in done.stderr


def test_manage_db_finds_the_installed_python_when_run_with_another() -> None:
    installed = MANAGE.parent / ".venv" / "bin" / "python"
    if not installed.exists():
        pytest.skip("there is no .venv beside manage_db.py")
    # -S hides site-packages, as a system Python without Headwater would.
    done = subprocess.run(
        [str(Path(sys.base_prefix) / "bin" / "python3"), "-S", str(MANAGE), "version", "--json"],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert "headwater" in json.loads(done.stdout)
