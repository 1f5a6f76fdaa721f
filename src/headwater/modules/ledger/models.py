"""Assets, accounts, transfers, holds, refusals and seals: the tables of the ledger. Only its functions write them."""

from __future__ import annotations

import enum
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    ForeignKey,
    Identity,
    Index,
    Integer,
    SmallInteger,
    UniqueConstraint,
    func,
    text,
)
from sqlalchemy.orm import Mapped, mapped_column

from headwater.kernel.amounts import WholeNumber
from headwater.kernel.models import Model, native_enum
from headwater.kernel.tracking import Tracked

SYSTEM = UUID(int=0)
"""The owner id of what has one owner only: an issuance, a treasury, fees."""


class TransferState(enum.Enum):
    """What a row of `ledger.transfers` records. `pending` holds; the others move or release what was held."""

    PENDING = "pending"
    POSTED = "posted"
    VOIDED = "voided"
    EXPIRED = "expired"


_state = native_enum(TransferState, name="transfer_state", schema="ledger")


class Asset(Model, schema="ledger"):
    """Something that is counted: a currency, a token, a share. Amounts are whole numbers of 10^-scale of it."""

    __tablename__ = "assets"
    __tracked__ = Tracked("full")
    __table_args__ = (
        UniqueConstraint("code"),
        CheckConstraint("length(code) between 1 and 100", name="code"),
        CheckConstraint("scale between 0 and 38", name="scale"),
    )

    id: Mapped[int] = mapped_column(Integer, Identity(always=True), primary_key=True)
    code: Mapped[str]
    scale: Mapped[int] = mapped_column(SmallInteger)
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())


class Account(Model, schema="ledger"):
    """What one owner has of one asset, for one purpose. `balance` is credits less debits; `held` of it is reserved."""

    __tablename__ = "accounts"
    __tracked__ = Tracked("keys")
    __table_args__ = (
        UniqueConstraint("owner_kind", "owner_id", "asset_id", "purpose"),
        {"postgresql_with": {"fillfactor": "80"}},
    )

    id: Mapped[int] = mapped_column(BigInteger, Identity(always=True), primary_key=True)
    asset_id: Mapped[int] = mapped_column(
        Integer,
        ForeignKey("ledger.assets.id", info={"message": "ledger.accounts: there is no such asset."}),
        index=True,
    )
    owner_kind: Mapped[str]
    owner_id: Mapped[UUID]
    purpose: Mapped[str]
    credit_limit: Mapped[int | None] = mapped_column(WholeNumber())
    balance: Mapped[int] = mapped_column(WholeNumber(), server_default="0")
    held: Mapped[int] = mapped_column(WholeNumber(), server_default="0")
    version: Mapped[int] = mapped_column(server_default="0")
    head: Mapped[bytes] = mapped_column(server_default=text(r"'\x'::bytea"), info={"private": True})
    moved_at: Mapped[datetime] = mapped_column(server_default=func.now())
    closed_at: Mapped[datetime | None]
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())

    @property
    def available(self) -> int | None:
        """What may be spent now; None: anything."""
        return None if self.credit_limit is None else self.balance - self.held + self.credit_limit


class Transfer(Model, schema="ledger"):
    """Both legs of a movement in one row: never changed, never removed.

    A row in the state `pending`, `voided` or `expired` moves nothing: it reserves or releases on the debit account,
    and has no place in the history of the credit account.
    """

    __tablename__ = "transfers"
    __tracked__ = Tracked("keys", tags=("debit_account_id", "credit_account_id"))
    __table_args__ = (
        # Statements, balances in the past, and the proof that no version is missing.
        Index("transfers_debit_idx", "debit_account_id", "debit_version", unique=True),
        Index("transfers_credit_idx", "credit_account_id", "credit_version", unique=True),
        Index("transfers_xid_idx", "xid", postgresql_using="brin", postgresql_with={"pages_per_range": "16"}),
    )

    id: Mapped[UUID] = mapped_column(primary_key=True)
    debit_account_id: Mapped[int]
    credit_account_id: Mapped[int]
    debit_version: Mapped[int]
    credit_version: Mapped[int | None]
    created_at: Mapped[datetime]
    xid: Mapped[int] = mapped_column(info={"private": True})
    state: Mapped[TransferState] = mapped_column(_state)
    checksum: Mapped[int] = mapped_column(Integer, info={"private": True})
    amount: Mapped[int] = mapped_column(WholeNumber())
    debit_balance_after: Mapped[int] = mapped_column(WholeNumber())
    credit_balance_after: Mapped[int | None] = mapped_column(WholeNumber())
    released: Mapped[int | None] = mapped_column(WholeNumber())
    pending_id: Mapped[UUID | None]
    reverses_id: Mapped[UUID | None]
    reference: Mapped[str | None]
    metadata_: Mapped[dict[str, Any] | None] = mapped_column("metadata")


class PendingHold(Model, schema="ledger"):
    """What a pending transfer still reserves, and how it ended: the only part of it that changes."""

    __tablename__ = "holds"
    __table_args__ = (
        Index("holds_expiry_idx", "debit_account_id", "expires_at", postgresql_where=text("state = 'pending'")),
        Index("holds_due_idx", "expires_at", postgresql_where=text("state = 'pending' and expires_at is not null")),
    )

    transfer_id: Mapped[UUID] = mapped_column(primary_key=True)
    debit_account_id: Mapped[int]
    credit_account_id: Mapped[int]
    remaining: Mapped[int] = mapped_column(WholeNumber())
    state: Mapped[TransferState] = mapped_column(_state)
    expires_at: Mapped[datetime | None]


class Refusal(Model, schema="ledger"):
    """A no that was given: the same id gets it again. `body` is a digest of what was asked."""

    __tablename__ = "refusals"

    id: Mapped[UUID] = mapped_column(primary_key=True)
    status: Mapped[int] = mapped_column(SmallInteger)
    body: Mapped[UUID]
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())


class Reversal(Model, schema="ledger"):
    """Which transfer was reversed, and by which: once."""

    __tablename__ = "reversals"

    transfer_id: Mapped[UUID] = mapped_column(primary_key=True)
    reversed_by: Mapped[UUID]


class Seal(Model, schema="ledger"):
    """A digest over all transfers of the transactions from `xid_from` to before `xid_to`, chained to the one before."""

    __tablename__ = "seals"

    number: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    xid_from: Mapped[int]
    xid_to: Mapped[int]
    transfers: Mapped[int]
    root: Mapped[bytes]
    digest: Mapped[bytes]
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
