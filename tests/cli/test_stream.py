"""headwater stream: status, tail, replay, and parked keys tried again or given up."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from headwater.cli import exits
from headwater.kernel.settings import Settings
from headwater.kernel.ticker import ticking


def _run(database: str, tmp_path: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "headwater.cli.main", "stream", *arguments],
        env={**os.environ, "HEADWATER_DATABASE_URL": database},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def _json(done: subprocess.CompletedProcess[str]) -> Any:
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture
async def told(database: str) -> str:
    """The position before three told events; a follower that has parked one of them."""
    connection = await asyncpg.connect(database)
    try:
        async with ticking(Settings(database_url=database)) as ticker:
            await ticker.leads()
            epoch = await connection.fetchval("select max(number) from headwater.epoch")
            for key in (1, 2, 3):
                await connection.execute("select headwater.emit('told', $1::jsonb, '{\"a\": 1}')", str(key))
            while await connection.fetchval("select coalesce(sum(changes), 0) from headwater.tick") < 3:
                pass
        await connection.execute(
            "insert into headwater.follower (name, state, epoch, position) values ('mirror', 'following', $1, 2)", epoch
        )
        await connection.execute(
            'insert into headwater.parked (follower, epoch, position, "table", key, change, error) '
            "values ('mirror', $1, 1, 'topic:told', '1', '{}', 'it was poison')",
            epoch,
        )
    finally:
        await connection.close()
    return f"{epoch}.0"


def test_status_tells_position_lag_and_parked_keys(database: str, told: str, tmp_path: Path) -> None:
    found = _json(_run(database, tmp_path, "status", "--json"))
    assert found["position"] == told.replace(".0", ".3")
    assert found["ticker"] is False
    (follower,) = found["followers"]
    assert (follower["name"], follower["lag_changes"], follower["parked_keys"]) == ("mirror", 1, 1)
    assert follower["lag_seconds"] > 0
    assert found["parked"][0]["error"] == "it was poison"
    text = _run(database, tmp_path, "status").stdout
    assert "mirror" in text
    assert "NOT running" in text


def test_tail_prints_what_follows_a_position(database: str, told: str, tmp_path: Path) -> None:
    done = _run(database, tmp_path, "tail", "--after", told, "--no-follow", "--json")
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert [(line["table"], line["op"], line["key"]) for line in lines] == [("topic:told", "e", n) for n in (1, 2, 3)]
    limited = _run(database, tmp_path, "tail", "--after", told, "--count", "2", "--table", "topic:told")
    assert len(limited.stdout.splitlines()) == 2
    assert _run(database, tmp_path, "tail", "--after", told, "--no-follow", "--table", "public.users").stdout == ""


def test_tail_refuses_what_is_no_position_and_positions_of_another_epoch(
    database: str, told: str, tmp_path: Path
) -> None:
    assert _run(database, tmp_path, "tail", "--after", "yesterday").returncode == exits.USAGE
    assert _run(database, tmp_path, "tail", "--after", "99.0").returncode != 0


def test_replay_lets_a_follower_begin_again(database: str, told: str, tmp_path: Path) -> None:
    _json(_run(database, tmp_path, "replay", "mirror", "--after", told, "--json"))
    assert _json(_run(database, tmp_path, "status", "--json"))["followers"][0]["position"] == 0
    _json(_run(database, tmp_path, "replay", "mirror", "--json"))
    assert _json(_run(database, tmp_path, "status", "--json"))["followers"][0]["state"] == "detached"
    assert _run(database, tmp_path, "replay", "nobody").returncode != 0


def test_parked_changes_are_asked_for_again_and_given_up(database: str, told: str, tmp_path: Path) -> None:
    assert _json(_run(database, tmp_path, "retry", "mirror", "--key", "1", "--json"))["changes"] == 1
    assert _run(database, tmp_path, "drop", "mirror").returncode != 0  # nobody is there to say yes
    assert _json(_run(database, tmp_path, "drop", "mirror", "--key", "9", "--force", "--json"))["changes"] == 0
    assert _json(_run(database, tmp_path, "drop", "mirror", "--force", "--json"))["changes"] == 1
