"""Amounts: money, tokens and quantities as whole numbers of their smallest unit. Nothing here is ever a float.

`numeric(39,0)` in PostgreSQL and `int` in Python: no slower than bigint in PostgreSQL, and an amount in wei fits.
Over HTTP an amount is a JSON integer of at most 64 bits; price times quantity of two such still fits the column.
"""

from __future__ import annotations

from decimal import Decimal
from typing import Annotated, Any

import msgspec
from sqlalchemy import Dialect, Numeric
from sqlalchemy.types import TypeDecorator

Amount = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]
"""A field of a body: zero or more."""
PositiveAmount = Annotated[int, msgspec.Meta(ge=1, le=2**63 - 1)]
"""A field of a body: one or more."""


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
