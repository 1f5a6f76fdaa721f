"""Seeds of finance: savers with deposits, transfers, withdrawals of every status, and yield that was divided once.

What is in a trail is never removed, so these rows have no keys of the range that `clear` empties: `clear` leaves them,
and the users whose money it is.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid5

from sqlalchemy import select
from sqlalchemy.dialects import postgresql

from headwater.kernel.queries import Queries
from headwater.kernel.seeds import FIRST_KEY, LAST_KEY, Sowing
from headwater.modules.finance.models import Distribution, MoneyTransaction, TransactionStatus, TransactionType
from headwater.modules.identity.models import User

QUERIES = Queries.load(__package__)

SAVERS_DEMO = 24
LOAD_SHARE = 0.02
"""Which part of the rows of `load:N` are deposits, at most one for each user."""
YIELD_MINOR = 250_000

_NAMES = UUID("0d6f6a53-4b0c-4d0e-9a53-6f1c3a0f9b11")
_BATCH_ROWS = 500

Row = dict[str, Any]


def seeded_id(what: str, number: int) -> UUID:
    """The id of a seeded transaction or distribution: the same in every run, on every machine."""
    return uuid5(_NAMES, f"{what}/{number}")


async def seed(sowing: Sowing) -> None:
    """Two dozen savers and a distribution, or a deposit for each of so many users."""
    wanted = SAVERS_DEMO if sowing.profile == "demo" else max(1, int(sowing.rows * LOAD_SHARE))
    rows = await sowing.tx.fetch(
        select(User.id).where(User.id.between(FIRST_KEY, LAST_KEY)).order_by(User.id).limit(wanted)
    )
    savers = [row.id for row in rows]
    if sowing.profile == "load":
        await _enter(sowing, _load(sowing, savers))
        return
    if len(savers) < 2:
        return
    await _enter(sowing, _deposits(sowing, savers))
    await _enter(sowing, _movements(sowing, savers))
    key = seeded_id("distribution", 1)
    known = await sowing.tx.fetch_one(select(Distribution).where(Distribution.id == key))
    if known is None:
        await sowing.tx.fetch_value(
            QUERIES["distribute"],
            distribution_id=key,
            currency="USD",
            amount=str(YIELD_MINOR),
            reference="yield of December 2025",
        )
    sowing.added["finance.distributions"] = int(known is None)


async def _enter(sowing: Sowing, rows: Iterator[Row]) -> None:
    """Write the transactions that are not there yet; what they say is moved as they are written."""
    added = 0
    while batch := list(itertools.islice(rows, _BATCH_ROWS)):
        entered = postgresql.insert(MoneyTransaction).values(batch).on_conflict_do_nothing(index_elements=["id"])
        added = added + await sowing.tx.execute(entered)
    sowing.added["finance.transactions"] = sowing.added.get("finance.transactions", 0) + added


def _row(sowing: Sowing, what: str, number: int, user_id: UUID, kind: TransactionType, amount: int) -> Row:
    at = sowing.now - timedelta(days=90) + timedelta(hours=7 * number)
    return {
        "id": seeded_id(what, number),
        "user_id": user_id,
        "counterparty_id": None,
        "type": kind,
        "amount": amount,
        "status": TransactionStatus.COMPLETED,
        "tx_hash": None,
        "block_number": None,
        "network": None,
        "reference": None,
        "reason": None,
        "created_at": at,
        "ended_at": at,
    }


def _deposits(sowing: Sowing, savers: list[UUID]) -> Iterator[Row]:
    """An opening deposit each; every third came over a blockchain."""
    for number, user_id in enumerate(savers, 1):
        row = _row(sowing, "deposit", number, user_id, TransactionType.DEPOSIT, 40_000 + 7_919 * number % 160_000)
        row["reference"] = "opening deposit"
        if number % 3 == 0:
            signature = "".join(f"{seeded_id('signature', n).hex}" for n in (number, -number))
            row |= {"tx_hash": signature, "block_number": 310_000_000 + 997 * number, "network": "solana"}
        yield row


def _movements(sowing: Sowing, savers: list[UUID]) -> Iterator[Row]:
    """Transfers to the next saver and withdrawals; the last ones are on their way, and one did not arrive."""
    for number, user_id in enumerate(savers[:-1], 1):
        amount = 1_000 + 373 * number % 9_000
        if number % 2:
            row = _row(sowing, "transfer", 100 + number, user_id, TransactionType.TRANSFER, amount)
            yield row | {"counterparty_id": savers[number], "reference": ("dinner", "rent", "thank you")[number % 3]}
        else:
            row = _row(sowing, "withdraw", 100 + number, user_id, TransactionType.WITHDRAW, amount)
            if number % 8 == 0:
                row |= {"status": TransactionStatus.PENDING, "ended_at": None}
            elif number % 10 == 0:
                row |= {"status": TransactionStatus.FAILED, "reason": "the bank returned it"}
            yield row


def _load(sowing: Sowing, savers: list[UUID]) -> Iterator[Row]:
    for number, user_id in enumerate(savers, 1):
        yield _row(sowing, "load", number, user_id, TransactionType.DEPOSIT, 1_000 + 7_919 * number % 1_000_000)
