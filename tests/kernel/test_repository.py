"""Repository: every verb, what it answers, and what it refuses without changing anything."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any
from uuid import UUID, uuid4

import pytest
from sqlalchemy import func
from tests.kernel.shop import Category, Color, Counter, Option, Paint, Product, Review, Shelf, SqlDefault

from headwater.kernel.errors import (
    AlreadyExists,
    InvalidValue,
    MissingReference,
    NotFound,
    ProgrammingError,
    StillReferenced,
    VersionConflict,
)
from headwater.kernel.lifecycle import Headwater
from headwater.kernel.repository import Repository
from headwater.kernel.rows import as_dict
from headwater.kernel.transaction import Transaction


class ProductRepository(Repository[Product]):
    async def named(self, name: str) -> Product | None:
        return await self.find_by(Product.name == name)


@pytest.fixture
def products(hw: Headwater) -> ProductRepository:
    return hw.repository(ProductRepository)


# -- reading ---------------------------------------------------------------------------------------------------------


async def test_a_row_comes_back_as_it_was_written_whatever_its_types(
    hw: Headwater, products: ProductRepository
) -> None:
    given: dict[str, Any] = {
        "name": "Gripper",
        "price": 10**37 + 1,
        "color": Color.DARK_BLUE,
        "weight": 1.5,
        "rate": Decimal("0.10"),
        "data": {"a": [1, 2.5, None, {"b": "ü"}]},
        "options": None,
        "metadata_": {"x": True},
        "note": None,
        "tags": ["a", "b,c", '"'],
        "colors": [Color.RED, Color.DARK_BLUE],
        "rates": [Decimal("1.50"), Decimal("2.00")],
        "bought_at": datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC),
        "secret": "s",
    }
    made = await products.create(hw.autocommit, **given)
    for value in (made, await products.get(made.id), (await products.list()).items[0], await products.named("Gripper")):
        assert value is not None
        assert {name: getattr(value, name) for name in given} == given
        assert value == made
    assert isinstance(made.id, UUID)
    assert made.version == 1
    assert made.created_at.tzinfo is not None


async def test_a_key_may_be_given_as_its_text(hw: Headwater, products: ProductRepository) -> None:
    made = await products.create(hw.autocommit, name="a")
    assert await products.get(str(made.id)) == made
    assert await products.find(str(made.id).upper(), tx=hw.autocommit) == made
    assert await products.get_many([str(made.id), made.id]) == {made.id: made}


@pytest.mark.parametrize("key", ["zzz", 5, None, b"x", ("a", "b"), 1.5, ""])
async def test_what_is_no_key_is_refused(hw: Headwater, products: ProductRepository, key: Any) -> None:
    for call in (products.get(key), products.find(key), products.get_many([key]), products.get(key, tx=hw.autocommit)):
        with pytest.raises(InvalidValue, match="is not a key"):
            await call
    with pytest.raises(InvalidValue):
        await products.update(hw.autocommit, key, name="x")
    with pytest.raises(InvalidValue):
        await products.delete(hw.autocommit, key)


async def test_a_row_that_does_not_exist_is_not_found_by_any_verb(hw: Headwater, products: ProductRepository) -> None:
    nobody = uuid4()
    assert await products.find(nobody) is None
    assert await products.get_many([nobody]) == {}
    assert await products.named("nobody") is None
    with pytest.raises(NotFound, match=str(nobody)):
        await products.get(nobody)
    with pytest.raises(NotFound):
        await products.update(hw.autocommit, nobody, name="x")
    with pytest.raises(NotFound):
        await products.update(hw.autocommit, nobody, version=1, name="x")
    with pytest.raises(NotFound):
        await products.delete(hw.autocommit, nobody)
    async with hw.transaction() as tx:
        with pytest.raises(NotFound):
            await products.lock(tx, nobody)


async def test_get_many_reads_thousands_and_leaves_out_what_is_missing(hw: Headwater) -> None:
    categories = hw.repository(Category)
    await categories.bulk_insert(hw.autocommit, ({"name": f"c{i}"} for i in range(2_500)))
    keys = [*range(2_600, 0, -1), 7, 7]
    found = await categories.get_many(keys)
    assert list(found) == list(range(2_500, 0, -1))
    assert all(key == value.id for key, value in found.items())
    async with hw.transaction() as tx:
        assert await categories.get_many(keys, tx=tx) == found
    assert await categories.get_many([]) == {}


async def test_keys_of_two_columns_work_in_every_verb(hw: Headwater) -> None:
    shelves = hw.repository(Shelf)
    await shelves.bulk_insert(hw.autocommit, [{"warehouse": w, "number": n} for w in "ab" for n in (1, 2, 3)])
    assert (await shelves.get(("a", 2))).label == ""
    assert (await shelves.update(hw.autocommit, ("a", 2), label="top")).new.label == "top"
    many = await shelves.get_many([("b", 3), ["a", 2], ("z", 1)])
    assert list(many) == [("b", 3), ("a", 2)]
    assert (await shelves.delete(hw.autocommit, ("b", 1))).number == 1
    page = await shelves.list(limit=3)
    rest = await shelves.list(limit=3, cursor=page.next)
    assert [(s.warehouse, s.number) for s in page.items + rest.items] == [
        ("a", 1),
        ("a", 2),
        ("a", 3),
        ("b", 2),
        ("b", 3),
    ]
    for wrong in ("a", ("a",), ("a", 1, 2), ("a", "1"), (1, 1), None):
        with pytest.raises(InvalidValue, match="is not a key"):
            await shelves.get(wrong)


async def test_keys_may_be_enums(hw: Headwater) -> None:
    paints = hw.repository(Paint)
    await paints.create(hw.autocommit, color=Color.DARK_BLUE, litres=3)
    assert (await paints.get(Color.DARK_BLUE)).litres == 3
    assert list(await paints.get_many([Color.RED, Color.DARK_BLUE])) == [Color.DARK_BLUE]
    with pytest.raises(InvalidValue):
        await paints.get("dark blue")


async def test_columns_named_like_arguments_are_only_columns(hw: Headwater) -> None:
    options = hw.repository(Option)
    made = await options.create(hw.autocommit, key="k", count=1, index=2, keys="x", tx="y")
    assert (made.key, made.count, made.index, made.keys, made.tx) == ("k", 1, 2, "x", "y")
    changed = await options.update(hw.autocommit, "k", key="l", tx="z")
    assert (changed.new.key, changed.new.tx) == ("l", "z")
    assert (await options.upsert(hw.autocommit, on=[Option.key], key="l", tx=None)).value.tx is None


async def test_count_counts_what_fits(hw: Headwater, products: ProductRepository) -> None:
    await products.bulk_insert(hw.autocommit, [{"name": f"p{i}", "price": i} for i in range(10)])
    assert await products.count() == 10
    assert await products.count(Product.price >= 7, Product.color == Color.RED) == 3


async def test_conditions_reach_into_json_arrays_and_enums(hw: Headwater, products: ProductRepository) -> None:
    await products.create(hw.autocommit, name="a", data={"size": 1}, tags=["x"], color=Color.RED)
    await products.create(hw.autocommit, name="b", data={"size": 2}, tags=["y"], color=Color.DARK_BLUE)
    found = [
        await products.find_by(Product.data["size"].as_integer() == 2),
        await products.find_by(Product.data.contains({"size": 2})),
        await products.find_by(Product.tags.contains(["y"])),
        await products.find_by(Product.color.in_([Color.DARK_BLUE])),
        await products.find_by(func.upper(Product.name) == "B"),
        await products.find_by(Product.name.in_(["b", "c"]), Product.price == 0),
    ]
    assert [value.name for value in found if value] == ["b"] * 6


# -- creating --------------------------------------------------------------------------------------------------------


async def test_what_is_not_given_is_filled_in_by_python_or_the_database(hw: Headwater) -> None:
    made = await hw.repository(Counter).create(hw.autocommit)
    assert (made.slug, made.count, made.changed_by, made.version) == ("made by Python", 0, "nobody", 1)
    assert (await hw.repository(SqlDefault).create(hw.autocommit)).n == 42


async def test_a_taken_name_is_refused_and_changes_nothing(hw: Headwater, products: ProductRepository) -> None:
    await products.create(hw.autocommit, name="a")
    with pytest.raises(AlreadyExists) as caught:
        await products.create(hw.autocommit, name="a")
    assert caught.value.detail["columns"] == ["name"]
    assert await products.count() == 1


async def test_a_reference_to_nothing_is_refused(hw: Headwater) -> None:
    with pytest.raises(MissingReference, match="there is no such product"):
        await hw.repository(Review).create(hw.autocommit, product_id=uuid4(), author="a")


@pytest.mark.parametrize(
    "wrong",
    [
        {"price": -1},
        {"price": 1.5},
        {"price": 10**40},
        {"price": "1"},
        {"price": True},
        {"weight": 1000.0},
        {"weight": "heavy"},
        {"name": None},
        {"name": 5},
        {"name": "nul\x00"},
        {"name": "lone \ud800"},
        {"color": "green"},
        {"color": 1},
        {"data": {"a": object()}},
        {"data": {"a": "nul\x00"}},
        {"tags": [1]},
        {"tags": "abc"},
        {"bought_at": "yesterday"},
        {"id": "abc"},
        {"version": 2**63},
    ],
    ids=str,
)
async def test_a_value_its_column_cannot_hold_is_refused_and_changes_nothing(
    hw: Headwater, products: ProductRepository, wrong: dict[str, Any]
) -> None:
    good = {"name": "good"}
    with pytest.raises(InvalidValue):
        await products.create(hw.autocommit, **good | wrong)
    with pytest.raises(InvalidValue):
        await products.bulk_insert(hw.autocommit, [good | wrong])
    made = await products.create(hw.autocommit, **good)
    with pytest.raises(InvalidValue):
        await products.update(hw.autocommit, made.id, **wrong)
    with pytest.raises(InvalidValue):
        async with hw.transaction() as tx:
            await products.bulk_upsert(tx, [good | wrong], on=["name"])
    assert (await products.list()).items == (made,)


async def test_an_unknown_attribute_is_refused_with_the_name_that_was_meant(
    hw: Headwater, products: ProductRepository
) -> None:
    for call in (
        products.create(hw.autocommit, nam="x"),
        products.update(hw.autocommit, uuid4(), nam="x"),
        products.upsert(hw.autocommit, on=["name"], nam="x"),
    ):
        with pytest.raises(ProgrammingError, match=r"no attribute 'nam'\. Did you mean 'name'"):
            await call
    with pytest.raises(ProgrammingError, match=r"no attribute 'metadata'\. Did you mean 'metadata_'"):
        await products.create(hw.autocommit, name="x", metadata={})
    with pytest.raises(ProgrammingError):
        await products.upsert(hw.autocommit, on=[Review.author], name="x")


# -- updating --------------------------------------------------------------------------------------------------------


async def test_update_returns_the_row_before_and_after(hw: Headwater, products: ProductRepository) -> None:
    made = await products.create(hw.autocommit, name="a", price=1, data={"n": 1})
    old, new = await products.update(hw.autocommit, made.id, price=2, data={"n": 2}, note="x", metadata_={"m": 1})
    assert old == made
    assert (new.price, new.data, new.note, new.metadata_, new.version) == (2, {"n": 2}, "x", {"m": 1}, 2)
    assert new.updated_at > old.updated_at
    assert new.created_at == old.created_at
    assert await products.get(made.id) == new


async def test_update_can_set_null_and_change_the_key(hw: Headwater, products: ProductRepository) -> None:
    made = await products.create(hw.autocommit, name="a", note="x", options={"a": 1})
    other = uuid4()
    new = (await products.update(hw.autocommit, made.id, note=None, options=None, id=other)).new
    assert (new.note, new.options, new.id) == (None, None, other)
    assert (
        await hw.postgres.fetch_value(
            func.count().select().select_from(Product.__table__).where(Product.options.is_(None))
        )
        == 1
    )


async def test_python_and_sql_onupdate_are_applied(hw: Headwater) -> None:
    counters = hw.repository(Counter)
    made = await counters.create(hw.autocommit)
    new = (await counters.update(hw.autocommit, made.id, count=1)).new
    assert new.changed_by == "somebody"
    assert new.changed_at > made.changed_at
    assert (await counters.update(hw.autocommit, made.id, changed_by="me")).new.changed_by == "me"


async def test_an_update_of_nothing_is_refused(hw: Headwater, products: ProductRepository) -> None:
    made = await products.create(hw.autocommit, name="a")
    for arguments in ({}, {"version": 1}):
        with pytest.raises(InvalidValue, match="nothing to change"):
            await products.update(hw.autocommit, made.id, **arguments)


async def test_a_stale_version_is_refused_with_the_row_as_it_is(hw: Headwater, products: ProductRepository) -> None:
    made = await products.create(hw.autocommit, name="a")
    new = (await products.update(hw.autocommit, made.id, version=1, note="x")).new
    for call in (
        products.update(hw.autocommit, made.id, version=1, note="y"),
        products.delete(hw.autocommit, made.id, version=1),
    ):
        with pytest.raises(VersionConflict, match="at version 2, not 1") as caught:
            await call
        assert caught.value.current == new
        assert caught.value.detail["current_version"] == 2
    assert await products.get(made.id) == new
    assert (await products.delete(hw.autocommit, made.id, version=2)) == new


async def test_a_version_is_refused_where_there_is_none(hw: Headwater) -> None:
    shelves = hw.repository(Shelf)
    await shelves.create(hw.autocommit, warehouse="a", number=1)
    with pytest.raises(ProgrammingError, match="has no version"):
        await shelves.update(hw.autocommit, ("a", 1), version=1, label="x")
    with pytest.raises(ProgrammingError, match="has no version"):
        await shelves.delete(hw.autocommit, ("a", 1), version=1)


async def test_forty_concurrent_increments_by_version_lose_none(hw: Headwater) -> None:
    counters = hw.repository(Counter)
    made = await counters.create(hw.autocommit)

    async def increment() -> None:
        while True:
            now = await counters.get(made.id)
            try:
                await counters.update(hw.autocommit, made.id, version=now.version, count=now.count + 1)
            except VersionConflict:
                continue
            return

    await asyncio.gather(*(increment() for _ in range(40)))
    end = await counters.get(made.id)
    assert (end.count, end.version) == (40, 41)


async def test_forty_concurrent_increments_under_lock_lose_none(hw: Headwater) -> None:
    counters = hw.repository(Counter)
    made = await counters.create(hw.autocommit)

    async def increment() -> None:
        async with hw.transaction() as tx:
            now = await counters.lock(tx, made.id)
            await counters.update(tx, made.id, count=now.count + 1)

    await asyncio.gather(*(increment() for _ in range(40)))
    assert (await counters.get(made.id)).count == 40


async def test_a_lock_needs_a_transaction(hw: Headwater, products: ProductRepository) -> None:
    with pytest.raises(ProgrammingError, match=r"lock\(\) runs several statements"):
        await products.lock(hw.autocommit, uuid4())


# -- upserting -------------------------------------------------------------------------------------------------------


async def test_upsert_says_whether_the_row_is_new(hw: Headwater, products: ProductRepository) -> None:
    first = await products.upsert(hw.autocommit, on=[Product.name], name="a", price=1, note="x")
    again = await products.upsert(hw.autocommit, on=("name",), name="a", price=2)
    assert (first.created, again.created) == (True, False)
    assert again.value.id == first.value.id
    assert (again.value.price, again.value.note, again.value.version) == (2, "x", 2)
    assert again.value.updated_at > first.value.updated_at


async def test_upsert_by_key_alone_still_returns_the_row(hw: Headwater) -> None:
    shelves = hw.repository(Shelf)
    on = [Shelf.warehouse, Shelf.number]
    assert (await shelves.upsert(hw.autocommit, on=on, warehouse="a", number=1)).created
    assert not (await shelves.upsert(hw.autocommit, on=on, warehouse="a", number=1)).created


async def test_upsert_applies_onupdate_only_to_rows_that_were_there(hw: Headwater) -> None:
    counters = hw.repository(Counter)
    first = (await counters.upsert(hw.autocommit, on=["slug"], slug="s", count=1)).value
    second = (await counters.upsert(hw.autocommit, on=["slug"], slug="s", count=2)).value
    assert (first.changed_by, second.changed_by) == ("nobody", "somebody")
    assert second.changed_at > first.changed_at
    async with hw.transaction() as tx:
        rows = [{"slug": "s", "count": 3}, {"slug": "t", "count": 3}]
        assert await counters.bulk_upsert(tx, rows, on=["slug"]) == (1, 1)
    old, new = (await counters.list(order=[Counter.slug])).items
    assert (old.changed_by, old.version, new.changed_by, new.version) == ("somebody", 3, "nobody", 1)
    assert old.changed_at > second.changed_at


async def test_upsert_needs_the_columns_it_matches_by(hw: Headwater, products: ProductRepository) -> None:
    with pytest.raises(InvalidValue, match="'name'"):
        await products.upsert(hw.autocommit, on=["name"], price=1)
    with pytest.raises(InvalidValue):
        await products.upsert(hw.autocommit, on=[], name="a")
    with pytest.raises(ProgrammingError):  # no unique constraint on note
        await products.upsert(hw.autocommit, on=["note"], name="a", note="x")


async def test_another_unique_constraint_still_stands_in_the_way_of_an_upsert(
    hw: Headwater, products: ProductRepository
) -> None:
    taken = await products.create(hw.autocommit, name="a")
    with pytest.raises(AlreadyExists):
        await products.upsert(hw.autocommit, on=["id"], id=uuid4(), name=taken.name)


async def test_160_concurrent_upserts_of_20_keys_create_exactly_20(hw: Headwater, products: ProductRepository) -> None:
    done = await asyncio.gather(
        *(products.upsert(hw.autocommit, on=["name"], name=f"p{i % 20}", price=i) for i in range(160))
    )
    assert sum(u.created for u in done) == 20
    assert await products.count() == 20
    assert {p.version for p in (await products.list()).items} == {8}


# -- deleting --------------------------------------------------------------------------------------------------------


async def test_delete_returns_the_row_that_is_gone(hw: Headwater, products: ProductRepository) -> None:
    made = await products.create(hw.autocommit, name="a")
    assert await products.delete(hw.autocommit, made.id) == made
    assert await products.find(made.id) is None


async def test_a_row_that_others_refer_to_is_not_deleted(hw: Headwater, products: ProductRepository) -> None:
    made = await products.create(hw.autocommit, name="a")
    await hw.repository(Review).create(hw.autocommit, product_id=made.id, author="x")
    with pytest.raises(StillReferenced, match=r"shop\.reviews"):
        await products.delete(hw.autocommit, made.id)
    assert await products.find(made.id) == made


# -- the class -------------------------------------------------------------------------------------------------------


async def test_a_repository_must_say_what_it_is_for(hw: Headwater) -> None:
    class Nameless(Repository[Any]):
        pass

    with pytest.raises(ProgrammingError, match="Nameless does not say"):
        Nameless(hw.postgres)
    with pytest.raises(ProgrammingError, match="not an entity"):
        Repository(hw.postgres, object)  # type: ignore[type-var]


async def test_a_subclass_of_a_subclass_keeps_the_entity(hw: Headwater) -> None:
    class More(ProductRepository):
        pass

    assert More(hw.postgres).model is Product


async def test_work_in_a_transaction_is_seen_inside_it_and_nowhere_else(
    hw: Headwater, products: ProductRepository
) -> None:
    async def work(tx: Transaction) -> None:
        made = await products.create(tx, name="a")
        assert await products.get(made.id, tx=tx) == made
        assert await products.find_by(Product.name == "a", tx=tx) == made
        assert (await products.list(tx=tx)).items == (made,)
        assert await products.count(tx=tx) == 1
        assert await products.find(made.id) is None
        assert await products.count() == 0

    await hw.run(work)
    assert await products.count() == 1


async def test_as_dict_uses_column_names_and_keeps_private_columns_back(
    hw: Headwater, products: ProductRepository
) -> None:
    shown = as_dict(await products.create(hw.autocommit, name="a", secret="s", metadata_={"m": 1}))
    assert shown["metadata"] == {"m": 1}
    assert "metadata_" not in shown
    assert "secret" not in shown
    assert "manual" not in shown
