"""Advanced Alchemy: its async repository, one session per operation."""

from __future__ import annotations

from datetime import datetime
from typing import Any
from uuid import UUID

from advanced_alchemy.base import DefaultBase
from advanced_alchemy.repository import SQLAlchemyAsyncRepository
from sqlalchemy import BigInteger, DateTime, Text
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.ext.asyncio import async_sessionmaker
from sqlalchemy.orm import Mapped, mapped_column

from benchmarks.items import SCHEMA
from benchmarks.peers.sqlalchemy_async import make_engine


class Item(DefaultBase):
    __tablename__ = "items"
    __table_args__ = {"schema": SCHEMA}

    id: Mapped[UUID] = mapped_column(primary_key=True)
    owner_id: Mapped[UUID]
    name: Mapped[str] = mapped_column(Text)
    note: Mapped[str] = mapped_column(Text)
    quantity: Mapped[int] = mapped_column(BigInteger)
    weight: Mapped[float]
    active: Mapped[bool]
    data: Mapped[dict[str, Any]] = mapped_column(JSONB)
    created_at: Mapped[datetime] = mapped_column(DateTime(timezone=True))
    updated_at: Mapped[datetime] = mapped_column(DateTime(timezone=True))


class ItemRepository(SQLAlchemyAsyncRepository[Item]):
    model_type = Item


class AdvancedAlchemy:
    def __init__(self, dsn: str, size: int) -> None:
        self.engine = make_engine(dsn, size)
        self.session = async_sessionmaker(self.engine, expire_on_commit=False)

    async def close(self) -> None:
        await self.engine.dispose()

    async def get(self, key: UUID) -> Any:
        async with self.session() as session:
            return await ItemRepository(session=session).get(key)

    async def list(self, limit: int) -> Any:
        from advanced_alchemy.filters import LimitOffset

        async with self.session() as session:
            return await ItemRepository(session=session).list(LimitOffset(limit, 0), order_by=("id", False))

    async def insert(self, content: list[dict[str, Any]]) -> None:
        async with self.session() as session:
            await ItemRepository(session=session).add_many([Item(**row) for row in content], auto_commit=True)

    async def upsert(self, content: list[dict[str, Any]]) -> None:
        async with self.session() as session:
            await ItemRepository(session=session).upsert_many([Item(**row) for row in content], auto_commit=True)

    async def update(self, key: UUID, quantity: int) -> None:
        async with self.session() as session:
            repository = ItemRepository(session=session)
            item = await repository.get(key)
            item.quantity = quantity
            await repository.update(item, auto_commit=True)
