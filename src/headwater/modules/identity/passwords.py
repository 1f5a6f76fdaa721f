"""Passwords: argon2id, computed in two threads at most and never on the event loop.

The cost is OWASP's: 19 MiB, 2 passes, 1 lane, some 30 ms of one core. Two at a time keep a burst of sign-ins from
taking the machine; beyond QUEUE_MAX they are refused at once, because nobody waits that long.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import TypeVar

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError

from headwater.kernel.errors import InvalidValue, UnavailableError

T = TypeVar("T")

PASSWORD_LENGTH_MIN = 8
PASSWORD_LENGTH_MAX = 256
THREADS_MAX = 2
QUEUE_MAX = 64

_hasher = PasswordHasher(time_cost=2, memory_cost=19 * 1024, parallelism=1, hash_len=32, salt_len=16)
_waiting = 0


@cache
def _threads() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(THREADS_MAX, thread_name_prefix="argon2")


@cache
def _nobodys_hash() -> str:
    return _hasher.hash("nobody has this password")


async def hash_password(password: str) -> str:
    """The hash to store. Raises InvalidValue for a password that is too short or too long."""
    if not PASSWORD_LENGTH_MIN <= len(password) <= PASSWORD_LENGTH_MAX:
        raise InvalidValue(
            f"A password has {PASSWORD_LENGTH_MIN} to {PASSWORD_LENGTH_MAX} characters; this one has {len(password)}.",
            remedy="Choose another one.",
            field="password",
        )
    return await _in_a_thread(lambda: _hasher.hash(password))


async def is_password(password: str, stored: str | None) -> bool:
    """Whether the password belongs to the hash. Without a hash the same work is done, and the answer is False."""
    return await _in_a_thread(lambda: _verify(stored or _nobodys_hash(), password)) and stored is not None


def is_outdated(stored: str) -> bool:
    """Whether a stored hash was made at another cost than today's."""
    return _hasher.check_needs_rehash(stored)


def _verify(stored: str, password: str) -> bool:
    try:
        return _hasher.verify(stored, password)
    except (VerificationError, InvalidHashError):
        return False


async def _in_a_thread(work: Callable[[], T]) -> T:
    global _waiting
    if _waiting >= QUEUE_MAX:
        raise UnavailableError("Too many passwords are being checked.", remedy="Try again in a second.")
    _waiting += 1
    try:
        return await asyncio.get_running_loop().run_in_executor(_threads(), work)
    finally:
        _waiting -= 1
