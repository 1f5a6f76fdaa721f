"""The home: ours or refused, its secrets unreadable for others, one owner at a time."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from headwater.embedded.home import Home, port_is_free
from headwater.kernel.errors import LockNotAvailable, RefusedError


def test_a_new_home_is_made_and_found_again(tmp_path: Path) -> None:
    home = Home(tmp_path / "deep" / "home")
    assert not home.exists
    home.prepare()
    home.prepare()
    assert home.exists


def test_a_folder_with_other_things_in_it_is_refused_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(RefusedError, match="not empty"):
        Home(tmp_path).prepare()
    assert [entry.name for entry in tmp_path.iterdir()] == ["thesis.txt"]


def test_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RefusedError, match="not a folder"):
        Home(tmp_path / "file").prepare()
    with pytest.raises(RefusedError, match="cannot be"):
        Home(tmp_path / "file" / "home").prepare()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder away")
def test_somebody_elses_home_is_refused_by_name(tmp_path: Path) -> None:
    home = Home(tmp_path / "home")
    home.prepare()
    os.chown(home.path, 65534, 65534)
    with pytest.raises(RefusedError, match="belongs to user nobody"):
        home.prepare()


def test_a_secret_is_made_once_and_read_by_its_owner_alone(tmp_path: Path) -> None:
    home = Home(tmp_path / "home")
    home.prepare()
    first = home.secret("admin")
    assert home.secret("admin") == first
    assert len(first) >= 32
    assert (home.path / "admin.secret").stat().st_mode & 0o777 == 0o600
    assert home.known_secret("other") is None


def test_a_damaged_record_counts_as_none(tmp_path: Path) -> None:
    home = Home(tmp_path / "home")
    home.prepare()
    (home.path / "up.json").write_text('{"pid": ')
    assert home.read("up") == {}


async def test_a_home_has_one_holder_at_a_time(tmp_path: Path) -> None:
    home = Home(tmp_path / "home")
    home.prepare()
    held = home.try_lock()
    assert held is not None
    assert home.try_lock() is None
    with pytest.raises(LockNotAvailable):
        async with home.locked(within_seconds=0.1):
            pass
    os.close(held)
    async with home.locked(within_seconds=5):
        assert home.try_lock() is None


def test_two_homes_prefer_different_ports(tmp_path: Path) -> None:
    ports = set()
    for number in range(20):
        home = Home(tmp_path / str(number))
        home.prepare()
        ports.add(home.port("postgres"))
    assert len(ports) > 15
    assert all(port_is_free(port) for port in ports)
