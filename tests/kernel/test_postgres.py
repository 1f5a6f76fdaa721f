"""Postgres: connections are handed over in order, lost ones are replaced, and nothing is ever counted twice."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
import psycopg
import pytest
from sqlalchemy import func, insert, select
from sqlalchemy.engine import make_url
from tests.kernel.conftest import Opener
from tests.kernel.shop import Category, Counter, Product

from headwater.kernel.errors import (
    HeadwaterError,
    PoolExhausted,
    ProgrammingError,
    StatementTimeout,
    Unreachable,
)
from headwater.kernel.lifecycle import Headwater
from headwater.kernel.postgres import Link, Postgres, where
from headwater.kernel.repository import Repository
from headwater.kernel.settings import Settings
from headwater.kernel.transaction import Autocommit, transaction


@asynccontextmanager
async def pool(dsn: str, **changes: Any) -> AsyncIterator[Postgres]:
    postgres = await Postgres.open(Settings(database_url=dsn, **changes))
    try:
        yield postgres
    finally:
        await postgres.close(grace_seconds=1)


def whole(postgres: Postgres, size_max: int) -> None:
    """Every connection is idle, none is lost, and no place is taken by nobody."""
    figures = postgres.figures()
    assert figures.in_use == 0
    assert figures.waiting == 0
    assert figures.size == figures.idle <= size_max
    assert postgres._places_taken == 0


async def settled(postgres: Postgres) -> None:
    """Wait for what is brought back to a known state in the background."""
    await asyncio.gather(*postgres._settling)


def kill_all(hw: Headwater) -> int:
    """End every connection to the database. The loop has no turn meanwhile, so no driver knows of it yet."""
    with psycopg.connect(hw.settings.database_url, autocommit=True) as connection:
        killed = connection.execute(
            "select count(pg_terminate_backend(pid, 5000)) from pg_stat_activity"
            " where datname = current_database() and pid <> pg_backend_pid()"
        ).fetchone()
    assert killed is not None
    return int(killed[0])


async def test_a_connection_is_reused_last_in_first_out(dsn: str) -> None:
    async with pool(dsn) as postgres:
        a, b = await postgres.take(), await postgres.take()
        postgres.give(b)
        postgres.give(a)
        assert await postgres.take() is a
        postgres.give(a)
        figures = postgres.figures()
        assert (figures.size, figures.idle, figures.opened_total, figures.size_max) == (2, 2, 2, 10)


async def test_waiters_are_served_in_the_order_they_came(dsn: str) -> None:
    async with pool(dsn, pool_size_max=1) as postgres:
        link = await postgres.take()
        served: list[int] = []

        async def wait(number: int) -> None:
            mine = await postgres.take()
            served.append(number)
            await asyncio.sleep(0)
            postgres.give(mine)

        tasks = [asyncio.create_task(wait(i)) for i in range(20)]
        await asyncio.sleep(0)
        assert postgres.figures().waiting == 20
        postgres.give(link)
        late = asyncio.create_task(wait(99))
        await asyncio.gather(*tasks, late)
        assert served == [*range(20), 99]
        assert postgres.figures().waited_total == 21
        whole(postgres, 1)


async def test_whoever_waits_too_long_is_told_that_the_pool_is_exhausted(dsn: str) -> None:
    async with pool(dsn, pool_size_max=1, pool_wait_seconds=0.02) as postgres:
        link = await postgres.take()
        with pytest.raises(PoolExhausted, match="all 1 are at work"):
            await postgres.take()
        assert postgres.figures().exhausted_total == 1
        assert postgres.figures().waiting == 0
        postgres.give(link)
        assert await postgres.fetch_value(select(1)) == 1
        whole(postgres, 1)


async def test_a_connection_given_in_the_moment_the_time_runs_out_is_not_lost(dsn: str) -> None:
    async with pool(dsn, pool_size_max=1, pool_wait_seconds=0.02) as postgres:
        link = await postgres.take()
        waiting = asyncio.create_task(postgres.take())
        await asyncio.sleep(0)
        (waiter,) = postgres._waiting
        # The gift comes first and takes so long that the timer is due in the same turn of the loop.
        waiter.get_loop().call_later(0.01, lambda: (_block(0.05), postgres.give(link)))
        assert await waiting is link
        postgres.give(link)
        whole(postgres, 1)


def _block(seconds: float) -> None:
    """Keep the loop busy until timers are due."""
    from time import perf_counter

    end = perf_counter() + seconds
    while perf_counter() < end:
        pass


async def test_a_waiter_cancelled_in_the_moment_it_is_served_passes_the_connection_on(dsn: str) -> None:
    async with pool(dsn, pool_size_max=1) as postgres:
        link = await postgres.take()
        first, second = asyncio.create_task(postgres.take()), asyncio.create_task(postgres.take())
        await asyncio.sleep(0)
        postgres.give(link)
        first.cancel()
        assert await second is link
        with pytest.raises(asyncio.CancelledError):
            await first
        postgres.give(link)
        whole(postgres, 1)


async def test_a_broken_connection_gives_its_place_to_exactly_one_waiter(dsn: str) -> None:
    async with pool(dsn, pool_size_max=1) as postgres:
        link = await postgres.take()
        waiting = [asyncio.create_task(postgres.take()) for _ in range(3)]
        await asyncio.sleep(0)
        link.connection.terminate()
        postgres.give(link)
        newcomer = asyncio.create_task(postgres.take())  # must not slip in before those who wait
        new = await waiting[0]
        assert postgres.figures().size == 1
        assert new is not link
        for task in (*waiting[1:], newcomer):
            postgres.give(new)
            assert await task is new
        postgres.give(new)
        whole(postgres, 1)


async def test_a_waiter_cancelled_with_a_place_in_hand_passes_the_place_on(dsn: str) -> None:
    async with pool(dsn, pool_size_max=1) as postgres:
        link = await postgres.take()
        first, second = asyncio.create_task(postgres.take()), asyncio.create_task(postgres.take())
        await asyncio.sleep(0)
        link.connection.terminate()
        postgres.give(link)
        first.cancel()
        postgres.give(await second)
        whole(postgres, 1)


async def test_a_connection_that_cannot_be_opened_frees_its_place(dsn: str) -> None:
    async with pool(dsn, pool_size_max=2) as postgres:
        held = await postgres.take()
        good = postgres.settings
        postgres.settings = Settings(database_url=dsn.replace("/test_", "/absent_"), pool_size_max=2)
        attempts = [asyncio.create_task(postgres.take()) for _ in range(5)]
        for failed in await asyncio.gather(*attempts[:4], return_exceptions=True):
            assert isinstance(failed, Unreachable)
        with pytest.raises(Unreachable):
            await attempts[4]
        postgres.settings = good
        postgres.give(held)
        assert await postgres.fetch_value(select(1)) == 1
        whole(postgres, 2)


async def test_cancelling_an_opening_frees_its_place(dsn: str) -> None:
    async with pool(dsn, pool_size_max=1) as postgres:
        link = await postgres.take()
        link.connection.terminate()
        postgres.give(link)
        opening = asyncio.create_task(postgres.take())
        second = asyncio.create_task(postgres.take())
        await asyncio.sleep(0)
        opening.cancel()
        postgres.give(await second)
        whole(postgres, 1)


async def test_the_pool_survives_a_storm_of_cancellations_and_broken_connections(dsn: str) -> None:
    dice = random.Random(7)
    async with pool(dsn, pool_size_max=3) as postgres:

        async def work() -> None:
            link = await postgres.take()
            try:
                for _ in range(dice.randrange(3)):
                    await asyncio.sleep(0)
                if dice.random() < 0.2:
                    link.connection.terminate()
                elif dice.random() < 0.5:
                    await link.connection.fetchval("select 1")
            except asyncio.CancelledError:
                link.unsettled = True
                raise
            finally:
                postgres.give(link)

        for _ in range(60):
            tasks = [asyncio.create_task(work()) for _ in range(10)]
            for task in tasks:
                for _ in range(dice.randrange(4)):
                    await asyncio.sleep(0)
                if dice.random() < 0.4:
                    task.cancel()
            for outcome in await asyncio.gather(*tasks, return_exceptions=True):
                assert outcome is None or isinstance(outcome, asyncio.CancelledError)
            assert postgres.figures().size <= 3
        await settled(postgres)
        whole(postgres, 3)


async def test_no_more_connections_are_opened_than_allowed(dsn: str, admin: Any) -> None:
    async with pool(dsn, pool_size_max=4) as postgres:
        await asyncio.gather(*(postgres.fetch_value(select(func.pg_sleep(0.001))) for _ in range(40)))
        assert postgres.figures().size == postgres.figures().opened_total == 4
        assert await admin.fetchval("select count(*) from pg_stat_activity where datname = current_database()") == 5


# -- closing ---------------------------------------------------------------------------------------------------------


async def test_close_waits_for_running_work_and_turns_waiters_away(dsn: str) -> None:
    postgres = await Postgres.open(Settings(database_url=dsn, pool_size_max=1))
    running = asyncio.create_task(postgres.fetch_value(select(func.pg_sleep(0.05), 7)))
    await asyncio.sleep(0)
    waiting = asyncio.create_task(postgres.fetch_value(select(1)))
    await asyncio.sleep(0)
    await postgres.close()
    assert running.done()
    assert running.exception() is None
    with pytest.raises(Unreachable, match="closed"):
        await waiting
    with pytest.raises(Unreachable, match="closed"):
        await postgres.fetch_value(select(1))
    await postgres.close()
    assert postgres.figures().size == 0


async def test_close_ends_what_does_not_end_in_time(dsn: str) -> None:
    postgres = await Postgres.open(Settings(database_url=dsn))
    running = asyncio.create_task(postgres.execute(select(func.pg_sleep(60))))
    await asyncio.sleep(0.01)
    await postgres.close(grace_seconds=0.01)
    with pytest.raises(Unreachable):
        await running


async def test_a_connection_being_opened_while_the_pool_closes_does_not_outlive_it(dsn: str, admin: Any) -> None:
    postgres = await Postgres.open(Settings(database_url=dsn))
    held = await postgres.take()
    opening = asyncio.create_task(postgres.take())
    await asyncio.sleep(0)
    closing = asyncio.create_task(postgres.close())
    with pytest.raises(Unreachable, match="closed"):
        await opening
    postgres.give(held)
    await closing
    assert (postgres.figures().size, postgres._places_taken) == (0, 0)


# -- lost connections ------------------------------------------------------------------------------------------------


async def test_reads_do_not_notice_that_every_idle_connection_was_killed(hw: Headwater) -> None:
    products = hw.repository(Product)
    made = await products.create(hw.autocommit, name="a")
    links = [await hw.postgres.take() for _ in range(5)]
    for link in links:
        hw.postgres.give(link)
    for read in (
        lambda: products.get(made.id),
        lambda: products.find_by(Product.name == "a"),
        lambda: products.list(),
        lambda: products.count(),
        lambda: products.get_many([made.id]),
        lambda: products.get(made.id, tx=hw.autocommit),
        lambda: hw.postgres.fetch(select(Product)),
        lambda: hw.postgres.ping(),
        lambda: asyncio.gather(*(products.get(made.id) for _ in range(9))),
    ):
        assert kill_all(hw) >= 1
        assert await read()
    assert kill_all(hw) >= 1
    async with hw.transaction() as tx:
        assert await products.get(made.id, tx=tx) == made


async def test_a_write_that_meets_a_dead_connection_says_that_its_outcome_is_unknown(hw: Headwater) -> None:
    categories = hw.repository(Category)
    kill_all(hw)
    with pytest.raises(Unreachable, match="may or may not have been committed"):
        await categories.create(hw.autocommit, name="a")
    assert (await categories.create(hw.autocommit, name="b")).name == "b"
    whole(hw.postgres, 10)


async def test_a_select_that_calls_an_unknown_function_is_not_run_twice(hw: Headwater) -> None:
    kill_all(hw)
    with pytest.raises(Unreachable):
        await hw.postgres.fetch_value(select(func.nextval("shop.categories_id_seq")))
    assert await hw.postgres.fetch_value(select(func.nextval("shop.categories_id_seq"))) == 1


@pytest.mark.parametrize(
    "dsn",
    [
        "postgresql://u:s3cret@127.0.0.1:1/db",
        "postgresql://u:s3cret@localhost.invalid/db",
        "postgresql://u:s3cret@/db?host=/nowhere",
        "postgresql://u:s3cret@h:port/db",
        "postgresql://u:pa/s3cret@h/db",
        "postgresql://u:12#s3cret@h/db",
        "postgresql://u:1?s3cret@h/db",
        "mysql://u:s3cret@h/db",
        "host=h user=u password=s3cret",
        "s3cret",
        "postgresql://u:s3cret@[::1/db",
    ],
)
async def test_a_dsn_that_leads_nowhere_is_unreachable_and_keeps_its_password(dsn: str) -> None:
    with pytest.raises(Unreachable) as caught:
        await Postgres.open(Settings(database_url=dsn, connect_timeout_seconds=1))
    assert "s3cret" not in str(caught.value)
    assert "s3cret" not in repr(caught.value.detail)
    assert "s3cret" not in where(dsn)
    assert "s3cret" not in repr(Settings(database_url=dsn, direct_url=dsn, valkey_url=dsn))


async def test_a_wrong_database_or_user_is_unreachable(dsn: str) -> None:
    url = make_url(dsn)
    for wrong in (url.set(database="absent"), url.set(username="nobody", password="s3cret")):
        with pytest.raises(Unreachable) as caught:
            await Postgres.open(Settings(database_url=wrong.render_as_string(hide_password=False)))
        assert "s3cret" not in str(caught.value)


async def test_no_dsn_at_all_says_where_to_put_one() -> None:
    with pytest.raises(Unreachable, match="HEADWATER_DATABASE_URL"):
        await Postgres.open(Settings())


async def test_a_server_that_accepts_but_never_answers_is_unreachable_in_time() -> None:
    accepted: list[asyncio.StreamWriter] = []
    server = await asyncio.start_server(lambda _, writer: accepted.append(writer), "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    with pytest.raises(Unreachable):
        await Postgres.open(Settings(database_url=f"postgresql://u@127.0.0.1:{port}/db", connect_timeout_seconds=0.05))
    for writer in accepted:
        writer.close()
    server.close()
    await server.wait_closed()


# -- limits and cancellation -----------------------------------------------------------------------------------------


async def test_a_statement_that_runs_too_long_is_ended_and_not_repeated(open_shop: Opener, admin: Any) -> None:
    hw = await open_shop(statement_timeout_ms=30)
    with pytest.raises(StatementTimeout):
        await hw.postgres.fetch_value(select(func.pg_sleep(5)))
    await hw.repository(Counter).create(hw.autocommit)
    locked = admin.transaction()
    await locked.start()
    await admin.execute("lock table shop.counters in access exclusive mode")
    with pytest.raises(StatementTimeout):
        await hw.repository(Counter).list()
    await locked.rollback()
    assert await hw.repository(Counter).count() == 1
    whole(hw.postgres, 10)


async def test_a_cancelled_statement_is_cancelled_on_the_server_and_the_pool_is_whole(
    open_shop: Opener, admin: Any
) -> None:
    hw = await open_shop(pool_size_max=1)
    task = asyncio.create_task(hw.postgres.fetch_value(select(func.pg_sleep(60))))
    running = "select count(*) from pg_stat_activity where state = 'active' and query like 'SELECT pg_sleep%'"
    while not await admin.fetchval(running):
        pass
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await hw.postgres.fetch_value(select(1)) == 1  # waits for the cancellation, on the only connection there is
    assert await admin.fetchval(running) == 0
    await settled(hw.postgres)
    whole(hw.postgres, 1)


async def test_a_raw_connection_comes_back_as_it_was_lent(open_shop: Opener) -> None:
    hw = await open_shop(pool_size_max=1)
    async with hw.postgres.connection() as connection:
        await connection.execute("set statement_timeout = 12345; select pg_advisory_lock(1); begin")
    async with hw.postgres.connection() as connection:
        assert await connection.fetchval("show statement_timeout") == "30s"
        assert await connection.fetchval("select count(*) from pg_locks where locktype = 'advisory'") == 0
        assert not connection.is_in_transaction()
    with pytest.raises(ProgrammingError):
        async with hw.postgres.connection() as connection:
            await connection.execute("selec 1")
    with pytest.raises(FileNotFoundError):
        async with hw.postgres.connection():
            raise FileNotFoundError("mine")
    whole(hw.postgres, 1)


# -- running statements ----------------------------------------------------------------------------------------------


async def test_fetching_gives_all_rows_the_first_or_its_first_column(hw: Headwater) -> None:
    run = hw.postgres
    added = insert(Category).values([{"name": "a"}, {"name": "b"}])
    assert await run.execute(added) == 2
    assert [c.name for c in await run.fetch(select(Category).order_by(Category.id))] == ["a", "b"]
    assert (await run.fetch_one(select(Category).order_by(Category.id))).name == "a"
    assert await run.fetch_one(select(Category).where(Category.id == 99)) is None
    assert await run.fetch_value(select(Category.name).order_by(Category.id.desc())) == "b"
    assert await run.fetch_value(select(Category.name).where(Category.id == 99)) is None
    assert await run.execute(select(Category)) == 2


async def test_a_table_altered_under_prepared_statements_is_read_anew(own_dsn: str) -> None:
    async with pool(own_dsn) as postgres:
        admin = await asyncpg.connect(own_dsn)
        auto = Autocommit(postgres)
        categories = Repository(postgres, Category)

        async def everything(name: str) -> None:
            made = await categories.create(auto, name=name)
            assert await categories.get(made.id) == made
            assert all(await asyncio.gather(*(categories.get(made.id) for _ in range(5))))
            assert await categories.get_many([made.id]) == {made.id: made}
            assert (await categories.update(auto, made.id, name=name + "!")).new.name == name + "!"
            assert (await categories.find_by(Category.id == made.id)) is not None
            assert (await categories.list(limit=100)).items
            assert await postgres.fetch(select(Category.name))
            assert [c async for c in categories.stream()]
            assert await categories.bulk_insert(auto, [{"name": name + "?"}]) == 1
            async with transaction(postgres) as tx:
                assert await categories.bulk_upsert(tx, [{"name": name + "?"}], on=["name"]) == (0, 1)

        try:
            await everything("a")
            for number, change in enumerate((
                "alter table shop.categories add column extra int",
                "alter table shop.categories alter column id type int",
                "alter table shop.categories alter column id type bigint",
                "alter table shop.categories alter column name type varchar(500)",
                "alter table shop.categories drop column extra",
                "alter table shop.categories alter column parent_id type int",
            )):  # fmt: skip
                await admin.execute(change)
                await everything(f"b{number}")
        finally:
            await admin.close()


async def test_one_connection_keeps_a_bounded_number_of_statements(
    hw: Headwater, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("headwater.kernel.postgres.STATEMENTS_MAX", 3)
    for n in range(10):
        await hw.postgres.fetch_value(select(*[1] * (n + 1)))
    link: Link = await hw.postgres.take()
    assert len(link.statements) == 3
    hw.postgres.give(link)


async def test_two_loops_have_two_pools(dsn: str) -> None:
    def elsewhere() -> Any:
        async def main() -> Any:
            async with pool(dsn) as postgres:
                return await postgres.fetch_value(select(7))

        return asyncio.run(main())

    assert await asyncio.gather(asyncio.to_thread(elsewhere), asyncio.to_thread(elsewhere)) == [7, 7]


async def test_statements_are_refused_when_nobody_can_run_them(hw: Headwater) -> None:
    with pytest.raises(HeadwaterError):
        await hw.postgres.fetch(select(func.no_such_function()))
    whole(hw.postgres, 10)
