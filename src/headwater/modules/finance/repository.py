"""The verbs of finance: deposit, withdraw, transfer, complete, fail, divide yield; balances, the dashboard, the proof.

The rules are in PostgreSQL (migrations/0001_moving.sql and beside it): a verb writes a transaction and reads what
became of it, and so does plain SQL.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import Annotated, Any, TypeVar
from uuid import UUID

import msgspec
from sqlalchemy import select, update
from sqlalchemy.dialects import postgresql

from headwater.kernel.cached import Tag, cached
from headwater.kernel.errors import AlreadyExists, InvalidValue, NotFound, StateConflict
from headwater.kernel.pages import JsonPage, Page
from headwater.kernel.postgres import Runner
from headwater.kernel.queries import Queries
from headwater.kernel.repository import Repository
from headwater.kernel.tracking import Context
from headwater.kernel.transaction import Transaction, run, transaction
from headwater.modules.finance.models import (
    Direction,
    Distribution,
    Holder,
    MoneyTransaction,
    TransactionStatus,
    TransactionType,
)
from headwater.modules.identity.models import User
from headwater.modules.ledger.models import Transfer

QUERIES = Queries.load(__package__)
T = TypeVar("T")

DASHBOARD_TRANSACTIONS = 20
"""How many of the newest transactions a dashboard shows."""
DASHBOARD_SECONDS = 300
DISTRIBUTION_SECONDS_MAX = 600
AMOUNT_MAX = 10**38 - 1

_Count = Annotated[int, msgspec.Meta(ge=0)]


class UserBalance(msgspec.Struct, frozen=True):
    """What a user has in a currency, in minor units. `held` of the balance is reserved by what is pending."""

    user_id: UUID
    currency: str
    balance: int
    held: int
    shares: int
    yield_earned: int
    created_at: datetime
    updated_at: datetime


class DashboardUser(msgspec.Struct, frozen=True):
    """Of the user what a dashboard shows."""

    id: UUID
    name: str | None
    email: str
    language_code: str
    timezone: str


class DashboardTransaction(msgspec.Struct, frozen=True):
    """Of a transaction what a dashboard shows."""

    id: UUID
    type: TransactionType
    direction: Direction
    currency: str
    amount: int
    status: TransactionStatus
    counterparty_id: UUID | None
    reference: str | None
    created_at: datetime


class Dashboard(msgspec.Struct, frozen=True):
    """A user, what they have, and their newest transactions, all as of one moment."""

    user: DashboardUser
    balances: list[UserBalance]
    transactions: list[DashboardTransaction]


class SealedDigest(msgspec.Struct, frozen=True):
    """A seal to keep elsewhere: as long as `verify` finds this digest under this number, nothing before it changed."""

    number: int
    trails: int
    digest: str
    created_at: datetime


class Fault(msgspec.Struct, frozen=True):
    """Something that is not as it was: where (a user, an entry, a transaction, a seal) and what."""

    check: str
    where: str
    fault: str


class Verification(msgspec.Struct, frozen=True):
    """What was verified, and what was found; the first fault of each kind first."""

    transactions: _Count
    entries: _Count
    seals: _Count
    faults: list[Fault]


_CHECKS = (
    ("trail", "verify_trails", ("user_id", "number")),
    ("told", "verify_told", ("user_id", "transaction_id")),
    ("moved", "verify_moved", ("user_id", "transaction_id")),
    ("untold", "verify_untold", ("user_id", "transaction_id")),
    ("distribution", "verify_distributions", ("distribution_id",)),
    ("seal", "verify_seals", ("number",)),
    ("sealed", "verify_sealed", ("user_id", "number")),
)


_FILLED_IN_LATER = {"shares", "tx_hash", "block_number", "network"}


class FinanceRepository(Repository[MoneyTransaction]):
    """Savings. Amounts are whole numbers of the currency's minor unit.

    Verbs that move money raise StateConflict for what the ledger refuses (not enough, a closed account, an unknown
    currency), MissingReference for an unknown user, InvalidValue for what is no amount. With an `id` they happen once:
    the same call again returns the same transaction, another one with that id is AlreadyExists.
    """

    # -- moving money ------------------------------------------------------------------------------------------------

    async def deposit(
        self,
        tx: Runner,
        *,
        user_id: UUID,
        amount: int,
        currency: str = "USD",
        shares: int | None = None,
        pending: bool = False,
        id: UUID | None = None,
        tx_hash: str | None = None,
        block_number: int | None = None,
        network: str | None = None,
        reference: str | None = None,
    ) -> MoneyTransaction:
        """Money comes in, with one share per minor unit unless `shares` says otherwise.

        `pending`: nothing moves until `complete`. `tx_hash` and `network` name the transaction of a blockchain that
        brought it; the same one again is AlreadyExists.
        """
        return await self._enter(
            tx, TransactionType.DEPOSIT, pending, user_id=user_id, amount=amount, currency=currency, shares=shares,
            id=id, tx_hash=tx_hash, block_number=block_number, network=network, reference=reference,
        )  # fmt: skip

    async def withdraw(
        self,
        tx: Runner,
        *,
        user_id: UUID,
        amount: int,
        currency: str = "USD",
        shares: int | None = None,
        pending: bool = False,
        id: UUID | None = None,
        tx_hash: str | None = None,
        block_number: int | None = None,
        network: str | None = None,
        reference: str | None = None,
    ) -> MoneyTransaction:
        """Money goes out, and shares with it in proportion to the balance unless `shares` says otherwise.

        `pending`: the amount is reserved until `complete` or `fail`.
        """
        return await self._enter(
            tx, TransactionType.WITHDRAW, pending, user_id=user_id, amount=amount, currency=currency, shares=shares,
            id=id, tx_hash=tx_hash, block_number=block_number, network=network, reference=reference,
        )  # fmt: skip

    async def transfer(
        self,
        tx: Runner,
        *,
        from_user_id: UUID,
        to_user_id: UUID,
        amount: int,
        currency: str = "USD",
        shares: int | None = None,
        pending: bool = False,
        id: UUID | None = None,
        reference: str | None = None,
    ) -> MoneyTransaction:
        """Money goes from one user to another, and shares along with it. Returns the side that pays."""
        return await self._enter(
            tx, TransactionType.TRANSFER, pending, user_id=from_user_id, counterparty_id=to_user_id, amount=amount,
            currency=currency, shares=shares, id=id, reference=reference,
        )  # fmt: skip

    async def complete(
        self,
        tx: Runner,
        transaction_id: UUID,
        *,
        tx_hash: str | None = None,
        block_number: int | None = None,
        network: str | None = None,
    ) -> MoneyTransaction:
        """Carry out what is pending. What was completed before stays as it is. Raises NotFound, StateConflict."""
        chain = {"tx_hash": tx_hash, "block_number": block_number, "network": network}
        known = {name: value for name, value in chain.items() if value is not None}
        return await self._end(tx, transaction_id, TransactionStatus.COMPLETED, known)

    async def fail(self, tx: Runner, transaction_id: UUID, *, reason: str | None = None) -> MoneyTransaction:
        """Give up what is pending; what it reserved is free again. Raises NotFound, StateConflict."""
        return await self._end(tx, transaction_id, TransactionStatus.FAILED, {"reason": reason})

    async def update_user_balance(
        self,
        tx: Runner,
        user_id: UUID,
        change: int,
        *,
        currency: str = "USD",
        id: UUID | None = None,
        reference: str | None = None,
    ) -> UserBalance:
        """Add `change` (or take, when it is negative) in one statement, whoever else writes; the balance after it."""
        if type(change) is not int or not 1 <= abs(change) <= AMOUNT_MAX:
            raise InvalidValue(f"{change!r} changes no balance.", remedy="Pass a whole number but 0.", field="change")
        verb = self.deposit if change > 0 else self.withdraw
        await verb(tx, user_id=user_id, amount=abs(change), currency=currency, id=id, reference=reference)
        return await self.balance(user_id, currency, tx=tx)

    async def execute_transaction(
        self, callback: Callable[[Transaction], Awaitable[T]], *, context: Context | None = None
    ) -> T:
        """Run `callback(tx)` as a whole: all it did is committed, or nothing when an error leaves it.

        It runs again after a deadlock or a serialization failure, so it must have no effect but through `tx`.
        """
        return await run(self.postgres, callback, context=context)

    # -- yield -------------------------------------------------------------------------------------------------------

    async def open_currency(self, tx: Runner, code: str, *, scale: int) -> None:
        """Declare a currency, once; savings can then be in it. Raises StateConflict when it has another scale."""
        if not 1 <= len(code) <= 90 or type(scale) is not int or not 0 <= scale <= 38:
            raise InvalidValue("This is no currency.", remedy="Give a code, and 0 to 38 decimal places.", field="code")
        await tx.execute(QUERIES["open_currency"], code=code, scale=scale)

    async def distribute_yield(
        self, tx: Runner, *, distribution_id: UUID, amount: int, currency: str = "USD", reference: str | None = None
    ) -> Distribution:
        """Divide an amount among all holders by their shares, to the last minor unit. Once for each id.

        The same call again returns the same distribution. How long many holders take, `benchmarks/RESULTS.md` tells:
        inside a transaction it may take `DISTRIBUTION_SECONDS_MAX`, whatever the bound of other statements. Raises
        StateConflict when nobody has shares, or when the id belongs to another distribution.
        """
        if type(amount) is not int or not 1 <= amount <= AMOUNT_MAX:
            raise _not_an_amount(amount)
        bound = await tx.fetch_value(QUERIES["be_patient"], timeout=f"{DISTRIBUTION_SECONDS_MAX}s")
        made = await tx.fetch_value(
            QUERIES["distribute"],
            distribution_id=distribution_id,
            currency=currency,
            amount=str(amount),
            reference=reference,
        )
        await tx.fetch_value(QUERIES["be_patient"], timeout=bound)
        found: Distribution = await tx.fetch_one(select(Distribution).where(Distribution.id == made))
        return found

    # -- reads -------------------------------------------------------------------------------------------------------

    async def balance(self, user_id: UUID, currency: str = "USD", *, tx: Runner | None = None) -> UserBalance:
        """What a user has, as PostgreSQL knows it now. Raises NotFound for one who never had savings in it."""
        row = await (tx or self.postgres).fetch_one(QUERIES["balance"], user_id=user_id, currency=currency)
        if row is None:
            raise NotFound(
                f"finance.user_balances: {user_id} has no savings in {currency}.",
                remedy="A first deposit opens them.",
                user_id=str(user_id),
            )
        return _balance(row)

    async def balances(self, user_id: UUID, *, tx: Runner | None = None) -> list[UserBalance]:
        """What a user has in every currency; empty for one who never had savings."""
        rows = await (tx or self.postgres).fetch(QUERIES["balances"], user_id=user_id)
        return [_balance(row) for row in rows]

    async def transactions(
        self, user_id: UUID, *, limit: int = 50, cursor: str | None = None, tx: Runner | None = None
    ) -> Page[MoneyTransaction]:
        """A page of a user's transactions, the newest first."""
        return await self.list(
            MoneyTransaction.user_id == user_id,
            order=(MoneyTransaction.created_at.desc(),),
            limit=limit,
            cursor=cursor,
            tx=tx,
        )

    async def transactions_json(
        self, user_id: UUID, *, limit: int = 50, cursor: str | None = None, tx: Runner | None = None
    ) -> JsonPage[MoneyTransaction]:
        """The page that `transactions` gives, as JSON."""
        return await self.list_json(
            MoneyTransaction.user_id == user_id,
            order=(MoneyTransaction.created_at.desc(),),
            limit=limit,
            cursor=cursor,
            tx=tx,
        )

    async def dashboard(self, user_id: UUID, *, tx: Runner | None = None) -> Dashboard:
        """The user, their balances and newest transactions, through the cache. Raises NotFound.

        Whoever moved money reads it here right after their commit, also money moved past this module: the result
        depends on the accounts in the ledger.
        """
        if tx is not None:
            return await self._read_dashboard(tx, user_id)
        accounts = await self._accounts(user_id)
        return await self._dashboard(user_id, accounts)

    @cached("holder_accounts", tags=lambda user_id: (Tag(Holder, user_id=user_id),), ttl_seconds=DASHBOARD_SECONDS)
    async def _accounts(self, user_id: UUID, *, tx: Runner | None = None) -> list[int]:
        holders = await (tx or self.postgres).fetch(
            select(Holder).where(Holder.user_id == user_id).order_by(Holder.currency)
        )
        return [key for h in holders for key in (h.savings_account_id, h.shares_account_id)]

    @cached(
        "dashboard",
        tags=lambda user_id, accounts: (
            Tag(User, id=user_id),
            Tag(Holder, user_id=user_id),
            Tag(MoneyTransaction, user_id=user_id),
            *(Tag(Transfer, debit_account_id=key) for key in accounts),  # a balance is told by what changed it
            *(Tag(Transfer, credit_account_id=key) for key in accounts),
        ),
        ttl_seconds=DASHBOARD_SECONDS,
    )
    async def _dashboard(self, user_id: UUID, accounts: list[int], *, tx: Runner | None = None) -> Dashboard:
        async with transaction(self.postgres, isolation="repeatable read", read_only=True) as own:
            return await self._read_dashboard(own, user_id)

    async def _read_dashboard(self, tx: Runner, user_id: UUID) -> Dashboard:
        user: User | None = await tx.fetch_one(select(User).where(User.id == user_id))
        if user is None:
            raise NotFound(f"users: there is no user {user_id}.", remedy="Check the id.", user_id=str(user_id))
        newest = await self.transactions(user_id, limit=DASHBOARD_TRANSACTIONS, tx=tx)
        return Dashboard(
            user=DashboardUser(user.id, user.name, user.email, user.language_code, user.timezone),
            balances=await self.balances(user_id, tx=tx),
            transactions=[
                DashboardTransaction(
                    t.id, t.type, t.direction, t.currency, t.amount, t.status, t.counterparty_id, t.reference,
                    t.created_at,
                )
                for t in newest.items
            ],
        )  # fmt: skip

    # -- proof -------------------------------------------------------------------------------------------------------

    async def seal(self, tx: Runner) -> SealedDigest | None:
        """Bind all trails together as they stand. The new seal, or the last when nothing has grown; None: no trails."""
        row = await tx.fetch_one(QUERIES["seal"])
        if row is None or row.number is None:
            return None
        return SealedDigest(row.number, row.trails, row.digest.hex(), row.created_at)

    async def verify(
        self, *, digest: tuple[int, str] | None = None, limit: int = 20, tx: Runner | None = None
    ) -> Verification:
        """Recompute every trail and seal, and compare them with the transactions and these with the ledger.

        `digest` is a seal's number and digest that were kept elsewhere. At most `limit` faults of each kind are told.
        """
        if tx is None:
            async with transaction(self.postgres, isolation="repeatable read", read_only=True) as own:
                return await self.verify(digest=digest, limit=limit, tx=own)
        counts = await tx.fetch_one(QUERIES["trail_counts"])
        faults = []
        for check, name, place in _CHECKS:
            for row in await tx.fetch(QUERIES[name], limit=limit):
                where = ", ".join(f"{column} {row[column]}" for column in place)
                faults.append(Fault(check, where, row.fault))
        if digest is not None:
            number, kept = digest
            found = await tx.fetch_value(QUERIES["sealed_digest"], number=number)
            if found is None or found.hex() != kept.lower():
                said = "is gone" if found is None else "is not the one that was kept"
                faults.append(Fault("digest", f"number {number}", f"the seal {said}"))
        return Verification(counts.transactions, counts.entries, counts.seals, faults)

    # -- inside ------------------------------------------------------------------------------------------------------

    async def _enter(
        self, tx: Runner, kind: TransactionType, pending: bool, *, id: UUID | None, amount: int, **more: Any
    ) -> MoneyTransaction:
        if type(amount) is not int or not 1 <= amount <= AMOUNT_MAX:
            raise _not_an_amount(amount)
        status = TransactionStatus.PENDING if pending else TransactionStatus.COMPLETED
        asked = {"type": kind, "amount": amount, **more}
        values = {name: value for name, value in asked.items() if value is not None} | {"status": status}
        entered: MoneyTransaction | None = await tx.fetch_one(
            postgresql.insert(MoneyTransaction)
            .values(values if id is None else {"id": id, **values})
            .on_conflict_do_nothing(index_elements=[MoneyTransaction.id])
            .returning(MoneyTransaction)
        )
        if entered is not None:
            return entered
        known: MoneyTransaction = await tx.fetch_one(select(MoneyTransaction).where(MoneyTransaction.id == id))
        compared = {name: value for name, value in asked.items() if value is not None or name not in _FILLED_IN_LATER}
        is_same = all(getattr(known, name) == value for name, value in compared.items())
        if not is_same or (not pending and known.status is not TransactionStatus.COMPLETED):
            raise AlreadyExists(
                f"finance.transactions: {id} is another transaction.", remedy="Choose another id.", id=str(id)
            )
        return known

    async def _end(
        self, tx: Runner, transaction_id: UUID, status: TransactionStatus, more: dict[str, Any]
    ) -> MoneyTransaction:
        ended: MoneyTransaction | None = await tx.fetch_one(
            update(MoneyTransaction)
            .where(MoneyTransaction.id == transaction_id, MoneyTransaction.status == TransactionStatus.PENDING)
            .values(status=status, **more)
            .returning(MoneyTransaction)
        )
        if ended is not None:
            return ended
        known: MoneyTransaction | None = await tx.fetch_one(
            select(MoneyTransaction).where(MoneyTransaction.id == transaction_id)
        )
        if known is None:
            raise NotFound(
                f"finance.transactions: there is no transaction {transaction_id}.",
                remedy="Check the id.",
                transaction_id=str(transaction_id),
            )
        if known.status is not status:
            raise StateConflict(
                f"finance.transactions: {transaction_id} is {known.status.value} and cannot become {status.value}.",
                remedy="Only a pending transaction can end.",
                status=known.status.value,
            )
        return known


def _balance(row: Any) -> UserBalance:
    return UserBalance(
        row.user_id, row.currency, int(row.balance), int(row.held), int(row.shares), int(row.yield_earned),
        row.created_at, row.updated_at,
    )  # fmt: skip


def _not_an_amount(value: object) -> InvalidValue:
    return InvalidValue(
        f"{value!r} is not an amount.", remedy=f"Pass a whole number from 1 to {AMOUNT_MAX}.", field="amount"
    )
