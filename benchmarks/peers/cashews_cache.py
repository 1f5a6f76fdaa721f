"""cashews: read through its decorator's steps, deleted after the commit."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager

import asyncpg
from cashews import Cache

from benchmarks.coherence_board import key_of
from benchmarks.peers.coherence_writes import LOAD, LOAD_MANY, write_pair


class Cashews:
    def __init__(self, pool: asyncpg.Pool, url: str) -> None:
        self.pool = pool
        self.cache = Cache()
        self.cache.setup(url, suppress=True)  # its default: a cache that fails is a miss

        @self.cache(ttl="10m", key="user:{row}")
        async def user(row: int) -> str:
            return str(await self.pool.fetchval(LOAD, key_of(row)))

        self._user = user

    async def get(self, row: int) -> int:
        return int(await self._user(row))

    async def pair(self, rows: Sequence[int]) -> list[int]:
        names = [f"user:{row}" for row in rows]
        found = dict(zip(rows, await self.cache.get_many(*names), strict=True))
        missing = [row for row in rows if found[row] is None]
        if missing:
            loaded = {r["id"]: r["name"] for r in await self.pool.fetch(LOAD_MANY, [key_of(row) for row in missing])}
            found.update({row: loaded[key_of(row)] for row in missing})
            await self.cache.set_many({f"user:{row}": found[row] for row in missing}, expire="10m")
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
async def opened(database: str, valkey: str) -> AsyncIterator[Cashews]:
    async with asyncpg.create_pool(database, min_size=1, max_size=10) as pool:
        peer = Cashews(pool, valkey)
        await peer.cache.init()
        try:
            yield peer
        finally:
            await peer.cache.close()
