"""Views: what of an entity leaves the process."""

from __future__ import annotations

import enum
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

import msgspec
from sqlalchemy import SmallInteger, String
from sqlalchemy.orm import Mapped, mapped_column

from headwater.kernel.amounts import WholeNumber
from headwater.kernel.models import Keyed, Model
from headwater.kernel.rows import shape
from headwater.kernel.views import view


class ViewedMood(enum.Enum):
    GOOD = "good"


class ViewedThing(Keyed, Model, schema="views_test"):
    """A thing of every kind."""

    __tablename__ = "things"

    name: Mapped[str | None] = mapped_column(String(5))
    rank: Mapped[int] = mapped_column(SmallInteger)
    amount: Mapped[int] = mapped_column(WholeNumber())
    price: Mapped[Decimal]
    mood: Mapped[ViewedMood]
    made_at: Mapped[datetime]
    raw: Mapped[bytes]
    metadata_: Mapped[dict[str, Any]] = mapped_column("metadata")
    secret: Mapped[str] = mapped_column(info={"private": True})
    hidden: Mapped[str] = mapped_column(deferred=True)


def a_thing() -> Any:
    instant = datetime(2026, 1, 1, tzinfo=UTC)
    return shape(ViewedThing).make(
        (UUID(int=1), None, 2, Decimal(10**30), Decimal("1.50"), "good", instant, b"ab", {"a": [1]}, "s3cret")
    )


def test_a_value_is_shown_by_its_columns_without_private_and_deferred_ones() -> None:
    assert msgspec.json.decode(msgspec.json.encode(view(ViewedThing).show(a_thing()))) == {
        "id": "00000000-0000-0000-0000-000000000001",
        "name": None,
        "rank": 2,
        "amount": 10**30,
        "price": "1.50",
        "mood": "good",
        "made_at": "2026-01-01T00:00:00Z",
        "raw": "YWI=",
        "metadata": {"a": [1]},
    }


def test_the_types_say_what_the_columns_hold() -> None:
    properties = msgspec.json.schema(view(ViewedThing).struct)["$defs"]["ViewedThing"]["properties"]
    assert properties["rank"] == {"type": "integer", "minimum": -32768, "maximum": 32767}
    assert properties["name"]["anyOf"][0] == {"type": "string", "maxLength": 5}
    assert properties["made_at"]["format"] == "date-time"
    assert properties["metadata"] == {"type": "object"}


def test_the_fingerprint_changes_with_what_is_shown() -> None:
    class ViewedOther(Keyed, Model, schema="views_test"):
        __tablename__ = "others"

    assert view(ViewedThing).fingerprint != view(ViewedOther).fingerprint
    assert view(ViewedThing) is view(ViewedThing)
