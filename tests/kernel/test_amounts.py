"""Amounts are whole numbers on both sides of the database, and nothing else is taken for one."""

from __future__ import annotations

from decimal import Decimal

import msgspec
import pytest

from headwater.kernel.amounts import Amount, PositiveAmount, WholeNumber
from headwater.kernel.rows import DIALECT, bind_processor, result_processor


def test_an_amount_is_an_int_on_its_way_in_and_out() -> None:
    write, read = bind_processor(WholeNumber()), result_processor(WholeNumber())
    assert write is not None
    assert read is not None
    for amount in (0, -1, 2**63, 10**38 - 1):
        assert write(amount) == amount
        back = read(Decimal(amount))
        assert (back, type(back)) == (amount, int)
    assert read(None) is None
    assert str(WholeNumber().compile(dialect=DIALECT)) == "NUMERIC(39, 0)"


@pytest.mark.parametrize("value", [1.0, "1", Decimal(1), True])
def test_what_is_no_int_is_refused(value: object) -> None:
    write = bind_processor(WholeNumber())
    assert write is not None
    with pytest.raises(TypeError, match="an amount is an int"):
        write(value)


def test_a_body_bounds_amounts_to_64_bits() -> None:
    assert msgspec.convert(2**63 - 1, PositiveAmount) == 2**63 - 1
    assert msgspec.convert(0, Amount) == 0
    for value, kind in ((0, PositiveAmount), (-1, Amount), (2**63, Amount), (1.5, Amount)):
        with pytest.raises(msgspec.ValidationError):
            msgspec.convert(value, kind)
