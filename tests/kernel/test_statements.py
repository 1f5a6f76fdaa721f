"""Statements: what SQLAlchemy says is compiled once, and every value goes to its place through its type."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import msgspec
import pytest
from sqlalchemy import bindparam, delete, func, insert, literal_column, select, text, update
from tests.kernel.shop import Category, Color, Counter, Option, Product, Review, SqlDefault

from headwater.kernel.errors import InvalidValue, ProgrammingError
from headwater.kernel.lifecycle import Headwater
from headwater.kernel.queries import Queries
from headwater.kernel.repository import Repository
from headwater.kernel.rows import bind_processor
from headwater.kernel.statements import Narrowable, _compile, prepare, reads_only


@pytest.fixture
async def products(hw: Headwater) -> Repository[Product]:
    repository = hw.repository(Product)
    await repository.bulk_insert(
        hw.autocommit,
        [{"name": n, "price": p, "color": Color.DARK_BLUE, "data": {"n": n}} for p, n in enumerate("abc")],
    )
    return repository


async def test_selecting_an_entity_gives_values_and_columns_give_rows(hw: Headwater, products: Any) -> None:
    values = await hw.postgres.fetch(select(Product).order_by(Product.name))
    assert [type(v).__name__ for v in values] == ["Product"] * 3
    rows = await hw.postgres.fetch(select(Product.name, Product.color, Product.price).order_by(Product.name))
    assert [(r.name, r.color, r["price"]) for r in rows] == [(v.name, v.color, v.price) for v in values]
    assert rows[0] == ("a", Color.DARK_BLUE, 0)


async def test_the_same_sql_serves_values_and_rows_in_any_order(hw: Headwater, products: Any) -> None:
    """The repository selects columns, the user the entity; both compile to one statement and must not be mixed up."""
    for _ in range(2):
        assert (await products.find_by(Product.name == "a")).name == "a"
        one = await hw.postgres.fetch_one(select(Product).where(Product.name == "a").limit(1))
        assert isinstance(one, Product)
        columns = select(*Product.__table__.c[:]).where(Product.name == "a").limit(1)
        assert not isinstance(await hw.postgres.fetch_one(columns), Product)


async def test_writes_can_return_values_rows_or_how_many(hw: Headwater, products: Any) -> None:
    run = hw.postgres
    made = await run.fetch_one(insert(Product).values(name="d", color=Color.RED, data={"x": 1}).returning(Product))
    assert isinstance(made, Product)
    assert (made.color, made.data, made.price) == (Color.RED, {"x": 1}, 0)
    changed = update(Product).where(Product.name.in_(["a", "b", "zz"])).values(price=Product.price + 10)
    assert await run.execute(changed) == 2
    assert await run.fetch(changed.returning(Product.name, Product.version)) == [("a", 3), ("b", 3)]
    gone = await run.fetch(delete(Product).where(Product.price > 5).returning(Product))
    assert [g.price for g in gone] == [20, 21]
    assert await run.execute(delete(Product)) == 2


async def test_lists_of_any_length_and_none_are_bound(hw: Headwater, products: Any) -> None:
    for wanted in ([], ["a"], ["a", "b", "zz"], ["a"] * 50):
        found = await hw.postgres.fetch(select(Product.name).where(Product.name.in_(wanted)))
        assert {r.name for r in found} == {"a", "b"} & set(wanted)
    assert await hw.postgres.fetch_value(select(func.count()).where(Product.note == None)) == 3  # noqa: E711
    by_color = select(func.count()).where(Product.color.in_([Color.DARK_BLUE]))
    assert await hw.postgres.fetch_value(by_color) == 3


async def test_named_parameters_are_given_by_keyword(hw: Headwater, products: Any) -> None:
    statement = select(Product.name).where(Product.price >= bindparam("least"), Product.color == bindparam("color"))
    found = await hw.postgres.fetch(statement, least=1, color=Color.DARK_BLUE)
    assert sorted(r.name for r in found) == ["b", "c"]
    with pytest.raises(ProgrammingError, match="least"):
        await hw.postgres.fetch(statement, color=Color.RED)
    with pytest.raises(ProgrammingError, match="no parameter 'leest'"):
        await hw.postgres.fetch(statement, least=1, color=Color.RED, leest=2)
    with pytest.raises(ProgrammingError, match="no parameter 'x'"):
        await hw.postgres.fetch(select(Product), x=1)
    with pytest.raises(InvalidValue, match="green"):
        await hw.postgres.fetch(statement, least=1, color="green")
    with pytest.raises(InvalidValue, match="'least'"):
        await hw.postgres.fetch(statement, least="one", color=Color.RED)


async def test_values_may_come_as_parameters(hw: Headwater, products: Any) -> None:
    assert await hw.postgres.execute(insert(Option), key="k", count=5) == 1
    changed = update(Option).where(Option.key == bindparam("which"))
    assert await hw.postgres.execute(changed.values(count=bindparam("much")), which="k", much=7) == 1
    assert await hw.postgres.fetch_value(select(Option.count)) == 7


async def test_python_defaults_are_made_in_general_statements_too(hw: Headwater) -> None:
    made = await hw.postgres.fetch_one(insert(Counter).returning(Counter))
    assert (made.slug, made.changed_by) == ("made by Python", "nobody")
    both = await hw.postgres.fetch(insert(Counter).values([{"slug": "a"}, {"slug": "b"}]).returning(Counter))
    assert [c.changed_by for c in both] == ["nobody", "nobody"]
    after = await hw.postgres.fetch_one(update(Counter).where(Counter.slug == "a").values(count=1).returning(Counter))
    assert (after.changed_by, after.version) == ("somebody", 2)
    assert (await hw.postgres.fetch_one(insert(SqlDefault).returning(SqlDefault))).n == 42
    colored = await hw.postgres.fetch_one(insert(Product).values(name="x").returning(Product))
    assert (colored.color, colored.price) == (Color.RED, 0)


async def test_joins_aggregates_and_labels(hw: Headwater, products: Any) -> None:
    product = await products.find_by(Product.name == "a")
    for author in "xyz":
        await hw.repository(Review).create(hw.autocommit, product_id=product.id, author=author)
    counted = (
        select(Product.name, func.count(Review.id).label("count"), func.avg(Review.stars).label("mean"))
        .outerjoin(Review)
        .group_by(Product.name)
        .order_by(Product.name)
    )
    rows = await hw.postgres.fetch(counted)
    assert [(r.name, r.count, r.mean) for r in rows] == [("a", 3, Decimal(5)), ("b", 0, None), ("c", 0, None)]
    both = await hw.postgres.fetch(select(Product.id, Review.id).join(Review).limit(1))
    assert both[0][0] == product.id
    joined = await hw.postgres.fetch(select(Product).join(Review).distinct())
    assert joined == [product]


async def test_json_passes_through_every_kind_of_statement(hw: Headwater, products: Any) -> None:
    run = hw.postgres
    await run.execute(update(Product).where(Product.name == "a").values(data={"a": {"b": [1, None]}}, options=None))
    assert await run.fetch_value(select(Product.data["a"]["b"]).where(Product.name == "a")) == [1, None]
    assert await run.fetch_value(select(Product.data["a"]["b"][0].as_integer()).where(Product.name == "a")) == 1
    assert await run.fetch_value(select(Product.name).where(Product.data["a"] == {"b": [1, None]})) == "a"
    assert await run.fetch_value(select(func.count()).where(Product.options.is_(None))) == 3
    assert await run.fetch_value(select(func.jsonb_build_object("x", 1))) == {"x": 1}


async def test_what_does_not_compile_or_run_is_the_callers_error(hw: Headwater) -> None:
    with pytest.raises(ProgrammingError):
        await hw.postgres.fetch(select(literal_column("nonsense")))
    with pytest.raises(ProgrammingError, match="does not compile"):
        await hw.postgres.execute(insert(Category).values(nonsense=1))
    with pytest.raises(ProgrammingError):
        await hw.postgres.fetch(text("select :x"))


def test_a_statement_is_compiled_once_for_its_structure() -> None:
    """What the kernel relies on inside SQLAlchemy: the cache, the values an instance carries, and their order."""

    def statement(name: str) -> Any:
        return select(Product.name).where(Product.name == name, Product.price > 5)

    (first, values), (second, others) = _compile(statement("a"), {}), _compile(statement("b"), {})
    assert first is second
    assert [p.value for p in values] == ["a", 5]
    assert [p.value for p in others] == ["b", 5]
    assert prepare(statement("a"), {}).arguments == ["a", 5]
    assert prepare(statement("b"), {}).arguments == ["b", 5]
    assert prepare(statement("b"), {}).sql.count("$2") == 1


def test_only_what_surely_changes_nothing_may_be_run_twice() -> None:
    writing = insert(Category).values(name="x").returning(Category.id).cte("w")
    for statement in (
        select(Product),
        select(func.count()).select_from(Product),
        select(func.max(Product.price), func.coalesce(Product.note, "")),
        select(Product).where(func.lower(Product.name) == "a", Product.id.in_(select(Review.product_id))),
    ):
        assert reads_only(statement)
        assert prepare(statement, {}).reads_only
    for statement in (
        insert(Product).values(name="x"),
        update(Product).values(name="x"),
        delete(Product),
        select(func.nextval("s")),
        select(func.transfer(1, 2)),
        select(Product).where(Product.id == func.transfer(1)),
        select(writing.c.id),
        select(text("transfer(1)")),
        select(func.count()).select_from(select(func.transfer(1)).subquery()),
    ):
        assert not reads_only(statement)


def test_a_template_tells_a_missing_value_from_none() -> None:
    from headwater.kernel.statements import Template

    template = Template(select(Product.id).where(Product.note == bindparam("note", "fixed")), None)
    assert template.arguments({}) == ["fixed"]
    assert template.arguments({"note": None}) == [None]
    assert bind_processor(Product.__table__.c.color.type) is not None


# -- into ------------------------------------------------------------------------------------------------------------


class Mood(enum.Enum):
    GOOD = "good"


class Level(msgspec.Struct):
    name: str
    price: int
    mood: Mood | None = None


@dataclass(frozen=True)
class Line:
    name: str
    price: int


QUERIES = Queries.parse(
    "-- name: levels\nselect name, price, case when price > 0 then 'good' end as mood from shop.products "
    "where price >= :least::numeric and color = :color::shop.color order by name"
)


async def test_rows_can_be_built_into_structs_and_dataclasses(hw: Headwater, products: Any) -> None:
    found = await hw.postgres.fetch(QUERIES["levels"], into=Level, least=0, color=Color.DARK_BLUE)
    assert found == [Level("a", 0), Level("b", 1, Mood.GOOD), Level("c", 2, Mood.GOOD)]
    assert all(type(level.price) is int for level in found)
    assert await hw.postgres.fetch_one(QUERIES["levels"], into=Line, least=2, color=Color.DARK_BLUE) == Line("c", 2)
    assert await hw.postgres.fetch(select(Product.name, Product.price).where(Product.price == 1), into=Line) == [
        Line("b", 1)
    ]


async def test_building_into_what_does_not_fit_is_refused(hw: Headwater, products: Any) -> None:
    with pytest.raises(ProgrammingError, match="cannot be built into"):
        await hw.postgres.fetch(select(Product.name), into=dict)
    with pytest.raises(ProgrammingError, match="have no column 'price'"):
        await hw.postgres.fetch(select(Product.name), into=Line)
    with pytest.raises(ProgrammingError, match="least"):
        await hw.postgres.fetch(QUERIES["levels"], color="red")
    with pytest.raises(ProgrammingError, match="'leest'"):
        await hw.postgres.fetch(QUERIES["levels"], color="red", least=1, leest=2)


async def test_a_narrowed_statement_keeps_its_text_and_takes_the_values_of_each_call(hw: Headwater) -> None:
    products = hw.repository(Product)
    for name in ("bolt", "gear", "nut"):
        await products.create(hw.autocommit, name=name, price=len(name))
    narrowable = Narrowable(select(Product.name).order_by(Product.name).limit(bindparam("limit_rows")))
    first = narrowable.prepare([Product.name == "bolt", Product.price > 1], {"limit_rows": 5})
    second = narrowable.prepare([Product.name == "nut", Product.price > 2], {"limit_rows": 7})
    assert (first.sql is second.sql, first.reads_only) == (True, True)
    assert (sorted(map(str, first.arguments)), sorted(map(str, second.arguments))) == (
        ["1", "5", "bolt"],
        ["2", "7", "nut"],
    )
    for wanted in (["bolt"], ["gear", "nut"], []):
        prepared = narrowable.prepare([Product.name.in_(wanted)], {"limit_rows": 5})
        records, _ = await hw.postgres._run(prepared)
        assert [record[0] for record in records] == wanted
    with pytest.raises(ProgrammingError):
        narrowable.prepare([Product.name == bindparam("missing")], {"limit_rows": 5})
    with pytest.raises(InvalidValue):
        narrowable.prepare([Product.price == "much"], {"limit_rows": 5})
