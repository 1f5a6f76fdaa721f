"""headwater down: nothing of the home runs afterwards, whatever ran before."""

from __future__ import annotations

import json
import sys

from .conftest import CommandHome, kill, started


async def test_after_kill_9_down_leaves_no_process(home: CommandHome) -> None:
    home.up("--no-seed")
    await kill(home, "up")
    assert home.run("down").returncode == 0
    assert home.processes() == []


def test_where_nothing_runs_it_says_so_and_makes_no_home(new_home: CommandHome) -> None:
    down = new_home.run("down", "--json")
    assert down.returncode == 0
    assert json.loads(down.stdout) == {"home": str(new_home.path), "stopped": False}
    assert not new_home.path.exists()


async def test_it_ends_an_up_that_is_still_starting(new_home: CommandHome) -> None:
    process = started(
        [sys.executable, "-m", "headwater.cli.main", "up", "--home", str(new_home.path), "--port", str(new_home.port)]
    )
    assert process.stderr is not None
    assert "Starting the stores" in process.stderr.readline()
    down = new_home.run("down", "--json")
    process.communicate(timeout=60)
    assert json.loads(down.stdout)["stopped"] is True
    assert new_home.processes() == []
