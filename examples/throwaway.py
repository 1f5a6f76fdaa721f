"""A database and a Valkey for one example: made on the servers the environment names, or on ones started for it."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import AsyncIterator
from urllib.parse import urlsplit, urlunsplit
from uuid import uuid4

import asyncpg
from sqlalchemy.schema import sort_tables

from headwater import Headwater, Model
from headwater.embedded.postgres import EmbeddedPostgres
from headwater.embedded.valkey import EmbeddedValkey
from headwater.kernel.orm import orm_session


@contextlib.asynccontextmanager
async def database() -> AsyncIterator[str]:
    """The DSN of a fresh, empty database."""
    async with contextlib.AsyncExitStack() as stack:
        server = os.environ.get("HEADWATER_DATABASE_URL", "")
        if not server:
            home = stack.enter_context(tempfile.TemporaryDirectory(prefix="headwater-example-"))
            embedded = await stack.enter_async_context(EmbeddedPostgres(f"{home}/home", durable=False))
            server = embedded.dsn
        name = f"example_{uuid4().hex[:12]}"
        await _on(server, f'create database "{name}"')
        stack.push_async_callback(_on, server, f'drop database "{name}" with (force)')
        yield urlunsplit(urlsplit(server)._replace(path=f"/{name}"))


@contextlib.asynccontextmanager
async def valkey() -> AsyncIterator[str]:
    """The URL of a Valkey: the one that the environment names, or one started for the example."""
    async with contextlib.AsyncExitStack() as stack:
        url = os.environ.get("HEADWATER_VALKEY_URL", "")
        if not url:
            home = stack.enter_context(tempfile.TemporaryDirectory(prefix="headwater-example-"))
            url = (await stack.enter_async_context(EmbeddedValkey(f"{home}/home"))).dsn
        yield url


async def create_tables(headwater: Headwater, *models: type[Model]) -> None:
    """Make the tables of these models. A real application does this with migrations; see docs/tutorial."""
    async with headwater.transaction() as tx, orm_session(tx) as session:
        connection = await session.connection()
        tables = [model.metadata.tables[model.__table__.fullname] for model in models]  # type: ignore[attr-defined]
        for table in sort_tables(tables):  # create_all would make the enum types of every model that is imported
            await connection.run_sync(table.create)


async def _on(server: str, statement: str) -> None:
    connection = await asyncpg.connect(server)
    try:
        await connection.execute(statement)
    finally:
        await connection.close()
