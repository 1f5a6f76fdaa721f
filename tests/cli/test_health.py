"""headwater health: each store, asked; nothing is started for it."""

from __future__ import annotations

import json

import pytest

from .conftest import CommandHome, kill


def test_health_of_nothing_is_unreachable_and_starts_nothing(new_home: CommandHome) -> None:
    done = new_home.run("health", "--json")
    assert done.returncode == 9
    assert json.loads(done.stdout)["error"]["type"] == "unreachable"
    assert not new_home.path.exists()


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
