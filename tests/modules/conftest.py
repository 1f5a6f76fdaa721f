"""The service over a migrated database, as seen by callers of every kind; people and parts; many at once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from uuid import UUID, uuid4

import httpx
import pytest
import pytest_asyncio
from sqlalchemy import select

from headwater.kernel.caller import Caller
from headwater.kernel.errors import Unauthenticated
from headwater.kernel.lifecycle import Headwater
from headwater.kernel.models import Model
from headwater.kernel.queries import NamedQuery
from headwater.modules.blockchain.models import Asset, ChainUser
from headwater.modules.identity.models import User
from headwater.modules.identity.repository import ApiKeyRepository
from headwater.modules.ledger.repository import LedgerRepository
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


@pytest_asyncio.fixture
async def client(headwater: Headwater) -> AsyncIterator[httpx.AsyncClient]:
    """Someone who may do everything, talking to the service in this process."""
    caller = Caller(id=UUID(int=1), name="tester", scopes=frozenset({"*"}))

    async def authenticate(key: str) -> Caller:
        if key != "good":
            raise Unauthenticated("The key is not known.")
        return caller

    transport = httpx.ASGITransport(app=create_app(headwater, authenticate=authenticate), raise_app_exceptions=False)
    headers = {"Authorization": "Bearer good"}
    async with httpx.AsyncClient(transport=transport, base_url="http://headwater", headers=headers) as opened:
        yield opened


@pytest_asyncio.fixture
async def people(headwater: Headwater) -> list[UUID]:
    """The ids of three users."""
    users = headwater.repository(User)
    return [(await users.create(headwater.autocommit, email=f"person{n}@example.org")).id for n in range(3)]


@pytest.fixture
def give(headwater: Headwater) -> Callable[..., Awaitable[None]]:
    """Issues an amount to the account of a user in the ledger."""
    ledger = headwater.repository(LedgerRepository)

    async def issue(user_id: UUID, amount: int, code: str = "USD") -> None:
        async with headwater.transaction() as tx:
            await ledger.open_asset(tx, code, scale=2)
            issuance = await ledger.account(tx, "system", None, code, purpose="issuance", credit_limit=None)
            mine = await ledger.account(tx, "user", user_id, code)
            (await ledger.transfer(tx, debit=issuance.id, credit=mine.id, amount=amount)).or_raise()

    return issue


@pytest.fixture
def money_of(headwater: Headwater) -> Callable[..., Awaitable[int]]:
    """Tells what a user has in the ledger."""
    ledger = headwater.repository(LedgerRepository)

    async def tell(user_id: UUID, code: str = "USD") -> int:
        account = await ledger.find_account("user", user_id, code)
        return 0 if account is None else account.balance

    return tell


@pytest_asyncio.fixture
async def parts(headwater: Headwater, people: list[UUID]) -> list[UUID]:
    """The ids of two assets."""
    await headwater.repository(ChainUser).create(headwater.autocommit, user_id=people[0], wallet_address="wallet-0")
    assets = headwater.repository(Asset)
    return [
        (
            await assets.create(
                headwater.autocommit, asset_type="actuator", issuer_id=people[0], name=f"Drive {n}", symbol=f"DRV{n}"
            )
        ).id
        for n in range(2)
    ]


@pytest_asyncio.fixture
async def crowd(headwater: Headwater, contested: tuple[type[Model], ...]) -> None:
    """Every connection of the pool is open and knows the types of the tables: what is started at once meets at once.

    `contested` are the models that a module's tests change at the same moment; its own conftest names them.
    """
    together = asyncio.Barrier(headwater.settings.pool_size_max)

    async def one() -> None:
        async with headwater.transaction() as tx:
            await together.wait()
            for model in contested:
                await tx.fetch(select(model).limit(1))

    await asyncio.gather(*(one() for _ in range(headwater.settings.pool_size_max)))


_MANY_ACCOUNTS = """
insert into ledger.assets (code, scale) values ('USD', 2), ('FODI', 9) on conflict (code) do nothing;
insert into ledger.accounts (asset_id, owner_kind, owner_id, purpose, credit_limit)
select s.id, 'user', uuidv7(), 'main', 0 from ledger.assets s, generate_series(1, 5000) where s.code in ('USD', 'FODI')
"""


@pytest.fixture
def found_by_owner(headwater: Headwater) -> Callable[[NamedQuery], Awaitable[None]]:
    """Checks that a query of one id finds accounts of the ledger by their owner, each by itself, whatever the
    statistics say: before any ANALYZE, after one of empty tables, of full ones before it and after it.
    """

    async def check(query: NamedQuery) -> None:
        async with headwater.postgres.connection() as connection:
            for prepare in ("select 1", "analyze", _MANY_ACCOUNTS, "analyze"):
                await connection.execute(prepare)
                lines = [row[0] for row in await connection.fetch(f"explain {query.sql}", uuid4())]
                scans = [line for line in lines if " on accounts " in line]
                assert scans, lines
                empty = await connection.fetchval("select not exists (select from ledger.accounts)")
                by_owner = "Index Scan using accounts_owner_kind_owner_id_asset_id_purpose_key"
                assert all(by_owner in scan or (empty and "Seq Scan" in scan) for scan in scans), lines
                assert all("rows=1 " in scan for scan in scans), lines

    return check
