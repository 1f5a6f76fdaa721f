"""Update a row: one column of one row by its key, committed with fsync, at 1 and 16 tasks."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Sequence
from typing import Any
from uuid import UUID

import asyncpg

from benchmarks.command import run_as_program
from benchmarks.items import ItemRepository, create_table, rows
from benchmarks.measuring import Operation, interleaved, ratio
from benchmarks.peers.advanced_alchemy_repository import AdvancedAlchemy
from benchmarks.peers.piccolo_tables import Piccolo
from benchmarks.peers.raw_asyncpg import UPDATE, connect
from benchmarks.peers.sqlalchemy_async import SQLAlchemyCore, SQLAlchemyORM
from benchmarks.peers.sqlmodel_session import SQLModelSession
from benchmarks.reporting import Findings
from benchmarks.stores import durable_postgres
from headwater import Headwater, Settings, System

CONNECTIONS = 16
BARE, AUTOCOMMIT, TRANSACTION = (
    "asyncpg, bare UPDATE on held connections",
    "headwater update, autocommit",
    "headwater update in a transaction",
)


async def benchmark(short: bool) -> Findings:
    findings = Findings(
        "update_row",
        "An update that returns the row before and after costs little more than a bare UPDATE.",
        "Random rows of 20,000, committed durably. Ours returns the old and the new row as values; "
        "the bare UPDATE and Core "
        "return nothing; the ORMs read, change and flush. Pools hold 16 connections, ours 16 here too.",
    )
    content = rows(2_000 if short else 20_000)
    rounds, seconds = (2, 0.03) if short else (40, 0.07)
    async with durable_postgres() as postgres:
        dsn = postgres.socket_dsn
        await create_table(dsn, content)
        keys = [row["id"] for row in content]
        random.Random(3).shuffle(keys)
        settings = Settings(database_url=dsn, pool_size_max=CONNECTIONS)
        async with Headwater.open(System("benchmark", []), settings) as headwater:
            ours = headwater.repository(ItemRepository)
            held = [await connect(dsn) for _ in range(CONNECTIONS)]
            core, orm, aa, sqlmodel = (
                peer(dsn, CONNECTIONS) for peer in (SQLAlchemyCore, SQLAlchemyORM, AdvancedAlchemy, SQLModelSession)
            )
            piccolo = await Piccolo.open(dsn, CONNECTIONS)

            async def in_transaction(key: UUID, quantity: int) -> None:
                async with headwater.transaction() as tx:
                    await ours.update(tx, key, quantity=quantity)

            try:
                for tasks in (1, 16):
                    variants: dict[str, Sequence[Operation]] = {
                        BARE: [_held(connection, keys) for connection in held[:tasks]],
                        AUTOCOMMIT: _same(
                            lambda key, quantity: ours.update(headwater.autocommit, key, quantity=quantity), keys, tasks
                        ),
                        TRANSACTION: _same(in_transaction, keys, tasks),
                        "SQLAlchemy Core": _same(core.update, keys, tasks),
                        "SQLAlchemy ORM": _same(orm.update, keys, tasks),
                        "Advanced Alchemy": _same(aa.update, keys, tasks),
                        "SQLModel": _same(sqlmodel.update, keys, tasks),
                        "Piccolo": _same(piccolo.update, keys, tasks),
                    }
                    figures = await interleaved(variants, rounds=rounds, slice_seconds=seconds)
                    table = findings.table(
                        f"{tasks} task{'s' if tasks > 1 else ''}",
                        "",
                        "ratio",
                        "updates/s",
                        "p50 us",
                        "p99 us",
                        "ours is",
                    )
                    kept: dict[str, Any] = findings.figures.setdefault(f"{tasks} tasks", {})
                    for name, slices in sorted(figures.items(), key=lambda item: -item[1].rate):
                        to_bare, faster = ratio(slices, figures[BARE]), ratio(figures[AUTOCOMMIT], slices)
                        p50, p99 = slices.percentile_us(50), slices.percentile_us(99)
                        cells = (f"{to_bare:.2f}", f"{slices.rate:,.0f}", f"{p50:,.0f}", f"{p99:,.0f}")
                        table.add(name, *cells, f"{faster:.1f} x" if name != AUTOCOMMIT else "")
                        kept[name] = {
                            "ratio": to_bare,
                            "per_second": slices.rate,
                            "p50_us": p50,
                            "p99_us": p99,
                            "ours": faster,
                        }
            finally:
                for peer in (core, orm, aa, sqlmodel, piccolo):
                    await peer.close()
                for connection in held:
                    await connection.close()
    return findings


def _same(change: Callable[[UUID, int], Any], keys: list[UUID], tasks: int) -> list[Operation]:
    following, number = itertools.cycle(keys).__next__, itertools.count().__next__
    return [lambda: change(following(), number())] * tasks


def _held(connection: asyncpg.Connection, keys: list[UUID]) -> Operation:
    execute, number = connection.execute, itertools.count().__next__
    following = itertools.cycle(random.sample(keys, len(keys))).__next__
    return lambda: execute(UPDATE, following(), number())


if __name__ == "__main__":
    run_as_program(benchmark)
