"""Bulk: many rows in by COPY, all or none, and out by a cursor."""

from __future__ import annotations

import asyncio
from collections import Counter as Tally
from collections.abc import Iterator
from contextlib import aclosing
from decimal import Decimal
from typing import Any
from uuid import uuid4

import pytest
from sqlalchemy import func
from tests.kernel.shop import Color, Counter, Product, SqlDefault

from headwater.kernel import bulk
from headwater.kernel.errors import AlreadyExists, InvalidValue, ProgrammingError
from headwater.kernel.lifecycle import Headwater
from headwater.kernel.repository import Repository
from headwater.kernel.rows import shape


@pytest.fixture
def products(hw: Headwater) -> Repository[Product]:
    return hw.repository(Product)


def rows(count: int, **more: Any) -> Iterator[dict[str, Any]]:
    return ({"name": f"p{i}", "price": i, **more} for i in range(count))


async def test_bulk_insert_writes_every_type_and_fills_in_the_rest(
    hw: Headwater, products: Repository[Product]
) -> None:
    given: dict[str, Any] = {
        "color": Color.DARK_BLUE,
        "data": {"a": [1]},
        "options": None,
        "tags": ["x"],
        "colors": [Color.RED],
        "rates": [Decimal("1.25")],
        "metadata_": {"m": 1},
    }
    assert await products.bulk_insert(hw.autocommit, rows(100, **given)) == 100
    for value in (await products.list(limit=100)).items:
        assert {name: getattr(value, name) for name in given} == given
        assert value.version == 1
    assert await products.bulk_insert(hw.autocommit, [{"name": "defaults"}]) == 1
    made = await products.find_by(Product.name == "defaults")
    assert made is not None
    assert (made.color, made.price) == (Color.RED, 0)


async def test_python_defaults_are_made_once_per_row(hw: Headwater) -> None:
    counters = hw.repository(Counter)
    await counters.bulk_insert(hw.autocommit, [{"slug": "a"}, {"slug": "b"}])
    assert {c.changed_by for c in (await counters.list()).items} == {"nobody"}


async def test_nothing_in_bulk_is_nothing(hw: Headwater, products: Repository[Product]) -> None:
    assert await products.bulk_insert(hw.autocommit, []) == 0
    async with hw.transaction() as tx:
        assert await products.bulk_upsert(tx, iter(()), on=["name"]) == (0, 0)


async def test_values_that_were_read_can_be_inserted_and_upserted(hw: Headwater, products: Repository[Product]) -> None:
    await products.bulk_insert(hw.autocommit, rows(3))
    values = (await products.list()).items
    await products.update(hw.autocommit, values[0].id, note="changed since")
    async with hw.transaction() as tx:
        assert await products.bulk_upsert(tx, values, on=["id"]) == (0, 3)
    again = (await products.list()).items
    assert [v.version for v in again] == [3, 2, 2]  # one more each, never back to what was read
    assert again[0].note is None
    assert all(new.updated_at > old.updated_at for new, old in zip(again, values, strict=True))
    for value in values:
        await products.delete(hw.autocommit, value.id)
    assert await products.bulk_insert(hw.autocommit, values) == 3
    assert (await products.list()).items == values


async def test_bulk_upsert_counts_what_it_made_and_what_it_changed(
    hw: Headwater, products: Repository[Product]
) -> None:
    await products.bulk_insert(hw.autocommit, rows(10, note="kept"))
    async with hw.transaction() as tx:
        done = await products.bulk_upsert(tx, ({"name": f"p{i}", "price": 7} for i in range(5, 15)), on=[Product.name])
        assert (done.inserted, done.updated) == (5, 5)
        assert await products.bulk_upsert(tx, [{"name": "p1", "price": 8}], on=[Product.name]) == (0, 1)
    assert Tally((p.price, p.note, p.version) for p in (await products.list(Product.price == 7)).items) == {
        (7, "kept", 2): 5,
        (7, None, 1): 5,
    }


@pytest.mark.parametrize(
    ("batch", "error"),
    [
        ([{"nam": "a"}], ProgrammingError),
        ([{}], ProgrammingError),
        ([5], ProgrammingError),
        ([Product(name="an ORM object")], ProgrammingError),
        ([{"name": "a", "price": 1}, {"name": "b"}], InvalidValue),
        ([{"name": "a"}, {"name": "b", "price": 1}], InvalidValue),
        ([{"name": "a"}, ("b",)], InvalidValue),
        ([{"name": "a"}, {"name": "a"}], (AlreadyExists, InvalidValue)),
        ([{"name": "a", "price": 1}, {"name": "b", "price": -1}], InvalidValue),
        ([{"name": "a", "price": 1}, {"name": "b", "price": "x"}], InvalidValue),
        ([{"name": "a", "tags": ["x"]}, {"name": "b", "tags": 5}], InvalidValue),
        ([{"name": "a", "id": uuid4()}, {"name": "b", "id": "x"}], InvalidValue),
        ([{"name": "a"}, {"name": 5}], InvalidValue),
    ],
    ids=str,
)
async def test_one_bad_row_refuses_the_whole_batch(
    hw: Headwater, products: Repository[Product], batch: list[Any], error: Any
) -> None:
    with pytest.raises(error):
        await products.bulk_insert(hw.autocommit, batch)
    with pytest.raises(error):
        async with hw.transaction() as tx:
            await products.bulk_upsert(tx, batch, on=["name"])
    assert await products.count() == 0


async def test_the_row_that_does_not_fit_is_named(hw: Headwater, products: Repository[Product]) -> None:
    with pytest.raises(InvalidValue, match="row 3 of the batch has other attributes than the first: name"):
        await products.bulk_insert(hw.autocommit, [*rows(2), {"name": "x"}])


async def test_a_generator_that_fails_half_way_leaves_nothing_and_its_own_error(
    hw: Headwater, products: Repository[Product]
) -> None:
    def failing(error: Exception) -> Iterator[dict[str, Any]]:
        yield from rows(5_000)
        raise error

    for error in (FileNotFoundError("input.csv"), KeyError("column"), TypeError("mine"), ValueError("mine")):
        with pytest.raises(type(error)) as caught:
            await products.bulk_insert(hw.autocommit, failing(error))
        assert caught.value is error
        with pytest.raises(type(error)):
            async with hw.transaction() as tx:
                await products.bulk_upsert(tx, failing(error), on=["name"])
    assert await products.count() == 0
    assert await products.bulk_insert(hw.autocommit, rows(10)) == 10


async def test_bulk_upsert_needs_a_transaction_and_the_columns_it_matches_by(
    hw: Headwater, products: Repository[Product]
) -> None:
    with pytest.raises(ProgrammingError, match=r"bulk_upsert\(\) runs several statements"):
        await products.bulk_upsert(hw.autocommit, rows(1), on=["name"])
    async with hw.transaction() as tx:
        with pytest.raises(InvalidValue, match="'name'"):
            await products.bulk_upsert(tx, [{"price": 1}], on=["name"])


async def test_a_default_in_sql_is_refused_in_bulk_instead_of_forgotten(hw: Headwater) -> None:
    repository = hw.repository(SqlDefault)
    with pytest.raises(ProgrammingError, match="default in SQL"):
        await repository.bulk_insert(hw.autocommit, [{"m": 1}])
    assert await repository.bulk_insert(hw.autocommit, [{"n": 1}]) == 1


async def test_two_bulk_upserts_in_opposite_order_do_not_deadlock(hw: Headwater, products: Repository[Product]) -> None:
    forward = [{"name": f"p{i:04}", "price": 1} for i in range(2_000)]
    await products.bulk_insert(hw.autocommit, forward)

    async def upsert(batch: list[dict[str, Any]]) -> None:
        for _ in range(3):
            async with hw.transaction() as tx:
                assert await products.bulk_upsert(tx, batch, on=["name"]) == (0, 2_000)

    await asyncio.gather(upsert(forward), upsert(forward[::-1]))


async def test_bulk_upserts_of_one_shape_leave_no_statements_behind(
    hw: Headwater, products: Repository[Product]
) -> None:
    async with hw.transaction() as tx:
        await products.bulk_upsert(tx, rows(3), on=["name"])
        before = len(tx._link.statements)
        for _ in range(5):
            await products.bulk_upsert(tx, rows(3), on=["name"])
        assert len(tx._link.statements) == before


# -- streaming -------------------------------------------------------------------------------------------------------


async def test_a_stream_gives_every_row_once_of_one_snapshot(hw: Headwater, products: Repository[Product]) -> None:
    await products.bulk_insert(hw.autocommit, rows(1_000))
    seen = []
    async for value in products.stream(Product.price < 900, order=[Product.price.desc()], batch_size=100):
        if not seen:
            await products.bulk_insert(hw.autocommit, [{"name": "late", "price": 5}])
        seen.append(value.price)
    assert seen == list(range(899, -1, -1))


async def test_a_stream_left_early_gives_its_connection_back(hw: Headwater, products: Repository[Product]) -> None:
    await products.bulk_insert(hw.autocommit, rows(1_000))
    async with aclosing(products.stream()) as values:
        async for _ in values:
            break
    assert hw.postgres.figures().in_use == 0
    async for _ in products.stream():
        break
    assert await products.count() == 1_000


async def test_a_stream_inside_a_transaction_sees_what_it_wrote(hw: Headwater, products: Repository[Product]) -> None:
    async with hw.transaction() as tx:
        await products.bulk_insert(tx, rows(50))
        assert len([v async for v in products.stream(tx=tx)]) == 50
        assert [v.price async for v in products.stream(Product.name == "p7", tx=tx)] == [7]
    async with hw.transaction() as tx:
        async for value in products.stream(tx=tx, batch_size=10):
            await products.update(tx, value.id, note="seen")
    assert await products.count(Product.note == "seen") == 50


async def test_a_stream_refuses_nonsense(hw: Headwater, products: Repository[Product]) -> None:
    with pytest.raises(InvalidValue, match="batch_size"):
        async for _ in products.stream(batch_size=0):
            pass
    await products.create(hw.autocommit, name="a")
    with pytest.raises(InvalidValue):
        async for _ in products.stream(func.sqrt(Product.weight - 1) > 1):
            pass
    assert hw.postgres.figures().in_use == 0


async def test_rows_that_are_there_already_are_left_as_they_are(hw: Headwater, products: Repository[Product]) -> None:
    made = await products.create(hw.autocommit, name="mine")
    async with hw.transaction() as tx:
        batch = [{"id": made.id, "name": "other"}, {"id": uuid4(), "name": "new"}]
        assert await bulk.insert_missing(tx, shape(Product), batch) == 1
        assert await bulk.insert_missing(tx, shape(Product), batch) == 0
        assert await bulk.insert_missing(tx, shape(Product), []) == 0
    assert await products.get(made.id) == made
    with pytest.raises(ProgrammingError):
        await bulk.insert_missing(hw.autocommit, shape(Product), batch)
