"""headwater keyring: keys are made, counted and rotated, in a home and from the environment."""

from __future__ import annotations

import asyncio
import json
import os
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

from headwater.cli import exits
from headwater.kernel.keyring import Keyring, new_key
from headwater.kernel.lifecycle import Headwater
from headwater.kernel.settings import Settings
from headwater.modules.blockchain.repository import WalletRepository
from headwater.modules.identity.models import User
from headwater.systems.everything import EVERYTHING

from .conftest import CommandHome

COLUMN = "blockchain.wallets.encrypted_private_key"


def _run(database: str, tmp_path: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "headwater.cli.main", "keyring", *arguments],
        env={**os.environ, "HEADWATER_DATABASE_URL": database, **environment},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def _json(done: subprocess.CompletedProcess[str]) -> Any:
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


async def _wallet(settings: Settings) -> str:
    async with Headwater.open(EVERYTHING, settings) as hw:
        user = await hw.repository(User).create(hw.autocommit, email=f"{os.urandom(6).hex()}@example.org")
        return (await hw.repository(WalletRepository).create_wallet(hw.autocommit, user_id=user.id)).public_key


async def _signs(settings: Settings, address: str) -> bool:
    async with Headwater.open(EVERYTHING, settings) as hw:
        return len(await hw.repository(WalletRepository).sign(address, b"x")) == 64


def test_new_prints_a_key_and_keeps_nothing(database: str, tmp_path: Path) -> None:
    one, two = [_run(database, tmp_path, "new", "2026-11").stdout.strip() for _ in range(2)]
    assert Keyring.parse(one).current == "2026-11"
    assert one != two
    assert list(tmp_path.iterdir()) == []
    assert _run(database, tmp_path, "new", "No Name").returncode == exits.USAGE


async def test_a_keyring_of_the_environment_is_rotated_by_putting_the_new_key_first(
    database: str, tmp_path: Path
) -> None:
    old, new = new_key("old"), new_key("new")
    address = await _wallet(Settings(database_url=database, keyring=old))
    both = f"{new},{old}"
    before = _json(await asyncio.to_thread(_run, database, tmp_path, "status", "--json", HEADWATER_KEYRING=both))
    assert (before["current"], before["keys"], before["secrets"][COLUMN]) == ("new", ["new", "old"], {"old": 1})
    done = _json(await asyncio.to_thread(_run, database, tmp_path, "rotate", "--json", HEADWATER_KEYRING=both))
    assert (done["current"], done["resealed"][COLUMN]) == ("new", 1)
    assert await _signs(Settings(database_url=database, keyring=new), address)
    text = (await asyncio.to_thread(_run, database, tmp_path, "status", HEADWATER_KEYRING=old)).stdout
    assert "WHICH IS NOT IN THE KEYRING" in text


async def test_without_a_key_a_rotation_says_what_to_do(database: str, tmp_path: Path) -> None:
    done = await asyncio.to_thread(_run, database, tmp_path, "rotate")
    assert done.returncode == exits.FAILED
    assert "HEADWATER_KEYRING=name:key" in done.stderr


async def test_a_home_has_a_key_of_its_own_that_rotates_beside_the_running_service(home: CommandHome) -> None:
    facts = await asyncio.to_thread(home.up, "--no-seed")
    file = home.path / "keyring.secret"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    first = Keyring.parse(file.read_text()).names
    settings = Settings(database_url=facts["postgres"], keyring_file=str(file))
    address = await _wallet(settings)
    rotated = await asyncio.to_thread(home.run, "keyring", "rotate", "--json")
    assert rotated.returncode == 0, rotated.stderr
    names = Keyring.parse(file.read_text()).names
    assert names == (f"local-{len(first) + 1}", *first)
    assert json.loads(rotated.stdout)["resealed"][COLUMN] == 1
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert await _signs(settings, address)
    cleared = await asyncio.to_thread(home.run, "keyring", "status", "--json")
    assert json.loads(cleared.stdout)["secrets"][COLUMN] == {names[0]: 1}
    async with Headwater.open(EVERYTHING, settings) as hw, hw.transaction() as tx:
        wallets = hw.repository(WalletRepository)
        gone = await wallets.delete(tx, (await wallets.by_address(address, tx=tx)).id)
        await hw.repository(User).delete(tx, gone.user_id)
