"""The shop of the kernel's tests: built once, emptied for each test; a copy of its own for tests that alter it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import asyncpg
import pytest_asyncio
from tests.kernel import shop as models

from headwater.kernel.lifecycle import Headwater
from headwater.kernel.module import System
from headwater.kernel.settings import Settings

if TYPE_CHECKING:
    from tests.conftest import PostgresServer

EMPTY = System("shop", [])


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def shop_template(postgres_server: PostgresServer) -> str:
    """The name of a database with the shop's tables. Nobody connects to it afterwards."""
    name = await postgres_server.create()
    models.build(postgres_server.dsn_of(name))
    return name


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def shared_shop(postgres_server: PostgresServer, shop_template: str) -> str:
    """The DSN of the shop most tests use."""
    return postgres_server.dsn_of(await postgres_server.create(template=shop_template))


@pytest_asyncio.fixture
async def dsn(shared_shop: str) -> str:
    """The DSN of an empty shop."""
    connection = await asyncpg.connect(shared_shop)
    await connection.execute(models.TRUNCATE)
    await connection.close()
    return shared_shop


@pytest_asyncio.fixture
async def own_dsn(postgres_server: PostgresServer, shop_template: str) -> AsyncIterator[str]:
    """The DSN of a shop that only this test has, to be altered at will."""
    name = await postgres_server.create(template=shop_template)
    yield postgres_server.dsn_of(name)
    await postgres_server.drop(name)


@pytest_asyncio.fixture
async def hw(dsn: str) -> AsyncIterator[Headwater]:
    """The data layer opened on the empty shop."""
    async with Headwater.open(EMPTY, Settings(database_url=dsn)) as opened:
        yield opened


Opener = Callable[..., Awaitable[Headwater]]


@pytest_asyncio.fixture
async def open_shop(dsn: str) -> AsyncIterator[Opener]:
    """Open the empty shop with other settings: `await open_shop(pool_size_max=1)`."""
    from contextlib import AsyncExitStack

    async with AsyncExitStack() as stack:

        async def opened(**changes: Any) -> Headwater:
            settings = replace(Settings(database_url=dsn), **changes)
            return await stack.enter_async_context(Headwater.open(EMPTY, settings))

        yield opened


@pytest_asyncio.fixture
async def admin(dsn: str) -> AsyncIterator[Any]:
    """A connection that no pool knows, to look at the server and to do harm."""
    connection = await asyncpg.connect(dsn)
    yield connection
    await connection.close()
