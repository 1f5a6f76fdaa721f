"""Model: the base of every entity, an ordinary typed SQLAlchemy 2.1 class, and the column sets entities share.

Declare an entity once. Alembic sees its table, an ORM session can load it, and repositories read it as plain
immutable values that are instances of the same class (see `rows.py`).
"""

from __future__ import annotations

import enum
from datetime import date, datetime
from decimal import Decimal
from typing import Any, ClassVar
from uuid import UUID

from sqlalchemy import (
    BigInteger,
    Date,
    DateTime,
    Enum,
    LargeBinary,
    MetaData,
    Numeric,
    Text,
    Uuid,
    func,
    literal_column,
)
from sqlalchemy.dialects.postgresql import ARRAY, JSONB
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from headwater.kernel.tracking import Tracked


def _enum_values(members: type[enum.Enum]) -> list[str]:
    return [str(member.value) for member in members]


def native_enum(members: type[enum.Enum], *, name: str, schema: str | None = None) -> Enum:
    """The column type of a PostgreSQL enum whose labels are the members' values."""
    return Enum(members, name=name, schema=schema, values_callable=_enum_values)


class Model(DeclarativeBase):
    """The base of every entity.

    `class Order(Model, schema="trading")` puts the table into a schema. Constraint and index names follow PostgreSQL's
    own habit (`users_email_key`), so that an error names the same thing in the models, the migrations and the database.
    A column whose `info={"private": True}` never leaves the process through the service, and never enters the change
    stream. `__tracked__ = Tracked("full")` makes the table's changes part of that stream.
    """

    __tracked__: ClassVar[Tracked] = Tracked("off")

    metadata = MetaData(
        naming_convention={
            "pk": "%(table_name)s_pkey",
            "uq": "%(table_name)s_%(column_0_N_name)s_key",
            "fk": "%(table_name)s_%(column_0_N_name)s_fkey",
            "ck": "%(table_name)s_%(constraint_name)s_check",
            "ix": "%(table_name)s_%(column_0_N_name)s_idx",
        }
    )
    type_annotation_map = {
        str: Text(),
        int: BigInteger(),
        Decimal: Numeric(),
        UUID: Uuid(),
        bytes: LargeBinary(),
        datetime: DateTime(timezone=True),
        date: Date(),
        dict[str, Any]: JSONB(),
        list[Any]: JSONB(),
        list[str]: ARRAY(Text()),
        enum.Enum: Enum(enum.Enum, values_callable=_enum_values),
    }

    # In an ORM session: what the database fills in at a flush is there afterwards, without a read nobody awaits.
    __mapper_args__ = {"eager_defaults": True}

    def __init_subclass__(cls, *, schema: str | None = None, **options: Any) -> None:
        if schema is not None:
            given = cls.__dict__.get("__table_args__", ())
            given = (given,) if isinstance(given, dict) else given
            positional, keywords = (given[:-1], given[-1]) if given and isinstance(given[-1], dict) else (given, {})
            cls.__table_args__ = (*positional, {**keywords, "schema": schema})
        super().__init_subclass__(**options)


class Keyed:
    """A UUID key made by PostgreSQL in order of time (uuidv7: a quarter of the WAL of random keys)."""

    id: Mapped[UUID] = mapped_column(primary_key=True, server_default=func.uuidv7(), sort_order=-10)


class Timestamped:
    """When the row was made and last changed, by PostgreSQL's clock."""

    created_at: Mapped[datetime] = mapped_column(server_default=func.now(), sort_order=90)
    updated_at: Mapped[datetime] = mapped_column(server_default=func.now(), onupdate=func.now(), sort_order=91)


class Versioned:
    """An optimistic version: each update adds one; an update that names a version succeeds only against that one."""

    version: Mapped[int] = mapped_column(server_default="1", onupdate=literal_column("version") + 1, sort_order=92)
