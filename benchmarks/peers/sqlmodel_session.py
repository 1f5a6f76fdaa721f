"""SQLModel: its async session on asyncpg, one per operation."""

from __future__ import annotations

from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import BigInteger, Column, DateTime, Text
from sqlalchemy.dialects.postgresql import JSONB
from sqlmodel import Field, SQLModel, select
from sqlmodel.ext.asyncio.session import AsyncSession

from benchmarks.items import SCHEMA
from benchmarks.peers.sqlalchemy_async import make_engine


class Item(SQLModel, table=True):
    __tablename__ = "items"
    __table_args__ = {"schema": SCHEMA}

    id: UUID = Field(primary_key=True)
    owner_id: UUID
    name: str = Field(sa_type=Text)
    note: str = Field(sa_type=Text)
    quantity: int = Field(sa_type=BigInteger)
    weight: float
    active: bool
    data: dict[str, Any] = Field(sa_column=Column(JSONB, nullable=False))
    created_at: datetime = Field(sa_column=Column(DateTime(timezone=True), nullable=False))
    updated_at: datetime = Field(sa_column=Column(DateTime(timezone=True), nullable=False))


class SQLModelSession:
    def __init__(self, dsn: str, size: int) -> None:
        self.engine = make_engine(dsn, size)

    async def close(self) -> None:
        await self.engine.dispose()

    async def get(self, key: UUID) -> Any:
        async with AsyncSession(self.engine, expire_on_commit=False) as session:
            return await session.get(Item, key)

    async def list(self, limit: int) -> Any:
        async with AsyncSession(self.engine, expire_on_commit=False) as session:
            return (await session.exec(select(Item).order_by(Item.id).limit(limit))).all()

    async def insert(self, content: list[dict[str, Any]]) -> None:
        async with AsyncSession(self.engine, expire_on_commit=False) as session:
            session.add_all([Item(**row) for row in content])
            await session.commit()

    async def update(self, key: UUID, quantity: int) -> None:
        async with AsyncSession(self.engine, expire_on_commit=False) as session:
            item = await session.get(Item, key)
            assert item is not None
            item.quantity = quantity
            session.add(item)
            await session.commit()
