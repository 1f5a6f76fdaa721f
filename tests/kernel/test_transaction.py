"""Transaction: together or not at all, retried when PostgreSQL says so, and never left half-done."""

from __future__ import annotations

import asyncio
from typing import Any

import asyncpg
import pytest
from sqlalchemy import func, select, update
from tests.kernel.conftest import EMPTY, Opener
from tests.kernel.shop import Category, Counter, Option, Product
from tests.kernel.test_postgres import kill_all, settled, whole

from headwater.kernel.errors import (
    AlreadyExists,
    DeadlockDetected,
    InvalidValue,
    LockNotAvailable,
    NotFound,
    ProgrammingError,
    SerializationFailure,
    TransientError,
    Unreachable,
)
from headwater.kernel.lifecycle import Headwater
from headwater.kernel.settings import Settings
from headwater.kernel.transaction import Transaction


async def names(hw: Headwater) -> list[str]:
    return [c.name for c in await hw.postgres.fetch(select(Category).order_by(Category.name))]


async def test_a_block_that_ends_well_is_committed_and_one_that_fails_is_not(hw: Headwater) -> None:
    categories = hw.repository(Category)
    async with hw.transaction() as tx:
        await categories.create(tx, name="kept")
    with pytest.raises(ZeroDivisionError):
        async with hw.transaction() as tx:
            await categories.create(tx, name="lost")
            raise ZeroDivisionError
    assert await names(hw) == ["kept"]
    whole(hw.postgres, 10)


@pytest.mark.parametrize(
    "error", [FileNotFoundError("mine"), TimeoutError("mine"), ConnectionResetError("mine"), EOFError()]
)
async def test_the_callers_own_errors_pass_through_untouched(hw: Headwater, error: Exception) -> None:
    with pytest.raises(type(error)) as caught:
        async with hw.transaction() as tx, tx.savepoint():
            raise error
    assert caught.value is error
    assert caught.value.__cause__ is None
    with pytest.raises(type(error)):
        await hw.run(lambda tx: _raise(error))


async def _raise(error: Exception) -> None:
    raise error


async def test_a_swallowed_failure_is_told_and_nothing_is_committed(hw: Headwater) -> None:
    categories = hw.repository(Category)
    with pytest.raises(ProgrammingError, match="Nothing was committed"):
        async with hw.transaction() as tx:
            await categories.create(tx, name="a")
            with pytest.raises(AlreadyExists):
                await categories.create(tx, name="a")
    assert await names(hw) == []
    with pytest.raises(ProgrammingError, match="only be rolled back"):
        async with hw.transaction() as tx:
            with pytest.raises(InvalidValue):
                await tx.fetch_value(select(func.sqrt(-1)))
            await categories.create(tx, name="a")
    whole(hw.postgres, 10)


async def test_a_transaction_cannot_be_used_after_its_end(hw: Headwater) -> None:
    async with hw.transaction() as tx:
        pass
    with pytest.raises(ProgrammingError, match="has ended"):
        await tx.fetch_value(select(1))
    with pytest.raises(ProgrammingError, match="has ended"):
        _ = tx.connection
    with pytest.raises(ProgrammingError, match="has ended"):
        async with tx.savepoint():
            pass
    with pytest.raises(ProgrammingError, match="has ended"):
        await hw.repository(Category).bulk_insert(tx, [{"name": "a"}])
    with pytest.raises(ProgrammingError, match="has ended"):
        await hw.repository(Category).lock(tx, 1)


async def test_a_transaction_is_one_conversation_at_a_time(hw: Headwater) -> None:
    async with hw.transaction() as tx:
        done = await asyncio.gather(*(tx.fetch_value(select(i)) for i in range(2)), return_exceptions=True)
        assert any(isinstance(d, ProgrammingError) for d in done) or done == [0, 1]
    whole(hw.postgres, 10)


# -- savepoints ------------------------------------------------------------------------------------------------------


async def test_a_savepoint_is_undone_alone(hw: Headwater) -> None:
    categories = hw.repository(Category)
    async with hw.transaction() as tx:
        await categories.create(tx, name="a")
        with pytest.raises(AlreadyExists):
            async with tx.savepoint():
                await categories.create(tx, name="b")
                await categories.create(tx, name="a")
        async with tx.savepoint() as inner:
            assert inner is tx
            await categories.create(tx, name="c")
            with pytest.raises(ZeroDivisionError):
                async with tx.savepoint():
                    await categories.create(tx, name="d")
                    raise ZeroDivisionError
    assert await names(hw) == ["a", "c"]


async def test_a_failure_swallowed_inside_a_savepoint_is_told_and_the_rest_goes_on(hw: Headwater) -> None:
    categories = hw.repository(Category)
    async with hw.transaction() as tx:
        await categories.create(tx, name="a")
        with pytest.raises(ProgrammingError):
            async with tx.savepoint():
                await categories.create(tx, name="b")
                with pytest.raises(AlreadyExists):
                    await categories.create(tx, name="a")
        await categories.create(tx, name="c")
    assert await names(hw) == ["a", "c"]


async def test_errors_of_the_raw_connection_are_translated_too(hw: Headwater) -> None:
    with pytest.raises(AlreadyExists, match="pick another name"):
        async with hw.transaction() as tx:
            for _ in range(2):
                await tx.connection.execute("insert into shop.categories (name) values ('a')")
    async with hw.transaction() as tx:
        with pytest.raises(ProgrammingError):
            async with tx.savepoint():
                await tx.connection.execute("selec")
        assert await tx.fetch_value(select(1)) == 1


# -- isolation -------------------------------------------------------------------------------------------------------


async def test_each_level_is_what_it_says(hw: Headwater) -> None:
    for level in ("read committed", "repeatable read", "serializable"):
        for read_only in (False, True):
            async with hw.transaction(isolation=level, read_only=read_only) as tx:
                assert await tx.connection.fetchval("show transaction_isolation") == level
                assert await tx.connection.fetchval("show transaction_read_only") == ("on" if read_only else "off")
    with pytest.raises(ProgrammingError, match="no isolation level 'chaos'"):
        async with hw.transaction(isolation="chaos"):  # type: ignore[arg-type]
            pass


async def test_a_read_only_transaction_refuses_to_write(hw: Headwater) -> None:
    with pytest.raises(ProgrammingError, match="read only"):
        async with hw.transaction(read_only=True) as tx:
            await hw.repository(Category).create(tx, name="a")


async def test_a_repeatable_read_sees_one_snapshot(hw: Headwater) -> None:
    categories = hw.repository(Category)
    async with hw.transaction(isolation="repeatable read") as tx:
        assert await categories.count(tx=tx) == 0
        await categories.create(hw.autocommit, name="a")
        assert await categories.count(tx=tx) == 0
        assert await categories.count() == 1


# -- run -------------------------------------------------------------------------------------------------------------


async def test_write_skew_is_retried_until_it_is_gone(hw: Headwater) -> None:
    options = hw.repository(Option)
    await options.bulk_insert(hw.autocommit, [{"key": "a", "count": 1}, {"key": "b", "count": 1}])
    both_have_read = asyncio.Barrier(2)
    attempts = {"a": 0, "b": 0}

    async def leave(key: str) -> bool:
        async def work(tx: Transaction) -> bool:
            attempts[key] += 1
            on_duty = await tx.fetch_value(select(func.sum(Option.count)))
            if attempts[key] == 1:
                await both_have_read.wait()
            if on_duty < 2:
                return False
            await options.update(tx, key, count=0)
            return True

        return await hw.run(work, isolation="serializable")

    assert sorted(await asyncio.gather(leave("a"), leave("b"))) == [False, True]
    assert sum(attempts.values()) > 2
    assert sum(o.count for o in (await options.list()).items) == 1


async def test_a_deadlock_is_retried(hw: Headwater, admin: Any) -> None:
    database = await admin.fetchval("select current_database()")
    await admin.execute(f"alter database \"{database}\" set deadlock_timeout = '20ms'")
    options = hw.repository(Option)
    await options.bulk_insert(hw.autocommit, [{"key": "a"}, {"key": "b"}])
    both_hold_one = asyncio.Barrier(2)
    attempts = 0

    async def both(first: str, second: str) -> None:
        met = False

        async def work(tx: Transaction) -> None:
            nonlocal attempts, met
            attempts += 1
            await _bump(tx, first)
            if not met:
                met = True
                await both_hold_one.wait()
            await _bump(tx, second)

        await hw.run(work)

    await asyncio.gather(both("a", "b"), both("b", "a"))
    assert attempts == 3
    assert [o.count for o in (await options.list()).items] == [2, 2]


async def _bump(tx: Transaction, key: str) -> None:
    assert await tx.execute(update(Option).where(Option.key == key).values(count=Option.count + 1)) == 1


@pytest.mark.parametrize("error", [SerializationFailure, DeadlockDetected, LockNotAvailable])
async def test_run_gives_up_with_the_last_error(hw: Headwater, error: type[TransientError]) -> None:
    raised: list[TransientError] = []

    async def work(tx: Transaction) -> None:
        await hw.repository(Category).create(tx, name="a")
        raised.append(error(f"attempt {len(raised) + 1}"))
        raise raised[-1]

    with pytest.raises(error) as caught:
        await hw.run(work, attempts_max=3)
    assert len(raised) == 3
    assert caught.value is raised[-1]
    assert await names(hw) == []
    with pytest.raises(ProgrammingError, match="attempts_max"):
        await hw.run(work, attempts_max=0)


async def test_what_cannot_succeed_is_not_tried_again(hw: Headwater) -> None:
    attempts = 0

    async def work(tx: Transaction) -> None:
        nonlocal attempts
        attempts += 1
        await hw.repository(Category).get(99, tx=tx)

    with pytest.raises(NotFound):
        await hw.run(work)
    assert attempts == 1


async def test_a_lock_that_is_not_free_is_transient(hw: Headwater) -> None:
    options = hw.repository(Option)
    await options.create(hw.autocommit, key="a")
    async with hw.transaction() as holder:
        await options.lock(holder, "a")
        with pytest.raises(LockNotAvailable):
            async with hw.transaction() as tx:
                await tx.fetch(select(Option).with_for_update(nowait=True))
        with pytest.raises(LockNotAvailable):
            async with hw.transaction() as tx:
                await tx.connection.execute("set local lock_timeout = 1")
                await options.lock(tx, "a")


# -- cancellation and death ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("turns", range(12))
async def test_a_task_cancelled_at_any_moment_leaves_nothing_behind(open_shop: Opener, turns: int) -> None:
    hw = await open_shop(pool_size_max=1)
    categories = hw.repository(Category)

    async def work() -> None:
        async with hw.transaction() as tx:
            await categories.create(tx, name="a")
            async with tx.savepoint():
                await categories.bulk_insert(tx, [{"name": "b"}])
            await asyncio.Event().wait()

    task = asyncio.create_task(work())
    for _ in range(turns):
        await asyncio.sleep(0.0005)
    task.cancel()
    await asyncio.sleep(0)
    task.cancel()  # once more while it rolls back
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await names(hw) == []
    await categories.create(hw.autocommit, name="c")  # must not fall into a transaction somebody left open
    await settled(hw.postgres)
    connection = await asyncpg.connect(hw.settings.database_url)
    assert [r["name"] for r in await connection.fetch("select name from shop.categories")] == ["c"]
    await connection.close()
    whole(hw.postgres, 1)


async def test_a_begin_that_is_cancelled_does_not_leave_a_transaction_open(open_shop: Opener, admin: Any) -> None:
    hw = await open_shop(pool_size_max=1)
    link = await hw.postgres.take()
    hw.postgres.give(link)
    for _ in range(30):
        manager = hw.transaction()
        task = asyncio.ensure_future(manager.__aenter__())
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await hw.repository(Category).create(hw.autocommit, name=f"c{_}")
    assert await admin.fetchval("select count(*) from shop.categories") == 30
    await settled(hw.postgres)
    whole(hw.postgres, 1)


async def test_a_connection_killed_inside_a_transaction_leaves_nothing_half_done(hw: Headwater) -> None:
    categories = hw.repository(Category)
    with pytest.raises(Unreachable):
        async with hw.transaction() as tx:
            await categories.create(tx, name="a")
            kill_all(hw)
            await categories.create(tx, name="b")
    with pytest.raises(Unreachable, match="may or may not have been committed"):
        async with hw.transaction() as tx:
            await categories.create(tx, name="c")
            kill_all(hw)
    with pytest.raises(Unreachable):
        async with hw.transaction() as tx, tx.savepoint():
            kill_all(hw)
    with pytest.raises(Unreachable):
        async with hw.transaction() as tx:
            kill_all(hw)
            await categories.bulk_insert(tx, [{"name": "d"}])
    with pytest.raises(ZeroDivisionError):
        async with hw.transaction() as tx:
            kill_all(hw)
            raise ZeroDivisionError
    assert await names(hw) == []
    whole(hw.postgres, 10)


async def test_a_deferred_constraint_speaks_at_commit(own_dsn: str) -> None:
    async with Headwater.open(EMPTY, Settings(database_url=own_dsn)) as hw:
        async with hw.postgres.connection() as connection:
            await connection.execute(
                "alter table shop.categories drop constraint categories_name_key;"
                "alter table shop.categories add constraint categories_name_key unique (name)"
                " deferrable initially deferred"
            )
        with pytest.raises(AlreadyExists, match="pick another name"):
            async with hw.transaction() as tx:
                await hw.repository(Category).bulk_insert(tx, [{"name": "a"}, {"name": "a"}])
        assert await names(hw) == []
        whole(hw.postgres, 10)


async def test_autocommit_commits_each_statement(hw: Headwater, admin: Any) -> None:
    made = await hw.repository(Counter).create(hw.autocommit)
    assert await admin.fetchval("select count(*) from shop.counters where id = $1", made.id) == 1
    assert await hw.autocommit.fetch_value(select(func.count()).select_from(Product)) == 0
