"""FastAPI with SQLModel as FastAPI's official template does it: sync endpoints in threads, a sync session, psycopg.

Kinder than the template, whose lists also count all rows.
"""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Annotated, Any

from fastapi import Depends, FastAPI, HTTPException
from pydantic import ConfigDict
from sqlalchemy import BigInteger, Column, DateTime, Text
from sqlalchemy.dialects.postgresql import JSONB
from sqlmodel import Field, Session, SQLModel, create_engine, select

from benchmarks.services.serving import dsn, serve


class AssetBase(SQLModel):
    asset_type: str = Field(sa_type=Text)
    issuer_id: uuid.UUID
    name: str = Field(sa_type=Text)
    symbol: str = Field(sa_type=Text)
    description: str = Field(sa_type=Text)
    version: int = Field(sa_type=BigInteger)


class Asset(AssetBase, table=True):
    __tablename__ = "assets"
    __table_args__ = {"schema": "blockchain"}

    id: uuid.UUID = Field(primary_key=True)
    specifications: dict[str, Any] = Field(sa_column=Column(JSONB))
    metadata_: dict[str, Any] = Field(sa_column=Column("metadata", JSONB))
    created_at: datetime = Field(sa_column=Column(DateTime(timezone=True)))
    updated_at: datetime = Field(sa_column=Column(DateTime(timezone=True)))


class AssetPublic(AssetBase):
    model_config = ConfigDict(from_attributes=True)

    id: uuid.UUID
    specifications: dict[str, Any]
    metadata_: dict[str, Any] = Field(schema_extra={"serialization_alias": "metadata"})
    created_at: datetime
    updated_at: datetime


class AssetsPublic(SQLModel):
    items: list[AssetPublic]


engine = create_engine(dsn().replace("postgresql://", "postgresql+psycopg://", 1))


def get_db() -> Iterator[Session]:
    with Session(engine) as session:
        yield session


SessionDep = Annotated[Session, Depends(get_db)]
api = FastAPI()


@api.get("/api/assets/search", response_model=AssetsPublic)
def search(session: SessionDep, asset_type: str, limit: int = 50) -> Any:
    statement = select(Asset).where(Asset.asset_type == asset_type).order_by(Asset.name, Asset.id).limit(limit)
    return AssetsPublic(items=session.exec(statement).all())


@api.get("/api/assets/{asset_id}", response_model=AssetPublic)
def read(session: SessionDep, asset_id: uuid.UUID) -> Any:
    asset = session.get(Asset, asset_id)
    if asset is None:
        raise HTTPException(status_code=404, detail="Asset not found")
    return asset


@asynccontextmanager
async def app() -> AsyncIterator[Any]:
    yield api
    engine.dispose()


if __name__ == "__main__":
    serve(app())
