"""Cached rows: every kind of column survives being written down."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from uuid import uuid4

from tests.kernel.shop import Color, Product

from headwater.kernel.cached_rows import Codec
from headwater.kernel.rows import shape


def test_a_value_is_equal_after_it_was_written_down_and_read() -> None:
    known = shape(Product)
    codec = Codec(known)
    given = {
        "id": uuid4(), "created_at": datetime(2026, 1, 2, 3, 4, 5, 678901, UTC), "updated_at": datetime.now(UTC),
        "version": 3, "name": "Ä", "price": 10**30, "color": Color.DARK_BLUE, "weight": 1.5, "rate": Decimal("1.10"),
        "data": {"a": [1, None, {"b": 2.5}]}, "options": None, "metadata_": {}, "note": None, "tags": ["x"],
        "colors": [Color.RED], "rates": [Decimal("0.10")], "bought_at": None, "secret": "s",
    }  # fmt: skip
    value = known.restore([given[name] for name in known.names])
    payload = codec.encode(value)
    assert payload is not None
    read = codec.decode(payload)
    assert read == value
    assert type(read.rate) is Decimal and type(read.price) is int


def test_no_row_is_written_down_as_nothing() -> None:
    assert Codec(shape(Product)).encode(None) == b""


def test_what_cannot_be_written_down_is_not() -> None:
    known = shape(Product)
    assert Codec(known).encode(known.restore([2**70] * len(known.names))) is None
