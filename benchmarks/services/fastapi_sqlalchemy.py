"""FastAPI with SQLAlchemy's async ORM on asyncpg: a session per request as a dependency, pydantic answers."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Annotated, Any

from fastapi import Depends, FastAPI, HTTPException
from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy import BigInteger, DateTime, Text, select
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from benchmarks.services.serving import dsn, serve

CONNECTIONS = 10


class Base(DeclarativeBase):
    type_annotation_map = {str: Text(), int: BigInteger(), datetime: DateTime(timezone=True), dict[str, Any]: JSONB()}


class Asset(Base):
    __tablename__ = "assets"
    __table_args__ = {"schema": "blockchain"}

    id: Mapped[uuid.UUID] = mapped_column(primary_key=True)
    asset_type: Mapped[str]
    issuer_id: Mapped[uuid.UUID]
    name: Mapped[str]
    symbol: Mapped[str]
    description: Mapped[str]
    specifications: Mapped[dict[str, Any]]
    metadata_: Mapped[dict[str, Any]] = mapped_column("metadata")
    created_at: Mapped[datetime]
    updated_at: Mapped[datetime]
    version: Mapped[int]


class AssetOut(BaseModel):
    model_config = ConfigDict(from_attributes=True)

    id: uuid.UUID
    asset_type: str
    issuer_id: uuid.UUID
    name: str
    symbol: str
    description: str
    specifications: dict[str, Any]
    metadata: dict[str, Any] = Field(validation_alias="metadata_")
    created_at: datetime
    updated_at: datetime
    version: int


class AssetsOut(BaseModel):
    items: list[AssetOut]


engine = create_async_engine(
    dsn().replace("postgresql://", "postgresql+asyncpg://", 1), pool_size=CONNECTIONS, max_overflow=0
)
sessions = async_sessionmaker(engine, expire_on_commit=False)


async def get_session() -> AsyncIterator[AsyncSession]:
    async with sessions() as session:
        yield session


Session = Annotated[AsyncSession, Depends(get_session)]
api = FastAPI()


@api.get("/api/assets/search", response_model=AssetsOut)
async def search(session: Session, asset_type: str, limit: int = 50) -> Any:
    statement = select(Asset).where(Asset.asset_type == asset_type).order_by(Asset.name, Asset.id).limit(limit)
    return {"items": (await session.scalars(statement)).all()}


@api.get("/api/assets/{asset_id}", response_model=AssetOut)
async def read(session: Session, asset_id: uuid.UUID) -> Any:
    asset = await session.get(Asset, asset_id)
    if asset is None:
        raise HTTPException(404, "Asset not found")
    return asset


@asynccontextmanager
async def app() -> AsyncIterator[Any]:
    yield api
    await engine.dispose()


if __name__ == "__main__":
    serve(app())
