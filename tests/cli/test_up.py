"""headwater up: what it prints, what it refuses before anything is started."""

from __future__ import annotations

import json
import os
import socket
from pathlib import Path

import pytest

from .conftest import CommandHome, get, value


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
