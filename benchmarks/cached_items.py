"""Cached items: the entity the cache benchmarks read and write, the stores it lives in, and the relay that follows.

Ten columns of plain types (two uuids, texts, a whole number, a float, a bool, two instants): an immutable value, so
that the near cache may hand out the same one again and again.
"""

from __future__ import annotations

import asyncio
import random
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from time import monotonic
from typing import Any
from uuid import UUID

import asyncpg
from sqlalchemy.orm import Mapped, mapped_column
from sqlalchemy.schema import CreateSchema, CreateTable

from benchmarks.stores import temporary_home
from headwater import CachePolicy, Headwater, Model, Module, Settings, System
from headwater.embedded.postgres import EmbeddedPostgres
from headwater.embedded.valkey import EmbeddedValkey
from headwater.followers.invalidation import relaying
from headwater.kernel.migrations import migrate
from headwater.kernel.rows import DIALECT
from headwater.kernel.tracking import Tracked, call_to_track, tracked_table

SCHEMA = "benchmark"
TABLE = "benchmark.cached_items"
COLUMNS = ("id", "owner_id", "sku", "name", "note", "quantity", "weight", "active", "created_at", "updated_at")
KIND = "cached_item"
_EPOCH = datetime(2026, 1, 1, tzinfo=UTC)
_WORDS = ("servo", "gripper", "lidar", "encoder", "battery", "bearing", "camera", "harness", "reducer", "chassis")


class CachedItem(Model, schema=SCHEMA):
    __tablename__ = "cached_items"
    __tracked__ = Tracked("keys")

    id: Mapped[UUID] = mapped_column(primary_key=True)
    owner_id: Mapped[UUID]
    sku: Mapped[str]
    name: Mapped[str]
    note: Mapped[str]
    quantity: Mapped[int]
    weight: Mapped[float]
    active: Mapped[bool]
    created_at: Mapped[datetime]
    updated_at: Mapped[datetime]


def system(*, near: int = 0) -> System:
    """A system of this one entity."""
    module = Module(name="benchmark", package="benchmarks", summary="")
    vars(module)["cache"] = (CachePolicy(kind=KIND, model=CachedItem, ttl_seconds=600, near=near),)
    return System("benchmark", [module])


def rows(count: int, *, seed: int = 1) -> list[dict[str, Any]]:
    """Rows by column. The same for the same seed."""
    chance = random.Random(seed)
    return [
        {
            "id": UUID(int=chance.getrandbits(128), version=4),
            "owner_id": UUID(int=chance.getrandbits(128), version=4),
            "sku": f"HW-{chance.randrange(10**8):08}",
            "name": f"{chance.choice(_WORDS)} {number}",
            "note": f"Delivered by {chance.choice(_WORDS)} supply, inspected and packed in lot {number % 97}.",
            "quantity": chance.randrange(1_000_000),
            "weight": chance.random() * 100,
            "active": chance.random() < 0.9,
            "created_at": _EPOCH + timedelta(seconds=number),
            "updated_at": _EPOCH + timedelta(seconds=number * 2),
        }
        for number in range(count)
    ]


@asynccontextmanager
async def stores(content: list[dict[str, Any]], *, tracked: bool = True) -> AsyncIterator[tuple[Settings, str]]:
    """PostgreSQL (durable) with the filled table, Valkey, the relay in a process of its own. Gives settings, DSN."""
    async with temporary_home() as home, EmbeddedPostgres(home) as postgres, EmbeddedValkey(home) as valkey:
        settings = Settings(database_url=postgres.socket_dsn, valkey_url=valkey.dsn)
        kernel = Settings(database_url=postgres.socket_dsn)
        await migrate(System("benchmark", []), kernel)
        connection = await asyncpg.connect(postgres.socket_dsn)
        await connection.execute(str(CreateSchema(SCHEMA).compile(dialect=DIALECT)))
        await connection.execute(str(CreateTable(CachedItem.__table__).compile(dialect=DIALECT)))
        records = [tuple(row[c] for c in COLUMNS) for row in content]
        await connection.copy_records_to_table("cached_items", schema_name=SCHEMA, columns=COLUMNS, records=records)
        if tracked:
            declared = tracked_table(CachedItem)
            assert declared is not None
            await connection.execute(call_to_track(declared))
        await connection.execute(f"vacuum analyze {TABLE}")
        await connection.close()
        relay = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "benchmarks.cached_items", settings.database_url, settings.valkey_url
        )
        try:
            yield settings, postgres.socket_dsn
        finally:
            relay.terminate()
            await relay.wait()


async def trusted(headwater: Headwater) -> None:
    """Wait until this process believes its cache."""
    cache = headwater.postgres.cache
    assert cache is not None
    async with asyncio.timeout(30):
        while cache.good_until < monotonic():  # the relay makes it so
            await asyncio.sleep(0.01)


async def _relay(database_url: str, valkey_url: str) -> None:
    async with relaying(system(), Settings(database_url=database_url, valkey_url=valkey_url)):
        await asyncio.Event().wait()


if __name__ == "__main__":
    import uvloop

    uvloop.run(_relay(sys.argv[1], sys.argv[2]))
