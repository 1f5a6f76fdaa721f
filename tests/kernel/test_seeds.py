"""Seeds: the same every time, planted once, removed without touching what anybody else has built on them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from functools import cached_property
from typing import Any
from uuid import UUID, uuid4

import pytest
from tests.kernel.shop import File, Folder, Product, Review, Shelf

from headwater.kernel.errors import AlreadyExists, InvalidValue
from headwater.kernel.lifecycle import Headwater
from headwater.kernel.models import Model
from headwater.kernel.module import Module, Seed, System
from headwater.kernel.seeds import FIRST_KEY, LAST_KEY, ClearReport, SeedReport, Sowing, clear, parse_profile, seed
from headwater.kernel.settings import Settings


class Shop(Module):
    """A module that is not a package."""

    @cached_property
    def models(self) -> tuple[type[Model], ...]:
        return (Product, Review, Shelf, Folder, File)

    @cached_property
    def seed(self) -> Seed | None:
        return plant


async def plant(sowing: Sowing) -> None:
    count = sowing.rows // 10 or 10
    products = [sowing.key("shop.products", i) for i in range(count)]
    await sowing.plant(
        Product,
        ({"id": key, "name": f"seeded {i}", "price": sowing.random.randrange(100)} for i, key in enumerate(products)),
        total=count,
    )
    await sowing.plant(
        Review,
        [{"id": sowing.key("shop.reviews", i), "product_id": key, "author": "a"} for i, key in enumerate(products)],
    )
    # A chain of folders, each in the one before it, and a file in the last.
    folders = [sowing.key("shop.folders", i) for i in range(5)]
    parents = [None, *folders]
    rows = [{"id": k, "name": f"f{i}", "parent_id": p} for i, (k, p) in enumerate(zip(folders, parents, strict=False))]
    await sowing.plant(Folder, rows)
    await sowing.plant(File, [{"id": sowing.key("shop.files", 1), "folder_id": folders[-1]}])


@pytest.fixture
async def shop(dsn: str) -> AsyncIterator[Headwater]:
    system = System("shop", [Shop(name="shop", package="headwater.embedded", summary="")])
    async with Headwater.open(system, Settings(database_url=dsn)) as opened:
        yield opened


async def count(shop: Headwater, *models: type[Model]) -> list[int]:
    return [await shop.repository(model).count() for model in models]


async def test_seeding_twice_adds_nothing_and_changes_nothing(shop: Headwater) -> None:
    first = await seed(shop)
    assert first == SeedReport("demo", {"shop.products": 10, "shop.reviews": 10, "shop.folders": 5, "shop.files": 1})
    before = (await shop.repository(Product).list()).items
    again = await seed(shop)
    assert set(again.added.values()) == {0}
    assert (await shop.repository(Product).list()).items == before


async def test_the_same_seed_grows_the_same_rows(shop: Headwater) -> None:
    await seed(shop)
    before = [(p.id, p.name, p.price) for p in (await shop.repository(Product).list()).items]
    await clear(shop)
    await seed(shop)
    assert [(p.id, p.name, p.price) for p in (await shop.repository(Product).list()).items] == before


async def test_keys_are_the_same_on_every_machine_and_in_a_range_of_their_own() -> None:
    sowing = Sowing(None, "demo", 0, "m", lambda *_: None)  # type: ignore[arg-type]  # keys need no transaction
    key = sowing.key("shop.products", 7)
    assert key == UUID("5eedaf65-25f5-8000-8000-000000000007")
    assert (key.version, key.variant) == (8, "specified in RFC 4122")
    assert FIRST_KEY < key < LAST_KEY
    keys = {sowing.key(table, number) for table in ("a", "b", "c") for number in range(100)}
    assert len(keys) == 300
    assert all(FIRST_KEY <= k <= LAST_KEY for k in keys)


async def test_progress_is_told_as_rows_are_planted(shop: Headwater) -> None:
    told: list[tuple[str, int, int | None]] = []
    await seed(shop, "load:500_000", progress=lambda *step: told.append(step))
    assert told[:4] == [("shop.products", n, 50_000) for n in (20_000, 40_000, 50_000)] + [
        ("shop.reviews", 20_000, None)
    ]
    assert await count(shop, Product, Review) == [50_000, 50_000]


async def test_clear_removes_what_was_seeded_and_nothing_else(shop: Headwater) -> None:
    products = shop.repository(Product)
    mine = await products.create(shop.autocommit, name="mine")
    # A random key that happens to begin like a seeded one: 1 in 65,536 does.
    alike = await products.create(shop.autocommit, id=UUID("5eed1234-5678-4abc-8def-123456789abc"), name="alike")
    await shop.repository(Review).create(shop.autocommit, product_id=mine.id, author="me")
    await shop.repository(Shelf).create(shop.autocommit, warehouse="a", number=1)
    await seed(shop)
    report = await clear(shop)
    assert report == ClearReport({"shop.products": 10, "shop.reviews": 10, "shop.folders": 5, "shop.files": 1}, {})
    assert {p.id for p in (await products.list()).items} == {mine.id, alike.id}
    assert await count(shop, Review, Shelf, Folder, File) == [1, 1, 0, 0]
    assert await clear(shop) == ClearReport({}, {})


async def test_a_seeded_row_that_somebody_refers_to_is_kept_and_named(shop: Headwater) -> None:
    await seed(shop)
    products = (await shop.repository(Product).list()).items
    await shop.repository(Review).create(shop.autocommit, product_id=products[3].id, author="me")
    report = await clear(shop)
    assert report.kept == {"shop.products": 1}
    assert report.removed["shop.products"] == 9
    assert [p.id for p in (await shop.repository(Product).list()).items] == [products[3].id]
    assert set((await seed(shop)).added.values()) == {9, 10, 5, 1}


async def test_what_is_kept_keeps_what_it_refers_to_in_turn(shop: Headwater) -> None:
    await seed(shop)
    folders = (await shop.repository(Folder).list(order=[Folder.name])).items
    await shop.repository(File).create(shop.autocommit, folder_id=folders[2].id)
    report = await clear(shop)
    assert report.kept == {"shop.folders": 3}  # the one with my file in it, its parent, and the root
    assert report.removed == {"shop.files": 1, "shop.folders": 2, "shop.products": 10, "shop.reviews": 10}
    kept = (await shop.repository(Folder).list(order=[Folder.name])).items
    assert [f.name for f in kept] == ["f0", "f1", "f2"]


async def test_a_seed_that_fails_plants_nothing(shop: Headwater) -> None:
    await shop.repository(Product).create(shop.autocommit, name="seeded 3")  # a stranger has the name
    with pytest.raises(AlreadyExists):
        await seed(shop)
    assert await count(shop, Product, Review) == [1, 0]


async def test_rows_with_keys_that_clear_would_not_find_are_refused(shop: Headwater) -> None:
    async with shop.transaction() as tx:
        sowing = Sowing(tx, "demo", 0, "m", lambda *_: None)
        wrong: list[dict[str, Any]] = [{"id": uuid4(), "name": "x"}, {"name": "x"}, {"id": "5eed", "name": "x"}]
        wrong.append({"id": UUID("5eed1234-5678-4abc-8def-123456789abc"), "name": "x"})
        for row in wrong:
            with pytest.raises(InvalidValue, match=r"sowing\.key"):
                await sowing.plant(Product, [row])
        good = {"id": sowing.key("shop.products", 1), "name": "a"}
        with pytest.raises(InvalidValue, match=r"sowing\.key"):
            await sowing.plant(Product, [good, {"id": uuid4(), "name": "b"}])


async def test_nothing_to_plant_is_nothing(shop: Headwater) -> None:
    async with shop.transaction() as tx:
        empty: Iterator[dict[str, Any]] = iter(())
        assert await Sowing(tx, "demo", 0, "m", lambda *_: None).plant(Product, empty) == 0


@pytest.mark.parametrize(
    "profile",
    ["", "load", "load:", "load:0", "load:-5", "load:x", "load:1.5", "load:²", "load:1e3", "load:_", "demo:5",
     "load:99999999999", "DEMO", "load: 5"],
)  # fmt: skip
def test_an_unknown_profile_is_refused(profile: str) -> None:
    with pytest.raises(InvalidValue, match="no seed profile"):
        parse_profile(profile)


def test_profiles_are_read() -> None:
    assert parse_profile("demo") == ("demo", 0)
    assert parse_profile("load:100_000") == ("load", 100_000)
