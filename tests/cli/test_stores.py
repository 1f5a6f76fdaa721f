"""Where a command finds its stores."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from pathlib import Path

import pytest

from headwater.cli import exits
from headwater.cli.stores import stores
from headwater.embedded.home import Home
from headwater.embedded.processes import living_in

from .conftest import CommandHome, started, value


async def test_the_environment_wins_and_nothing_is_started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", "postgresql://elsewhere/app")
    async with stores(tmp_path / "home") as settings:
        assert settings.database_url == "postgresql://elsewhere/app"
    assert not (tmp_path / "home").exists()


async def test_the_homes_postgresql_runs_as_long_as_the_command(tmp_path: Path) -> None:
    home = tmp_path / "home"
    async with stores(home) as settings:
        assert await value(settings.database_url, "select current_database()") == "headwater"
        assert Home(home).try_lock() is None
    assert living_in(home / "postgres", "postgres") == []
    free = Home(home).try_lock()
    assert free is not None
    os.close(free)


async def test_a_running_home_is_used_as_it_runs(home: CommandHome) -> None:
    home.up("--no-seed")
    before = home.processes()
    async with stores(home.path) as settings:
        assert await value(settings.database_url, "select 1") == 1
        assert settings.valkey_url
    assert home.processes() == before


async def test_a_second_command_waits_for_the_first(home: CommandHome) -> None:
    async with stores(home.path):
        second = started([sys.executable, "-m", "headwater.cli.main", "seed", "--home", str(home.path), "--json"])
        assert second.poll() is None
    out, said = await asyncio.to_thread(second.communicate, timeout=60)
    assert second.returncode == 0, said
    assert json.loads(out)["rows"] > 0
    assert home.run("clear", "--force").returncode == 0


async def test_one_that_only_looks_makes_no_home(tmp_path: Path) -> None:
    with pytest.raises(exits.CommandError, match="no database to ask") as refused:
        async with stores(tmp_path / "home", make_home=False):
            pass
    assert exits.exit_code_of(refused.value) == 9
    assert not (tmp_path / "home").exists()
