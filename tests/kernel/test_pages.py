"""Pages: in any order, paging yields every row exactly once; a cursor that is not ours is refused and nothing else."""

from __future__ import annotations

import base64
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import func, select
from tests.kernel.conftest import EMPTY
from tests.kernel.shop import Category, Color, Product, Ranking, Shelf

from headwater.kernel.errors import InvalidCursor, InvalidValue, ProgrammingError
from headwater.kernel.lifecycle import Headwater
from headwater.kernel.repository import Repository
from headwater.kernel.settings import Settings

COLUMNS = "abcdefgh"
ROWS = [
    {
        "a": i % 3,
        "b": ["", "a", "B", "ä", "a\n", '"', "zz"][i % 7],
        "c": [0.1, -1e300, float("inf"), float("-inf"), float("nan"), 1 / 3][i % 6],
        "d": [0, 10**38 - 1, -(10**30) - 1, 2**64 + 1, 7][i % 5],
        "e": datetime(2026, 1, 1, tzinfo=UTC) + timedelta(microseconds=i % 4),
        "f": [Color.RED, Color.DARK_BLUE][i % 2],
        "g": i % 2 == 0,
        "h": [Decimal("0.1"), Decimal("0.10000000000000000000000001"), Decimal(-5), Decimal("NaN")][i % 4],
    }
    for i in range(60)
]
ORDERS = st.lists(st.tuples(st.sampled_from(COLUMNS), st.booleans()), max_size=4, unique_by=lambda o: o[0])


def clauses(order: list[tuple[str, bool]]) -> list[Any]:
    return [getattr(Ranking, name).desc() if down else getattr(Ranking, name) for name, down in order]


async def fill(hw: Headwater) -> Repository[Ranking]:
    rankings = hw.repository(Ranking)
    if not await rankings.count():
        await rankings.bulk_insert(hw.autocommit, ROWS)
    return rankings


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(order=ORDERS, limit=st.integers(1, 70), only=st.booleans())
async def test_paging_in_any_order_yields_every_row_once_as_sql_orders_them(
    dsn: str, order: list[tuple[str, bool]], limit: int, only: bool
) -> None:
    async with Headwater.open(EMPTY, Settings(database_url=dsn)) as hw:
        rankings = await fill(hw)
        where = [Ranking.a > 0] if only else []
        seen: list[Any] = []
        cursor = None
        while True:
            page = await rankings.list(*where, order=clauses(order), limit=limit, cursor=cursor)
            assert len(page.items) <= limit
            seen += page.items
            cursor = page.next
            if cursor is None:
                break
        last = Ranking.id.desc() if order and order[-1][1] else Ranking.id
        whole = await hw.postgres.fetch(select(Ranking).where(*where).order_by(*clauses(order), last))
        assert [r.id for r in seen] == [r.id for r in whole]


async def test_the_last_page_says_so_even_when_it_is_full(hw: Headwater) -> None:
    categories = hw.repository(Category)
    assert (await categories.list()).items == ()
    await categories.bulk_insert(hw.autocommit, ({"name": f"c{i}"} for i in range(4)))
    first = await categories.list(limit=2)
    second = await categories.list(limit=2, cursor=first.next)
    assert (len(second.items), second.next) == (2, None)


async def test_rows_that_come_and_go_between_pages_disturb_no_other(hw: Headwater) -> None:
    categories = hw.repository(Category)
    await categories.bulk_insert(hw.autocommit, ({"name": f"c{i}"} for i in range(6)))
    first = await categories.list(limit=3)
    await categories.delete(hw.autocommit, 3)  # the very row the cursor names
    await categories.create(hw.autocommit, name="late")
    rest = await categories.list(limit=10, cursor=first.next)
    assert [c.id for c in rest.items] == [4, 5, 6, 7]


@pytest.mark.parametrize("limit", [0, -1, 10_001, 10**20])
async def test_a_limit_out_of_range_is_refused(hw: Headwater, limit: int) -> None:
    with pytest.raises(InvalidValue, match="limit"):
        await hw.repository(Category).list(limit=limit)


async def test_an_order_without_a_single_place_for_each_row_is_refused(hw: Headwater) -> None:
    products = hw.repository(Product)
    for order, why in (
        ([Product.note], "may be NULL"),
        ([Product.manual], "deferred"),
        ([func.lower(Product.name)], "cannot be listed by"),
        ([Product.name.desc().nulls_last()], "cannot be listed by"),
        ([(Product.price * 2).label("price")], "cannot be listed by"),
        ([Category.name], "cannot be listed by"),  # a column of another entity that happens to have the name
        ([Category.__table__.c.name], "cannot be listed by"),
        (["nonsense"], "cannot be listed by"),
    ):
        with pytest.raises(ProgrammingError, match=why):
            await products.list(order=order)
    for order in ([Product.name], [Product.__table__.c.name.desc()], ["name"], [Product.metadata_.asc()]):
        assert (await products.list(order=order)).items == ()


async def test_a_cursor_of_another_listing_is_refused(hw: Headwater) -> None:
    rankings = await fill(hw)
    shelves = hw.repository(Shelf)
    await shelves.bulk_insert(hw.autocommit, [{"warehouse": "a", "number": n} for n in range(3)])
    cursor = (await rankings.list(order=[Ranking.a], limit=1)).next
    for order in (None, [Ranking.a.desc()], [Ranking.a, Ranking.b]):
        with pytest.raises(InvalidCursor, match="another listing"):
            await rankings.list(order=order, cursor=cursor)
    with pytest.raises(InvalidCursor, match="another listing"):
        await shelves.list(cursor=cursor)
    with pytest.raises(InvalidCursor):
        await rankings.list(cursor=(await shelves.list(limit=1)).next)


def encoded(value: Any) -> str:
    return base64.urlsafe_b64encode(msgspec.json.encode(value)).rstrip(b"=").decode()


@pytest.mark.parametrize(
    "cursor",
    [
        *["", "a", "!!!", "ü", "\ud800", "\x00", "abc", "e30", "A" * 100_001],
        *[encoded([]), encoded({}), encoded("x"), encoded(5)],
        *[base64.urlsafe_b64encode(raw).decode() for raw in (b"[" * 100_000, b"\xff\xfe")],
    ],
    ids=lambda c: ascii(c[:12]),
)  # fmt: skip
async def test_garbage_is_no_cursor(hw: Headwater, cursor: str) -> None:
    with pytest.raises(InvalidCursor):
        await hw.repository(Category).list(cursor=cursor)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=4,
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
async def test_a_forged_cursor_gives_rows_or_a_clear_refusal(dsn: str, data: st.DataObject) -> None:
    async with Headwater.open(EMPTY, Settings(database_url=dsn)) as hw:
        rankings = await fill(hw)
        order = clauses([(c, i % 2 == 0) for i, c in enumerate(COLUMNS)])
        good = (await rankings.list(order=order, limit=20)).next
        assert good is not None
        raw = bytearray(base64.urlsafe_b64decode(good + "=" * (-len(good) % 4)))
        how = data.draw(st.sampled_from(["bytes", "values", "text"]))
        if how == "bytes":
            for _ in range(data.draw(st.integers(1, 3))):
                raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
            cursor = base64.urlsafe_b64encode(raw).rstrip(b"=").decode()
        elif how == "values":
            values = msgspec.json.decode(bytes(raw))
            values[data.draw(st.integers(1, len(values) - 1))] = data.draw(JSON)
            try:
                cursor = encoded(values)
            except (OverflowError, UnicodeEncodeError):
                return
        else:
            cursor = data.draw(st.text())
        try:
            page = await rankings.list(order=order, cursor=cursor, limit=5)
        except (InvalidCursor, InvalidValue):
            return
        assert len(page.items) <= 5
