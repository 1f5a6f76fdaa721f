"""Page: a part of a listing, and the opaque cursor that leads to the next part (keyset pagination, no offsets)."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b
from math import isfinite
from typing import Any, Generic, TypeVar

import msgspec
from sqlalchemy import JSON, ColumnElement, Float, UnaryExpression, and_, or_, tuple_
from sqlalchemy.sql import operators
from sqlalchemy.types import TypeEngine

from headwater.kernel.errors import InvalidCursor, InvalidValue, ProgrammingError
from headwater.kernel.rows import Shape, result_processor

T = TypeVar("T")

LIMIT_MAX = 10_000
"""Rows one page may hold."""


@dataclass(frozen=True, slots=True)
class Page(Generic[T]):
    """`items` in the order asked for; `next` is the cursor of the page after, or None at the end."""

    items: tuple[T, ...]
    next: str | None


@dataclass(frozen=True, slots=True)
class JsonPage(Generic[T]):
    """A Page whose items are written already: `items` is a JSON array of `count` entities as their View shows them."""

    items: bytes
    count: int
    next: str | None


@dataclass(frozen=True, slots=True)
class Sorting:
    """An order that puts every row in exactly one place: the columns asked for, then the key."""

    names: tuple[str, ...]
    descending: tuple[bool, ...]
    fingerprint: str

    def clauses(self, known: Shape) -> list[Any]:
        return [
            known.by_name[n].desc() if down else known.by_name[n].asc()
            for n, down in zip(self.names, self.descending, strict=True)
        ]

    def place(self, known: Shape, record: Sequence[Any]) -> list[Any]:
        """The values of a record that holds these columns as the driver gave them."""
        processors = [result_processor(known.by_name[name].type) for name in self.names]
        return [v if p is None else p(v) for p, v in zip(processors, record, strict=True)]

    def after(self, known: Shape, binds: Sequence[Any]) -> ColumnElement[bool]:
        """The rows that come after the place named by `binds`."""
        columns = [known.by_name[n] for n in self.names]
        if len(set(self.descending)) == 1:
            left, right = (tuple_(*columns), tuple_(*binds)) if len(columns) > 1 else (columns[0], binds[0])
            return left < right if self.descending[0] else left > right
        steps = []
        for i, (column, down) in enumerate(zip(columns, self.descending, strict=True)):
            equal = [columns[j] == binds[j] for j in range(i)]
            steps.append(and_(*equal, column < binds[i] if down else column > binds[i]))
        return or_(*steps)


def read_order(known: Shape, order: Sequence[Any]) -> tuple[tuple[str, bool], ...]:
    """The attributes of `order` (columns, or columns with .desc() or .asc()), each with whether it descends."""
    read = []
    for item in order:
        directed = isinstance(item, UnaryExpression) and item.modifier in (operators.desc_op, operators.asc_op)
        name = known.attribute(item.element if directed else item)
        if name is None:
            raise ProgrammingError(
                f"{known.label} cannot be listed by {item}.",
                remedy="Order by columns of the entity, with .desc() or .asc().",
            )
        read.append((name, directed and item.modifier is operators.desc_op))
    return tuple(read)


def sorting(known: Shape, order: tuple[tuple[str, bool], ...]) -> Sorting:
    """`order` with the key appended. Raises ProgrammingError for an order that has no single place for each row."""
    names: list[str] = []
    descending: list[bool] = []
    for name, down in order:
        column = known.by_name[name]
        if column.nullable:
            raise ProgrammingError(
                f"{known.label} cannot be paged by '{name}', which may be NULL: rows without it have no place.",
                remedy="Order by columns that are never NULL.",
            )
        if name not in known.names:
            raise ProgrammingError(
                f"{known.label} cannot be paged by '{name}', which is deferred: a value does not have it.",
                remedy="Order by columns that are read.",
            )
        if name not in names:
            names.append(name)
            descending.append(down)
    for name in known.key_names:
        if name not in names:
            names.append(name)
            descending.append(descending[-1] if descending else False)
    text = f"{known.label}|{list(zip(names, descending, strict=True))}"
    return Sorting(tuple(names), tuple(descending), blake2b(text.encode(), digest_size=6).hexdigest())


def write_cursor(order: Sorting, place: Sequence[Any]) -> str:
    """The cursor of a place: the values of the order's columns."""
    raw = msgspec.json.encode([order.fingerprint, *map(_written, place)])
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def _written(place: Any) -> Any:
    """JSON has no way to write these numbers; as text they come back as they were."""
    return str(place) if isinstance(place, float) and not isfinite(place) else place


def read_cursor(order: Sorting, known: Shape, cursor: str) -> dict[str, Any]:
    """The values a cursor names, as parameters `after_0`, `after_1`, …. Raises InvalidCursor."""
    try:
        raw = base64.b64decode(cursor.encode() + b"=" * (-len(cursor) % 4), altchars=b"-_", validate=True)
        read = msgspec.json.decode(raw, type=list[Any])
    except (ValueError, RecursionError):  # not base64, not JSON, or nested beyond reason
        raise _bad("is damaged") from None
    if not read or read[0] != order.fingerprint or len(read) != len(order.names) + 1:
        raise _bad("belongs to another listing or another order")
    places = {}
    for i, (name, value) in enumerate(zip(order.names, read[1:], strict=True)):
        try:
            places[f"after_{i}"] = _place(value, known.by_name[name].type)
        except (ValueError, TypeError, OverflowError, NotImplementedError):
            raise _bad("is damaged") from None
    return places


def _place(value: Any, kind: TypeEngine[Any]) -> Any:
    if isinstance(kind, JSON):
        return value
    if isinstance(kind, Float) and isinstance(value, str):
        return float(value)
    if value is None:
        raise ValueError("no place has NULL in it")
    return msgspec.convert(value, kind.python_type, strict=False)


def _bad(how: str) -> InvalidCursor:
    return InvalidCursor(
        f"The cursor {how}.", remedy="Start again without a cursor, and use `next` exactly as it was given."
    )


def check_limit(limit: int) -> int:
    """`limit` itself. Raises InvalidValue outside 1..LIMIT_MAX."""
    if not 1 <= limit <= LIMIT_MAX:
        raise InvalidValue(f"'limit' is {limit}.", remedy=f"Ask for 1 to {LIMIT_MAX} rows.", field="limit")
    return limit
