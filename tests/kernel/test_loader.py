"""Loader: many tasks that read by key travel together, and none of them notices the others."""

from __future__ import annotations

import asyncio
from typing import Any
from uuid import uuid4

import pytest
from tests.kernel.conftest import EMPTY, Opener
from tests.kernel.shop import Category, Product

from headwater.kernel.errors import InvalidValue, NotFound, ProgrammingError
from headwater.kernel.lifecycle import Headwater
from headwater.kernel.settings import Settings


async def filled(hw: Headwater, count: int) -> None:
    await hw.repository(Category).bulk_insert(hw.autocommit, ({"name": f"c{i}"} for i in range(count)))


def acquired(hw: Headwater) -> int:
    """How many statements ran: each one alone takes a connection."""
    return hw.postgres.figures().acquired_total


@pytest.mark.parametrize("readers", [2, 16, 64, 500])
async def test_concurrent_reads_need_two_statements(hw: Headwater, readers: int) -> None:
    await filled(hw, readers)
    categories = hw.repository(Category)
    before = acquired(hw)
    found = await asyncio.gather(*(categories.get(i + 1) for i in range(readers)))
    assert [c.id for c in found] == [i + 1 for i in range(readers)]
    assert acquired(hw) - before == 2


async def test_a_lone_reader_goes_straight(hw: Headwater) -> None:
    await filled(hw, 3)
    categories = hw.repository(Category)
    for i in (1, 2, 3):
        before = acquired(hw)
        assert (await categories.get(i)).id == i
        assert acquired(hw) - before == 1


async def test_tasks_that_keep_reading_share_statements_all_along(hw: Headwater) -> None:
    await filled(hw, 100)
    categories = hw.repository(Category)

    async def read(start: int) -> None:
        for i in range(20):
            assert (await categories.get((start + i) % 100 + 1)).id == (start + i) % 100 + 1

    before = acquired(hw)
    await asyncio.gather(*(read(i) for i in range(50)))
    assert acquired(hw) - before <= 1_000 / 5


async def test_the_same_key_is_read_once_and_what_is_missing_is_none(hw: Headwater) -> None:
    await filled(hw, 1)
    categories = hw.repository(Category)
    found = await asyncio.gather(*(categories.find(key) for key in [1, 1, 99, 1, 99, 1]))
    assert [c and c.id for c in found] == [1, 1, None, 1, None, 1]
    outcomes = await asyncio.gather(*(categories.get(key) for key in [99, 1, 98]), return_exceptions=True)
    assert [type(o).__name__ for o in outcomes] == ["NotFound", "Category", "NotFound"]
    assert isinstance(outcomes[0], NotFound)
    assert "99" in str(outcomes[0])


async def test_more_keys_than_one_statement_carries(hw: Headwater) -> None:
    await filled(hw, 2_500)
    categories = hw.repository(Category)
    before = acquired(hw)
    found = await asyncio.gather(*(categories.get(i + 1) for i in range(2_500)))
    assert [c.id for c in found] == list(range(1, 2_501))
    assert acquired(hw) - before == 4  # one alone, then three full carriages


async def test_a_key_that_cannot_be_bound_fails_its_own_readers_only(hw: Headwater) -> None:
    await filled(hw, 100)
    categories = hw.repository(Category)
    keys = [*range(1, 50), 2**70, *range(50, 101), -(2**70), 2**70]
    outcomes = await asyncio.gather(*(categories.find(key) for key in keys), return_exceptions=True)
    for key, outcome in zip(keys, outcomes, strict=True):
        if abs(key) > 2**63:
            assert isinstance(outcome, InvalidValue)
        else:
            assert isinstance(outcome, Category)
            assert outcome.id == key


async def test_a_reader_who_gives_up_takes_nothing_from_the_others(hw: Headwater) -> None:
    await filled(hw, 10)
    categories = hw.repository(Category)
    for victims in ({0}, {1}, {1, 2, 3}, {5}, set(range(9)), set(range(1, 10))):
        for turns in range(4):
            tasks = [asyncio.create_task(categories.get(i % 5 + 1)) for i in range(10)]
            for _ in range(turns):
                await asyncio.sleep(0)
            for victim in victims:
                tasks[victim].cancel()
            outcomes = await asyncio.gather(*tasks, return_exceptions=True)
            for i, outcome in enumerate(outcomes):
                assert isinstance(outcome, asyncio.CancelledError if i in victims else Category), (victims, turns, i)
    await asyncio.gather(*hw.postgres._settling)
    assert hw.postgres.figures().in_use == 0


async def test_a_failure_reaches_every_reader_and_the_loader_recovers(own_dsn: str) -> None:
    async with Headwater.open(EMPTY, Settings(database_url=own_dsn)) as hw:
        await filled(hw, 10)
        categories = hw.repository(Category)
        async with hw.postgres.connection() as connection:
            await connection.execute("alter table shop.categories rename to hidden")
        outcomes = await asyncio.gather(*(categories.get(i + 1) for i in range(10)), return_exceptions=True)
        assert all(isinstance(o, ProgrammingError) for o in outcomes)
        async with hw.postgres.connection() as connection:
            await connection.execute("alter table shop.hidden rename to categories")
        assert len(await asyncio.gather(*(categories.get(i + 1) for i in range(10)))) == 10


async def test_an_exhausted_pool_fails_readers_and_is_forgotten(open_shop: Opener) -> None:
    hw = await open_shop(pool_size_max=1, pool_wait_seconds=0.01)
    await filled(hw, 5)
    categories = hw.repository(Category)
    async with hw.transaction():
        outcomes: list[Any] = await asyncio.gather(*(categories.get(i + 1) for i in range(5)), return_exceptions=True)
        assert {type(o).__name__ for o in outcomes} == {"PoolExhausted"}
    assert len(await asyncio.gather(*(categories.get(i + 1) for i in range(5)))) == 5


async def test_each_pool_and_each_loop_has_loaders_of_its_own(open_shop: Opener) -> None:
    one, two = await open_shop(), await open_shop()
    await filled(one, 20)
    assert one.repository(Category)._loader is not two.repository(Category)._loader
    settings = one.settings

    def elsewhere() -> int:
        async def main() -> int:
            async with Headwater.open(EMPTY, settings) as hw:
                return len(await asyncio.gather(*(hw.repository(Category).get(i + 1) for i in range(20))))

        return asyncio.run(main())

    here = asyncio.gather(*(hw.repository(Category).get(i + 1) for hw in (one, two) for i in range(20)))
    assert await asyncio.to_thread(elsewhere) == 20
    assert len(await here) == 40


async def test_reads_inside_a_transaction_are_not_gathered(hw: Headwater) -> None:
    products = hw.repository(Product)
    async with hw.transaction() as tx:
        made = await products.create(tx, name="a")
        outside, inside = await products.find(made.id), await products.find(made.id, tx=tx)
    assert outside is None
    assert inside == made
    assert await products.find(uuid4()) is None
