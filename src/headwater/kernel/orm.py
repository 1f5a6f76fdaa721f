"""ORM session: SQLAlchemy's own session inside a Headwater transaction, for what repositories do not offer.

The session borrows the transaction's connection. Its commit becomes the release of a savepoint, so the outer
transaction still decides; its writes are seen by the repositories of the same transaction, and the other way round.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from contextvars import ContextVar
from typing import Any
from weakref import WeakKeyDictionary

import asyncpg
from sqlalchemy.dialects import registry
from sqlalchemy.dialects.postgresql.asyncpg import PGDialect_asyncpg
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, create_async_engine
from sqlalchemy.pool import NullPool

from headwater.kernel.postgres import Postgres
from headwater.kernel.transaction import Transaction
from headwater.kernel.translation import translate


class BorrowedDialect(PGDialect_asyncpg):
    """asyncpg's dialect on a connection that has the kernel's jsonb codecs already: it sets none of its own."""

    supports_statement_cache = True

    def on_connect(self) -> None:
        """Nothing to do."""


registry.register("postgresql.borrowed", __name__, "BorrowedDialect")


class _AlreadyOpen:
    """The transaction SQLAlchemy believes to begin and end; the real one has another owner."""

    async def start(self) -> None: ...

    async def commit(self) -> None: ...

    async def rollback(self) -> None: ...


class _Borrowed:
    """The transaction's connection as SQLAlchemy sees it: closing and ending it are not SQLAlchemy's to do."""

    def __init__(self, connection: asyncpg.Connection) -> None:
        self._connection = connection

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connection, name)

    def transaction(self, **_: Any) -> _AlreadyOpen:
        return _AlreadyOpen()

    async def close(self, **_: Any) -> None:
        """It stays open for its owner."""

    def terminate(self) -> None:
        """It stays open for its owner."""


_LENT: ContextVar[asyncpg.Connection | None] = ContextVar("lent", default=None)
"""The connection of the session that is being opened; an engine asks for it where it would make one of its own."""
_ENGINES: WeakKeyDictionary[Postgres, AsyncEngine] = WeakKeyDictionary()


def _engine(postgres: Postgres) -> AsyncEngine:
    """One engine per pool, since it asks a server once what it is (6 ms). It holds no connections."""
    known = _ENGINES.get(postgres)
    if known is None:

        async def borrow(*_: Any, **__: Any) -> Any:
            connection = _LENT.get()
            assert connection is not None  # an engine is used inside orm_session only
            return _Borrowed(connection)

        known = _ENGINES[postgres] = create_async_engine(
            "postgresql+borrowed://", poolclass=NullPool, async_creator=borrow, json_serializer=lambda value: value
        )
    return known


@contextlib.asynccontextmanager
async def orm_session(tx: Transaction) -> AsyncIterator[AsyncSession]:
    """An AsyncSession inside `tx`. What it wrote is flushed when the block ends, and undone alone if an error leaves.

    Raises Headwater's errors where PostgreSQL refuses.
    """

    before = _LENT.get()
    _LENT.set(tx.connection)
    try:
        async with tx.savepoint(), _engine(tx.postgres).connect() as connection:
            session = AsyncSession(connection, join_transaction_mode="create_savepoint", expire_on_commit=False)
            async with session:
                yield session
                await session.commit()
    except DBAPIError as error:
        cause = getattr(error, "driver_exception", None) or error.orig
        raise (translate(cause) if cause is not None else None) or error from error
    finally:
        _LENT.set(before)  # not reset(): a generator may be closed in another context than it was begun in
