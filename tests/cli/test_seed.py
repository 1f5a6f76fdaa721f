"""headwater seed and clear, on a home where nothing else runs: its PostgreSQL is started for the command."""

from __future__ import annotations

import json

from .conftest import CommandHome


def test_seeding_twice_plants_once_and_clear_takes_it_away(home: CommandHome) -> None:
    first = home.run("seed", "--json")
    assert first.returncode == 0, first.stderr
    planted = json.loads(first.stdout)
    assert planted["profile"] == "demo"
    assert planted["rows"] == sum(planted["added"].values()) > 100
    assert "users" in first.stderr, "progress is told on stderr"
    again = home.run("seed", "--json")
    assert json.loads(again.stdout)["rows"] == 0
    refused = home.run("clear", "--json")
    assert refused.returncode == 8
    assert json.loads(refused.stdout)["error"]["type"] == "refused"
    cleared = home.run("clear", "--force", "--json")
    assert cleared.returncode == 0, cleared.stderr
    # What moved money is history: it stays with whose money it is, and sowing again moves nothing again.
    told = json.loads(cleared.stdout)
    history = {"ledger.transfers", "finance.transactions", "finance.distributions"}
    assert {*planted["added"]} - {*told["removed"]} == history
    assert {*told["kept"]} == {"users"}
    for table, count in planted["added"].items():
        if table not in history:
            assert told["removed"][table] + told["kept"].get(table, 0) == count
    assert home.processes() == []


def test_a_profile_that_does_not_exist_is_a_usage_error(new_home: CommandHome) -> None:
    for profile in ("nope", "load:0"):
        done = new_home.run("seed", "--profile", profile, "--json")
        assert done.returncode == 2
        assert profile in json.loads(done.stdout)["error"]["message"]
    assert not new_home.path.exists()
