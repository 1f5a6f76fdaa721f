"""The service over a migrated database, as seen by callers of every kind."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack

import httpx
import pytest
import pytest_asyncio

from headwater.kernel.lifecycle import Headwater
from headwater.modules.identity.repository import ApiKeyRepository
from headwater.service.app import create_app

ClientOf = Callable[[str | None], Awaitable[httpx.AsyncClient]]


@pytest_asyncio.fixture
async def client_of(headwater: Headwater) -> AsyncIterator[ClientOf]:
    """Makes a client that sends this credential, or none."""
    app = create_app(headwater)
    async with AsyncExitStack() as open_clients:

        async def make(credential: str | None) -> httpx.AsyncClient:
            headers = {"Authorization": f"Bearer {credential}"} if credential else {}
            transport = httpx.ASGITransport(app=app, raise_app_exceptions=False)
            client = httpx.AsyncClient(transport=transport, base_url="http://headwater", headers=headers)
            return await open_clients.enter_async_context(client)

        yield make


@pytest_asyncio.fixture
async def anyone(client_of: ClientOf) -> httpx.AsyncClient:
    """A client without a key."""
    return await client_of(None)


@pytest.fixture
def client_with_role(headwater: Headwater, client_of: ClientOf) -> Callable[[str], Awaitable[httpx.AsyncClient]]:
    """Makes a client with a new key of this role."""

    async def make(role: str) -> httpx.AsyncClient:
        keys = headwater.repository(ApiKeyRepository)
        return await client_of((await keys.issue(headwater.autocommit, name=role, role=role)).key)

    return make
