"""The dashboard through the cache: kept, and never older than what was committed. A relay runs: there are hits."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from uuid import UUID, uuid4

import pytest
import pytest_asyncio
from tests.kernel.caching import told, trusted

from headwater.followers.invalidation import relaying
from headwater.kernel.errors import NotFound
from headwater.kernel.lifecycle import Headwater
from headwater.kernel.settings import Settings
from headwater.modules.finance.models import TransactionStatus, TransactionType
from headwater.modules.finance.repository import Dashboard, FinanceRepository
from headwater.modules.identity.models import User
from headwater.modules.ledger.repository import LedgerRepository
from headwater.systems.everything import EVERYTHING

from .conftest import sql


@pytest_asyncio.fixture
async def headwater(settings: Settings) -> AsyncIterator[Headwater]:
    """The opened data layer with a relay, and a cache that is believed."""
    async with Headwater.open(EVERYTHING, settings) as opened, relaying(EVERYTHING, settings):
        await trusted(opened)
        yield opened


async def _kept(headwater: Headwater, finance: FinanceRepository, user_id: UUID) -> Dashboard:
    """The dashboard, which is in the cache from now on: the second read of it is a hit."""
    cache = headwater.postgres.cache
    assert cache is not None
    async with asyncio.timeout(10):
        while True:
            await told(headwater)
            shown = await finance.dashboard(user_id)
            hits = cache.figures["dashboard"].hits
            assert await finance.dashboard(user_id) == shown
            if cache.figures["dashboard"].hits == hits + 1:
                return shown


async def _move_in_the_ledger(headwater: Headwater, payer: UUID, paid: UUID) -> None:
    """One minor unit, past finance."""
    ledger = headwater.repository(LedgerRepository)
    debit, credit = [await ledger.find_account("user", user, "USD", purpose="savings") for user in (payer, paid)]
    assert debit is not None
    assert credit is not None
    async with headwater.transaction() as tx:
        (await ledger.transfer(tx, debit=debit.id, credit=credit.id, amount=1)).or_raise()


async def test_a_deposit_shows_in_the_very_next_read(headwater, finance, savers) -> None:
    for amount in range(1, 6):
        before = await _kept(headwater, finance, savers[0])
        async with headwater.transaction() as tx:
            await finance.deposit(tx, user_id=savers[0], amount=amount)
        shown = await finance.dashboard(savers[0])
        assert shown.transactions[0].amount == amount
        assert shown.balances[0].balance == before.balances[0].balance + amount
        assert shown.user.id == savers[0]
    with pytest.raises(NotFound):
        await finance.dashboard(uuid4())


async def test_someone_without_savings_sees_their_first(headwater, finance, savers) -> None:
    empty = await _kept(headwater, finance, savers[2])
    assert (empty.balances, empty.transactions) == ([], [])
    async with headwater.transaction() as tx:
        await finance.transfer(tx, from_user_id=savers[0], to_user_id=savers[2], amount=12)
    shown = await finance.dashboard(savers[2])
    assert (shown.balances[0].balance, shown.transactions[0].type) == (12, TransactionType.TRANSFER)
    await _kept(headwater, finance, savers[2])
    async with headwater.transaction() as tx:
        await finance.open_currency(tx, "JPY", scale=0)
        await finance.deposit(tx, user_id=savers[2], amount=5, currency="JPY")
    assert [b.currency for b in (await finance.dashboard(savers[2])).balances] == ["JPY", "USD"]
    await _kept(headwater, finance, savers[2])
    await _move_in_the_ledger(headwater, savers[0], savers[2])
    assert [b.balance for b in (await finance.dashboard(savers[2])).balances] == [5, 13]


async def test_what_is_pending_is_shown_and_how_it_ends_and_a_changed_name(headwater, finance, savers) -> None:
    await _kept(headwater, finance, savers[0])
    async with headwater.transaction() as tx:
        coming = await finance.deposit(tx, user_id=savers[0], amount=5, pending=True)
    assert (await finance.dashboard(savers[0])).transactions[0].status is TransactionStatus.PENDING
    await _kept(headwater, finance, savers[0])
    async with headwater.transaction() as tx:
        await finance.fail(tx, coming.id, reason="it did not come")
    assert (await finance.dashboard(savers[0])).transactions[0].status is TransactionStatus.FAILED
    await _kept(headwater, finance, savers[0])
    async with headwater.transaction() as tx:
        await headwater.repository(User).update(tx, savers[0], name="Ada")
    assert (await finance.dashboard(savers[0])).user.name == "Ada"


async def test_yield_shows_to_everybody_it_was_paid_to(headwater, finance, savers) -> None:
    for user in savers[:2]:
        await _kept(headwater, finance, user)
    async with headwater.transaction() as tx:
        await finance.distribute_yield(tx, distribution_id=uuid4(), amount=15)
    assert [(await finance.dashboard(user)).balances[0].yield_earned for user in savers[:2]] == [10, 5]


@pytest.mark.parametrize("side", [0, 1], ids=["who pays", "who is paid"])
async def test_money_moved_in_the_ledger_past_finance_shows_too(headwater, finance, savers, side: int) -> None:
    before = await _kept(headwater, finance, savers[side])
    await _move_in_the_ledger(headwater, savers[0], savers[1])
    after = await finance.dashboard(savers[side])
    assert after.balances[0].balance == before.balances[0].balance + (1 if side else -1)
    assert any(one.check == "untold" for one in (await finance.verify()).faults)


async def test_what_psql_writes_shows_when_the_relay_has_heard_of_it(headwater, finance, savers, database) -> None:
    await _kept(headwater, finance, savers[0])
    await sql(database, "update finance.user_balances set balance = balance + 1")
    await told(headwater)
    assert (await finance.dashboard(savers[0])).balances[0].balance == 10_001


async def test_balances_in_the_ledger_are_read_strictly_through_the_cache(headwater, finance, savers) -> None:
    ledger = headwater.repository(LedgerRepository)
    account = await ledger.find_account("user", savers[0], "USD", purpose="savings")
    assert account is not None
    for amount in range(1, 6):
        await ledger.get(account.id)
        async with headwater.transaction() as tx:
            await finance.deposit(tx, user_id=savers[0], amount=amount)
        assert (await ledger.get(account.id)).balance == (await finance.balance(savers[0])).balance
