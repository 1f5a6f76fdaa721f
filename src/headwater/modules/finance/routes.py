"""What finance serves: balances, transactions, the dashboard; deposits, withdrawals, transfers, distributions of yield.

A person sees their own money alone; a program's key sees what its scopes allow.
"""

from __future__ import annotations

from typing import Annotated, Any
from uuid import UUID

import msgspec
from msgspec import Meta

from headwater.kernel.amounts import Amount, PositiveAmount
from headwater.kernel.caller import Caller
from headwater.kernel.errors import (
    AlreadyExists,
    Forbidden,
    InvalidCursor,
    InvalidValue,
    MissingReference,
    NotFound,
    StateConflict,
)
from headwater.kernel.pages import JsonPage
from headwater.kernel.repository import Repository
from headwater.kernel.routes import PageQuery, Route
from headwater.kernel.transaction import Transaction
from headwater.modules.finance.models import Distribution, MoneyTransaction
from headwater.modules.finance.repository import Dashboard, FinanceRepository, UserBalance

Currency = Annotated[str, Meta(min_length=1, max_length=90)]
Words = Annotated[str, Meta(min_length=1, max_length=500)]
Name = Annotated[str, Meta(min_length=1, max_length=200)]


class InCurrency(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """Which currency."""

    currency: Currency = "USD"


class NewDeposit(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """Money that comes in, in minor units. `pending`: nothing moves until it is completed.

    `tx_hash`, `block_number` and `network` name the transaction of a blockchain that brought it.
    """

    user_id: UUID
    amount: PositiveAmount
    currency: Currency = "USD"
    shares: Amount | None = None
    pending: bool = False
    tx_hash: Name | None = None
    block_number: Annotated[int, Meta(ge=0, le=2**63 - 1)] | None = None
    network: Name | None = None
    reference: Words | None = None


class NewWithdrawal(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """Money that goes out, in minor units. `pending`: it is reserved until it is completed or failed."""

    user_id: UUID
    amount: PositiveAmount
    currency: Currency = "USD"
    shares: Amount | None = None
    pending: bool = False
    reference: Words | None = None


class NewTransfer(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """Money from one user to another, in minor units."""

    from_user_id: UUID
    to_user_id: UUID
    amount: PositiveAmount
    currency: Currency = "USD"
    shares: Amount | None = None
    pending: bool = False
    reference: Words | None = None


class NewDistribution(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """Yield to divide among all holders of a currency. The id makes it happen once, however often it is sent."""

    distribution_id: UUID
    amount: PositiveAmount
    currency: Currency = "USD"
    reference: Words | None = None


class Completion(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """Where a blockchain recorded it, if one did."""

    tx_hash: Name | None = None
    block_number: Annotated[int, Meta(ge=0, le=2**63 - 1)] | None = None
    network: Name | None = None


class Failure(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """Why it is given up."""

    reason: Words


async def balance(user_id: UUID, query: InCurrency, caller: Caller, finance: FinanceRepository) -> UserBalance:
    _require_own(caller, user_id)
    return await finance.balance(user_id, query.currency)


async def transactions(
    user_id: UUID, query: PageQuery, caller: Caller, finance: FinanceRepository
) -> JsonPage[MoneyTransaction]:
    _require_own(caller, user_id)
    return await finance.transactions_json(user_id, limit=query.limit, cursor=query.cursor)


async def dashboard(user_id: UUID, caller: Caller, finance: FinanceRepository) -> Dashboard:
    _require_own(caller, user_id)
    return await finance.dashboard(user_id)


async def get_transaction(transaction_id: UUID, caller: Caller, finance: FinanceRepository) -> MoneyTransaction:
    found = await finance.get(transaction_id)
    _require_own(caller, found.user_id)
    return found


async def deposit(body: NewDeposit, tx: Transaction, finance: FinanceRepository) -> MoneyTransaction:
    return await finance.deposit(
        tx,
        user_id=body.user_id,
        amount=body.amount,
        currency=body.currency,
        shares=body.shares,
        pending=body.pending,
        tx_hash=body.tx_hash,
        block_number=body.block_number,
        network=body.network,
        reference=body.reference,
    )


async def withdraw(body: NewWithdrawal, tx: Transaction, finance: FinanceRepository) -> MoneyTransaction:
    return await finance.withdraw(
        tx,
        user_id=body.user_id,
        amount=body.amount,
        currency=body.currency,
        shares=body.shares,
        pending=body.pending,
        reference=body.reference,
    )


async def transfer(body: NewTransfer, tx: Transaction, finance: FinanceRepository) -> MoneyTransaction:
    return await finance.transfer(
        tx,
        from_user_id=body.from_user_id,
        to_user_id=body.to_user_id,
        amount=body.amount,
        currency=body.currency,
        shares=body.shares,
        pending=body.pending,
        reference=body.reference,
    )


async def complete(
    transaction_id: UUID, body: Completion, tx: Transaction, finance: FinanceRepository
) -> MoneyTransaction:
    return await finance.complete(
        tx, transaction_id, tx_hash=body.tx_hash, block_number=body.block_number, network=body.network
    )


async def fail(transaction_id: UUID, body: Failure, tx: Transaction, finance: FinanceRepository) -> MoneyTransaction:
    return await finance.fail(tx, transaction_id, reason=body.reason)


async def distribute(body: NewDistribution, tx: Transaction, finance: FinanceRepository) -> Distribution:
    return await finance.distribute_yield(
        tx,
        distribution_id=body.distribution_id,
        amount=body.amount,
        currency=body.currency,
        reference=body.reference,
    )


async def get_distribution(distribution_id: UUID, distributions: Repository[Distribution]) -> Distribution:
    return await distributions.get(distribution_id)


def _require_own(caller: Caller, user_id: UUID) -> None:
    """A caller who is a person may see themselves; others need what reads money of everybody."""
    if caller.user_id is not None and caller.user_id != user_id and not caller.may("finance:balance:admin"):
        raise Forbidden(
            "This is the money of somebody else.",
            remedy="Ask for your own, or use a key that is not a person's.",
            scope="finance:balance:admin",
        )


# Seeded rows: seeds.py plants them, and a test reads them.
_USER_ID = "5eeda0bb-1738-8000-8000-000000000001"
_OTHER_ID = "5eeda0bb-1738-8000-8000-000000000002"
_DISTRIBUTION_ID = "f0893865-0d80-5300-bd70-e8ac4471c917"
_TRANSACTION_ID = "f265a0bc-dd04-58a8-9d5e-7d14b9826c85"

_BALANCE: dict[str, Any] = {
    "user_id": _USER_ID,
    "currency": "USD",
    "balance": 125_000,
    "held": 0,
    "shares": 120_000,
    "yield_earned": 5_000,
    "created_at": "2026-01-01T00:00:00Z",
    "updated_at": "2026-01-01T00:00:00Z",
}

_TRANSACTION: dict[str, Any] = {
    "id": _TRANSACTION_ID,
    "user_id": _USER_ID,
    "counterparty_id": None,
    "type": "deposit",
    "direction": "in",
    "currency": "USD",
    "amount": 120_000,
    "shares": 120_000,
    "status": "completed",
    "transfer_id": _TRANSACTION_ID,
    "distribution_id": None,
    "tx_hash": None,
    "block_number": None,
    "network": None,
    "reference": "opening deposit",
    "reason": None,
    "created_at": "2026-01-01T00:00:00Z",
    "ended_at": "2026-01-01T00:00:00Z",
}
_PENDING = _TRANSACTION | {"status": "pending", "transfer_id": None, "ended_at": None}

_DISTRIBUTION: dict[str, Any] = {
    "id": _DISTRIBUTION_ID,
    "currency": "USD",
    "amount": 250_000,
    "shares": 6_000_000,
    "holders": 40,
    "reference": "yield of December 2025",
    "created_at": "2026-01-01T00:00:00Z",
}

ROUTES: tuple[Route, ...] = (
    Route(
        method="GET",
        path="/api/finance/users/{user_id}/balance",
        handler=balance,
        summary="Read what a user has",
        description="In minor units, as the ledger knows it now. `held` of the balance is reserved by what is pending.",
        scope="finance:balance:read",
        raises=(NotFound, InvalidValue),
        path_examples={"user_id": _USER_ID},
        query_example={"currency": "USD"},
        answer_example=_BALANCE,
        tag="finance",
    ),
    Route(
        method="GET",
        path="/api/finance/users/{user_id}/transactions",
        handler=transactions,
        summary="List a user's transactions, the newest first",
        scope="finance:balance:read",
        raises=(InvalidValue, InvalidCursor),
        path_examples={"user_id": _USER_ID},
        query_example={"limit": 20},
        answer_example={"items": [_TRANSACTION], "next": None},
        tag="finance",
    ),
    Route(
        method="GET",
        path="/api/finance/users/{user_id}/dashboard",
        handler=dashboard,
        summary="Read a user with their balances and newest transactions",
        description="From the cache, and never older than the last commit. Preferences come with the document store.",
        scope="finance:balance:read",
        raises=(NotFound,),
        path_examples={"user_id": _USER_ID},
        answer_example={
            "user": {
                "id": _USER_ID,
                "name": "Ada Lindqvist",
                "email": "ada.lindqvist@example.org",
                "language_code": "sv",
                "timezone": "Europe/Stockholm",
            },
            "balances": [_BALANCE],
            "transactions": [
                {
                    name: _TRANSACTION[name]
                    for name in (
                        "id",
                        "type",
                        "direction",
                        "currency",
                        "amount",
                        "status",
                        "counterparty_id",
                        "reference",
                        "created_at",
                    )
                }
            ],
        },
        tag="finance",
    ),
    Route(
        method="GET",
        path="/api/finance/transactions/{transaction_id}",
        handler=get_transaction,
        summary="Read a transaction",
        scope="finance:balance:read",
        raises=(NotFound,),
        path_examples={"transaction_id": _TRANSACTION_ID},
        answer_example=_TRANSACTION,
        tag="finance",
    ),
    Route(
        method="POST",
        path="/api/finance/deposits",
        handler=deposit,
        summary="Deposit money",
        description="It brings one share per minor unit unless `shares` says otherwise. With an Idempotency-Key it "
        "happens once, however often it is sent.",
        status=201,
        scope="finance:transaction:write",
        raises=(MissingReference, InvalidValue, StateConflict, AlreadyExists),
        body_example={"user_id": _USER_ID, "amount": 120_000, "reference": "opening deposit"},
        answer_example=_TRANSACTION,
        tag="finance",
        location="/api/finance/transactions/{id}",
    ),
    Route(
        method="POST",
        path="/api/finance/withdrawals",
        handler=withdraw,
        summary="Withdraw money",
        description="It takes shares in proportion to the balance unless `shares` says otherwise. More than there is "
        "(less what is held) is refused.",
        status=201,
        scope="finance:transaction:write",
        raises=(MissingReference, InvalidValue, StateConflict),
        body_example={"user_id": _USER_ID, "amount": 500},
        answer_example=_TRANSACTION | {"type": "withdraw", "direction": "out", "amount": 500, "shares": 480},
        tag="finance",
        location="/api/finance/transactions/{id}",
    ),
    Route(
        method="POST",
        path="/api/finance/transfers",
        handler=transfer,
        summary="Move money from one user to another",
        description="Answers with the side that pays; the other user has a transaction of their own.",
        status=201,
        scope="finance:transaction:write",
        raises=(MissingReference, InvalidValue, StateConflict),
        body_example={"from_user_id": _USER_ID, "to_user_id": _OTHER_ID, "amount": 2_500, "reference": "dinner"},
        answer_example=_TRANSACTION
        | {
            "type": "transfer",
            "direction": "out",
            "counterparty_id": _OTHER_ID,
            "amount": 2_500,
            "shares": 2_400,
            "reference": "dinner",
        },
        tag="finance",
        location="/api/finance/transactions/{id}",
    ),
    Route(
        method="POST",
        path="/api/finance/transactions/{transaction_id}/complete",
        handler=complete,
        summary="Complete a pending transaction",
        description="Its money moves now. One that was completed before stays as it is.",
        scope="finance:transaction:write",
        raises=(NotFound, InvalidValue, StateConflict),
        path_examples={"transaction_id": _TRANSACTION_ID},
        body_example={"tx_hash": "5VERv8NMvzbJMEkV8xnrLkEaWRtSz9CosKDYjCJjBRnb", "network": "solana"},
        answer_example=_TRANSACTION | {"tx_hash": "5VERv8NMvzbJMEkV8xnrLkEaWRtSz9CosKDYjCJjBRnb", "network": "solana"},
        tag="finance",
    ),
    Route(
        method="POST",
        path="/api/finance/transactions/{transaction_id}/fail",
        handler=fail,
        summary="Give up a pending transaction",
        description="What it reserved is free again.",
        scope="finance:transaction:write",
        raises=(NotFound, InvalidValue, StateConflict),
        path_examples={"transaction_id": _TRANSACTION_ID},
        body_example={"reason": "the bank returned it"},
        answer_example=_PENDING
        | {"status": "failed", "reason": "the bank returned it", "ended_at": "2026-01-01T00:00:00Z"},
        tag="finance",
    ),
    Route(
        method="POST",
        path="/api/finance/distributions",
        handler=distribute,
        summary="Divide yield among all holders",
        description="By their shares, to the last minor unit (largest remainder). The same id again answers with the "
        "same distribution and pays nobody twice.",
        status=201,
        scope="finance:distribution:admin",
        raises=(InvalidValue, StateConflict),
        body_example={
            "distribution_id": _DISTRIBUTION_ID,
            "amount": 250_000,
            "reference": "yield of December 2025",
        },
        answer_example=_DISTRIBUTION,
        tag="finance",
    ),
    Route(
        method="GET",
        path="/api/finance/distributions/{distribution_id}",
        handler=get_distribution,
        summary="Read a distribution of yield",
        raises=(NotFound,),
        path_examples={"distribution_id": _DISTRIBUTION_ID},
        answer_example=_DISTRIBUTION,
        tag="finance",
    ),
)
