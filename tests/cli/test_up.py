"""headwater up and down, with real processes: started, found running, killed, started again, ended."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from headwater.embedded.processes import ended

from .conftest import CommandHome


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


async def test_from_nothing_to_a_seeded_service_and_down_again(new_home: CommandHome) -> None:
    printed = new_home.up()
    assert set(printed) == {"postgres", "valkey", "http", "admin_key", "pid"}
    assert printed["http"] == f"http://127.0.0.1:{new_home.port}"
    assert get(printed["http"] + "/ready")[0] == 200
    assert get(printed["http"] + "/health")[0] == 200
    assert await value(printed["postgres"], "select count(*) from users") > 0
    os.kill(printed["pid"], 0)
    again = new_home.run("up", "--json", "--port", str(new_home.port))
    assert again.returncode == 0
    assert json.loads(again.stdout) == printed
    assert "Already running" in again.stderr
    down = new_home.run("down", "--json")
    assert down.returncode == 0, down.stderr
    assert json.loads(down.stdout)["stopped"] is True
    assert new_home.processes() == []
    once_more = new_home.run("down")
    assert once_more.returncode == 0
    assert "Nothing was running" in once_more.stdout


async def test_the_admin_key_stays_the_same_and_opens_the_service(home: CommandHome) -> None:
    first = home.up("--no-seed")
    home.run("down")
    second = home.up("--no-seed")
    assert second["admin_key"] == first["admin_key"]
    assert first["admin_key"]
    assert (home.path / "admin.secret").stat().st_mode & 0o077 == 0
    assert second["postgres"] == first["postgres"]
    assert get(second["http"] + "/api/admin/migration-status", key=second["admin_key"])[0] == 200


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


async def test_after_kill_9_down_leaves_no_process(home: CommandHome) -> None:
    home.up("--no-seed")
    await kill(home, "up")
    assert home.run("down").returncode == 0
    assert home.processes() == []


@pytest.mark.parametrize("store", ["postgres", "valkey"])
async def test_a_store_that_was_killed_is_told_by_health_and_started_by_the_next_up(
    home: CommandHome, store: str
) -> None:
    first = home.up("--no-seed")
    assert home.run("health").returncode == 0
    await kill(home, store)
    health = home.run("health", "--json")
    assert health.returncode == (9 if store == "postgres" else 0)
    told = json.loads(health.stdout)
    assert told["status"] == ("down" if store == "postgres" else "degraded")
    assert told["stores"][store]["status"] == "down"
    assert home.up("--no-seed") == first
    assert json.loads(home.run("health", "--json").stdout)["status"] == "ok"


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


def started(command: list[str]) -> subprocess.Popen[str]:
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


async def test_a_port_in_use_is_refused_by_name_before_anything_is_started(new_home: CommandHome) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", new_home.port))
        taken.listen()
        for detach in ([], ["--detach"]):
            done = new_home.run("up", "--json", "--port", str(new_home.port), *detach)
            assert done.returncode == 8
            error = json.loads(done.stdout)["error"]
            assert error["type"] == "refused"
            assert error["detail"] == {"port": new_home.port}
            assert str(new_home.port) in done.stderr
            assert "Traceback" not in done.stderr
            assert new_home.processes() == []


@pytest.mark.parametrize("port", ["0", "65536", "-1", "http"])
def test_a_bad_port_is_a_usage_error(new_home: CommandHome, port: str) -> None:
    done = new_home.run("up", f"--port={port}", "--json")
    assert done.returncode == 2
    assert json.loads(done.stdout)["error"]["type"] == "usage"
    assert not new_home.path.exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder away")
@pytest.mark.parametrize("command", [["up"], ["up", "--detach"], ["down"], ["health"], ["seed"]], ids=" ".join)
def test_somebody_elses_home_is_refused(new_home: CommandHome, command: list[str]) -> None:
    new_home.path.mkdir()
    os.chown(new_home.path, 65534, 65534)
    done = new_home.run(*command)
    assert done.returncode == 8, done.stderr
    assert "belongs to user nobody" in done.stderr
    assert list(new_home.path.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "url"),
    [
        ("DATABASE_URL", "postgresql://someone:secret@127.0.0.1:1/app"),
        ("HEADWATER_DATABASE_URL", "postgresql://someone:secret@127.0.0.1:1/app"),
        ("HEADWATER_VALKEY_URL", "redis://:secret@127.0.0.1:1/0"),
    ],
)
def test_an_outside_store_that_does_not_answer_is_told_without_its_password(
    new_home: CommandHome, name: str, url: str
) -> None:
    new_home.environment[name] = url
    done = new_home.run("up", "--detach", "--json", "--port", str(new_home.port))
    assert done.returncode == 9
    assert json.loads(done.stdout)["error"]["type"] == "unreachable"
    assert "127.0.0.1:1" in done.stderr
    assert "secret" not in done.stderr + done.stdout
    assert new_home.processes() == []


def test_outside_stores_are_used_and_nothing_else_is_started(
    new_home: CommandHome, database: str, valkey_server: Any
) -> None:
    new_home.environment |= {"DATABASE_URL": database, "REDIS_URL": valkey_server.url}
    printed = new_home.up("--no-seed")
    assert printed["postgres"] == database
    assert printed["valkey"] == valkey_server.url
    assert [process.pid for process in new_home.processes()] == [printed["pid"]]
    assert get(printed["http"] + "/ready")[0] == 200


def test_an_unknown_system_is_refused_before_anything_is_started(new_home: CommandHome) -> None:
    done = new_home.run("up", "--system", "constuct", "--detach", "--port", str(new_home.port))
    assert done.returncode == 2
    assert "constuct" in done.stderr
    assert new_home.processes() == []


def test_a_folder_of_other_things_is_not_taken_for_a_home(new_home: CommandHome) -> None:
    new_home.path.mkdir()
    (new_home.path / "thesis.txt").write_text("mine")
    done = new_home.run("up", "--port", str(new_home.port))
    assert done.returncode == 8
    assert [entry.name for entry in Path(new_home.path).iterdir()] == ["thesis.txt"]
