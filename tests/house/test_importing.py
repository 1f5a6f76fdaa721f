"""Importing Headwater connects to nothing, starts nothing and writes nothing, and is cheap where it must be."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

_IMPORT_ALL = """
import pkgutil, socket, sys, threading
import asyncio.base_events, subprocess, os

def refuse(event, arguments):
    if event in ("socket.connect", "socket.bind", "subprocess.Popen", "os.exec", "os.posix_spawn", "os.fork"):
        raise RuntimeError(f"importing caused {event} {arguments!r}")
    if event == "open" and isinstance(arguments[1], str) and set(arguments[1]) & set("wax+"):
        raise RuntimeError(f"importing opened {arguments[0]} for writing")

sys.dont_write_bytecode = True
sys.addaudithook(refuse)
import importlib
import headwater
names = [found.name for found in pkgutil.walk_packages(headwater.__path__, "headwater.")]
for name in names:
    if ".migrations" not in name and ".revisions" not in name:
        importlib.import_module(name)
assert threading.active_count() == 1, threading.enumerate()
print(len(names))
"""


def _python(*arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("HEADWATER_", "COV"))}
    return subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, check=False, cwd=cwd, env=environment
    )


def test_importing_every_file_connects_nowhere_and_starts_nothing(tmp_path: Path) -> None:
    result = _python("-W", "error", "-c", _IMPORT_ALL, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert int(result.stdout) > 40
    assert list(tmp_path.iterdir()) == []


def test_the_guard_would_notice_a_connection() -> None:
    guarded = _IMPORT_ALL.replace("import headwater\n", "socket.create_connection(('127.0.0.1', 9))\n")
    result = _python("-c", guarded)
    assert "importing caused socket.connect" in result.stderr


def test_import_headwater_does_not_load_sqlalchemy() -> None:
    code = "import sys, headwater; print(sorted(n for n in ('sqlalchemy', 'asyncpg', 'starlette') if n in sys.modules))"
    assert _python("-c", code).stdout.strip() == "[]"


def test_naming_the_systems_does_not_load_sqlalchemy() -> None:
    """`headwater --help` and the completion of shells must not pay for it."""
    code = (
        "import sys; from headwater.systems.everything import EVERYTHING; "
        "print(len(EVERYTHING.modules), 'sqlalchemy' in sys.modules)"
    )
    result = _python("-c", code)
    assert result.stdout.split()[1:] == ["False"], result.stdout + result.stderr


def test_the_help_of_the_command_loads_neither_sqlalchemy_nor_the_service() -> None:
    code = (
        "import sys; sys.argv = ['headwater', '--help']\n"
        "from headwater.cli.main import main\n"
        "try:\n    main()\nexcept SystemExit as end:\n    assert not end.code\n"
        "heavy = [n for n in ('sqlalchemy', 'asyncpg', 'starlette', 'msgspec', 'alembic') if n in sys.modules]\n"
        "print(heavy, file=sys.stderr)"
    )
    result = _python("-c", code)
    assert result.stderr.strip() == "[]", result.stderr
