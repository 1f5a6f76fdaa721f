"""Passwords: argon2id at OWASP's cost, away from the event loop, and never more at once than planned."""

from __future__ import annotations

import asyncio
import threading

import pytest
from argon2 import PasswordHasher, extract_parameters
from argon2.low_level import Type

from headwater.kernel.errors import InvalidValue, UnavailableError
from headwater.modules.identity import passwords
from headwater.modules.identity.passwords import hash_password, is_outdated, is_password


async def test_a_password_belongs_to_its_hash_and_to_no_other() -> None:
    stored = await hash_password("harmonic-drive-100")
    assert await is_password("harmonic-drive-100", stored)
    assert not await is_password("harmonic-drive-101", stored)
    assert not await is_password("", stored)


async def test_the_cost_is_at_least_what_owasp_asks_for() -> None:
    cost = extract_parameters(await hash_password("harmonic-drive-100"))
    assert cost.type is Type.ID
    assert cost.memory_cost >= 19 * 1024
    assert cost.time_cost >= 2
    assert cost.salt_len >= 16


async def test_one_password_has_another_hash_each_time() -> None:
    assert await hash_password("harmonic-drive-100") != await hash_password("harmonic-drive-100")


async def test_any_script_can_be_a_password() -> None:
    stored = await hash_password("пароль-🔑-密码")
    assert await is_password("пароль-🔑-密码", stored)
    assert not await is_password("пароль-🔑-密", stored)


@pytest.mark.parametrize("password", ["", "1234567", "x" * 257])
async def test_a_password_of_the_wrong_length_is_refused_by_name(password: str) -> None:
    with pytest.raises(InvalidValue, match="8 to 256 characters") as refused:
        await hash_password(password)
    assert refused.value.detail["field"] == "password"
    assert password == "" or password not in str(refused.value)


async def test_without_a_hash_the_answer_is_no_even_for_the_password_behind_the_stand_in() -> None:
    assert not await is_password("nobody has this password", None)
    assert not await is_password("anything", None)


async def test_a_damaged_hash_fits_no_password() -> None:
    assert not await is_password("harmonic-drive-100", "not a hash")


async def test_a_hash_of_another_cost_is_outdated() -> None:
    assert not is_outdated(await hash_password("harmonic-drive-100"))
    assert is_outdated(PasswordHasher(time_cost=1, memory_cost=8 * 1024, parallelism=1).hash("harmonic-drive-100"))


async def test_hashing_runs_in_its_own_threads_two_at_most(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: set[str] = set()

    def remember(stored: str, password: str) -> bool:
        seen.add(threading.current_thread().name)
        return True

    monkeypatch.setattr(passwords, "_verify", remember)
    await asyncio.gather(*(is_password("harmonic-drive-100", "hash") for _ in range(20)))
    assert seen
    assert all(name.startswith("argon2") for name in seen)
    assert len(seen) <= passwords.THREADS_MAX


async def test_beyond_the_queue_a_check_is_refused_and_those_in_it_are_answered(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    gate = threading.Event()
    monkeypatch.setattr(passwords, "_verify", lambda stored, password: gate.wait(10))
    queued = [asyncio.ensure_future(is_password("p", "hash")) for _ in range(passwords.QUEUE_MAX)]
    await asyncio.sleep(0)  # each has taken its place
    with pytest.raises(UnavailableError, match="Too many passwords"):
        await is_password("p", "hash")
    gate.set()
    assert all(await asyncio.gather(*queued))
    assert await is_password("p", "hash")
