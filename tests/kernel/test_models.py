"""Model: entities declared once, with names and types PostgreSQL's own habits give them."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import JSONB
from tests.kernel.shop import Category, Counter, Product, Review

from headwater.kernel.models import Model


def test_python_types_become_the_types_of_postgresql() -> None:
    columns: Any = Product.__table__.c
    assert isinstance(columns.id.type, sa.Uuid)
    assert isinstance(columns.name.type, sa.Text)
    assert isinstance(columns.data.type, JSONB)
    assert isinstance(columns.rate.type, sa.Numeric)
    assert columns.created_at.type.timezone
    assert isinstance(columns.tags.type, sa.ARRAY)
    assert isinstance(Category.__table__.c.parent_id.type, sa.BigInteger)
    assert (columns.note.nullable, columns.name.nullable) == (True, False)


def test_constraints_are_named_as_postgresql_would() -> None:
    names = {str(c.name) for table in (Product, Review) for c in table.__table__.constraints}  # type: ignore[attr-defined]
    assert names == {
        "products_pkey",
        "products_name_key",
        "products_price_check",
        "products_weight_check",
        "reviews_pkey",
        "reviews_product_id_author_key",
        "reviews_product_id_fkey",
    }


def test_an_enum_is_stored_by_its_values() -> None:
    import enum

    from sqlalchemy.orm import Mapped, mapped_column

    class Mood(enum.Enum):
        GOOD = "very good"

    class Feeling(Model, schema="shop_of_feelings"):
        __tablename__ = "feelings"
        __annotations__ = {"id": Mapped[int], "mood": Mapped[Mood]}
        id = mapped_column(primary_key=True)
        mood = mapped_column()

    try:
        kind: Any = Feeling.__table__.c.mood.type
        assert kind.enums == ["very good"]
        assert kind.native_enum
        assert Feeling.__table__.schema == "shop_of_feelings"  # type: ignore[attr-defined]
    finally:
        Model.metadata.remove(Feeling.__table__)  # type: ignore[arg-type]


def test_the_schema_joins_whatever_table_arguments_there_are() -> None:
    for model in (Product, Review, Counter):
        assert model.__table__.schema == "shop"  # type: ignore[attr-defined]


def test_shared_columns_frame_the_entitys_own() -> None:
    names = [c.name for c in Product.__table__.columns]
    assert names[0] == "id"
    assert names[-3:] == ["created_at", "updated_at", "version"]
