"""Items: the entity every data benchmark reads and writes: ten columns, among them jsonb, two uuids, two instants."""

from __future__ import annotations

import random
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import asyncpg
from sqlalchemy.orm import Mapped, mapped_column
from sqlalchemy.schema import CreateSchema, CreateTable

from headwater import Model, Repository
from headwater.kernel.rows import DIALECT

SCHEMA = "benchmark"
TABLE = "benchmark.items"
COLUMNS = ("id", "owner_id", "name", "note", "quantity", "weight", "active", "data", "created_at", "updated_at")

_EPOCH = datetime(2026, 1, 1, tzinfo=UTC)
_WORDS = ("servo", "gripper", "lidar", "encoder", "battery", "bearing", "camera", "harness", "reducer", "chassis")


class Item(Model, schema=SCHEMA):
    __tablename__ = "items"

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


class ItemRepository(Repository[Item]):
    """The repository under test; it adds nothing."""


def rows(count: int, *, seed: int = 1) -> list[dict[str, Any]]:
    """Rows as a caller would have them: mappings by attribute. The same for the same seed."""
    chance = random.Random(seed)
    return [
        {
            "id": UUID(int=chance.getrandbits(128), version=4),
            "owner_id": UUID(int=chance.getrandbits(128), version=4),
            "name": f"{chance.choice(_WORDS)} {number}",
            "note": f"Delivered by {chance.choice(_WORDS)} supply, inspected and packed in lot {number % 97}.",
            "quantity": chance.randrange(1_000_000),
            "weight": chance.random() * 100,
            "active": chance.random() < 0.9,
            "data": {
                "torque": chance.randrange(500),
                "tags": [chance.choice(_WORDS), chance.choice(_WORDS)],
                "ip": "65",
            },
            "created_at": _EPOCH + timedelta(seconds=number),
            "updated_at": _EPOCH + timedelta(seconds=number * 2),
        }
        for number in range(count)
    ]


async def create_table(dsn: str, content: list[dict[str, Any]]) -> None:
    """The table, filled with `content` and settled: analysed, its hint bits written."""
    from benchmarks.peers.raw_asyncpg import connect  # the peer's own connection, with its codec

    connection = await connect(dsn)
    try:
        await connection.execute(str(CreateSchema(SCHEMA).compile(dialect=DIALECT)))
        await connection.execute(str(CreateTable(Item.__table__).compile(dialect=DIALECT)))
        await fill(connection, content)
    finally:
        await connection.close()


async def fill(connection: asyncpg.Connection, content: list[dict[str, Any]]) -> None:
    """Empty the table and put `content` into it."""
    await connection.execute(f"truncate {TABLE}")
    if content:
        records = [tuple(row[c] for c in COLUMNS) for row in content]
        await connection.copy_records_to_table("items", schema_name=SCHEMA, columns=COLUMNS, records=records)
    await connection.execute(f"vacuum analyze {TABLE}")
    await connection.execute("checkpoint")
