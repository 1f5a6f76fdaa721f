"""aiocache: its `cached` decorator's steps, deleted after the commit."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import urlsplit

import aiocache
import asyncpg
from aiocache.serializers import JsonSerializer

from benchmarks.coherence_board import key_of
from benchmarks.peers.coherence_writes import LOAD, LOAD_MANY, write_pair


class Aiocache:
    def __init__(self, pool: asyncpg.Pool, url: str) -> None:
        self.pool = pool
        parts = urlsplit(url)
        where: dict[str, Any] = {
            "endpoint": parts.hostname,
            "port": parts.port,
            "serializer": JsonSerializer(),
            "timeout": 5,
        }
        self.cache = aiocache.Cache(aiocache.Cache.REDIS, **where)

        @aiocache.cached(ttl=600, cache=aiocache.Cache.REDIS, key_builder=lambda _, row: f"user:{row}", **where)
        async def user(row: int) -> str:
            return str(await self.pool.fetchval(LOAD, key_of(row)))

        self._user = user

    async def get(self, row: int) -> int:
        return int(await self._user(row))

    async def pair(self, rows: Sequence[int]) -> list[int]:
        found = dict(zip(rows, await self.cache.multi_get([f"user:{row}" for row in rows]), strict=True))
        missing = [row for row in rows if found[row] is None]
        if missing:
            loaded = {r["id"]: r["name"] for r in await self.pool.fetch(LOAD_MANY, [key_of(row) for row in missing])}
            found.update({row: loaded[key_of(row)] for row in missing})
            await self.cache.multi_set([(f"user:{row}", found[row]) for row in missing], ttl=600)
        return [int(found[row]) for row in rows]

    async def peek(self, row: int) -> int | None:
        value = await self.cache.get(f"user:{row}")
        return None if value is None else int(value)

    async def write(self, rows: Sequence[int], name: str, answered: Callable[[], None], *, fail: bool) -> None:
        await write_pair(self.pool, rows, name, fail=fail)
        answered()
        for row in rows:
            await self.cache.delete(f"user:{row}")


@asynccontextmanager
async def opened(database: str, valkey: str) -> AsyncIterator[Aiocache]:
    async with asyncpg.create_pool(database, min_size=1, max_size=10) as pool:
        peer = Aiocache(pool, valkey)
        try:
            yield peer
        finally:
            await peer.cache.close()
            await peer._user.cache.close()
