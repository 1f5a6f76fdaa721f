"""Homes in which the real command is run, and ended again whatever the test found."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from headwater.embedded.processes import ProcessIdentity, living_in


@dataclass(slots=True)
class CommandHome:
    """One home, its port, and the command run on it."""

    path: Path
    port: int
    environment: dict[str, str] = field(default_factory=dict)

    def run(self, *arguments: str, home: bool = True, **more: Any) -> subprocess.CompletedProcess[str]:
        """`headwater arguments --home ...`, to its end."""
        given = [*arguments, "--home", str(self.path)] if home else list(arguments)
        return subprocess.run(
            [sys.executable, "-m", "headwater.cli.main", *given],
            capture_output=True,
            text=True,
            timeout=120,
            stdin=subprocess.DEVNULL,
            env={**os.environ, **self.environment},
            **more,
        )

    def up(self, *arguments: str) -> dict[str, Any]:
        """`up --detach --json`, which must succeed; what it printed."""
        done = self.run("up", "--detach", "--json", "--port", str(self.port), *arguments)
        assert done.returncode == 0, done.stderr
        printed = json.loads(done.stdout)
        assert isinstance(printed, dict)
        return printed

    def process(self, name: str) -> ProcessIdentity:
        """The process recorded under `up`, `postgres` or `valkey`."""
        recorded = json.loads((self.path / f"{name}.json").read_text())
        return ProcessIdentity(recorded["pid"], recorded["started"])

    def processes(self) -> list[ProcessIdentity]:
        """Everything of this home that runs."""
        found = living_in(self.path / "postgres", "postgres") + living_in(self.path / "valkey", "valkey-server")
        if (self.path / "up.json").exists() and self.process("up").alive:
            found.append(self.process("up"))
        return found

    def end(self) -> None:
        """`down`, and nothing of the home runs."""
        if self.processes():
            down = CommandHome(self.path, self.port).run("down")
            assert down.returncode == 0, down.stderr
        assert self.processes() == []


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="session")
def made_home(tmp_path_factory: pytest.TempPathFactory) -> CommandHome:
    """A home in which everything has been migrated."""
    home = CommandHome(tmp_path_factory.mktemp("cli") / "home", free_port())
    home.up("--no-seed")
    return home


@pytest.fixture
def home(made_home: CommandHome) -> Iterator[CommandHome]:
    """The migrated home, with nothing running in it and no rows; the test leaves it without rows too."""
    made_home.end()
    yield CommandHome(made_home.path, made_home.port)
    made_home.end()


@pytest.fixture
def new_home(tmp_path: Path) -> Iterator[CommandHome]:
    """A home that does not exist yet."""
    home = CommandHome(tmp_path / "home", free_port())
    yield home
    home.end()
