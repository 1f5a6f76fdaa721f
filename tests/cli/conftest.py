"""Homes in which the real command is run, and ended again whatever the test found."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from headwater.embedded.processes import ProcessIdentity, ended, living_in


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


def get(url: str, *, key: str = "") -> tuple[int, bytes]:
    request = urllib.request.Request(url, headers={"Authorization": f"Bearer {key}"} if key else {})
    with urllib.request.urlopen(request, timeout=10) as response:
        return response.status, response.read()


async def value(dsn: str, question: str) -> Any:
    connection = await asyncpg.connect(dsn)
    try:
        return await connection.fetchval(question)
    finally:
        await connection.close()


async def kill(home: CommandHome, *names: str) -> None:
    """kill -9, and wait until the kernel is done with them."""
    victims = [home.process(name) for name in names]
    for victim in victims:
        os.kill(victim.pid, signal.SIGKILL)
    assert await ended(victims, within_seconds=10)


def started(command: list[str]) -> subprocess.Popen[str]:
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
