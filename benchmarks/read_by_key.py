"""Read by key: one row of ten columns by its primary key, at 1, 16 and 64 tasks."""

from __future__ import annotations

import asyncio
import itertools
import random
from collections.abc import Callable, Sequence
from typing import Any
from uuid import UUID

import asyncpg

from benchmarks.command import run_as_program
from benchmarks.items import ItemRepository, create_table, rows
from benchmarks.measuring import Operation, Slices, interleaved, ratio
from benchmarks.peers.advanced_alchemy_repository import AdvancedAlchemy
from benchmarks.peers.piccolo_tables import Piccolo
from benchmarks.peers.raw_asyncpg import GET, connect, open_pool
from benchmarks.peers.sqlalchemy_async import SQLAlchemyCore, SQLAlchemyORM
from benchmarks.peers.sqlmodel_session import SQLModelSession
from benchmarks.reporting import Findings
from benchmarks.stores import durable_postgres
from headwater import Headwater, Settings, System

CONNECTIONS = 16
"""What each peer's pool may hold. Ours keeps its default of 10."""
OURS, HELD, SHARED = (
    "headwater",
    "asyncpg, one held connection per task",
    "asyncpg, 10 held connections, each behind a lock",
)
AA = "Advanced Alchemy repository.get"
GOALS = {1: (0.95, 6), 16: (1.5, 25), 64: (2.8, 45)}


async def benchmark(short: bool) -> Findings:
    findings = Findings(
        "read_by_key",
        "A typed read by primary key costs what the raw driver costs, and less when many tasks read at once.",
        "Random keys of 20,000 rows; ten columns (uuid x2, text x2, bigint, float, bool, jsonb, "
        "timestamptz x2), jsonb decoded. "
        "Peers open a session or take a connection for each read; their pools hold 16, ours 10. Asyncio's own loop.",
    )
    content = rows(2_000 if short else 20_000)
    rounds, seconds = (2, 0.03) if short else (45, 0.07)
    async with durable_postgres() as postgres:
        dsn = postgres.socket_dsn
        await create_table(dsn, content)
        keys = [row["id"] for row in content]
        random.Random(3).shuffle(keys)
        async with Headwater.open(System("benchmark", []), Settings(database_url=dsn)) as headwater:
            ours = headwater.repository(ItemRepository)
            held = [await connect(dsn) for _ in range(64)]
            pool = await open_pool(dsn, CONNECTIONS)
            core, orm = SQLAlchemyCore(dsn, CONNECTIONS), SQLAlchemyORM(dsn, CONNECTIONS)
            aa, sqlmodel = AdvancedAlchemy(dsn, CONNECTIONS), SQLModelSession(dsn, CONNECTIONS)
            piccolo = await Piccolo.open(dsn, CONNECTIONS)
            try:
                for tasks in (1, 16, 64):
                    variants: dict[str, Sequence[Operation]] = {
                        OURS: _same(ours.get, keys, tasks),
                        HELD: [_held(connection, keys) for connection in held[:tasks]],
                        "asyncpg pool.fetchrow": _same(lambda key: pool.fetchrow(GET, key), keys, tasks),
                        "SQLAlchemy Core": _same(core.get, keys, tasks),
                        "SQLAlchemy ORM session.get": _same(orm.get, keys, tasks),
                        AA: _same(aa.get, keys, tasks),
                        "SQLModel session.get": _same(sqlmodel.get, keys, tasks),
                        "Piccolo objects().get": _same(piccolo.get, keys, tasks),
                    }
                    if tasks == 64:
                        variants[SHARED] = _locked(held[:10], keys, tasks)
                    figures = await interleaved(variants, rounds=rounds, slice_seconds=seconds)
                    _tell(findings, tasks, figures)
            finally:
                await pool.close()
                for peer in (core, orm, aa, sqlmodel, piccolo):
                    await peer.close()
                for connection in held:
                    await connection.close()
    return findings


def _tell(findings: Findings, tasks: int, figures: dict[str, Slices]) -> None:
    baseline = max((name for name in (HELD, SHARED) if name in figures), key=lambda name: figures[name].rate)
    table = findings.table(
        f"{tasks} task{'s' if tasks > 1 else ''}; ratio to: {baseline}",
        "",
        "ratio",
        "reads/s",
        "p50 us",
        "p99 us",
        "ours is",
    )
    kept = findings.figures[f"{tasks} tasks"] = {"baseline": baseline}
    for name, slices in sorted(figures.items(), key=lambda item: -item[1].rate):
        to_raw, ours = ratio(slices, figures[baseline]), ratio(figures[OURS], slices)
        p50, p99 = slices.percentile_us(50), slices.percentile_us(99)
        table.add(
            name,
            f"{to_raw:.2f}",
            f"{slices.rate:,.0f}",
            f"{p50:,.0f}",
            f"{p99:,.0f}",
            f"{ours:.1f} x" if name != OURS else "",
        )
        kept[name] = {"ratio": to_raw, "per_second": slices.rate, "p50_us": p50, "p99_us": p99, "ours": ours}
    raw_goal, aa_goal = GOALS[tasks]
    what = f"{tasks} task{'s' if tasks > 1 else ''}"
    findings.goal(f"{what}, to raw asyncpg", raw_goal, ratio(figures[OURS], figures[baseline]))
    findings.goal(f"{what}, to Advanced Alchemy", aa_goal, ratio(figures[OURS], figures[AA]), unit=" x")


def _same(read: Callable[[UUID], Any], keys: list[UUID], tasks: int) -> list[Operation]:
    following = itertools.cycle(keys).__next__
    return [lambda: read(following())] * tasks


def _held(connection: asyncpg.Connection, keys: list[UUID]) -> Operation:
    fetchrow, following = connection.fetchrow, itertools.cycle(random.sample(keys, len(keys))).__next__
    return lambda: fetchrow(GET, following())


def _locked(connections: list[asyncpg.Connection], keys: list[UUID], tasks: int) -> list[Operation]:
    """Tasks dealt out over a few connections; each waits for its turn on its own one."""
    following = itertools.cycle(keys).__next__

    def sharing(connection: asyncpg.Connection, lock: asyncio.Lock) -> Operation:
        async def read() -> Any:
            async with lock:
                return await connection.fetchrow(GET, following())

        return read

    turns = [sharing(connection, asyncio.Lock()) for connection in connections]
    return [turns[i % len(turns)] for i in range(tasks)]


if __name__ == "__main__":
    run_as_program(benchmark)
