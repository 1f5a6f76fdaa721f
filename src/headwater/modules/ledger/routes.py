"""What the ledger serves: assets, accounts with balances now and then, statements, transfers, holds, reversals.

What writes has its own transaction, committed before the answer: also a refusal is remembered, and a client that asks
again with the same id is told the same.
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any
from uuid import UUID

import msgspec
from msgspec import Meta

from headwater.kernel.amounts import PositiveAmount
from headwater.kernel.errors import InvalidCursor, InvalidValue, MissingReference, NotFound, StateConflict
from headwater.kernel.pages import JsonPage, Page
from headwater.kernel.routes import PageQuery, Route
from headwater.kernel.transaction import Transaction
from headwater.modules.ledger.commands import Hold, Move, PostHold, Receipt, Reverse, VoidHold
from headwater.modules.ledger.models import Account, Asset, Transfer
from headwater.modules.ledger.repository import AssetRepository, Entry, LedgerRepository

AccountId = Annotated[int, Meta(ge=1, le=2**63 - 1)]
_Reference = Annotated[str, Meta(min_length=1, max_length=200)]


class AccountQuery(PageQuery):
    """Which accounts, and where in the listing."""

    asset_id: Annotated[int, Meta(ge=1, le=2**31 - 1)] | None = None
    owner_kind: Annotated[str, Meta(min_length=1, max_length=40)] | None = None
    owner_id: UUID | None = None


class InstantQuery(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """When."""

    at: datetime


class BalanceThen(msgspec.Struct, frozen=True):
    """A balance as it was at an instant."""

    account_id: int
    at: datetime
    balance: int


class NewTransfer(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """A movement. `id` is the client's: the same id again is the same transfer. `up_to`: at most what there is."""

    id: UUID
    debit_account_id: AccountId
    credit_account_id: AccountId
    amount: PositiveAmount
    up_to: bool = False
    reference: _Reference | None = None
    metadata: dict[str, Any] | None = None


class NewAccount(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """Whose account, in what (the code of an asset), and for what. It cannot be overdrawn."""

    owner_kind: Annotated[str, Meta(min_length=1, max_length=40)]
    owner_id: UUID
    asset: Annotated[str, Meta(min_length=1, max_length=100)]
    purpose: Annotated[str, Meta(min_length=1, max_length=40)] = "main"


class NewHold(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """A reservation of one account for another, until it is posted, voided or expires."""

    id: UUID
    debit_account_id: AccountId
    credit_account_id: AccountId
    amount: PositiveAmount
    expires_at: datetime | None = None
    reference: _Reference | None = None
    metadata: dict[str, Any] | None = None


class PostedPart(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """How much of a hold moves; all without an amount. `keep_rest`: the rest stays held, else it is released."""

    id: UUID
    amount: PositiveAmount | None = None
    keep_rest: bool = False


class Once(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """The id of what is done: the same id again is the same."""

    id: UUID


async def list_assets(query: PageQuery, assets: AssetRepository) -> JsonPage[Asset]:
    return await assets.list_json(order=(Asset.id,), limit=query.limit, cursor=query.cursor)


async def list_accounts(query: AccountQuery, ledger: LedgerRepository) -> JsonPage[Account]:
    where = []
    if query.asset_id is not None:
        where.append(Account.asset_id == query.asset_id)
    if query.owner_kind is not None:
        where.append(Account.owner_kind == query.owner_kind)
    if query.owner_id is not None:
        where.append(Account.owner_id == query.owner_id)
    return await ledger.list_json(*where, order=(Account.id,), limit=query.limit, cursor=query.cursor)


async def open_account(body: NewAccount, tx: Transaction, ledger: LedgerRepository) -> Account:
    return await ledger.account(tx, body.owner_kind, body.owner_id, body.asset, purpose=body.purpose)


async def get_account(account_id: AccountId, ledger: LedgerRepository) -> Account:
    found = await ledger.find(account_id)  # through the cache, which is strict
    return found if found is not None else await ledger.get(account_id)


async def get_balance(account_id: AccountId, query: InstantQuery, ledger: LedgerRepository) -> BalanceThen:
    return BalanceThen(account_id, query.at, await ledger.balance_at(account_id, query.at))


async def get_statement(account_id: AccountId, query: PageQuery, ledger: LedgerRepository) -> Page[Entry]:
    return await ledger.statement(account_id, limit=query.limit, cursor=query.cursor)


async def get_transfer(transfer_id: UUID, ledger: LedgerRepository) -> Transfer:
    return await ledger.get_transfer(transfer_id)


async def create_transfer(body: NewTransfer, ledger: LedgerRepository) -> Receipt:
    move = Move(
        id=body.id, debit=body.debit_account_id, credit=body.credit_account_id, amount=body.amount, up_to=body.up_to,
        reference=body.reference, metadata=body.metadata,
    )  # fmt: skip
    return (await ledger.post_one(move)).or_raise()


async def create_hold(body: NewHold, ledger: LedgerRepository) -> Receipt:
    hold = Hold(
        id=body.id, debit=body.debit_account_id, credit=body.credit_account_id, amount=body.amount,
        expires_at=body.expires_at, reference=body.reference, metadata=body.metadata,
    )  # fmt: skip
    return (await ledger.post_one(hold)).or_raise()


async def post_hold(hold_id: UUID, body: PostedPart, ledger: LedgerRepository) -> Receipt:
    part = PostHold(id=body.id, hold=hold_id, amount=body.amount, keep_rest=body.keep_rest)
    return (await ledger.post_one(part)).or_raise()


async def void_hold(hold_id: UUID, body: Once, ledger: LedgerRepository) -> Receipt:
    return (await ledger.post_one(VoidHold(id=body.id, hold=hold_id))).or_raise()


async def reverse_transfer(transfer_id: UUID, body: Once, ledger: LedgerRepository) -> Receipt:
    return (await ledger.post_one(Reverse(id=body.id, transfer=transfer_id))).or_raise()


# Seeded rows: seeds.py plants them, and a test reads them.
_TRANSFER_ID = "54f9bcbd-b22d-56fc-9def-68ddabf54ef4"
_HOLD_ID = "b50f55af-a8a1-5821-a6fa-9401bb9723c6"
_ACCOUNT_PATH = {"account_id": "2"}
_TRANSFER_PATH = {"transfer_id": _TRANSFER_ID}
_NEW_ID = "019bb1a0-0000-7000-8000-000000000001"

_ASSET: dict[str, Any] = {"id": 1, "code": "USD", "scale": 2, "created_at": "2026-01-01T00:00:00Z"}
_ACCOUNT: dict[str, Any] = {
    "id": 2,
    "asset_id": 1,
    "owner_kind": "user",
    "owner_id": "5eeda0bb-1738-8000-8000-000000000001",
    "purpose": "main",
    "credit_limit": 0,
    "balance": 125_000,
    "held": 0,
    "version": 1,
    "moved_at": "2026-01-01T00:00:00Z",
    "closed_at": None,
    "created_at": "2026-01-01T00:00:00Z",
}
_TRANSFER: dict[str, Any] = {
    "id": _TRANSFER_ID,
    "debit_account_id": 1,
    "credit_account_id": 2,
    "debit_version": 1,
    "credit_version": 1,
    "created_at": "2026-01-01T00:00:00Z",
    "state": "posted",
    "amount": 125_000,
    "debit_balance_after": -125_000,
    "credit_balance_after": 125_000,
    "released": None,
    "pending_id": None,
    "reverses_id": None,
    "reference": "deposit",
    "metadata": None,
}
_ENTRY = {
    "version": 1,
    "change": 125_000,
    "balance": 125_000,
    "counterpart_id": 1,
    "id": _TRANSFER_ID,
    "state": "posted",
    "amount": 125_000,
    "created_at": "2026-01-01T00:00:00Z",
    "pending_id": None,
    "reverses_id": None,
    "reference": "deposit",
    "metadata": None,
}
_RECEIPT = {
    "id": _NEW_ID,
    "status": 0,
    "amount": 500,
    "debit_balance": 124_500,
    "credit_balance": 500,
    "repeated": False,
}
_NEW = {"id": _NEW_ID, "debit_account_id": 2, "credit_account_id": 3, "amount": 500, "reference": "order:42"}
_REFUSES = (StateConflict, InvalidValue)

ROUTES: tuple[Route, ...] = (
    Route(
        method="GET",
        path="/api/ledger/assets",
        handler=list_assets,
        summary="List what is counted, and its decimal places",
        raises=(InvalidValue, InvalidCursor),
        query_example={"limit": 20},
        answer_example={"items": [_ASSET], "next": None},
        tag="ledger",
    ),
    Route(
        method="GET",
        path="/api/ledger/accounts",
        handler=list_accounts,
        summary="List accounts and their balances",
        description="Narrowed by asset, kind of owner and owner.",
        scope="ledger:account:read",
        raises=(InvalidValue, InvalidCursor),
        query_example={"owner_kind": "user", "limit": 20},
        answer_example={"items": [_ACCOUNT], "next": None},
        tag="ledger",
    ),
    Route(
        method="POST",
        path="/api/ledger/accounts",
        handler=open_account,
        summary="Open an account",
        description="Without an overdraft. One that is there already is the answer.",
        status=201,
        scope="ledger:account:write",
        raises=(MissingReference, InvalidValue),
        body_example={"owner_kind": "user", "owner_id": _ACCOUNT["owner_id"], "asset": "USD"},
        answer_example=_ACCOUNT,
        tag="ledger",
        location="/api/ledger/accounts/{id}",
    ),
    Route(
        method="GET",
        path="/api/ledger/accounts/{account_id}",
        handler=get_account,
        summary="Read an account and its balance",
        description="Never older than a transfer whose answer somebody has had.",
        scope="ledger:account:read",
        raises=(NotFound,),
        path_examples=_ACCOUNT_PATH,
        answer_example=_ACCOUNT,
        tag="ledger",
    ),
    Route(
        method="GET",
        path="/api/ledger/accounts/{account_id}/balance",
        handler=get_balance,
        summary="Read the balance of an account at an instant",
        scope="ledger:account:read",
        raises=(NotFound, InvalidValue),
        path_examples=_ACCOUNT_PATH,
        query_example={"at": "2026-01-01T12:00:00Z"},
        answer_example={"account_id": 2, "at": "2026-01-01T12:00:00Z", "balance": 125_000},
        tag="ledger",
    ),
    Route(
        method="GET",
        path="/api/ledger/accounts/{account_id}/statement",
        handler=get_statement,
        summary="List what happened to an account, the newest first",
        scope="ledger:account:read",
        raises=(NotFound, InvalidValue, InvalidCursor),
        path_examples=_ACCOUNT_PATH,
        query_example={"limit": 20},
        answer_example={"items": [_ENTRY], "next": None},
        tag="ledger",
    ),
    Route(
        method="GET",
        path="/api/ledger/transfers/{transfer_id}",
        handler=get_transfer,
        summary="Read a transfer: both sides and both balances after it",
        scope="ledger:transfer:read",
        raises=(NotFound,),
        path_examples=_TRANSFER_PATH,
        answer_example=_TRANSFER,
        tag="ledger",
    ),
    Route(
        method="POST",
        path="/api/ledger/transfers",
        handler=create_transfer,
        summary="Move an amount from one account to another",
        description="The id is the client's. Sent again it gets the same answer, also when that was a refusal.",
        status=201,
        scope="ledger:transfer:write",
        raises=_REFUSES,
        body_example=_NEW,
        answer_example=_RECEIPT,
        tag="ledger",
        location="/api/ledger/transfers/{id}",
    ),
    Route(
        method="POST",
        path="/api/ledger/transfers/{transfer_id}/reverse",
        handler=reverse_transfer,
        summary="Move the amount of a transfer back, as a new transfer",
        description="Once. History is not changed.",
        scope="ledger:transfer:write",
        raises=_REFUSES,
        path_examples=_TRANSFER_PATH,
        body_example={"id": _NEW_ID},
        answer_example=_RECEIPT,
        tag="ledger",
    ),
    Route(
        method="POST",
        path="/api/ledger/holds",
        handler=create_hold,
        summary="Reserve an amount of one account for another",
        description="What is held can be spent by nothing else. The hold is a transfer in the state pending.",
        status=201,
        scope="ledger:transfer:write",
        raises=_REFUSES,
        body_example=_NEW | {"expires_at": "2035-01-01T00:00:00Z"},
        answer_example=_RECEIPT | {"debit_balance": 125_000, "credit_balance": None},
        tag="ledger",
        location="/api/ledger/transfers/{id}",
    ),
    Route(
        method="POST",
        path="/api/ledger/holds/{hold_id}/post",
        handler=post_hold,
        summary="Move what is held, or a part of it",
        description="The rest is released, or stays held for another part.",
        scope="ledger:transfer:write",
        raises=_REFUSES,
        path_examples={"hold_id": _HOLD_ID},
        body_example={"id": _NEW_ID, "amount": 200, "keep_rest": True},
        answer_example=_RECEIPT | {"amount": 200},
        tag="ledger",
    ),
    Route(
        method="POST",
        path="/api/ledger/holds/{hold_id}/void",
        handler=void_hold,
        summary="Release what is still held",
        scope="ledger:transfer:write",
        raises=_REFUSES,
        path_examples={"hold_id": _HOLD_ID},
        body_example={"id": _NEW_ID},
        answer_example=_RECEIPT | {"credit_balance": None},
        tag="ledger",
    ),
)
