"""Yield: divided by shares to the last minor unit, once, also when whoever divides is killed in the middle."""

from __future__ import annotations

import asyncio
import sys
from fractions import Fraction
from uuid import UUID, uuid4

import asyncpg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import insert, select, text

from headwater.kernel.errors import InvalidValue, StateConflict
from headwater.kernel.lifecycle import Headwater
from headwater.kernel.settings import Settings
from headwater.modules.finance.models import Distribution, MoneyTransaction, TransactionStatus, TransactionType
from headwater.modules.finance.repository import FinanceRepository
from headwater.modules.identity.models import User
from headwater.systems.abunfi import ABUNFI

from .conftest import Faults


def parts_of(amount: int, shares: dict[UUID, int]) -> dict[UUID, int]:
    """The largest remainder, as the books have it: what PostgreSQL must say."""
    total = sum(shares.values())
    exact = {user: Fraction(amount * owned, total) for user, owned in shares.items() if owned}
    parts = {user: int(part) for user, part in exact.items()}
    left = amount - sum(parts.values())
    for user in sorted(exact, key=lambda u: (parts[u] - exact[u], u))[:left]:
        parts[user] += 1
    return {user: part for user, part in parts.items() if part}


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    owned=st.lists(st.one_of(st.integers(1, 9), st.integers(1, 10**6), st.integers(1, 10**30)), min_size=1, max_size=8),
    amount=st.one_of(st.integers(1, 20), st.integers(1, 10**9), st.integers(1, 10**30)),
)
async def test_every_unit_is_paid_and_none_is_made(database: str, owned: list[int], amount: int) -> None:
    async with Headwater.open(ABUNFI, Settings(database_url=database)) as headwater:
        finance, currency = headwater.repository(FinanceRepository), f"C{uuid4().hex}"
        users = headwater.repository(User)
        async with headwater.transaction() as tx:
            await finance.open_currency(tx, currency, scale=0)
            shares = {(await users.create(tx, email=f"{uuid4()}@example.org")).id: n for n in owned}
            for user, count in shares.items():
                await finance.deposit(tx, user_id=user, amount=1, shares=count, currency=currency)
            made = await finance.distribute_yield(tx, distribution_id=uuid4(), amount=amount, currency=currency)
            expected = parts_of(amount, shares)
            assert (made.amount, made.shares, made.holders) == (amount, sum(owned), len(expected))
            paid = {user: (await finance.balance(user, currency, tx=tx)).yield_earned for user in shares}
        assert sum(paid.values()) == amount
        assert {user: part for user, part in paid.items() if part} == expected
        async with headwater.postgres.connection() as connection:
            assert await connection.fetchval(_SUM_OF, currency) == 0
        assert (await finance.verify()).faults == []


_SUM_OF = """select sum(a.balance) from ledger.accounts a join ledger.assets s on s.id = a.asset_id where s.code = $1"""


def test_the_books_themselves_lose_nothing() -> None:
    users = [UUID(int=n) for n in range(1, 4)]
    assert parts_of(100, dict.fromkeys(users, 1)) == {users[0]: 34, users[1]: 33, users[2]: 33}
    assert parts_of(1, {users[0]: 1, users[1]: 2}) == {users[1]: 1}


async def test_a_distribution_happens_once_for_its_id(headwater, finance, savers, faults: Faults) -> None:
    key = uuid4()
    for _ in range(3):
        async with headwater.transaction() as tx:
            made = await finance.distribute_yield(tx, distribution_id=key, amount=301, reference="May")
            assert (made.amount, made.shares, made.holders) == (301, 15_000, 2)
    assert [(await finance.balance(user)).yield_earned for user in savers[:2]] == [201, 100]
    for other in ({"amount": 302, "reference": "May"}, {"amount": 301, "reference": "June"}):
        with pytest.raises(StateConflict, match="was another one"):
            async with headwater.transaction() as tx:
                await finance.distribute_yield(tx, distribution_id=key, **other)
    async with headwater.transaction() as tx:
        await finance.distribute_yield(tx, distribution_id=uuid4(), amount=3)
    assert [(await finance.balance(user)).yield_earned for user in savers[:2]] == [203, 101]
    assert await faults() == []


async def test_without_shares_without_currency_and_without_amount_nothing_is_divided(
    headwater, finance, people
) -> None:
    for wrong, error, said in (
        ({"amount": 5}, StateConflict, "nobody has shares"),
        ({"amount": 5, "currency": "XXX"}, StateConflict, "no currency XXX"),
        ({"amount": 0}, InvalidValue, "not an amount"),
        ({"amount": 2.0}, InvalidValue, "not an amount"),
    ):
        with pytest.raises(error, match=said):
            async with headwater.transaction() as tx:
                await finance.distribute_yield(tx, distribution_id=uuid4(), **wrong)


async def test_the_bound_of_other_statements_is_as_before(headwater, finance, savers) -> None:
    bound = text("select current_setting('statement_timeout')")
    async with headwater.transaction() as tx:
        before = await tx.fetch_value(bound)
        await finance.distribute_yield(tx, distribution_id=uuid4(), amount=3)
        assert await tx.fetch_value(bound) == before
    assert before != "0"


async def test_many_who_divide_the_same_at_once_pay_once(headwater, finance, savers, crowd, faults: Faults) -> None:
    key = uuid4()

    async def one() -> UUID:
        return await headwater.run(lambda tx: _divide(finance, tx, key))

    assert set(await asyncio.gather(*(one() for _ in range(8)))) == {key}
    assert sum([(await finance.balance(user)).yield_earned for user in savers[:2]]) == 777
    assert await faults() == []


async def test_dividing_among_people_who_pay_and_withdraw_meanwhile(
    headwater, finance, savers, crowd, faults: Faults
) -> None:
    async def pay(number: int) -> None:
        here, there = (savers[0], savers[1]) if number % 2 else (savers[1], savers[0])
        async with headwater.transaction() as tx:
            await finance.transfer(tx, from_user_id=here, to_user_id=there, amount=10)

    await asyncio.gather(
        *(pay(number) for number in range(20)),
        *(headwater.run(lambda tx: _divide(finance, tx, uuid4())) for _ in range(5)),
    )
    balances = [await finance.balance(user) for user in savers[:2]]
    assert sum(balance.balance for balance in balances) == 15_000 + 5 * 777
    assert await headwater.postgres.fetch_value(_DEADLOCKS) == 0
    assert await faults() == []


_DEADLOCKS = text("select deadlocks from pg_stat_database where datname = current_database()")


async def _divide(finance: FinanceRepository, tx, key: UUID) -> UUID:
    return (await finance.distribute_yield(tx, distribution_id=key, amount=777)).id


async def test_one_statement_pays_a_thousand_holders(headwater, finance, faults: Faults) -> None:
    await _hold(headwater, 1_000)
    async with headwater.transaction() as tx:
        made = await finance.distribute_yield(tx, distribution_id=uuid4(), amount=1_000_003)
    assert made.holders == 1_000
    rows = await headwater.postgres.fetch(
        select(MoneyTransaction.user_id, MoneyTransaction.amount).where(MoneyTransaction.distribution_id == made.id)
    )
    shares = await headwater.postgres.fetch(text("select user_id, shares from finance.user_balances"))
    assert {r.user_id: r.amount for r in rows} == parts_of(1_000_003, {s.user_id: int(s.shares) for s in shares})
    assert await faults() == []


_KILLED_AFTER_PAYING = """
import asyncio, sys
from uuid import UUID
from headwater.kernel.lifecycle import Headwater
from headwater.kernel.settings import Settings
from headwater.modules.finance.repository import FinanceRepository
from headwater.systems.abunfi import ABUNFI

async def main():
    async with Headwater.open(ABUNFI, Settings(database_url=sys.argv[1])) as headwater:
        async with headwater.transaction() as tx:
            finance = headwater.repository(FinanceRepository)
            await finance.distribute_yield(tx, distribution_id=UUID(sys.argv[2]), amount=30_001)
            print("paid, not committed", flush=True)
            await asyncio.Event().wait()

asyncio.run(main())
"""


async def test_killed_between_paying_and_commit_and_run_again_it_has_paid_once(
    headwater, finance, database, faults: Faults
) -> None:
    await _hold(headwater, 300)
    key = uuid4()
    for _ in range(2):
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", _KILLED_AFTER_PAYING, database, str(key), stdout=asyncio.subprocess.PIPE
        )
        assert process.stdout is not None
        assert (await process.stdout.readline()).decode().strip() == "paid, not committed"
        process.kill()
        await process.wait()
    assert await headwater.repository(Distribution).count() == 0
    assert await _paid(headwater) == 0
    async with headwater.transaction() as tx:
        await finance.distribute_yield(tx, distribution_id=key, amount=30_001)
    assert await _paid(headwater) == 30_001
    assert await faults() == []


async def test_a_backend_killed_in_the_middle_has_paid_nobody(headwater, finance, database, faults: Faults) -> None:
    """The last account it would pay is locked by somebody, so that it stops in the middle of its statement."""
    await _hold(headwater, 300)
    key = uuid4()
    holder, divider = await asyncpg.connect(database), await asyncpg.connect(database)
    try:
        held = holder.transaction()
        await held.start()
        await holder.execute(_LOCK_THE_LAST)
        pid = divider.get_server_pid()
        dividing = asyncio.create_task(divider.execute("select finance.distribute_yield($1, 'USD', 777, null)", key))
        while not await holder.fetchval("select cardinality(pg_blocking_pids($1)) > 0", pid):  # noqa: ASYNC110
            await asyncio.sleep(0)
        await holder.execute("select pg_terminate_backend($1)", pid)
        with pytest.raises(asyncpg.PostgresError):
            await dividing
        await held.rollback()
    finally:
        await holder.close()
        divider.terminate()
    assert await _paid(headwater) == 0
    async with headwater.transaction() as tx:
        await finance.distribute_yield(tx, distribution_id=key, amount=777)
    assert await _paid(headwater) == 777
    assert await faults() == []


_LOCK_THE_LAST = """
select from ledger.accounts where id = (select max(savings_account_id) from finance.holders) for no key update
"""


async def _paid(headwater: Headwater) -> int:
    return int(await headwater.postgres.fetch_value(text("select sum(yield_earned) from finance.user_balances")))


async def _hold(headwater: Headwater, count: int) -> None:
    """So many users with savings, written as one would from psql."""
    async with headwater.transaction() as tx:
        await tx.fetch(insert(User).values([{"email": f"{uuid4()}@example.org"} for _ in range(count)]))
        users = await tx.fetch(select(User.id))
        await tx.execute(
            insert(MoneyTransaction).values(
                [
                    {
                        "user_id": user.id,
                        "type": TransactionType.DEPOSIT,
                        "amount": 100 + number * 7_919 % 10_007,
                        "status": TransactionStatus.COMPLETED,
                    }
                    for number, user in enumerate(users)
                ]
            )
        )
