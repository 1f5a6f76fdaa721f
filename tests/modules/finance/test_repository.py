"""Finance: money comes, goes and moves; what is pending; ids; pages; the dashboard; the whole or nothing."""

from __future__ import annotations

import asyncio
from uuid import UUID, uuid4

import pytest
from asyncpg import ObjectNotInPrerequisiteStateError as Refused
from sqlalchemy import select, text

from headwater.kernel.errors import (
    AlreadyExists,
    InvalidValue,
    MissingReference,
    NotFound,
    SerializationFailure,
    StateConflict,
)
from headwater.kernel.tracking import Context
from headwater.kernel.transaction import Transaction
from headwater.modules.finance.models import Direction, HistoryEntry, TransactionStatus

from .conftest import Faults, sql


async def test_a_deposit_brings_a_share_for_each_minor_unit(headwater, finance, savers, faults: Faults) -> None:
    balance = await finance.balance(savers[0])
    assert (balance.balance, balance.shares, balance.held, balance.yield_earned) == (10_000, 10_000, 0, 0)
    with pytest.raises(NotFound, match="has no savings in USD"):
        await finance.balance(savers[2])
    assert await faults() == []


async def test_a_withdrawal_takes_shares_in_proportion_and_an_empty_balance_has_none(
    headwater, finance, savers, faults: Faults
) -> None:
    async with headwater.transaction() as tx:
        await finance.distribute_yield(tx, distribution_id=uuid4(), amount=1_500)  # 1,000 for the first
        taken = await finance.withdraw(tx, user_id=savers[0], amount=1_000)
        assert taken.shares == 910  # 10,000 * 1,000 / 11,000, rounded up
        rest = await finance.withdraw(tx, user_id=savers[0], amount=10_000)
        assert rest.shares == 9_090
    balance = await finance.balance(savers[0])
    assert (balance.balance, balance.shares, balance.yield_earned) == (0, 0, 1_000)
    assert await faults() == []


async def test_shares_can_be_said(headwater, finance, savers, faults: Faults) -> None:
    async with headwater.transaction() as tx:
        await finance.deposit(tx, user_id=savers[2], amount=100, shares=7)
        await finance.withdraw(tx, user_id=savers[2], amount=100, shares=0)
    balance = await finance.balance(savers[2])
    assert (balance.balance, balance.shares) == (0, 7)
    with pytest.raises(StateConflict, match="does not have so many shares"):
        async with headwater.transaction() as tx:
            await finance.deposit(tx, user_id=savers[2], amount=100)
            await finance.withdraw(tx, user_id=savers[2], amount=50, shares=1_000)
    assert (await finance.balance(savers[2])).balance == 0
    assert await faults() == []


async def test_a_transfer_has_two_sides_of_one_movement(headwater, finance, savers, faults: Faults) -> None:
    async with headwater.transaction() as tx:
        paid = await finance.transfer(tx, from_user_id=savers[0], to_user_id=savers[2], amount=2_500, reference="rent")
    assert (paid.direction, paid.shares, paid.status) == (Direction.OUT, 2_500, TransactionStatus.COMPLETED)
    (received,) = (await finance.transactions(savers[2])).items
    assert (received.direction, received.amount, received.shares) == (Direction.IN, 2_500, 2_500)
    assert (received.transfer_id, received.counterparty_id) == (paid.transfer_id, savers[0])
    assert received.reference == "rent"
    assert [(await finance.balance(user)).balance for user in savers] == [7_500, 5_000, 2_500]
    with pytest.raises(InvalidValue):
        async with headwater.transaction() as tx:
            await finance.transfer(tx, from_user_id=savers[0], to_user_id=savers[0], amount=1)
    assert await faults() == []


async def test_what_is_refused_changes_nothing(headwater, finance, savers, faults: Faults) -> None:
    for work, error, said in (
        (lambda tx: finance.withdraw(tx, user_id=savers[0], amount=10_001), StateConflict, "does not have so many"),
        (lambda tx: finance.withdraw(tx, user_id=savers[2], amount=1), StateConflict, "does not have so many"),
        (
            lambda tx: finance.transfer(tx, from_user_id=savers[1], to_user_id=savers[0], amount=5_001, pending=True),
            StateConflict,
            "does not have so many",
        ),
        (lambda tx: finance.deposit(tx, user_id=uuid4(), amount=1), MissingReference, "no such user"),
        (lambda tx: finance.deposit(tx, user_id=savers[0], amount=1, currency="XXX"), StateConflict, "no currency XXX"),
        (lambda tx: finance.deposit(tx, user_id=savers[0], amount=0), InvalidValue, "is not an amount"),
        (lambda tx: finance.deposit(tx, user_id=savers[0], amount=1.5), InvalidValue, "is not an amount"),
        (lambda tx: finance.deposit(tx, user_id=savers[0], amount=10**38), InvalidValue, "is not an amount"),
        (lambda tx: finance.deposit(tx, user_id=savers[0], amount=1, tx_hash="0xab"), InvalidValue, "network"),
        (lambda tx: finance.update_user_balance(tx, savers[0], 0), InvalidValue, "changes no balance"),
    ):
        with pytest.raises(error, match=said):
            async with headwater.transaction() as tx:
                await work(tx)
    assert [(await finance.balance(user)).balance for user in savers[:2]] == [10_000, 5_000]
    assert await faults() == []


async def test_what_is_pending_is_reserved_until_it_ends(headwater, finance, savers, faults: Faults) -> None:
    async with headwater.transaction() as tx:
        out = await finance.withdraw(tx, user_id=savers[0], amount=6_000, pending=True)
        over = await finance.transfer(tx, from_user_id=savers[0], to_user_id=savers[2], amount=3_000, pending=True)
        coming = await finance.deposit(tx, user_id=savers[0], amount=50_000, pending=True)
    balance = await finance.balance(savers[0])
    assert (balance.balance, balance.held) == (10_000, 9_000)
    with pytest.raises(StateConflict, match="What is pending is reserved"):
        async with headwater.transaction() as tx:
            await finance.withdraw(tx, user_id=savers[0], amount=1_001)
    assert (await finance.transactions(savers[2])).items == ()
    async with headwater.transaction() as tx:
        done = await finance.complete(tx, out.id, tx_hash="5VERv8", network="solana", block_number=7)
        assert (done.status, done.tx_hash, done.shares) == (TransactionStatus.COMPLETED, "5VERv8", 6_000)
        given_up = await finance.fail(tx, over.id, reason="changed my mind")
        assert (given_up.status, given_up.reason) == (TransactionStatus.FAILED, "changed my mind")
        assert (await finance.complete(tx, coming.id)).shares == 50_000
    balance = await finance.balance(savers[0])
    assert (balance.balance, balance.held, balance.shares) == (54_000, 0, 54_000)
    async with headwater.transaction() as tx:
        assert await finance.complete(tx, out.id) == done  # once more changes nothing
        assert await finance.fail(tx, over.id) == given_up
    for wrong, said in (
        (lambda tx: finance.fail(tx, out.id), "is completed and cannot become failed"),
        (lambda tx: finance.complete(tx, over.id), "is failed and cannot become completed"),
    ):
        with pytest.raises(StateConflict, match=said):
            async with headwater.transaction() as tx:
                await wrong(tx)
    with pytest.raises(NotFound):
        async with headwater.transaction() as tx:
            await finance.complete(tx, uuid4())
    assert await faults() == []


async def test_a_pending_transfer_that_arrives_is_told_to_both(headwater, finance, savers, faults: Faults) -> None:
    async with headwater.transaction() as tx:
        paid = await finance.transfer(tx, from_user_id=savers[0], to_user_id=savers[2], amount=400, pending=True)
        paid = await finance.complete(tx, paid.id)
    (received,) = (await finance.transactions(savers[2])).items
    assert (received.transfer_id, received.shares) == (paid.transfer_id, paid.shares)
    assert await faults() == []


async def test_an_id_happens_once_and_belongs_to_one_transaction(headwater, finance, savers, faults: Faults) -> None:
    key = uuid4()
    for _ in range(3):
        async with headwater.transaction() as tx:
            made = await finance.deposit(tx, user_id=savers[0], amount=70, id=key)
            assert (made.id, made.amount) == (key, 70)
    assert (await finance.balance(savers[0])).balance == 10_070
    taken = uuid4()
    for _ in range(2):  # what shares it takes has changed when it is repeated
        async with headwater.transaction() as tx:
            assert (await finance.withdraw(tx, user_id=savers[0], amount=70, id=taken)).shares == 70
            await finance.distribute_yield(tx, distribution_id=taken, amount=1_500)
    for other in (
        lambda tx: finance.deposit(tx, user_id=savers[0], amount=71, id=key),
        lambda tx: finance.withdraw(tx, user_id=savers[0], amount=70, id=key),
        lambda tx: finance.deposit(tx, user_id=savers[1], amount=70, id=key),
    ):
        with pytest.raises((AlreadyExists, StateConflict)):
            async with headwater.transaction() as tx:
                await other(tx)
    assert (await finance.balance(savers[0])).balance == 11_000
    assert await faults() == []


async def test_an_id_stormed_by_many_happens_once(headwater, finance, savers, crowd, faults: Faults) -> None:
    key = uuid4()

    async def one(tx: Transaction) -> UUID:
        return (await finance.withdraw(tx, user_id=savers[0], amount=900, id=key)).id

    assert set(await asyncio.gather(*(headwater.run(one) for _ in range(12)))) == {key}
    assert (await finance.balance(savers[0])).balance == 9_100
    assert await faults() == []


async def test_a_transaction_of_a_blockchain_is_credited_once(headwater, finance, savers, faults: Faults) -> None:
    chain = {"tx_hash": "5VERv8NMvz", "network": "solana", "block_number": 310_000_000}
    async with headwater.transaction() as tx:
        await finance.deposit(tx, user_id=savers[0], amount=10, **chain)
    with pytest.raises(AlreadyExists, match="already recorded"):
        async with headwater.transaction() as tx:
            await finance.deposit(tx, user_id=savers[0], amount=10, **chain)
    assert (await finance.balance(savers[0])).balance == 10_010
    assert await faults() == []


async def test_concurrent_withdrawals_never_take_more_than_there_is(
    headwater, finance, savers, crowd, faults: Faults
) -> None:
    async def one(tx: Transaction) -> bool:
        await finance.withdraw(tx, user_id=savers[0], amount=1_100)
        return True

    outcomes = await asyncio.gather(*(headwater.run(one) for _ in range(30)), return_exceptions=True)
    assert outcomes.count(True) == 9
    assert all(isinstance(outcome, StateConflict) for outcome in outcomes if outcome is not True)
    assert (await finance.balance(savers[0])).balance == 100
    assert await faults() == []


async def test_those_who_empty_a_balance_at_once_leave_no_shares(
    headwater, finance, savers, crowd, faults: Faults
) -> None:
    async with headwater.transaction() as tx:
        await finance.distribute_yield(tx, distribution_id=uuid4(), amount=1_500)  # a share is worth 1.1 now

    async def one(tx: Transaction) -> int | None:
        return (await finance.withdraw(tx, user_id=savers[0], amount=1_000)).shares

    taken = await asyncio.gather(*(headwater.run(one) for _ in range(11)))
    assert sum(taken) == 10_000
    balance = await finance.balance(savers[0])
    assert (balance.balance, balance.shares) == (0, 0)
    assert await faults() == []


async def test_users_who_pay_each_other_at_once_do_not_deadlock(
    headwater, finance, savers, crowd, faults: Faults
) -> None:
    async def one(number: int) -> None:
        here, there = (savers[0], savers[1]) if number % 2 else (savers[1], savers[0])
        async with headwater.transaction() as tx:
            await finance.transfer(tx, from_user_id=here, to_user_id=there, amount=1 + number)

    await asyncio.gather(*(one(number) for number in range(40)))
    assert await headwater.postgres.fetch_value(_DEADLOCKS) == 0
    assert sum([(await finance.balance(user)).balance for user in savers[:2]]) == 15_000
    assert await faults() == []


async def test_update_user_balance_adds_and_takes_whoever_else_does(
    headwater, finance, savers, crowd, faults: Faults
) -> None:
    async def one(tx: Transaction) -> int:
        return (await finance.update_user_balance(tx, savers[1], 3)).balance

    async def other(tx: Transaction) -> int:
        return (await finance.update_user_balance(tx, savers[1], -2)).balance

    after = await asyncio.gather(*(headwater.run(work) for _ in range(20) for work in (one, other)))
    assert (await finance.balance(savers[1])).balance == 5_020
    assert 5_020 in after
    assert await faults() == []


async def test_execute_transaction_commits_the_whole_or_nothing(headwater, finance, savers, faults: Faults) -> None:
    async def works(tx: Transaction) -> int:
        await finance.deposit(tx, user_id=savers[2], amount=10)
        await finance.transfer(tx, from_user_id=savers[0], to_user_id=savers[2], amount=90)
        return (await finance.balance(savers[2], tx=tx)).balance

    assert await finance.execute_transaction(works, context=Context(actor="the night job")) == 100

    async def fails(tx: Transaction) -> None:
        await finance.deposit(tx, user_id=savers[2], amount=1_000)
        await finance.withdraw(tx, user_id=savers[0], amount=500)
        await finance.withdraw(tx, user_id=savers[1], amount=10**9)

    with pytest.raises(StateConflict):
        await finance.execute_transaction(fails)

    async def dies(tx: Transaction) -> None:
        await finance.deposit(tx, user_id=savers[2], amount=1_000)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await finance.execute_transaction(dies)
    assert [(await finance.balance(user)).balance for user in savers] == [9_910, 5_000, 100]
    entries = await headwater.postgres.fetch(_entries())
    assert {entry.actor for entry in entries if entry.user_id == savers[2]} == {"the night job"}
    assert await faults() == []


async def test_execute_transaction_runs_again_after_a_conflict(headwater, finance, savers) -> None:
    tries = 0

    async def work(tx: Transaction) -> None:
        nonlocal tries
        tries += 1
        await finance.deposit(tx, user_id=savers[0], amount=5)
        if tries < 3:
            raise SerializationFailure("As PostgreSQL would say it.")

    await finance.execute_transaction(work)
    assert (tries, (await finance.balance(savers[0])).balance) == (3, 10_005)


@pytest.mark.parametrize("isolation", ["repeatable read", "serializable"])
async def test_callers_of_stronger_isolation_stay_correct(
    headwater, finance, savers, crowd, isolation, faults: Faults
) -> None:
    async def one(tx: Transaction) -> None:
        before = (await finance.balance(savers[0], tx=tx)).balance
        await finance.withdraw(tx, user_id=savers[0], amount=10)
        assert (await finance.balance(savers[0], tx=tx)).balance == before - 10

    await asyncio.gather(*(headwater.run(one, isolation=isolation, attempts_max=50) for _ in range(10)))
    assert (await finance.balance(savers[0])).balance == 9_900
    assert await faults() == []


async def test_transactions_are_paged_newest_first_and_each_appears_once(headwater, finance, savers) -> None:
    for amount in range(1, 24):
        async with headwater.transaction() as tx:
            await finance.deposit(tx, user_id=savers[1], amount=amount)
    seen: list[int] = []
    cursor = None
    while True:
        page = await finance.transactions(savers[1], limit=5, cursor=cursor)
        seen += [one.amount for one in page.items]
        if (cursor := page.next) is None:
            break
    assert seen == [*range(23, 0, -1), 5_000]
    assert (await finance.transactions_json(savers[1], limit=5)).count == 5


async def test_a_currency_declares_its_scale_once(headwater, finance, savers, faults: Faults) -> None:
    async with headwater.transaction() as tx:
        await finance.open_currency(tx, "JPY", scale=0)
        await finance.open_currency(tx, "JPY", scale=0)
        await finance.deposit(tx, user_id=savers[0], amount=900, currency="JPY")
    assert {b.currency: b.balance for b in await finance.balances(savers[0])} == {"JPY": 900, "USD": 10_000}
    with pytest.raises(StateConflict, match="another scale"):
        async with headwater.transaction() as tx:
            await finance.open_currency(tx, "JPY", scale=2)
    with pytest.raises(InvalidValue):
        await finance.open_currency(headwater.autocommit, "", scale=2)
    assert await faults() == []


async def test_who_sees_it_and_how_it_was_stands_in_the_trail(headwater, finance, savers) -> None:
    async with headwater.transaction(context=Context(actor="emeka", reason="closing")) as tx:
        out = await finance.withdraw(tx, user_id=savers[0], amount=4_000, pending=True)
        await finance.complete(tx, out.id)
    first, reserved, ended = [e for e in await headwater.postgres.fetch(_entries()) if e.user_id == savers[0]]
    assert (first.number, first.action, first.before, first.after["balance"]) == (1, "insert", {"balance": 0}, 10_000)
    assert (reserved.action, reserved.actor, reserved.before) == ("insert", "emeka", None)
    assert (reserved.after["status"], "balance" in reserved.after) == ("pending", False)
    assert (ended.action, ended.actor, ended.transaction_id) == ("update", "emeka", out.id)
    assert (ended.before["status"], ended.before["balance"]) == ("pending", 10_000)
    assert (ended.after["status"], ended.after["balance"]) == ("completed", 6_000)


async def test_plain_sql_is_a_deposit_like_any_other(headwater, finance, savers, database, faults: Faults) -> None:
    await sql(
        database,
        f"insert into finance.transactions (user_id, type, amount, status)"
        f" values ('{savers[2]}', 'deposit', 100, 'completed'), ('{savers[2]}', 'deposit', 50, 'pending')",
        "update finance.transactions set status = 'completed' where amount = 50",
    )
    balance = await finance.balance(savers[2])
    assert (balance.balance, balance.shares) == (150, 150)
    assert await faults() == []


async def test_what_is_recorded_does_not_change(headwater, finance, savers, database, faults: Faults) -> None:
    for statement in (
        "update finance.transactions set amount = amount + 1",
        "update finance.transactions set status = 'pending', ended_at = null",
        "delete from finance.transactions",
        "truncate finance.transactions cascade",
        "update finance.transaction_history set actor = 'nobody'",
        "delete from finance.transaction_history",
        "truncate finance.transaction_history",
    ):
        with pytest.raises(Refused):
            await sql(database, statement)
    assert await faults() == []


def _entries():
    return select(HistoryEntry).order_by(HistoryEntry.user_id, HistoryEntry.number)


_DEADLOCKS = text("select deadlocks from pg_stat_database where datname = current_database()")
