"""Savers, and how a test reads what the ledger says of them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from uuid import UUID

import asyncpg
import pytest
import pytest_asyncio

from headwater.kernel.lifecycle import Headwater
from headwater.kernel.models import Model
from headwater.modules.finance.models import MoneyTransaction
from headwater.modules.finance.repository import FinanceRepository

Faults = Callable[[], Awaitable[list[str]]]


@pytest.fixture
def contested() -> tuple[type[Model], ...]:
    """What these tests change at the same moment."""
    return (MoneyTransaction,)


@pytest.fixture
def finance(headwater: Headwater) -> FinanceRepository:
    return headwater.repository(FinanceRepository)


@pytest_asyncio.fixture
async def savers(headwater: Headwater, finance: FinanceRepository, people: list[UUID]) -> list[UUID]:
    """Three users; the first two have 10,000 and 5,000 minor units and as many shares."""
    async with headwater.transaction() as tx:
        await finance.deposit(tx, user_id=people[0], amount=10_000)
        await finance.deposit(tx, user_id=people[1], amount=5_000)
    return people


@pytest.fixture
def faults(headwater: Headwater, finance: FinanceRepository) -> Faults:
    """What is wrong anywhere: with the trails, between them and the ledger, or inside the ledger."""

    async def look() -> list[str]:
        found = [f"{one.check}: {one.where}: {one.fault}" for one in (await finance.verify()).faults]
        async with headwater.postgres.connection() as connection:
            found += [str(tuple(row)) for row in await connection.fetch(LEDGER_FAULTS)]
        return found

    return look


LEDGER_FAULTS = """
-- Every account is the sum of its transfers, every asset sums to nothing, nobody is overdrawn.
select 'account', a.id, a.balance, coalesce(t.balance, 0)
  from ledger.accounts a
  left join (
      select account, sum(change) as balance from (
          select debit_account_id as account, - amount as change from ledger.transfers where state = 'posted'
          union all
          select credit_account_id, amount from ledger.transfers where state = 'posted'
      ) legs group by account
  ) t on t.account = a.id
 where a.balance <> coalesce(t.balance, 0)
union all
select 'asset', asset_id, sum(balance), 0 from ledger.accounts group by asset_id having sum(balance) <> 0
union all
select 'overdrawn', id, balance, held from ledger.accounts where credit_limit = 0 and balance < held
"""


async def sql(dsn: str, *statements: str) -> None:
    """Each statement on its own, past the library: as psql would."""
    connection = await asyncpg.connect(dsn)
    try:
        for statement in statements:
            await connection.execute(statement)
    finally:
        await connection.close()
