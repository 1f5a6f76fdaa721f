"""Cache writes: an update and the end of its cache entry, beside peers; how soon psql's commit ends an entry."""

from __future__ import annotations

import asyncio
import itertools
import os
import random
import time
from collections.abc import Callable, Sequence
from typing import Any
from uuid import UUID

import asyncpg
import psutil
from aiocache import Cache as AioCache
from cashews import Cache as Cashews
from sqlalchemy import bindparam, update
from sqlalchemy.ext.asyncio import create_async_engine
from valkey.asyncio import Valkey

from benchmarks.cached_items import TABLE, CachedItem, rows, stores, system, trusted
from benchmarks.command import run_as_program
from benchmarks.measuring import Operation, interleaved, ratio
from benchmarks.reporting import Findings
from headwater import Headwater, Settings
from headwater.kernel.wire import Address

CONNECTIONS = 16
OURS, OURS_TX = "headwater update, autocommit", "headwater update in a transaction"
PEERS = (
    "asyncpg UPDATE, valkey-py DEL",
    "SQLAlchemy UPDATE, valkey-py DEL",
    "SQLAlchemy UPDATE, cashews delete",
    "SQLAlchemy UPDATE, aiocache delete",
)
UPDATE = f"update {TABLE} set quantity = $2 where id = $1"


async def benchmark(short: bool) -> Findings:
    findings = Findings(
        "cache_writes",
        "A captured update that ends its cache entry costs what UPDATE and DEL cost; psql's ends it in milliseconds.",
        "Random rows of 20,000, committed durably, uvloop. Ours changes the row, has the change captured by the "
        "trigger, has invalidated when it returns, and returns the row before and after. Peers UPDATE by the primary "
        "key, commit, and then delete their key: nothing is captured, and what they keep may be stale for ever "
        "(benchmarks/coherence.py).",
    )
    content = rows(2_000 if short else 20_000)
    keys = [row["id"] for row in content]
    random.Random(3).shuffle(keys)
    async with stores(content) as (settings, dsn):
        await _throughput(findings, settings, dsn, keys, *((2, 0.05) if short else (30, 0.08)))
        await _external(findings, settings, dsn, keys, 40 if short else 1_000)
    return findings


async def _throughput(
    findings: Findings, settings: Settings, dsn: str, keys: list[UUID], rounds: int, seconds: float
) -> None:
    chosen = Settings(database_url=dsn, valkey_url=settings.valkey_url, pool_size_max=CONNECTIONS)
    address = Address.parse(settings.valkey_url)
    async with Headwater.open(system(), chosen) as headwater:
        await trusted(headwater)
        ours = headwater.repository(CachedItem)
        pool = await asyncpg.create_pool(dsn, min_size=CONNECTIONS, max_size=CONNECTIONS)
        engine = create_async_engine(
            dsn.replace("postgresql://", "postgresql+asyncpg://"), pool_size=CONNECTIONS, max_overflow=0
        )
        client, cashews = Valkey.from_url(settings.valkey_url), Cashews()
        cashews.setup(settings.valkey_url.replace("/0", "/1"))
        aio = AioCache(AioCache.REDIS, endpoint=address.host, port=address.port, password=address.password, db=2)
        table = CachedItem.__table__
        statement = update(table).where(table.c.id == bindparam("key")).values(quantity=bindparam("quantity_"))

        async def core(key: UUID, quantity: int) -> None:
            async with engine.begin() as connection:
                await connection.execute(statement, {"key": key, "quantity_": quantity})

        async def in_transaction(key: UUID, quantity: int) -> None:
            async with headwater.transaction() as tx:
                await ours.update(tx, key, quantity=quantity)

        async def with_asyncpg(key: UUID, quantity: int) -> None:
            await pool.execute(UPDATE, key, quantity)
            await client.delete(f"item:{key}")

        async def with_valkey(key: UUID, quantity: int) -> None:
            await core(key, quantity)
            await client.delete(f"item:{key}")

        async def with_cashews(key: UUID, quantity: int) -> None:
            await core(key, quantity)
            await cashews.delete(f"item:{key}")

        async def with_aiocache(key: UUID, quantity: int) -> None:
            await core(key, quantity)
            await aio.delete(f"item:{key}")

        writes: dict[str, Callable[[UUID, int], Any]] = {
            OURS: lambda key, quantity: ours.update(headwater.autocommit, key, quantity=quantity),
            OURS_TX: in_transaction,
            **dict(zip(PEERS, (with_asyncpg, with_valkey, with_cashews, with_aiocache), strict=True)),
        }
        try:
            for tasks in (1, 16):
                variants: dict[str, Sequence[Operation]] = {
                    name: _same(write, keys, tasks) for name, write in writes.items()
                }
                figures = await interleaved(variants, rounds=rounds, slice_seconds=seconds)
                what = f"{tasks} task{'s' if tasks > 1 else ''}"
                shown = findings.table(what, "", "to asyncpg + DEL", "writes/s", "p50 us", "p99 us", "ours is")
                kept = findings.figures[what] = {}
                for name, slices in sorted(figures.items(), key=lambda item: -item[1].rate):
                    to_first, ours_is = ratio(slices, figures[PEERS[0]]), ratio(figures[OURS], slices)
                    p50, p99 = slices.percentile_us(50), slices.percentile_us(99)
                    cells = (f"{to_first:.2f}", f"{slices.rate:,.0f}", f"{p50:,.0f}", f"{p99:,.0f}")
                    shown.add(name, *cells, f"{ours_is:.2f} x" if name != OURS else "")
                    kept[name] = {"per_second": slices.rate, "p50_us": p50, "p99_us": p99, "ours": ours_is}
                if tasks == 16:
                    for peer in PEERS:
                        findings.goal(f"16 tasks, to {peer}", 0.9, ratio(figures[OURS], figures[peer]), unit=" x")
        finally:
            await pool.close()
            await engine.dispose()
            await client.aclose()
            await cashews.close()
            await aio.close()


def _same(change: Callable[[UUID, int], Any], keys: list[UUID], tasks: int) -> list[Operation]:
    following, number = itertools.cycle(keys).__next__, itertools.count().__next__
    return [lambda: change(following(), number())] * tasks


async def _external(findings: Findings, settings: Settings, dsn: str, keys: list[UUID], count: int) -> None:
    """From the acknowledged COMMIT of a writer that knows nothing of us until the entry is no value any more.

    Writes come one by one after a random pause, so that the relay is met at every point of its own pause.
    """
    lot = random.Random(5)
    connection = await asyncpg.connect(dsn)
    delays: list[float] = []
    async with Headwater.open(system(), settings) as headwater:
        await trusted(headwater)
        cache = headwater.postgres.cache
        assert cache is not None
        entity, items = cache.entities[CachedItem], headwater.repository(CachedItem)
        for number in range(count):
            key = keys[number % len(keys)]
            await items.get(key)
            await asyncio.sleep(lot.uniform(0.002, 0.05))
            name = entity.name_of(key)
            while not (await cache.wire.send_get(name) or b"").startswith(b"V"):
                await items.get(key)
            await connection.execute(UPDATE, key, number)
            began = time.perf_counter()
            while (await cache.wire.send_get(name) or b"").startswith(b"V"):
                pass
            delays.append((time.perf_counter() - began) * 1000)
        idle = await _idle_percent(connection, 1.0 if count < 100 else 5.0)
    await connection.close()
    delays.sort()
    p50, p99 = delays[len(delays) // 2], delays[min(len(delays) - 1, int(len(delays) * 0.99))]
    table = findings.table(
        "A commit by psql until its entry is dead, ms", "", "p50", "p99", "worst", "relay idle, % of a core"
    )
    table.add(
        "headwater relay, in a process of its own", f"{p50:.2f}", f"{p99:.2f}", f"{delays[-1]:.2f}", f"{idle:.1f}"
    )
    findings.figures["external"] = {"p50_ms": p50, "p99_ms": p99, "worst_ms": delays[-1], "relay_idle_percent": idle}
    findings.goal("psql's commit to a dead entry, p99", 3, p99, at_least=False, unit=" ms")
    findings.goal("the relay when nothing is written", 2, idle, at_least=False, unit=" %")


async def _idle_percent(connection: asyncpg.Connection, seconds: float) -> float:
    """What the relay and the server process that works for it use of one core while nothing happens."""
    relays = [child for child in psutil.Process(os.getpid()).children() if "benchmarks.cached_items" in child.cmdline()]
    backends = await connection.fetch("select pid from pg_locks where locktype = 'advisory' and granted")
    both = [*relays, *(psutil.Process(row["pid"]) for row in backends)]
    await asyncio.sleep(0.5)
    before = sum(sum(one.cpu_times()[:2]) for one in both)
    await asyncio.sleep(seconds)
    return (sum(sum(one.cpu_times()[:2]) for one in both) - before) / seconds * 100


if __name__ == "__main__":
    run_as_program(benchmark, on_uvloop=True)
