"""Holders, their transactions, distributions of yield, and the trail with its seals: the tables of finance."""

from __future__ import annotations

import enum
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import CheckConstraint, ForeignKey, Index, UniqueConstraint, func, text
from sqlalchemy.orm import Mapped, mapped_column

from headwater.kernel.amounts import WholeNumber
from headwater.kernel.models import Keyed, Model, native_enum
from headwater.kernel.tracking import Tracked


class TransactionType(enum.Enum):
    """What a transaction does."""

    DEPOSIT = "deposit"
    WITHDRAW = "withdraw"
    YIELD = "yield"
    TRANSFER = "transfer"


class TransactionStatus(enum.Enum):
    """Where a transaction stands. A pending one reserves what it takes; completed and failed are final."""

    PENDING = "pending"
    COMPLETED = "completed"
    FAILED = "failed"


class Direction(enum.Enum):
    """Whether a transaction brings money to the user or takes it."""

    IN = "in"
    OUT = "out"


_type = native_enum(TransactionType, name="transaction_type", schema="finance")
_status = native_enum(TransactionStatus, name="transaction_status", schema="finance")
_direction = native_enum(Direction, name="direction", schema="finance")

_NO_USER = {"message": "finance: there is no such user."}


class Holder(Keyed, Model, schema="finance"):
    """A user's savings in one currency, as four accounts of the ledger.

    `outside` is where the user's deposits come from and withdrawals go to, `issued` where their shares come from: one
    of each per user, so that no two users wait for each other.
    """

    __tablename__ = "holders"
    __tracked__ = Tracked("full", tags=("user_id",))
    __table_args__ = (
        UniqueConstraint("user_id", "currency"),
        UniqueConstraint("savings_account_id"),
        UniqueConstraint("shares_account_id"),
        UniqueConstraint("outside_account_id"),
        UniqueConstraint("issued_account_id"),
        Index("holders_currency_idx", "currency"),
    )

    user_id: Mapped[UUID] = mapped_column(ForeignKey("users.id", info=_NO_USER))
    currency: Mapped[str] = mapped_column(
        ForeignKey("ledger.assets.code", info={"message": "finance: there is no such currency."})
    )
    savings_account_id: Mapped[int] = mapped_column(ForeignKey("ledger.accounts.id"))
    shares_account_id: Mapped[int] = mapped_column(ForeignKey("ledger.accounts.id"))
    outside_account_id: Mapped[int] = mapped_column(ForeignKey("ledger.accounts.id"))
    issued_account_id: Mapped[int] = mapped_column(ForeignKey("ledger.accounts.id"))
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())


class Distribution(Keyed, Model, schema="finance"):
    """Yield that was divided among all holders of a currency by their shares. Never changed.

    `shares` is how many there were, `holders` how many were paid: one whose part is less than half a unit may get none.
    """

    __tablename__ = "distributions"
    __tracked__ = Tracked("full")
    __table_args__ = (
        CheckConstraint("amount > 0", name="amount"),
        CheckConstraint("shares > 0 and holders > 0", name="shares"),
        Index("distributions_created_at_id_idx", "created_at", "id"),
    )

    currency: Mapped[str] = mapped_column(server_default="USD")
    amount: Mapped[int] = mapped_column(WholeNumber())
    shares: Mapped[int] = mapped_column(WholeNumber())
    holders: Mapped[int]
    reference: Mapped[str | None]
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())


class MoneyTransaction(Keyed, Model, schema="finance"):
    """One user's side of a movement of money. What is written here is moved in the ledger by the same statement.

    `transfer_id` is the transfer of the ledger; of a transfer between users both sides name the same one. `shares` are
    those that came or went along. `tx_hash`, `block_number` and `network` say where a blockchain recorded it: the same
    one is credited once.
    """

    __tablename__ = "transactions"
    __tracked__ = Tracked("full", tags=("user_id",))
    __table_args__ = (
        CheckConstraint("amount > 0 or amount = 0 and shares > 0 and type in ('deposit', 'withdraw')", name="amount"),
        CheckConstraint("shares >= 0", name="shares"),
        CheckConstraint("(type = 'transfer') = (counterparty_id is not null)", name="counterparty"),
        CheckConstraint("counterparty_id <> user_id", name="parties"),
        CheckConstraint("type <> 'deposit' or direction = 'in'", name="deposit"),
        CheckConstraint("type <> 'withdraw' or direction = 'out'", name="withdraw"),
        CheckConstraint("type <> 'yield' or direction = 'in'", name="yield"),
        CheckConstraint("(status = 'pending') = (ended_at is null)", name="ended_at"),
        CheckConstraint("(status = 'completed') = (transfer_id is not null)", name="transfer_id"),
        CheckConstraint("distribution_id is null or type = 'yield'", name="distribution"),
        CheckConstraint("tx_hash is null or network is not null", name="network"),
        Index("transactions_user_id_created_at_id_idx", "user_id", "created_at", "id"),
        # What was earned is summed, not stored: this index alone answers it.
        Index(
            "transactions_yield_idx",
            "user_id",
            "currency",
            postgresql_include=["amount"],
            postgresql_where=text("type = 'yield' and status = 'completed'"),
        ),
        # One part of a distribution for each user, whatever happens.
        Index("transactions_distribution_id_user_id_key", "distribution_id", "user_id", unique=True),
        Index(
            "transactions_tx_hash_key",
            "tx_hash",
            "network",
            "user_id",
            "type",
            unique=True,
            postgresql_where=text("tx_hash is not null"),
            info={"message": "finance.transactions: this transaction of the blockchain is already recorded."},
        ),
    )

    user_id: Mapped[UUID]
    counterparty_id: Mapped[UUID | None]
    type: Mapped[TransactionType] = mapped_column(_type)
    direction: Mapped[Direction] = mapped_column(_direction)
    currency: Mapped[str] = mapped_column(server_default="USD")
    amount: Mapped[int] = mapped_column(WholeNumber())
    shares: Mapped[int | None] = mapped_column(WholeNumber())
    status: Mapped[TransactionStatus] = mapped_column(_status, server_default="pending")
    transfer_id: Mapped[UUID | None]
    distribution_id: Mapped[UUID | None]
    tx_hash: Mapped[str | None]
    block_number: Mapped[int | None]
    network: Mapped[str | None]
    reference: Mapped[str | None]
    reason: Mapped[str | None]
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    ended_at: Mapped[datetime | None]


class HistoryEntry(Model, schema="finance"):
    """One step of one user's trail: who did what, and how things were before and after. Never changed, never removed.

    `hash` is the SHA-256 of everything else in the row, of which `previous` is the hash of the entry before.
    """

    __tablename__ = "transaction_history"
    __table_args__ = (
        CheckConstraint("number > 0", name="number"),
        Index("transaction_history_transaction_id_idx", "transaction_id"),
    )

    user_id: Mapped[UUID] = mapped_column(primary_key=True)
    number: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    transaction_id: Mapped[UUID]
    at: Mapped[datetime]
    actor: Mapped[str]
    action: Mapped[str]
    before: Mapped[dict[str, Any] | None]
    after: Mapped[dict[str, Any]]
    previous: Mapped[bytes]
    hash: Mapped[bytes]


class Seal(Model, schema="finance"):
    """All trails as they stood at one moment: `digest` is over their newest hashes and the seal before."""

    __tablename__ = "seals"
    __table_args__ = (CheckConstraint("number > 0", name="number"),)

    number: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    trails: Mapped[int]
    root: Mapped[bytes]
    previous: Mapped[bytes]
    digest: Mapped[bytes]
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())


class SealedTrail(Model, schema="finance"):
    """How far one user's trail had come when it was sealed; only trails that had grown since the seal before."""

    __tablename__ = "sealed_trails"

    user_id: Mapped[UUID] = mapped_column(primary_key=True)
    seal_number: Mapped[int] = mapped_column(ForeignKey("finance.seals.number"), primary_key=True, index=True)
    number: Mapped[int]
    hash: Mapped[bytes]
