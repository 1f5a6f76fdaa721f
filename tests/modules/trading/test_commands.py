"""Commands become the arguments of the matcher, and what is no amount never gets there."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import pytest

from headwater.kernel.errors import InvalidValue
from headwater.modules.trading.commands import AMOUNT_MAX, Answer, Cancel, Place, columns_of
from headwater.modules.trading.models import OrderStatus, Side

SOMEBODY, SOMETHING, ORDER = UUID(int=1), UUID(int=2), UUID(int=3)


def place(**given: Any) -> Place:
    values = {"user_id": SOMEBODY, "asset_id": SOMETHING, "side": Side.BUY, "price": 5, "quantity": 7}
    return Place(**(values | given))


def test_each_command_takes_one_place_in_every_array() -> None:
    assert columns_of([place(), Cancel(order_id=ORDER, version=4), place(side=Side.SELL, price=AMOUNT_MAX // 7)]) == {
        "actions": ["place", "cancel", "place"],
        "given_ids": [None, ORDER, None],
        "wanted_versions": [None, 4, None],
        "given_users": [SOMEBODY, None, SOMEBODY],
        "given_assets": [SOMETHING, None, SOMETHING],
        "given_sides": ["buy", None, "sell"],
        "given_prices": [5, None, AMOUNT_MAX // 7],
        "given_quantities": [7, None, 7],
    }
    assert columns_of([])["actions"] == []


@pytest.mark.parametrize("field", ["price", "quantity"])
@pytest.mark.parametrize("wrong", [0, -1, 1.0, "1", True, None, AMOUNT_MAX + 1])
def test_what_is_no_amount_is_refused(field: str, wrong: Any) -> None:
    with pytest.raises(InvalidValue, match=f"is no {field}"):
        columns_of([place(**{field: wrong})])


def test_an_order_worth_more_than_an_amount_is_refused() -> None:
    with pytest.raises(InvalidValue, match="price times quantity"):
        columns_of([place(price=AMOUNT_MAX // 7 + 1, quantity=7)])


def test_an_answer_is_a_status_of_orders_or_a_refusal() -> None:
    assert {answer.value for answer in Answer if answer.done} == {status.value for status in OrderStatus}
