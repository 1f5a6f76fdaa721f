"""The life of one up: beside others, killed, told to end, on stores of somebody else."""

from __future__ import annotations

import json
import signal
import sys
from typing import Any

import pytest

from .conftest import CommandHome, get, kill, started, value


async def test_two_homes_run_side_by_side(home: CommandHome, new_home: CommandHome) -> None:
    first, second = home.up("--no-seed"), new_home.up("--no-seed")
    for key in ("postgres", "valkey", "http", "pid"):
        assert first[key] != second[key]
    assert get(first["http"] + "/ready")[0] == get(second["http"] + "/ready")[0] == 200
    home.run("down")
    assert get(second["http"] + "/ready")[0] == 200


@pytest.mark.parametrize("victims", [("up",), ("up", "postgres", "valkey")], ids="+".join)
async def test_after_kill_9_the_next_up_finds_nothing_in_its_way(home: CommandHome, victims: tuple[str, ...]) -> None:
    first = home.up("--no-seed")
    await value(first["postgres"], "create table kept as select 7 as number")
    await kill(home, *victims)
    second = home.up("--no-seed")
    assert second["pid"] != first["pid"]
    assert await value(second["postgres"], "select number from kept") == 7
    await value(second["postgres"], "drop table kept")


async def test_three_at_once_start_one(home: CommandHome) -> None:
    command = [sys.executable, "-m", "headwater.cli.main", "up", "--detach", "--json", "--no-seed"]
    command += ["--home", str(home.path), "--port", str(home.port)]
    starting = [started(command) for _ in range(3)]
    printed = [json.loads(process.communicate(timeout=120)[0]) for process in starting]
    assert [process.returncode for process in starting] == [0, 0, 0]
    assert printed[0] == printed[1] == printed[2]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_a_signal_ends_the_foreground_one_in_order_with_exit_code_0(
    home: CommandHome, number: signal.Signals
) -> None:
    command = [sys.executable, "-m", "headwater.cli.main", "up", "--json", "--no-seed"]
    process = started([*command, "--home", str(home.path), "--port", str(home.port)])
    assert process.stdout is not None
    printed = json.loads(process.stdout.readline())
    assert get(printed["http"] + "/ready")[0] == 200
    process.send_signal(number)
    process.communicate(timeout=60)
    assert process.returncode == 0
    assert home.processes() == []
    assert "database system is shut down" in (home.path / "logs" / "postgres.log").read_text()


def test_outside_stores_are_used_and_nothing_else_is_started(
    new_home: CommandHome, database: str, valkey_server: Any
) -> None:
    new_home.environment |= {"DATABASE_URL": database, "REDIS_URL": valkey_server.url}
    printed = new_home.up("--no-seed")
    assert printed["postgres"] == database
    assert printed["valkey"] == valkey_server.url
    assert [process.pid for process in new_home.processes()] == [printed["pid"]]
    assert get(printed["http"] + "/ready")[0] == 200


async def test_a_signal_while_it_starts_leaves_nothing_running(new_home: CommandHome) -> None:
    process = started(
        [sys.executable, "-m", "headwater.cli.main", "up", "--home", str(new_home.path), "--port", str(new_home.port)]
    )
    assert process.stderr is not None
    assert "Starting the stores" in process.stderr.readline()
    process.terminate()
    process.communicate(timeout=60)
    assert process.returncode == 130
    assert new_home.processes() == []
