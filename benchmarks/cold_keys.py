"""Cold keys: one process of readers that ask one cache for the same key at once, at the word of cache_reads.py.

A line `key time` comes in, a line `loads slowest_ms` goes out.
"""

from __future__ import annotations

import asyncio
import sys
import threading
import time
from collections.abc import Awaitable, Callable
from typing import Any
from uuid import UUID

import uvloop

from benchmarks.cache_reads import LOAD_SECONDS, TASKS

loads = 0
Read = Callable[[UUID], Awaitable[Any]]


async def load(key: UUID) -> str:
    global loads
    loads += 1
    await asyncio.sleep(LOAD_SECONDS)
    return str(key)


async def _headwater(database_url: str, valkey_url: str) -> Read:
    from benchmarks.cached_items import CachedItem, system, trusted
    from headwater import Headwater, Settings

    opened = Headwater.open(system(), Settings(database_url=database_url, valkey_url=valkey_url))
    headwater = await opened.__aenter__()
    _OPEN.append(opened)
    await trusted(headwater)
    cache = headwater.postgres.cache
    assert cache is not None
    loader = cache.entities[CachedItem]._loader
    real = loader.load_all

    async def slowly(keys: Any) -> Any:
        for key in keys:
            await load(key)
        return await real(keys)

    loader.load_all = slowly  # type: ignore[method-assign]  # a load that takes its time, and is counted
    return headwater.repository(CachedItem).get


async def _cashews(valkey_url: str, *, lock: bool) -> Read:
    from cashews import Cache

    cache = Cache()
    cache.setup(valkey_url.replace("/0", "/4"))
    kept: Any = cache(ttl="10m", key=f"{'lock' if lock else 'plain'}:{{key}}", lock=lock)(load)
    return lambda key: kept(key)


async def _aiocache(valkey_url: str, *, stampede: bool) -> Read:
    from aiocache import Cache, cached, cached_stampede
    from aiocache.serializers import PickleSerializer

    from headwater.kernel.wire import Address

    address = Address.parse(valkey_url)
    said: dict[str, Any] = {
        "ttl": 600, "cache": Cache.REDIS, "endpoint": address.host, "port": address.port,
        "password": address.password, "db": 5 if stampede else 6, "serializer": PickleSerializer(),
        "key_builder": lambda _, key: f"cold:{key}",
    }  # fmt: skip
    kept: Any = (cached_stampede(lease=2, **said) if stampede else cached(**said))(load)
    return lambda key: kept(key)


async def _dogpile(valkey_url: str) -> Read:
    """It is synchronous: a thread for each reader."""
    from concurrent.futures import ThreadPoolExecutor

    from dogpile.cache import make_region

    region = make_region().configure(
        "dogpile.cache.redis",
        expiration_time=600,
        arguments={"url": valkey_url.replace("/0", "/7"), "distributed_lock": True, "thread_local_lock": False},
    )
    pool = ThreadPoolExecutor(TASKS)
    counted = threading.Lock()

    def made(key: str) -> str:
        global loads
        with counted:
            loads += 1
        time.sleep(LOAD_SECONDS)
        return key

    return lambda key: asyncio.get_running_loop().run_in_executor(
        pool, lambda: region.get_or_create(f"cold:{key}", made, creator_args=((str(key),), {}))
    )


_OPEN: list[Any] = []


async def main(name: str, database_url: str, valkey_url: str) -> None:
    global loads
    makers: dict[str, Callable[[], Awaitable[Read]]] = {
        "headwater": lambda: _headwater(database_url, valkey_url),
        "cashews": lambda: _cashews(valkey_url, lock=False),
        "cashews lock=True": lambda: _cashews(valkey_url, lock=True),
        "aiocache": lambda: _aiocache(valkey_url, stampede=False),
        "aiocache stampede": lambda: _aiocache(valkey_url, stampede=True),
        "dogpile lock": lambda: _dogpile(valkey_url),
    }
    read = await makers[name]()
    print("ready", flush=True)
    loop = asyncio.get_running_loop()

    async def timed(key: UUID) -> float:
        began = time.perf_counter()
        await read(key)
        return (time.perf_counter() - began) * 1000

    while line := await loop.run_in_executor(None, sys.stdin.readline):
        word, at = line.split()
        loads = 0
        await asyncio.sleep(max(0.0, float(at) - time.time()))
        spent = await asyncio.gather(*(timed(UUID(word)) for _ in range(TASKS)))
        print(loads, f"{max(spent):.1f}", flush=True)


if __name__ == "__main__":
    uvloop.run(main(*sys.argv[1:]))
