"""Accounts to move money between, and the proof that is asked for after every test."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from uuid import uuid4

import pytest
import pytest_asyncio

from headwater.kernel.lifecycle import Headwater
from headwater.kernel.models import Model
from headwater.kernel.postgres import Postgres
from headwater.modules.ledger.models import Account
from headwater.modules.ledger.proof import verify
from headwater.modules.ledger.repository import LedgerRepository


@dataclass(frozen=True)
class Purse:
    """The ledger, an issuance without a limit, and three accounts with 1,000 each and without an overdraft."""

    ledger: LedgerRepository
    issuance: int
    alice: int
    bob: int
    carol: int


async def open_purse(ledger: LedgerRepository, postgres: Postgres) -> Purse:
    await ledger.open_asset(postgres, "USD", scale=2)
    issuance = await ledger.account(postgres, "system", None, "USD", purpose="issuance", credit_limit=None)
    people = [(await ledger.account(postgres, "user", uuid4(), "USD")).id for _ in range(3)]
    for one in people:
        (await ledger.transfer(postgres, debit=issuance.id, credit=one, amount=1_000)).or_raise()
    return Purse(ledger, issuance.id, *people)


@pytest_asyncio.fixture
async def purse(headwater: Headwater) -> AsyncIterator[Purse]:
    """Whatever a test does with it, the ledger adds up afterwards."""
    ledger = headwater.repository(LedgerRepository)
    yield await open_purse(ledger, headwater.postgres)
    assert (await verify(headwater.postgres)).faults == []


@pytest.fixture
def contested() -> tuple[type[Model], ...]:
    """What these tests change at the same moment."""
    return (Account,)
