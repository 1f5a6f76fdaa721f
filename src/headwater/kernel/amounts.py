"""Amounts: money, tokens and quantities as whole numbers of their smallest unit. Nothing here is ever a float.

`numeric(39,0)` in PostgreSQL, `int` in Python and in JSON. PostgreSQL is no slower with it than with bigint, and an
amount in wei fits.
"""

from __future__ import annotations

from decimal import Decimal
from typing import Annotated, Any

import msgspec
from sqlalchemy import Dialect, Numeric
from sqlalchemy.types import TypeDecorator

AMOUNT_MAX = 10**38 - 1
"""The largest amount anyone may state; the column holds ten times as much, so that a sum of a few still fits."""

_schema = {"maximum": AMOUNT_MAX}
Amount = Annotated[int, msgspec.Meta(ge=0, extra_json_schema=_schema)]
"""A field of a body: zero or more. msgspec bounds only 64-bit integers, so `require_amounts` checks the upper end."""
PositiveAmount = Annotated[int, msgspec.Meta(ge=1, extra_json_schema=_schema)]
"""A field of a body: one or more."""


def require_amounts(**amounts: int) -> None:
    """Raise ValueError for one above AMOUNT_MAX. In the `__post_init__` of a body it becomes a problem response."""
    for name, amount in amounts.items():
        if amount > AMOUNT_MAX:
            raise ValueError(f"'{name}' has {len(str(amount))} digits; the largest amount has 38")


class WholeNumber(TypeDecorator[int]):
    """A column of amounts: `amount: Mapped[int] = mapped_column(WholeNumber())`."""

    impl = Numeric(39, 0)
    cache_ok = True

    @property
    def python_type(self) -> type[Any]:
        return int

    def process_bind_param(self, value: int | None, dialect: Dialect) -> int | None:
        if value is None:
            return None
        if type(value) is not int:
            raise TypeError(f"an amount is an int, not {type(value).__name__}")
        return value

    def process_result_value(self, value: Decimal | None, dialect: Dialect) -> int | None:
        return None if value is None else int(value)
