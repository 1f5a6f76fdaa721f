"""JSON rows: PostgreSQL writes exactly what the View writes, whatever the row holds; and no row falls out of a page."""

from __future__ import annotations

from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.kernel.conftest import EMPTY
from tests.kernel.shop import Color, Kaleidoscope, Product, Ranking
from tests.kernel.test_pages import ROWS

from headwater.kernel.errors import InvalidCursor, ProgrammingError
from headwater.kernel.json_rows import json_row, json_rows
from headwater.kernel.lifecycle import Headwater
from headwater.kernel.settings import Settings

TEXT = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=20)
SMALL, BIG = st.integers(-(2**15), 2**15 - 1), st.integers(-(2**63), 2**63 - 1)
INSTANTS = st.datetimes(datetime(1, 1, 2), datetime(9999, 12, 30), timezones=st.just(UTC)) | st.builds(
    lambda moment: moment.replace(microsecond=moment.microsecond // 1000 * 1000 % 900_000),
    st.datetimes(datetime(1970, 1, 1), timezones=st.just(UTC), max_value=datetime(2100, 1, 1)),
)
DECIMALS = st.decimals(allow_nan=True, allow_infinity=False, min_value=-(10**30), max_value=10**30) | st.sampled_from(
    [Decimal("1E-7"), Decimal("0E-10"), Decimal("1.50"), Decimal("1E+20"), Decimal("-0.0")]
)
JSON = st.recursive(
    st.none() | st.booleans() | BIG | st.floats(allow_nan=False, allow_infinity=False) | TEXT,
    lambda inner: st.lists(inner) | st.dictionaries(TEXT, inner),
    max_leaves=8,
)
HOLDINGS = st.fixed_dictionaries(
    {
        "words": TEXT,
        "short": st.none() | TEXT.map(lambda words: words[:8]),
        "big": BIG,
        "small": st.none() | SMALL,
        "amount": st.integers(-(10**38), 10**38),
        "rate": st.none() | DECIMALS,
        "weight": st.none() | st.floats(),
        "good": st.none() | st.booleans(),
        "color": st.none() | st.sampled_from(Color),
        "made_at": INSTANTS,
        "seen_at": st.none() | INSTANTS,
        "day": st.none() | st.dates(date(1, 1, 2), date(9999, 12, 30)),
        "raw": st.none() | st.binary(max_size=200),
        "data": st.dictionaries(TEXT, JSON, max_size=3),
        "extra": st.none() | st.lists(JSON, max_size=3),
        "owner": st.none() | st.uuids(),
        "tags": st.lists(TEXT, max_size=3),
        "colors": st.none() | st.lists(st.sampled_from(Color), max_size=3),
        "counts": st.lists(BIG, max_size=3),
        "owners": st.lists(st.uuids(), max_size=2),
    }
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=st.lists(HOLDINGS, min_size=1, max_size=4))
async def test_postgresql_writes_a_row_as_its_view_does(dsn: str, rows: list[dict[str, Any]]) -> None:
    assert json_row(Kaleidoscope) is not None
    async with Headwater.open(EMPTY, Settings(database_url=dsn)) as hw:
        things = hw.repository(Kaleidoscope)
        async with hw.transaction() as tx:
            await things.bulk_insert(tx, rows)
            values = (await things.list(tx=tx, limit=1_000)).items
            written = await things.list_json(tx=tx, limit=1_000)
            for value in values:
                await things.delete(tx, value.id)
    assert msgspec.json.decode(written.items) == msgspec.json.decode(json_rows(Kaleidoscope, values))
    assert written.count == len(values) == len(rows)


async def test_an_entity_postgresql_cannot_write_alike_is_written_by_its_view(hw: Headwater) -> None:
    assert json_row(Product) is None  # a list of decimals would be numbers, not text
    product = await hw.repository(Product).create(hw.autocommit, name="Servo", rates=[Decimal("1.50")])
    page = await hw.repository(Product).list_json()
    (shown,) = msgspec.json.decode(page.items)
    assert (shown["id"], shown["rates"], page.next) == (str(product.id), ["1.50"], None)
    assert "secret" not in shown


async def test_pages_of_json_lead_through_every_row_by_the_same_cursors(hw: Headwater) -> None:
    rankings = hw.repository(Ranking)
    await rankings.bulk_insert(hw.autocommit, ROWS)
    order = (Ranking.f.desc(), Ranking.d, Ranking.e)
    seen: list[Any] = []
    cursor = None
    while True:
        page = await rankings.list_json(Ranking.a > 0, order=order, limit=7, cursor=cursor)
        same = await rankings.list(Ranking.a > 0, order=order, limit=7, cursor=cursor)
        assert (page.next, page.count) == (same.next, len(same.items))
        seen += [row["id"] for row in msgspec.json.decode(page.items)]
        cursor = page.next
        if cursor is None:
            break
    assert len(seen) == len(set(seen)) == await rankings.count(Ranking.a > 0)


async def test_a_page_without_rows_is_an_empty_array(hw: Headwater) -> None:
    page = await hw.repository(Ranking).list_json(Ranking.a == 5)
    assert (page.items, page.count, page.next) == (b"[]", 0, None)


async def test_a_page_of_json_refuses_what_a_page_refuses(hw: Headwater) -> None:
    with pytest.raises(InvalidCursor):
        await hw.repository(Ranking).list_json(cursor="nonsense")
    with pytest.raises(ProgrammingError):
        await hw.repository(Ranking).list_json(order=(Product.name,))
