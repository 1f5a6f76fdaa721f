"""SQLAlchemy 2.1 on asyncpg: Core and ORM, with statements cached and `expire_on_commit=False`."""

from __future__ import annotations

from datetime import datetime
from typing import Any
from uuid import UUID

import msgspec
from sqlalchemy import BigInteger, DateTime, Text, insert, select, update
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from benchmarks.items import SCHEMA


class Base(DeclarativeBase):
    type_annotation_map = {str: Text(), int: BigInteger(), datetime: DateTime(timezone=True), dict[str, Any]: JSONB()}


class Item(Base):
    __tablename__ = "items"
    __table_args__ = {"schema": SCHEMA}

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


items = Item.__table__


def make_engine(dsn: str, size: int) -> AsyncEngine:
    """Also used by the peers that stand on SQLAlchemy. JSON through msgspec: faster than the default."""
    return create_async_engine(
        dsn.replace("postgresql://", "postgresql+asyncpg://", 1),
        pool_size=size,
        max_overflow=0,
        json_serializer=lambda value: msgspec.json.encode(value).decode(),
        json_deserializer=msgspec.json.decode,
    )


class SQLAlchemyCore:
    """Tables and statements, no sessions."""

    def __init__(self, dsn: str, size: int) -> None:
        self.engine = make_engine(dsn, size)

    async def close(self) -> None:
        await self.engine.dispose()

    async def get(self, key: UUID) -> Any:
        async with self.engine.connect() as connection:
            return (await connection.execute(select(items).where(items.c.id == key))).one()

    async def list(self, limit: int) -> Any:
        async with self.engine.connect() as connection:
            return (await connection.execute(select(items).order_by(items.c.id).limit(limit))).all()

    async def insert(self, content: list[dict[str, Any]]) -> None:
        async with self.engine.begin() as connection:
            await connection.execute(insert(items), content)

    async def update(self, key: UUID, quantity: int) -> None:
        async with self.engine.begin() as connection:
            await connection.execute(update(items).where(items.c.id == key).values(quantity=quantity))


class SQLAlchemyORM:
    """Sessions: one per operation."""

    def __init__(self, dsn: str, size: int) -> None:
        self.engine = make_engine(dsn, size)
        self.session = async_sessionmaker(self.engine, class_=AsyncSession, expire_on_commit=False)

    async def close(self) -> None:
        await self.engine.dispose()

    async def get(self, key: UUID) -> Any:
        async with self.session() as session:
            return await session.get(Item, key)

    async def list(self, limit: int) -> Any:
        async with self.session() as session:
            return (await session.scalars(select(Item).order_by(Item.id).limit(limit))).all()

    async def insert(self, content: list[dict[str, Any]]) -> None:
        async with self.session() as session:
            session.add_all([Item(**row) for row in content])
            await session.commit()

    async def insert_bulk(self, content: list[dict[str, Any]]) -> None:
        """The ORM's own bulk path: no objects."""
        async with self.session() as session:
            await session.execute(insert(Item), content)
            await session.commit()

    async def update(self, key: UUID, quantity: int) -> None:
        async with self.session() as session:
            item = await session.get(Item, key)
            assert item is not None
            item.quantity = quantity
            await session.commit()
