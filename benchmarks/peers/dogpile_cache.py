"""dogpile.cache: get_or_create with a distributed lock, as it advises, in threads; deleted after the commit."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import Any

import psycopg
from dogpile.cache import make_region
from dogpile.cache.api import NO_VALUE

from benchmarks.coherence_board import key_of
from benchmarks.peers.coherence_writes import Rollback

THREADS = 8


class Dogpile:
    def __init__(self, database: str, url: str) -> None:
        self.database = database
        self.region = make_region().configure(
            "dogpile.cache.redis",
            expiration_time=600,
            arguments={
                "url": url,
                "redis_expiration_time": 1200,
                "distributed_lock": True,
                "thread_local_lock": False,
                "lock_timeout": 5,
            },
        )
        self._threads = ThreadPoolExecutor(THREADS)
        self._own: dict[int, psycopg.Connection[Any]] = {}

    async def _run(self, work: Callable[..., Any], *arguments: Any) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._threads, work, *arguments)

    def _connection(self) -> psycopg.Connection[Any]:
        import threading

        number = threading.get_ident()
        held = self._own.get(number)
        if held is None or held.closed:
            held = self._own[number] = psycopg.connect(self.database, autocommit=True)
        return held

    def _load(self, name: str) -> str:
        row = int(name.partition(":")[2])
        found = self._connection().execute("select name from users where id = %s", (key_of(row),)).fetchone()
        assert found is not None
        return str(found[0])

    async def get(self, row: int) -> int:
        name = f"user:{row}"
        return int(await self._run(lambda: self.region.get_or_create(name, lambda: self._load(name))))

    async def pair(self, rows: Sequence[int]) -> list[int]:
        def load(*names: str) -> list[str]:
            keys = [key_of(int(name.partition(":")[2])) for name in names]
            found = dict(self._connection().execute("select id, name from users where id = any(%s)", (keys,)))
            return [found[key] for key in keys]

        names = [f"user:{row}" for row in rows]
        return [int(one) for one in await self._run(lambda: self.region.get_or_create_multi(names, load))]

    async def peek(self, row: int) -> int | None:
        value = await self._run(self.region.get, f"user:{row}")
        return None if value is NO_VALUE else int(value)

    async def write(self, rows: Sequence[int], name: str, answered: Callable[[], None], *, fail: bool) -> None:
        def work() -> None:
            connection = self._connection()
            with connection.transaction():
                for row in rows:
                    connection.execute("update users set name = %s where id = %s", (name, key_of(row)))
                if fail:
                    raise Rollback
            answered()
            for row in rows:
                self.region.delete(f"user:{row}")

        await self._run(work)

    def close(self) -> None:
        self._threads.shutdown()
        for connection in self._own.values():
            connection.close()


@asynccontextmanager
async def opened(database: str, valkey: str) -> AsyncIterator[Dogpile]:
    peer = Dogpile(database, valkey)
    try:
        yield peer
    finally:
        peer.close()
