"""Advanced Alchemy's cache as its configuration sets it up: `get` reads through, listeners invalidate at commit."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from uuid import UUID

from advanced_alchemy.base import DefaultBase
from advanced_alchemy.cache import CacheConfig
from advanced_alchemy.config import SQLAlchemyAsyncConfig
from advanced_alchemy.repository import SQLAlchemyAsyncRepository
from sqlalchemy import Text
from sqlalchemy.orm import Mapped, mapped_column

from benchmarks.coherence_board import key_of
from benchmarks.peers.coherence_writes import Rollback


class User(DefaultBase):
    __tablename__ = "users"

    id: Mapped[UUID] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(Text)


class UserRepository(SQLAlchemyAsyncRepository[User]):
    model_type = User


class AdvancedAlchemyCache:
    def __init__(self, database: str, valkey: str) -> None:
        self.config = SQLAlchemyAsyncConfig(
            connection_string=database.replace("postgresql://", "postgresql+asyncpg://", 1),
            cache_config=CacheConfig(
                backend="dogpile.cache.redis",
                expiration_time=600,
                arguments={"url": valkey, "distributed_lock": True, "thread_local_lock": False, "lock_timeout": 5},
            ),
        )

    async def get(self, row: int) -> int:
        async with self.config.get_session() as session:
            users = UserRepository(session=session, auto_expunge=True)  # without it `get` does not use the cache
            return int((await users.get(key_of(row))).name)

    async def pair(self, rows: Sequence[int]) -> list[int]:
        return [await self.get(row) for row in rows]

    async def peek(self, row: int) -> int | None:
        async with self.config.get_session() as session:
            manager = session.info["cache_manager"]
            found = await manager.get_entity_async("users", key_of(row), User)
        return None if found is None else int(found.name)

    async def write(self, rows: Sequence[int], name: str, answered: Callable[[], None], *, fail: bool) -> None:
        async with self.config.get_session() as session:
            users = UserRepository(session=session)
            for row in rows:
                user = await users.get(key_of(row), use_cache=False)
                user.name = name
                await users.update(user)
            if fail:
                await session.rollback()
                raise Rollback
            await session.commit()
            answered()


@asynccontextmanager
async def opened(database: str, valkey: str) -> AsyncIterator[AdvancedAlchemyCache]:
    peer = AdvancedAlchemyCache(database, valkey)
    try:
        yield peer
    finally:
        await peer.config.get_engine().dispose()
