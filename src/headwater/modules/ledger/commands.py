"""Commands: what can be asked of the ledger, and the receipt that each gets. Values; nothing here asks."""

from __future__ import annotations

import enum
import os
import time
from collections.abc import Sequence
from datetime import datetime
from typing import Any
from uuid import UUID, uuid5

import msgspec

from headwater.kernel.errors import InvalidValue, StateConflict

AMOUNT_MAX = 10**38 - 1
"""The largest amount, balance and sum of holds."""

_NAMES = UUID("6e2f0c0e-35f5-4c0c-9d54-1d0a6f1f1ed9")


def new_id() -> UUID:
    """A new id in order of time (UUID version 7), to a quarter of a microsecond: such ids fill the index page by page.

    The twelve bits after the milliseconds are a fraction of them (RFC 9562, 6.2, method 3), as in PostgreSQL's uuidv7.
    """
    milliseconds, rest = divmod(time.time_ns(), 1_000_000)
    fraction = (rest << 12) // 1_000_000
    noise = int.from_bytes(os.urandom(8)) & (2**62 - 1)
    return UUID(int=(milliseconds & (2**48 - 1)) << 80 | 7 << 76 | fraction << 64 | 2 << 62 | noise)


def id_of(*parts: object) -> UUID:
    """The id of what these parts name: `id_of("order", order_id, "pay")` is the same in every try."""
    return uuid5(_NAMES, "/".join(str(part) for part in parts))


class Status(enum.IntEnum):
    """The answer to a command. Everything but DONE left the balances as they were."""

    DONE = 0
    ID_CONFLICT = 1
    EXCEEDS_BALANCE = 2
    ACCOUNT_NOT_FOUND = 3
    DIFFERENT_ASSETS = 4
    SAME_ACCOUNT = 5
    ACCOUNT_CLOSED = 6
    NOT_FOUND = 7
    HOLD_POSTED = 8
    HOLD_VOIDED = 9
    HOLD_EXPIRED = 10
    EXCEEDS_HOLD = 11
    LINKED_REFUSED = 12
    TOO_LARGE = 13
    NOTHING_TO_MOVE = 14
    ALREADY_REVERSED = 15
    NOT_REVERSIBLE = 16

    @property
    def reason(self) -> str:
        """The answer in a sentence."""
        return _REASONS[self]


_REASONS = {
    Status.DONE: "It was done.",
    Status.ID_CONFLICT: "The id belongs to another command.",
    Status.EXCEEDS_BALANCE: "The debit account has not enough: balance less holds plus credit limit.",
    Status.ACCOUNT_NOT_FOUND: "There is no such account.",
    Status.DIFFERENT_ASSETS: "The accounts count different assets.",
    Status.SAME_ACCOUNT: "Debit and credit are the same account.",
    Status.ACCOUNT_CLOSED: "An account is closed.",
    Status.NOT_FOUND: "There is no such hold or transfer.",
    Status.HOLD_POSTED: "The hold was posted already.",
    Status.HOLD_VOIDED: "The hold was voided already.",
    Status.HOLD_EXPIRED: "The hold has expired.",
    Status.EXCEEDS_HOLD: "The hold has less left.",
    Status.LINKED_REFUSED: "A command that it is linked with was refused.",
    Status.TOO_LARGE: "A balance would no longer fit.",
    Status.NOTHING_TO_MOVE: "There is nothing to move.",
    Status.ALREADY_REVERSED: "The transfer was reversed already.",
    Status.NOT_REVERSIBLE: "The transfer cannot be reversed: it moved nothing, or another amount.",
}


class Receipt(msgspec.Struct, frozen=True):
    """The answer to one command. `amount` was moved, held or released; balances are those right after it.

    `credit_balance` is None where the credit account was not touched (holds). `repeated`: the answer was given before.
    """

    id: UUID
    status: Status
    amount: int = 0
    debit_balance: int | None = None
    credit_balance: int | None = None
    repeated: bool = False

    @property
    def done(self) -> bool:
        return self.status == 0

    def or_raise(self) -> Receipt:
        """Itself when it was done; StateConflict with the reason (and `status` in its detail) when not."""
        if self.status != 0:
            raise StateConflict(
                f"ledger.transfers: {self.id} was refused. {self.status.reason}",
                remedy="Use another id for another try." if self.status != 1 else "Use an id of its own.",
                status=self.status.name.lower(),
                id=str(self.id),
            )
        return self


class Command(msgspec.Struct, frozen=True, kw_only=True):
    """What all have: a client-made id, what it is about, and whether it is linked with the next one."""

    id: UUID = msgspec.field(default_factory=new_id)
    linked: bool = False
    reference: str | None = None
    metadata: dict[str, Any] | None = None


class Move(Command, frozen=True, kw_only=True):
    """Move an amount.

    `up_to`: at most what the debit account has; `up_to_debt`: at most what the credit account owes.
    """

    debit: int
    credit: int
    amount: int
    up_to: bool = False
    up_to_debt: bool = False


class Hold(Command, frozen=True, kw_only=True):
    """Reserve an amount of the debit account for the credit account, until it is posted, voided or expires."""

    debit: int
    credit: int
    amount: int
    expires_at: datetime | None = None
    up_to: bool = False


class PostHold(Command, frozen=True, kw_only=True):
    """Move what is held, or `amount` of it. The rest is released, or stays held with `keep_rest`."""

    hold: UUID
    amount: int | None = None
    keep_rest: bool = False


class VoidHold(Command, frozen=True, kw_only=True):
    """Release what is still held."""

    hold: UUID


class Reverse(Command, frozen=True, kw_only=True):
    """Move the amount of a transfer back. Once."""

    transfer: UUID


AnyCommand = Move | Hold | PostHold | VoidHold | Reverse


def columns_of(commands: Sequence[AnyCommand]) -> tuple[Any, ...]:
    """The arguments of ledger.post, an array each; those that nobody needs are None. Raises InvalidValue."""
    ids: list[UUID] = []
    kinds: list[int] = []
    debits: list[int | None] = []
    credits_: list[int | None] = []
    amounts: list[str] = []
    flags: list[int] = []
    refers: list[UUID | None] | None = None
    expiries: list[datetime | None] | None = None
    remarks: list[str | None] | None = None
    extras: list[dict[str, Any] | None] | None = None
    total = len(commands)
    for at, one in enumerate(commands):
        flag = 1 if one.linked else 0
        amount: int | None
        if isinstance(one, Move):
            kinds.append(1)
            debits.append(one.debit)
            credits_.append(one.credit)
            amount = one.amount
            if one.up_to:
                flag |= 2
            if one.up_to_debt:
                flag |= 4
        elif isinstance(one, Hold):
            kinds.append(2)
            debits.append(one.debit)
            credits_.append(one.credit)
            amount = one.amount
            if one.up_to:
                flag |= 2
            if one.expires_at is not None:
                if expiries is None:
                    expiries = [None] * total
                expiries[at] = one.expires_at
        else:
            debits.append(None)
            credits_.append(None)
            if refers is None:
                refers = [None] * total
            amount = None
            if isinstance(one, PostHold):
                kinds.append(3)
                refers[at] = one.hold
                amount = one.amount
                if one.keep_rest:
                    flag |= 8
            elif isinstance(one, VoidHold):
                kinds.append(4)
                refers[at] = one.hold
            else:
                kinds.append(5)
                refers[at] = one.transfer
        if amount is None:
            amounts.append("0")
        else:
            if type(amount) is not int or not 1 <= amount <= AMOUNT_MAX:
                raise _wrong_amount(amount)
            amounts.append(str(amount))
        if one.reference is not None:
            if remarks is None:
                remarks = [None] * total
            remarks[at] = one.reference
        if one.metadata is not None:
            if extras is None:
                extras = [None] * total
            extras[at] = one.metadata
        ids.append(one.id)
        flags.append(flag)
    if flags and flags[-1] & 1:
        raise InvalidValue(
            "The last command is linked with a next one.", remedy="Link each member of a chain but the last."
        )
    return ids, kinds, debits, credits_, ",".join(amounts), flags, refers, expiries, remarks, extras


def receipts_of(ids: Sequence[UUID], answer: Any) -> list[Receipt]:
    """The receipts of one call of ledger.post, in the order of its commands."""
    statuses, moved, debit_balances, credit_balances, repeats = answer
    return [
        Receipt(
            key,
            _STATUSES[status],
            int(amount),
            int(debit) if debit else None,
            int(credit) if credit else None,
            repeated,
        )
        for key, status, amount, debit, credit, repeated in zip(
            ids, statuses, moved.split(","), debit_balances.split(","), credit_balances.split(","), repeats, strict=True
        )
    ]


_STATUSES = tuple(Status)


def _wrong_amount(amount: object) -> InvalidValue:
    return InvalidValue(
        f"{amount!r} is not an amount.", remedy=f"Pass a whole number from 1 to {AMOUNT_MAX}.", field="amount"
    )
