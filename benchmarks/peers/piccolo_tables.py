"""Piccolo: its tables on its own asyncpg engine and pool."""

from __future__ import annotations

from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit
from uuid import UUID

from piccolo.columns import JSONB, BigInt, Boolean, DoublePrecision, Text, Timestamptz
from piccolo.columns import UUID as UUIDColumn
from piccolo.engine.postgres import PostgresEngine
from piccolo.table import Table

from benchmarks.items import SCHEMA

CHUNK_ROWS = 3_000
"""Piccolo's insert binds every cell, and PostgreSQL takes 32,767 parameters (asyncpg's limit) in one statement."""


class Item(Table, tablename="items", schema=SCHEMA):
    id = UUIDColumn(primary_key=True)
    owner_id = UUIDColumn()
    name = Text()
    note = Text()
    quantity = BigInt()
    weight = DoublePrecision()
    active = Boolean()
    data = JSONB()
    created_at = Timestamptz()
    updated_at = Timestamptz()


class Piccolo:
    def __init__(self, engine: PostgresEngine) -> None:
        self.engine = engine

    @classmethod
    async def open(cls, dsn: str, size: int) -> Piccolo:
        parts = urlsplit(dsn)
        place = parse_qs(parts.query)
        engine = PostgresEngine(
            config={
                "host": place["host"][0],
                "port": int(place["port"][0]),
                "user": parts.username,
                "password": unquote(parts.password or ""),
                "database": parts.path[1:],
            }
        )
        engine.engine_type = "postgres"
        await engine.start_connection_pool(min_size=size, max_size=size)
        Item._meta._db = engine
        return cls(engine)

    async def close(self) -> None:
        await self.engine.close_connection_pool()

    async def get(self, key: UUID) -> Any:
        return await Item.objects().output(load_json=True).get(Item.id == key)

    async def list(self, limit: int) -> Any:
        return await Item.objects().output(load_json=True).order_by(Item.id).limit(limit)

    async def list_dicts(self, limit: int) -> Any:
        return await Item.select().output(load_json=True).order_by(Item.id).limit(limit)

    async def insert(self, content: list[dict[str, Any]]) -> None:
        async with self.engine.transaction():
            for start in range(0, len(content), CHUNK_ROWS):
                await Item.insert(*[Item(**row) for row in content[start : start + CHUNK_ROWS]])

    async def update(self, key: UUID, quantity: int) -> None:
        await Item.update({Item.quantity: quantity}).where(Item.id == key)
