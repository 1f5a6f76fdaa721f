"""A shop: entities of the kernel's own tests, with every kind of column the kernel must get right."""

from __future__ import annotations

import enum
from datetime import date, datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    ForeignKey,
    Identity,
    SmallInteger,
    String,
    Table,
    Text,
    UniqueConstraint,
    Uuid,
    create_engine,
    func,
    text,
)
from sqlalchemy.dialects.postgresql import ARRAY, ENUM
from sqlalchemy.engine import make_url
from sqlalchemy.orm import Mapped, mapped_column, relationship
from sqlalchemy.schema import sort_tables

from headwater.kernel.amounts import WholeNumber
from headwater.kernel.models import Keyed, Model, Timestamped, Versioned


class Color(enum.Enum):
    RED = "red"
    DARK_BLUE = "dark blue"


COLOR = ENUM(Color, name="color", schema="shop", values_callable=lambda members: [m.value for m in members])


class Product(Keyed, Timestamped, Versioned, Model, schema="shop"):
    """Sold here."""

    __tablename__ = "products"
    __table_args__ = (
        CheckConstraint("price >= 0", name="price", info={"message": "shop.products: a price is not negative."}),
        CheckConstraint("weight < 1000", name="weight"),
    )

    name: Mapped[str] = mapped_column(unique=True)
    price: Mapped[int] = mapped_column(WholeNumber(), default=0)
    color: Mapped[Color] = mapped_column(COLOR, default=Color.RED)
    weight: Mapped[float] = mapped_column(server_default="0")
    rate: Mapped[Decimal | None]
    data: Mapped[dict[str, Any]] = mapped_column(server_default="{}")
    options: Mapped[dict[str, Any] | None]
    metadata_: Mapped[dict[str, Any]] = mapped_column("metadata", server_default="{}")
    note: Mapped[str | None]
    tags: Mapped[list[str]] = mapped_column(server_default="{}")
    colors: Mapped[list[Color]] = mapped_column(ARRAY(COLOR), server_default="{}")
    rates: Mapped[list[Decimal]] = mapped_column(ARRAY(WholeNumber.impl.__class__(10, 2)), server_default="{}")
    bought_at: Mapped[datetime | None]
    secret: Mapped[str | None] = mapped_column(info={"private": True})
    manual: Mapped[str] = mapped_column(Text(), deferred=True, server_default="a long text")

    reviews: Mapped[list[Review]] = relationship(back_populates="product")

    @property
    def title(self) -> str:
        return self.name.title()


class Review(Keyed, Model, schema="shop"):
    """What somebody thinks of a product."""

    __tablename__ = "reviews"
    __table_args__ = (
        UniqueConstraint("product_id", "author", info={"message": "shop.reviews: you have reviewed this already."}),
    )

    product_id: Mapped[UUID] = mapped_column(
        ForeignKey("shop.products.id", info={"message": "shop.reviews: there is no such product."})
    )
    author: Mapped[str]
    stars: Mapped[int] = mapped_column(server_default="5")

    product: Mapped[Product] = relationship(back_populates="reviews")


class Category(Model, schema="shop"):
    """A tree with numbers for keys."""

    __tablename__ = "categories"

    id: Mapped[int] = mapped_column(Identity(), primary_key=True)
    name: Mapped[str] = mapped_column(unique=True, info={"message": "shop.categories: pick another name."})
    parent_id: Mapped[int | None] = mapped_column(ForeignKey("shop.categories.id"))


class Shelf(Model, schema="shop"):
    """A key of two columns."""

    __tablename__ = "shelves"

    warehouse: Mapped[str] = mapped_column(primary_key=True)
    number: Mapped[int] = mapped_column(primary_key=True)
    label: Mapped[str] = mapped_column(server_default="")


class Option(Model, schema="shop"):
    """Columns named like what they must not be confused with."""

    __tablename__ = "options"

    key: Mapped[str] = mapped_column(primary_key=True)
    count: Mapped[int] = mapped_column(server_default="0")
    index: Mapped[int] = mapped_column(server_default="0")
    keys: Mapped[str | None]
    tx: Mapped[str | None]


class Paint(Model, schema="shop"):
    """A key that is an enum."""

    __tablename__ = "paints"

    color: Mapped[Color] = mapped_column(COLOR, primary_key=True)
    litres: Mapped[int] = mapped_column(server_default="0")


class Counter(Keyed, Versioned, Model, schema="shop"):
    """Nothing but defaults, one of each kind."""

    __tablename__ = "counters"

    slug: Mapped[str] = mapped_column(default=lambda: "made by Python", unique=True)
    count: Mapped[int] = mapped_column(server_default="0")
    changed_by: Mapped[str] = mapped_column(default="nobody", onupdate=lambda: "somebody")
    changed_at: Mapped[datetime] = mapped_column(server_default=func.now(), onupdate=func.clock_timestamp())


class Ranking(Keyed, Model, schema="shop"):
    """To be ordered in every way, with ties."""

    __tablename__ = "rankings"

    a: Mapped[int]
    b: Mapped[str]
    c: Mapped[float]
    d: Mapped[int] = mapped_column(WholeNumber())
    e: Mapped[datetime]
    f: Mapped[Color] = mapped_column(COLOR)
    g: Mapped[bool]
    h: Mapped[Decimal]


class Kaleidoscope(Keyed, Model, schema="shop"):
    """A column of every kind that PostgreSQL can write as JSON, each with and without NULL where it matters."""

    __tablename__ = "kaleidoscopes"

    words: Mapped[str]
    short: Mapped[str | None] = mapped_column(String(8))
    big: Mapped[int]
    small: Mapped[int | None] = mapped_column(SmallInteger)
    amount: Mapped[int] = mapped_column(WholeNumber())
    rate: Mapped[Decimal | None]
    weight: Mapped[float | None]
    good: Mapped[bool | None]
    color: Mapped[Color | None] = mapped_column(COLOR)
    made_at: Mapped[datetime]
    seen_at: Mapped[datetime | None]
    day: Mapped[date | None]
    raw: Mapped[bytes | None]
    data: Mapped[dict[str, Any]]
    extra: Mapped[list[Any] | None]
    owner: Mapped[UUID | None]
    tags: Mapped[list[str]]
    colors: Mapped[list[Color] | None] = mapped_column(ARRAY(COLOR))
    counts: Mapped[list[int]] = mapped_column(ARRAY(BigInteger))
    owners: Mapped[list[UUID]] = mapped_column(ARRAY(Uuid()))
    it_s: Mapped[str] = mapped_column("it's odd %s :x", server_default="odd")
    secret: Mapped[str] = mapped_column(info={"private": True}, server_default="s3cret")
    manual: Mapped[str] = mapped_column(deferred=True, server_default="a long text")


class SqlDefault(Keyed, Model, schema="shop"):
    """A default that only an INSERT can compute."""

    __tablename__ = "sql_defaults"

    n: Mapped[int] = mapped_column(default=text("40 + 2"))
    m: Mapped[int] = mapped_column(server_default="0")


class Folder(Keyed, Model, schema="shop"):
    """A tree with UUIDs for keys."""

    __tablename__ = "folders"

    name: Mapped[str]
    parent_id: Mapped[UUID | None] = mapped_column(ForeignKey("shop.folders.id"))


class File(Keyed, Model, schema="shop"):
    """What lies in a folder."""

    __tablename__ = "files"

    folder_id: Mapped[UUID] = mapped_column(ForeignKey("shop.folders.id", ondelete="CASCADE"))


TABLES: list[Table] = sort_tables([t for t in Model.metadata.tables.values() if t.schema == "shop"])


def build(dsn: str) -> None:
    """Create the shop in a database."""
    engine = create_engine(make_url(dsn).set(drivername="postgresql+psycopg"))
    with engine.begin() as connection:
        connection.execute(text("CREATE SCHEMA shop"))
        for table in TABLES:  # create_all would make the enum types of every model that other tests have imported
            table.create(connection)
    engine.dispose()


TRUNCATE = "TRUNCATE " + ", ".join(str(t.fullname) for t in TABLES) + " RESTART IDENTITY CASCADE"
