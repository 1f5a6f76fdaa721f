"""Capture: what it costs an update of one row that its table is tracked, at 1 and 16 tasks, committed with fsync."""

from __future__ import annotations

import itertools
import random
from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import Any
from uuid import UUID

import asyncpg
from sqlalchemy.orm import Mapped, mapped_column
from sqlalchemy.schema import CreateSchema, CreateTable

from benchmarks.command import run_as_program
from benchmarks.items import COLUMNS, rows
from benchmarks.measuring import Operation, interleaved, ratio
from benchmarks.peers.raw_asyncpg import connect
from benchmarks.reporting import Findings
from benchmarks.stores import durable_postgres
from headwater import Headwater, Model, Settings, System
from headwater.kernel.migrations import migrate
from headwater.kernel.rows import DIALECT
from headwater.kernel.tracking import Tracked, call_to_track, tracked_table

CONNECTIONS = 16
SCHEMA = "captured"


class _Columns:
    """The ten columns of `benchmarks.items.Item`, for one table per policy."""

    id: Mapped[UUID] = mapped_column(primary_key=True)
    owner_id: Mapped[UUID]
    name: Mapped[str]
    note: Mapped[str]
    quantity: Mapped[int]
    weight: Mapped[float]
    active: Mapped[bool]
    data: Mapped[dict[str, Any]]
    created_at: Mapped[datetime]
    updated_at: Mapped[datetime]


class Untracked(_Columns, Model, schema=SCHEMA):
    __tablename__ = "untracked"


class Full(_Columns, Model, schema=SCHEMA):
    __tablename__ = "full"
    __tracked__ = Tracked("full")


class Keys(_Columns, Model, schema=SCHEMA):
    __tablename__ = "keys"
    __tracked__ = Tracked("keys", tags=("owner_id",))


MODELS: dict[str, type[Model]] = {"not tracked": Untracked, "full": Full, "keys": Keys}


async def benchmark(short: bool) -> Findings:
    findings = Findings(
        "capture",
        "A tracked table is little slower to write than one that is not.",
        "One column of a random row of 20,000, through the repository, which returns the row before and after; three "
        "tables of ten columns that differ in their policy alone. The pool holds 16 connections. No ticker runs.",
    )
    content = rows(2_000 if short else 20_000)
    rounds, seconds = (2, 0.05) if short else (40, 0.07)
    async with durable_postgres() as postgres:
        dsn = postgres.socket_dsn
        await migrate(System("benchmark", []), Settings(database_url=dsn))
        await _create(dsn, content)
        keys = [row["id"] for row in content]
        random.Random(3).shuffle(keys)
        settings = Settings(database_url=dsn, pool_size_max=CONNECTIONS)
        async with Headwater.open(System("benchmark", []), settings) as headwater:
            for tasks in (1, 16):
                variants = {
                    f"{how}, {policy}": _same(make(headwater, model), keys, tasks)
                    for how, make in (("autocommit", _autocommit), ("in a transaction", _in_transaction))
                    for policy, model in MODELS.items()
                }
                figures = await interleaved(variants, rounds=rounds, slice_seconds=seconds)
                table = findings.table(
                    f"{tasks} task{'s' if tasks > 1 else ''}", "", "ratio", "updates/s", "p50 us", "p99 us"
                )
                kept: dict[str, Any] = findings.figures.setdefault(f"{tasks} tasks", {})
                for name, slices in figures.items():
                    how, _, policy = name.partition(", ")
                    to_untracked = ratio(slices, figures[f"{how}, not tracked"])
                    p50, p99 = slices.percentile_us(50), slices.percentile_us(99)
                    table.add(name, f"{to_untracked:.2f}", f"{slices.rate:,.0f}", f"{p50:,.0f}", f"{p99:,.0f}")
                    kept[name] = {
                        "ratio": to_untracked,
                        "per_second": slices.rate,
                        "p50_us": p50,
                        "p99_us": p99,
                    }
                    if tasks == CONNECTIONS and policy != "not tracked":
                        cost = 100 * (1 - to_untracked)
                        findings.goal(f"capture costs an update, {name}", 15, cost, at_least=False, unit=" %")
        connection = await connect(dsn)
        try:
            findings.notes.append(await _recorded(connection))
        finally:
            await connection.close()
    return findings


async def _create(dsn: str, content: list[dict[str, Any]]) -> None:
    connection = await connect(dsn)
    try:
        await connection.execute(str(CreateSchema(SCHEMA).compile(dialect=DIALECT)))
        records = [tuple(row[c] for c in COLUMNS) for row in content]
        for model in MODELS.values():
            table: Any = model.__table__
            await connection.execute(str(CreateTable(table).compile(dialect=DIALECT)))
            await connection.copy_records_to_table(table.name, schema_name=SCHEMA, columns=COLUMNS, records=records)
            tracked = tracked_table(model)
            if tracked is not None:
                await connection.execute(call_to_track(tracked))
            await connection.execute(f"vacuum analyze {table.fullname}")
        await connection.execute("checkpoint")
    finally:
        await connection.close()


async def _recorded(connection: asyncpg.Connection) -> str:
    """Bytes that the stream holds for each change: what capture costs on disk."""
    count, size = await connection.fetchrow(
        "select count(*), (select sum(pg_total_relation_size(inhrelid)) from pg_inherits "
        "where inhparent = 'headwater.change'::regclass) from headwater.change"
    )
    return f"{count:,} changes were recorded, in {int(size) / max(count, 1):,.0f} bytes each with their index."


def _autocommit(headwater: Headwater, model: type[Model]) -> Callable[[UUID, int], Awaitable[object]]:
    ours, tx = headwater.repository(model), headwater.autocommit
    return lambda key, quantity: ours.update(tx, key, quantity=quantity)


def _in_transaction(headwater: Headwater, model: type[Model]) -> Callable[[UUID, int], Awaitable[object]]:
    ours = headwater.repository(model)

    async def change(key: UUID, quantity: int) -> None:
        async with headwater.transaction() as tx:
            await ours.update(tx, key, quantity=quantity)

    return change


def _same(change: Callable[[UUID, int], Any], keys: list[UUID], tasks: int) -> list[Operation]:
    following, number = itertools.cycle(keys).__next__, itertools.count().__next__
    return [lambda: change(following(), number())] * tasks


if __name__ == "__main__":
    run_as_program(benchmark)
