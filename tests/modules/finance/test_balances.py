"""finance.user_balances: always what the ledger says, whoever writes what, also plain SQL against it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from headwater.kernel.errors import ConflictError, InputError
from headwater.kernel.lifecycle import Headwater
from headwater.kernel.settings import Settings
from headwater.kernel.transaction import Transaction
from headwater.modules.finance.repository import FinanceRepository
from headwater.modules.identity.models import User
from headwater.systems.abunfi import ABUNFI

from .conftest import LEDGER_FAULTS, Faults, sql

_IS_BLOCKED = "select cardinality(pg_blocking_pids($1)) > 0"
_SHOWN = "select balance, shares, yield_earned from finance.user_balances where user_id = $1"


async def _row(dsn: str, user_id: UUID) -> tuple[int, int, int]:
    connection = await asyncpg.connect(dsn)
    try:
        return tuple(int(value) for value in await connection.fetchrow(_SHOWN, user_id))  # type: ignore[return-value]
    finally:
        await connection.close()


async def test_a_balance_is_inserted_and_updated_as_if_it_were_a_table(
    headwater, finance, savers, database, faults: Faults
) -> None:
    connection = await asyncpg.connect(database)
    try:
        made = await connection.fetchrow(
            "insert into finance.user_balances (user_id, balance, shares, yield_earned) values ($1, 500, 400, 60)"
            " returning *",
            savers[2],
        )
        assert (made["currency"], made["balance"], made["shares"], made["yield_earned"]) == ("USD", 500, 400, 60)
        after = await connection.fetchval(
            "update finance.user_balances set balance = balance - 120 where user_id = $1 returning balance", savers[2]
        )
        assert after == 380
        await connection.execute(
            "update finance.user_balances set shares = 10, balance = balance + 7, yield_earned = 61 where user_id = $1",
            savers[2],
        )
        with pytest.raises(asyncpg.UniqueViolationError):
            await connection.execute("insert into finance.user_balances (user_id, balance) values ($1, 1)", savers[2])
        for wrong, error in (
            ("update finance.user_balances set balance = -1", asyncpg.ObjectNotInPrerequisiteStateError),
            ("update finance.user_balances set shares = -1", asyncpg.ObjectNotInPrerequisiteStateError),
            ("update finance.user_balances set balance = balance + 0.5", asyncpg.InvalidParameterValueError),
            (
                "update finance.user_balances set yield_earned = 0 where yield_earned > 0",
                asyncpg.InvalidParameterValueError,
            ),
            ("update finance.user_balances set held = 1", asyncpg.InvalidParameterValueError),
            ("update finance.user_balances set balance = null", asyncpg.InvalidParameterValueError),
            ("delete from finance.user_balances", asyncpg.ObjectNotInPrerequisiteStateError),
            (
                "insert into finance.user_balances (user_id, balance) values (uuidv7(), 5)",
                asyncpg.ForeignKeyViolationError,
            ),
        ):
            with pytest.raises(error):
                await connection.execute(wrong)
    finally:
        await connection.close()
    assert await _row(database, savers[2]) == (387, 10, 61)
    assert [(t.type.value, t.amount, t.shares) for t in (await finance.transactions(savers[2])).items] == [
        ("withdraw", 0, 390), ("deposit", 6, 0), ("yield", 1, None),
        ("withdraw", 120, 0),
        ("deposit", 440, 400), ("yield", 60, None),
    ]  # fmt: skip
    assert await faults() == []


async def test_two_writers_of_plain_sql_at_once_add_up(headwater, finance, savers, database, faults: Faults) -> None:
    first, second = await asyncpg.connect(database), await asyncpg.connect(database)
    change = "update finance.user_balances set balance = balance + 10 where user_id = $1"
    try:
        async with first.transaction():
            await first.execute(change, savers[0])
            waiting = asyncio.create_task(second.execute(change, savers[0]))
            while not await first.fetchval(_IS_BLOCKED, second.get_server_pid()):  # noqa: ASYNC110  # PostgreSQL tells
                await asyncio.sleep(0)
        await waiting
    finally:
        await first.close()
        await second.close()
    assert await _row(database, savers[0]) == (10_020, 10_000, 0)
    assert await faults() == []


async def test_the_whole_table_can_be_changed_by_one_statement(
    headwater, finance, savers, database, faults: Faults
) -> None:
    await sql(database, "update finance.user_balances set balance = balance * 2")
    assert [await _row(database, user) for user in savers[:2]] == [(20_000, 10_000, 0), (10_000, 5_000, 0)]
    assert await faults() == []


_amounts = st.integers(1, 3_000)
_who = st.integers(0, 2)
_steps = st.lists(
    st.one_of(
        st.tuples(st.just("deposit"), _who, _amounts),
        st.tuples(st.just("withdraw"), _who, _amounts),
        st.tuples(st.just("transfer"), _who, _who, _amounts),
        st.tuples(st.just("hold"), _who, _amounts),
        st.tuples(st.just("complete"), st.integers(0, 3)),
        st.tuples(st.just("fail"), st.integers(0, 3)),
        st.tuples(st.just("yield"), _amounts),
        st.tuples(st.just("sql balance"), _who, st.integers(-500, 4_000)),
        st.tuples(st.just("sql shares"), _who, st.integers(-50, 4_000)),
        st.tuples(st.just("sql yield"), _who, _amounts),
        st.tuples(st.just("sql insert"), _who, _amounts),
    ),
    min_size=3,
    max_size=14,
)


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=_steps)
async def test_after_any_steps_balances_are_the_ledgers_and_nothing_is_lost(database: str, steps: list[Any]) -> None:
    """The steps are played beside a model, and everything is compared after each. Yield also goes to the users that
    other examples left, so that the model is told what came of it.
    """
    async with Headwater.open(ABUNFI, Settings(database_url=database)) as headwater:
        play = _Play(headwater)
        await play.begin()
        for step in steps:
            await play.take(*step)
            await play.compare(step)
        async with headwater.postgres.connection() as connection:
            assert [tuple(row) for row in await connection.fetch(LEDGER_FAULTS)] == []
        assert (await play.finance.verify()).faults == []


class _Play:
    """Three users, and what they should have."""

    def __init__(self, headwater: Headwater) -> None:
        self.headwater = headwater
        self.finance = headwater.repository(FinanceRepository)
        self.who: list[UUID] = []
        self.money, self.held, self.earned = [0, 0, 0], [0, 0, 0], [0, 0, 0]
        self.known = [False, False, False]
        self.pending: list[tuple[UUID, int, int]] = []

    async def begin(self) -> None:
        users = self.headwater.repository(User)
        for _ in range(3):
            self.who.append((await users.create(self.headwater.autocommit, email=f"{uuid4()}@example.org")).id)

    async def take(self, kind: str, *said: int) -> None:
        """Take a step; what is refused must be refused by the model too, and changes nothing."""
        try:
            async with self.headwater.transaction() as tx:
                expected = await self._try(tx, kind, *said)
        except (ConflictError, InputError):
            assert not self._must_work(kind, *said), (kind, said)
        else:
            expected()

    def _free(self, at: int) -> int:
        return self.money[at] - self.held[at]

    def _must_work(self, kind: str, *said: int) -> bool:
        match kind:
            case "deposit":
                return True
            case "withdraw" | "hold":
                return said[1] <= self._free(said[0])
            case "transfer":
                return said[0] != said[1] and said[2] <= self._free(said[0])
            case "complete" | "fail":
                return True
            case "sql balance":
                return said[1] >= self.held[said[0]]
            case "sql insert":
                return not self.known[said[0]]
            case "sql yield":
                return self._free(said[0]) >= 0 and not self.known[said[0]]
        return False  # what shares allow is not modelled

    async def _try(self, tx: Transaction, kind: str, *said: int) -> Callable[[], None]:
        """Do it; returns what it does to the model."""
        finance, who = self.finance, self.who
        match kind:
            case "deposit":
                await finance.deposit(tx, user_id=who[said[0]], amount=said[1])
                return lambda: self._move(said[0], said[1])
            case "withdraw":
                await finance.withdraw(tx, user_id=who[said[0]], amount=said[1])
                return lambda: self._move(said[0], -said[1])
            case "transfer":
                await finance.transfer(tx, from_user_id=who[said[0]], to_user_id=who[said[1]], amount=said[2])
                return lambda: (self._move(said[0], -said[2]), self._move(said[1], said[2]), None)[-1]
            case "hold":
                made = await finance.withdraw(tx, user_id=who[said[0]], amount=said[1], pending=True)
                return lambda: self._hold(made.id, said[0], said[1])
            case "complete" | "fail":
                if said[0] >= len(self.pending):
                    return lambda: None
                key = self.pending[said[0]][0]
                await (finance.complete(tx, key) if kind == "complete" else finance.fail(tx, key))
                return lambda: self._end(said[0], kind == "complete")
            case "yield":
                before = [await self._earned(user, tx) for user in who]
                await finance.distribute_yield(tx, distribution_id=uuid4(), amount=said[0])
                got = [await self._earned(user, tx) - b for user, b in zip(who, before, strict=True)]
                return lambda: [self._earn(at, amount) for at, amount in enumerate(got)] and None
        done = await tx.connection.execute(_SQL[kind], who[said[0]], said[1])
        touched = not done.endswith(" 0")
        return lambda: self._written(kind, said[0], said[1]) if touched else None

    def _move(self, at: int, change: int) -> None:
        self.money[at] += change
        self.known[at] = True

    def _hold(self, key: UUID, at: int, amount: int) -> None:
        self.held[at] += amount
        self.pending.append((key, at, amount))

    def _end(self, which: int, completed: bool) -> None:
        _, at, amount = self.pending.pop(which)
        self.held[at] -= amount
        self.money[at] -= amount if completed else 0

    def _earn(self, at: int, amount: int) -> None:
        self.money[at] += amount
        self.earned[at] += amount

    def _written(self, kind: str, at: int, amount: int) -> None:
        self.known[at] = True
        if kind in ("sql balance", "sql insert"):
            self.money[at] = amount
        elif kind == "sql yield":
            self.earned[at] += amount

    async def _earned(self, user: UUID, tx: Transaction) -> int:
        return sum([balance.yield_earned for balance in await self.finance.balances(user, tx=tx)])

    async def compare(self, step: tuple[Any, ...]) -> None:
        for at, user in enumerate(self.who):
            rows = await self.finance.balances(user)
            assert len(rows) == self.known[at], step
            for row in rows:
                assert (row.balance, row.held, row.yield_earned) == (self.money[at], self.held[at], self.earned[at]), (
                    step
                )
                assert row.shares >= 0


_SQL = {
    "sql balance": "update finance.user_balances set balance = $2::bigint where user_id = $1",
    "sql shares": "update finance.user_balances set shares = $2::bigint where user_id = $1",
    "sql yield": "update finance.user_balances set yield_earned = yield_earned + $2::bigint where user_id = $1",
    "sql insert": "insert into finance.user_balances (user_id, balance) values ($1, $2::bigint)",
}
