"""An in-memory ledger, written from the promises and not from the SQL: what the real one is compared with."""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from headwater.modules.ledger.commands import AnyCommand, Hold, Move, PostHold, Reverse, Status, VoidHold

LIMIT = 10**38


@dataclass
class Purse:
    asset: int
    limit: int | None
    balance: int = 0
    held: int = 0
    closed: bool = False

    def spendable(self, amount: int) -> bool:
        return self.limit is None or self.balance - self.held + self.limit >= amount


@dataclass
class Held:
    debit: int
    credit: int
    left: int
    expires_at: datetime | None
    ended: Status | None = None


@dataclass
class Done:
    debit: int
    credit: int
    amount: int
    posted: bool


@dataclass
class Oracle:
    purses: dict[int, Purse]
    answers: dict[UUID, tuple[Any, Status, int]] = field(default_factory=dict)
    holds: dict[UUID, Held] = field(default_factory=dict)
    done: dict[UUID, Done] = field(default_factory=dict)
    reversed: set[UUID] = field(default_factory=set)
    earlier: set[UUID] = field(default_factory=set)  # answered before the call under way

    def transfer(self, one: Move) -> tuple[Status, int, bool]:
        """The door for one movement: what nothing speaks against is done, everything else is a call of post()."""
        if not self._plain(one):
            return self.post([one])[0]
        self.earlier = set(self.answers)
        return self._one(one)

    def _plain(self, one: Move) -> bool:
        if one.id in self.answers or one.up_to or one.up_to_debt or self._refuse(one.debit, one.credit) is not None:
            return False
        source, target = self.purses[one.debit], self.purses[one.credit]
        bounded = source.balance - one.amount > -LIMIT and target.balance + one.amount < LIMIT
        return source.spendable(one.amount) and bounded

    def post(self, commands: list[AnyCommand]) -> list[tuple[Status, int, bool]]:
        """Status, amount moved, and whether it is a repetition, of each command."""
        self.earlier = set(self.answers)
        self._expire(commands)
        told: list[tuple[Status, int, bool]] = []
        chain: list[AnyCommand] = []
        for one in commands:
            chain.append(one)
            if not one.linked:
                told += self._chain(chain) if len(chain) > 1 else [self._one(one)]
                chain = []
        return told

    def expire_of(self, account: int) -> None:
        now = datetime.now(UTC)
        for held in self.holds.values():
            if held.debit == account and held.ended is None and held.expires_at and held.expires_at <= now:
                self.purses[account].held -= held.left
                held.left, held.ended = 0, Status.HOLD_EXPIRED

    def _expire(self, commands: list[AnyCommand]) -> None:
        """Accounts that a call will change lose what is overdue before anything is decided."""
        for one in commands:
            debit, credit = self._accounts(one, commands)
            moves = isinstance(one, (Move, PostHold, Reverse))
            for account in (debit, credit if moves else None):
                if account in self.purses:
                    self.expire_of(account)

    def _accounts(self, one: AnyCommand, commands: list[AnyCommand]) -> tuple[int | None, int | None]:
        if isinstance(one, (Move, Hold)):
            return one.debit, one.credit
        if isinstance(one, Reverse):
            known = self.done.get(one.transfer)
            return (known.credit, known.debit) if known else (None, None)
        known = self.done.get(one.hold)
        if known:
            return known.debit, known.credit
        for other in commands:
            if other is one:
                break
            if isinstance(other, Hold) and other.id == one.hold:
                return other.debit, other.credit
        return None, None

    def _chain(self, chain: list[AnyCommand]) -> list[tuple[Status, int, bool]]:
        before = copy.deepcopy((self.purses, self.holds, self.done, self.reversed, self.answers))
        told: list[tuple[Status, int, bool]] = []
        failed = fresh = old = False
        seen: set[UUID] = set()
        for one in chain:
            if one.id in seen:  # twice inside one chain
                told.append((Status.ID_CONFLICT, 0, False))
                failed = True
                continue
            seen.add(one.id)
            if one.id not in self.answers and (failed or old):
                told.append((Status.LINKED_REFUSED, 0, False))
                failed = True
                continue
            answer = self._one(one)
            told.append(answer)
            if answer[0] is not Status.DONE:
                failed = True
            elif answer[2]:
                old = True
            else:
                fresh = True
            failed = failed or (fresh and old)
        if not failed:
            return told
        self.purses, self.holds, self.done, self.reversed, self.answers = before
        for at, one in enumerate(chain):
            status, _amount, again = told[at]
            if status is Status.DONE and not again:
                told[at] = (Status.LINKED_REFUSED, 0, False)
            if not told[at][2] and told[at][0] is not Status.ID_CONFLICT:
                self.answers[one.id] = (_body(one), told[at][0], 0)
        return told

    def _one(self, one: AnyCommand) -> tuple[Status, int, bool]:
        known = self.answers.get(one.id)
        if known is not None:
            body, status, amount = known
            same = body == _body(one)
            if status is Status.DONE and one.id in self.earlier:
                same = _repeats(body, one, amount)
            return (status, amount, True) if same else (Status.ID_CONFLICT, 0, False)
        status, amount = self._decide(one)
        self.answers[one.id] = (_body(one), status, amount)
        return status, amount, False

    def _decide(self, one: AnyCommand) -> tuple[Status, int]:
        if isinstance(one, (Move, Hold)):
            refused = self._refuse(one.debit, one.credit)
            return (refused, 0) if refused else self._move(one.id, one.debit, one.credit, one.amount, one)
        if isinstance(one, Reverse):
            original = self.done.get(one.transfer)
            if original is None or one.transfer not in self.earlier:
                return Status.NOT_FOUND, 0
            if self.purses[original.debit].closed or self.purses[original.credit].closed:
                return Status.ACCOUNT_CLOSED, 0
            if not original.posted:
                return Status.NOT_REVERSIBLE, 0
            if one.transfer in self.reversed:
                return Status.ALREADY_REVERSED, 0
            told = self._move(one.id, original.credit, original.debit, original.amount, one)
            if told[0] is Status.DONE:
                self.reversed.add(one.transfer)
            return told
        held = self.holds.get(one.hold)
        if held is None:
            return Status.NOT_FOUND, 0
        debit, credit = self.purses[held.debit], self.purses[held.credit]
        if isinstance(one, PostHold) and (debit.closed or credit.closed):
            return Status.ACCOUNT_CLOSED, 0
        if held.ended is not None:
            return held.ended, 0
        if isinstance(one, VoidHold):
            amount, freed = held.left, held.left
        else:
            amount = held.left if one.amount is None else one.amount
            if amount > held.left:
                return Status.EXCEEDS_HOLD, 0
            freed = amount if one.keep_rest else held.left
            if debit.balance - amount <= -LIMIT or credit.balance + amount >= LIMIT:
                return Status.TOO_LARGE, 0
            debit.balance -= amount
            credit.balance += amount
        debit.held -= freed
        held.left -= freed
        if not held.left:
            held.ended = Status.HOLD_POSTED if isinstance(one, PostHold) else Status.HOLD_VOIDED
        self.done[one.id] = Done(held.debit, held.credit, amount, isinstance(one, PostHold))
        return Status.DONE, amount

    def _refuse(self, debit: int, credit: int) -> Status | None:
        if debit == credit:
            return Status.SAME_ACCOUNT
        if debit not in self.purses or credit not in self.purses:
            return Status.ACCOUNT_NOT_FOUND
        if self.purses[debit].asset != self.purses[credit].asset:
            return Status.DIFFERENT_ASSETS
        if self.purses[debit].closed or self.purses[credit].closed:
            return Status.ACCOUNT_CLOSED
        return None

    def _move(self, key: UUID, debit: int, credit: int, amount: int, one: AnyCommand) -> tuple[Status, int]:
        source, target = self.purses[debit], self.purses[credit]
        if isinstance(one, (Move, Hold)) and one.up_to and source.limit is not None:
            amount = min(amount, source.balance - source.held + source.limit)
        if isinstance(one, Move) and one.up_to_debt:
            amount = min(amount, -target.balance)
        if amount < 1:
            return Status.NOTHING_TO_MOVE, 0
        if not source.spendable(amount):
            return Status.EXCEEDS_BALANCE, 0
        holding = isinstance(one, Hold)
        if (
            source.balance - amount <= -LIMIT
            or target.balance + amount >= LIMIT
            or (holding and source.held + amount >= LIMIT)
        ):
            return Status.TOO_LARGE, 0
        if holding:
            source.held += amount
            self.holds[key] = Held(debit, credit, amount, one.expires_at)
        else:
            source.balance -= amount
            target.balance += amount
        self.done[key] = Done(debit, credit, amount, not holding)
        return Status.DONE, amount


def _body(one: AnyCommand) -> Any:
    if isinstance(one, Move):
        return "move", one.debit, one.credit, one.amount, one.up_to, one.up_to_debt
    if isinstance(one, Hold):
        return "hold", one.debit, one.credit, one.amount, one.up_to
    if isinstance(one, PostHold):
        return "post", one.hold, one.amount, one.keep_rest
    return ("void", one.hold) if isinstance(one, VoidHold) else ("reverse", one.transfer)


def _repeats(body: Any, one: AnyCommand, moved: int) -> bool:
    """Whether a command asks for what was done: an amount "up to" is more than what was moved, "all" is any."""
    if isinstance(one, (Move, Hold)):
        upto = one.up_to or (isinstance(one, Move) and one.up_to_debt)
        fits = one.amount == moved or (upto and moved < one.amount)
        return bool(body[:3] == _body(one)[:3] and fits)
    if isinstance(one, PostHold):
        return bool(body[:2] == ("post", one.hold) and one.amount in (None, moved))
    return bool(body == _body(one))
