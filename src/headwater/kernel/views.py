"""Views: what of an entity leaves the process. One msgspec Struct per model, generated once from its columns.

Names are the columns' names, private and deferred columns are left out. Enums are written by value, decimals as
strings, instants as RFC 3339 in UTC, bytes as base64.
"""

from __future__ import annotations

import hashlib
import typing
from collections.abc import Callable
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from operator import attrgetter
from typing import Annotated, Any, Literal
from uuid import UUID

import msgspec
import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.orm import Mapped

from headwater.kernel.models import Model
from headwater.kernel.rows import shape


class View:
    """How one model is shown: the Struct, the function from value to Struct, and the fingerprint that ETags carry."""

    _of: dict[type[Model], View] = {}

    def __init__(self, model: type[Model]) -> None:
        known = shape(model)
        shown = [
            (name, column)
            for name, column in zip(known.names, known.columns, strict=True)
            if not column.info.get("private")
        ]
        self.model = model
        self.version_name = known.version_name
        self.key_names = known.key_names
        self.columns: tuple[sa.Column[Any], ...] = tuple(column for _, column in shown)
        self.struct = msgspec.defstruct(
            model.__name__,
            [(name, python_type(model, name, column)) for name, column in shown],
            frozen=True,
            gc=False,
            rename={name: str(column.name) for name, column in shown},
            module=model.__module__,
        )
        self.struct.__doc__ = (model.__doc__ or "").strip().split("\n")[0]
        self.show: Callable[[Any], msgspec.Struct] = _shower(self.struct, shown)
        described = repr([(str(column.name), str(column.type)) for _, column in shown])
        self.fingerprint = hashlib.blake2b(described.encode(), digest_size=4).hexdigest()


def view(model: type[Model]) -> View:
    """The View of a model, made once."""
    known = View._of.get(model)
    if known is None:
        known = View._of[model] = View(model)
    return known


def _shower(struct: type[msgspec.Struct], shown: list[tuple[str, sa.Column[Any]]]) -> Callable[[Any], msgspec.Struct]:
    make: Any = struct
    names = [name for name, _ in shown]
    if any(_is_decimal(column) for _, column in shown):
        written = [(name, _plain if _is_decimal(column) else _as_it_is) for name, column in shown]
        return lambda value: make(*[write(getattr(value, name)) for name, write in written])
    if len(names) == 1:
        one = attrgetter(names[0])
        return lambda value: make(one(value))
    several = attrgetter(*names)
    return lambda value: make(*several(value))


def _is_decimal(column: sa.Column[Any]) -> bool:
    return isinstance(column.type, sa.Numeric) and not isinstance(column.type, sa.Float)


def _plain(number: Any) -> Any:
    """A decimal without an exponent, as PostgreSQL and every body write it: str() would say 1E-7."""
    return format(number, "f") if isinstance(number, Decimal) else number


def _as_it_is(value: Any) -> Any:
    return value


def python_type(model: type[Model], name: str, column: sa.Column[Any]) -> Any:
    """The annotated Python type of a column, `| None` where it may be null."""
    base = _base_type(model, name, column.type)
    return base | None if column.nullable else base


def _base_type(model: type[Model], name: str, kind: Any) -> Any:
    if isinstance(kind, sa.TypeDecorator):
        declared = kind.python_type
        return _base_type(model, name, kind.impl) if declared is object else declared
    if isinstance(kind, sa.Enum):
        return kind.enum_class if kind.enum_class is not None else Literal[tuple(kind.enums)]
    if isinstance(kind, ARRAY):
        return list[_base_type(model, name, kind.item_type)]  # type: ignore[misc]  # built at run time
    if isinstance(kind, sa.JSON):
        return _declared_json(model, name)
    if isinstance(kind, sa.Boolean):
        return bool
    if isinstance(kind, sa.SmallInteger):
        return Annotated[int, msgspec.Meta(ge=-(2**15), le=2**15 - 1)]
    if isinstance(kind, sa.BigInteger):
        return Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]
    if isinstance(kind, sa.Integer):
        return Annotated[int, msgspec.Meta(ge=-(2**31), le=2**31 - 1)]
    if isinstance(kind, sa.Float):
        return float
    if isinstance(kind, sa.Numeric):
        return Decimal
    if isinstance(kind, sa.String):
        return Annotated[str, msgspec.Meta(max_length=kind.length)] if kind.length else str
    for sql, python in _SCALARS:
        if isinstance(kind, sql):
            return python
    return Any


_SCALARS: tuple[tuple[type[Any], Any], ...] = (
    (sa.Uuid, UUID),
    (sa.DateTime, Annotated[datetime, msgspec.Meta(tz=True)]),
    (sa.Date, date),
    (sa.Time, time),
    (sa.Interval, timedelta),
    (sa.LargeBinary, bytes),
)


def _declared_json(model: type[Model], name: str) -> Any:
    """jsonb holds anything; its Mapped[...] annotation says what it is meant to hold."""
    declared = typing.get_type_hints(model, include_extras=True).get(name)
    if typing.get_origin(declared) is not Mapped:
        return Any
    (inner,) = typing.get_args(declared)
    members = [part for part in typing.get_args(inner) if part is not type(None)]
    if type(None) in typing.get_args(inner) and len(members) == 1:
        inner = members[0]
    return inner
