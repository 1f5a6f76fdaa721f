"""Cache reads: a coherent hit in Valkey and in the process, beside bare GETs and other caches; who loads a cold key."""

from __future__ import annotations

import asyncio
import itertools
import random
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from statistics import median
from typing import Any
from uuid import UUID

import cachetools
from aiocache import Cache as AioCache
from aiocache import cached as aio_cached
from aiocache.serializers import PickleSerializer
from cashews import Cache as Cashews
from valkey.asyncio import Valkey

from benchmarks.cached_items import CachedItem, rows, stores, system, trusted
from benchmarks.command import run_as_program
from benchmarks.measuring import Operation, Slices, interleaved, ratio
from benchmarks.reporting import Findings
from headwater import Headwater, Settings
from headwater.kernel.wire import Address

OURS, RAW, VALKEY = "headwater get, coherent, decoded", "headwater, bare GET on our wire", "valkey-py GET"
CASHEWS, CASHEWS_CALL, AIOCACHE, AIOCACHE_CALL = (
    "cashews get", "cashews decorator", "aiocache get", "aiocache decorator",
)  # fmt: skip
PROCESSES, TASKS, LOAD_SECONDS = 3, 40, 0.05
COLD = ("headwater", "cashews", "cashews lock=True", "aiocache", "aiocache stampede", "dogpile lock")


async def benchmark(short: bool) -> Findings:
    findings = Findings(
        "cache_reads",
        "A coherent read from Valkey costs little more than a bare GET; one in the process some hundred nanoseconds.",
        "1,000 distinct keys in random order, ten columns, Valkey over TCP, uvloop for all. Ours checks generation, "
        "guard, floor and age of each entry and decodes it to the typed value; valkey-py returns bytes; cashews and "
        "aiocache return a pickled dict of the row with their defaults.",
    )
    content = rows(1_000)
    rounds, seconds = (2, 0.03) if short else (30, 0.07)
    async with stores(content) as (settings, _):
        by_key = {row["id"]: row for row in content}
        keys = list(by_key)
        random.Random(3).shuffle(keys)
        async with Headwater.open(system(), settings) as headwater:
            await trusted(headwater)
            ours = headwater.repository(CachedItem)
            for key in keys:
                await ours.get(key)
            peers = await _Peers.open(settings, by_key)
            try:
                for tasks in (1, 16, 64):
                    figures = await interleaved(
                        peers.variants(headwater, keys, tasks), rounds=rounds, slice_seconds=seconds
                    )
                    _tell(findings, tasks, figures)
            finally:
                await peers.close()
        await _near(findings, settings, content, short)
        await _cold(findings, settings, keys, 2 if short else 8)
    return findings


class _Peers:
    """The other caches, each filled with the same rows."""

    def __init__(self, settings: Settings) -> None:
        address = Address.parse(settings.valkey_url)
        self.valkey = Valkey.from_url(settings.valkey_url)
        self.cashews = Cashews()
        self.cashews.setup(settings.valkey_url.replace("/0", "/1"), client_side=False)
        self.aio = AioCache(
            AioCache.REDIS, endpoint=address.host, port=address.port, password=address.password, db=2,
            serializer=PickleSerializer(),
        )  # fmt: skip

    @classmethod
    async def open(cls, settings: Settings, by_key: dict[UUID, Any]) -> _Peers:
        made = cls(settings)

        @made.cashews(ttl="10m", key="call:{key}")
        async def cashews_call(key: UUID) -> Any:
            return by_key[key]

        made.cashews_call = cashews_call
        address = Address.parse(settings.valkey_url)

        @aio_cached(
            ttl=600, cache=AioCache.REDIS, endpoint=address.host, port=address.port, password=address.password, db=3,
            serializer=PickleSerializer(), key_builder=lambda _, key: f"call:{key}",
        )  # fmt: skip
        async def aio_call(key: UUID) -> Any:
            return by_key[key]

        made.aio_call = aio_call
        for key, row in by_key.items():
            await made.cashews.set(f"item:{key}", row, expire="10m")
            await made.aio.set(f"item:{key}", row, ttl=600)
            await cashews_call(key)
            await aio_call(key)
        return made

    def variants(self, headwater: Headwater, keys: list[UUID], tasks: int) -> dict[str, Sequence[Operation]]:
        cache = headwater.postgres.cache
        assert cache is not None
        named = [cache.entities[CachedItem].name_of(key) for key in keys]
        worded = [f"item:{key}" for key in keys]
        return {
            OURS: _over(headwater.repository(CachedItem).get, keys, tasks),
            RAW: _over(cache.wire.send_get, named, tasks),
            VALKEY: _over(self.valkey.get, named, tasks),
            CASHEWS: _over(self.cashews.get, worded, tasks),
            CASHEWS_CALL: _over(self.cashews_call, keys, tasks),
            AIOCACHE: _over(self.aio.get, worded, tasks),
            AIOCACHE_CALL: _over(self.aio_call, keys, tasks),
        }

    async def close(self) -> None:
        await self.valkey.aclose()
        await self.cashews.close()
        await self.aio.close()


def _over(read: Callable[[Any], Any], keys: Sequence[Any], tasks: int) -> list[Operation]:
    following = itertools.cycle(keys).__next__
    return [lambda: read(following())] * tasks


def _tell(findings: Findings, tasks: int, figures: dict[str, Slices]) -> None:
    what = f"{tasks} task{'s' if tasks > 1 else ''}"
    table = findings.table(what, "", "to valkey-py", "reads/s", "p50 us", "p99 us", "ours is")
    kept = findings.figures[f"{tasks} tasks"] = {}
    for name, slices in sorted(figures.items(), key=lambda item: -item[1].rate):
        to_valkey, ours = ratio(slices, figures[VALKEY]), ratio(figures[OURS], slices)
        p50, p99 = slices.percentile_us(50), slices.percentile_us(99)
        cells = (f"{to_valkey:.2f}", f"{slices.rate:,.0f}", f"{p50:,.0f}", f"{p99:,.0f}")
        table.add(name, *cells, f"{ours:.2f} x" if name != OURS else "")
        kept[name] = {
            "to_valkey": to_valkey, "per_second": slices.rate, "p50_us": p50, "p99_us": p99, "ours": ours,
        }  # fmt: skip
    if tasks == 16:
        findings.goal("16 tasks, to a bare valkey-py GET", 8, ratio(figures[OURS], figures[VALKEY]), unit=" x")
        for peer in (CASHEWS, CASHEWS_CALL, AIOCACHE, AIOCACHE_CALL):
            findings.goal(f"16 tasks, to {peer}", 15, ratio(figures[OURS], figures[peer]), unit=" x")
        findings.goal("16 tasks, to our own bare GET", 0.9, ratio(figures[OURS], figures[RAW]))


# -- in the process ----------------------------------------------------------------------------------------------------


async def _near(findings: Findings, settings: Settings, content: list[dict[str, Any]], short: bool) -> None:
    """Hits on 100 keys of stdlib UUIDs, one task, nanoseconds each, the loop over the keys included."""
    keys = [row["id"] for row in content[:100]]
    mem = Cashews()
    mem.setup("mem://")
    plain = dict(zip(keys, content, strict=False))
    lru: Any = cachetools.LRUCache(1_000)
    ttl: Any = cachetools.TTLCache(1_000, 600)
    async with Headwater.open(system(near=1_000), settings) as headwater:
        await trusted(headwater)
        items = headwater.repository(CachedItem)
        for key, row in plain.items():
            lru[key] = ttl[key] = row
            await mem.set(f"item:{key}", row)
        words = [f"item:{key}" for key in keys]
        laps, rounds = (20, 2) if short else (200, 9)
        found: dict[str, list[float]] = {}

        async def ours() -> None:
            for key in keys:
                await items.get(key)

        async def cashews() -> None:
            for word in words:
                await mem.get(word)

        async def synchronous(read: Callable[[Any], Any]) -> None:
            for key in keys:
                read(key)

        variants: dict[str, Callable[[], Any]] = {
            "headwater, await repository.get": ours,
            "cashews mem, await get": cashews,
            "dict": partial(synchronous, plain.get),
            "cachetools LRUCache": partial(synchronous, lru.get),
            "cachetools TTLCache": partial(synchronous, ttl.get),
        }
        for _ in range(rounds):
            for name, lap in variants.items():
                await lap()  # what a slice of the others has let end is there again
                began = time.perf_counter_ns()
                for number in range(laps // (10 if "cashews" in name else 1)):
                    if number % 100 == 99:
                        await asyncio.sleep(0)  # a loop that is starved believes nothing near
                    await lap()
                spent = time.perf_counter_ns() - began
                found.setdefault(name, []).append(spent / (laps // (10 if "cashews" in name else 1)) / len(keys))
        cache = headwater.postgres.cache
        assert cache is not None
        cache.count()
        figures = cache.figures["cached_item"]
        findings.notes.append(
            f"Near cache: {figures.near_hits:,} hits in the process, {figures.hits:,} in Valkey while it was measured."
        )
    table = findings.table("In the process, 1 task", "", "ns per hit")
    kept = findings.figures["near"] = {}
    for name, spent in sorted(found.items(), key=lambda item: median(item[1])):
        table.add(name, f"{median(spent):,.0f}")
        kept[name] = {"ns": median(spent)}
    findings.goal(
        "a hit in the process, awaited",
        300,
        median(found["headwater, await repository.get"]),
        at_least=False,
        unit=" ns",
    )


# -- cold keys ---------------------------------------------------------------------------------------------------------


async def _cold(findings: Findings, settings: Settings, keys: list[UUID], rounds: int) -> None:
    """Three processes of 40 tasks ask for a key that is nowhere; its load takes 50 ms. How often is it loaded?"""
    client = Valkey.from_url(settings.valkey_url)
    table = findings.table(
        f"A cold key, {PROCESSES} processes of {TASKS} readers, a load of {LOAD_SECONDS * 1000:.0f} ms",
        "", "loads per key", "slowest reader, median ms",
    )  # fmt: skip
    kept = findings.figures["cold"] = {}
    for name in COLD:
        workers = [
            await asyncio.create_subprocess_exec(
                sys.executable, "-m", "benchmarks.cold_keys", name, settings.database_url, settings.valkey_url,
                stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
            )
            for _ in range(PROCESSES)
        ]  # fmt: skip
        loads, slowest = [], []
        try:
            for worker in workers:
                assert worker.stdout is not None
                await worker.stdout.readline()
            for key in keys[:rounds]:
                await client.delete(f"cached_item:{key}")
                at = time.time() + 0.1
                for worker in workers:
                    assert worker.stdin is not None
                    worker.stdin.write(f"{key} {at}\n".encode())
                said = [(await worker.stdout.readline()).split() for worker in workers if worker.stdout is not None]
                loads.append(sum(int(loaded) for loaded, _ in said))
                slowest.append(max(float(ms) for _, ms in said))
        finally:
            for worker in workers:
                worker.kill()
                await worker.wait()
        table.add(name, f"{sum(loads) / len(loads):.2f}", f"{median(slowest):.0f}")
        kept[name] = {"loads": sum(loads) / len(loads), "slowest_ms": median(slowest)}
    await client.aclose()
    findings.goal("loads per cold key over 3 processes", 1.0, kept["headwater"]["loads"], at_least=False)


if __name__ == "__main__":
    run_as_program(benchmark, on_uvloop=True)
