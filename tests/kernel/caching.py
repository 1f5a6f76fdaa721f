"""Processes with a cache, for tests that drive it by hand: at a level of their choice, with or without a relay."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from time import monotonic
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from sqlalchemy import text

from headwater.kernel.cache_policy import CachePolicy, Level
from headwater.kernel.lifecycle import Headwater
from headwater.kernel.module import Module, System
from headwater.kernel.settings import Settings
from headwater.kernel.snapshots import covers
from headwater.modules.identity.models import User

if TYPE_CHECKING:
    from headwater.kernel.cache import Cache
    from headwater.kernel.cached_rows import Entity


TRUNCATE_USERS = "set local session_replication_role = replica; truncate users cascade"
"""What refers to users may refuse to be emptied; as in a restore, only capture is always on."""


def system_of(level: Level = "bounded", **policy: Any) -> System:
    """The users alone, cached at a level."""
    module = Module(name="identity", package="headwater.modules.identity", summary="")
    vars(module)["cache"] = (CachePolicy(kind="user", model=User, level=level, **policy),)
    return System("users", [module])


def cache_of(headwater: Headwater) -> Cache:
    assert headwater.postgres.cache is not None
    return headwater.postgres.cache


def kind_of(headwater: Headwater) -> Entity:
    return cache_of(headwater).entities[User]


async def until(condition: Any, seconds: float = 10.0) -> None:
    """Wait for what must come; fail when it does not."""
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110  # another process makes it so
            await asyncio.sleep(0.005)


async def trusted(*processes: Headwater) -> None:
    """Wait until the relay has caught up and each of these processes knows."""
    for one in processes:
        await until(cache_of(one).believes)


async def told(headwater: Headwater) -> None:
    """Wait until the relay has carried everything that is committed now."""
    cache = cache_of(headwater)
    now = await headwater.postgres.fetch_value(text("select pg_current_snapshot()::text"))
    async with asyncio.timeout(10):
        while True:
            cursor = await cache.wire.send_get(cache.cursor_name)
            if cursor is not None and covers(cursor.rpartition(b"|")[2], now):
                return
            await asyncio.sleep(0.002)


@asynccontextmanager
async def believing(settings: Settings, *, near: int = 0, system: System | None = None) -> AsyncIterator[Headwater]:
    """A process that believes Valkey though no relay runs: nothing is invalidated but by hand."""
    async with Headwater.open(system or system_of(near=near), settings) as headwater:
        cache = cache_of(headwater)
        guard = f"{cache.wire.run_id} 00000000 0 0 {kind_of(headwater).served_as}".encode()
        cache._guard = (guard, monotonic() + 3600)  # as if it had been renewed all the time
        await cache.wire.send(b"SET", cache.guard_name, guard, b"PX", 3_600_000)
        await cache.look()
        yield headwater


async def make_user(headwater: Headwater, **values: Any) -> User:
    return await headwater.repository(User).create(headwater.autocommit, email=f"{uuid4()}@b.example", **values)


async def name_in(headwater: Headwater, user: User) -> str | None:
    return (await headwater.repository(User).get(user.id)).name
