"""Commands: what can be asked of the matcher, and the outcome that each gets. Values; nothing here asks."""

from __future__ import annotations

import enum
from collections.abc import Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

import msgspec

from headwater.kernel.errors import InvalidValue
from headwater.modules.trading.models import OrderStatus, Side

AMOUNT_MAX = 10**38 - 1
"""The largest price, quantity, and product of the two."""


class Place(msgspec.Struct, frozen=True, kw_only=True):
    """Put an order into the market of an asset. Both are whole numbers; `price` is for one unit of `quantity`."""

    user_id: UUID
    asset_id: UUID
    side: Side
    price: int
    quantity: int


class Cancel(msgspec.Struct, frozen=True, kw_only=True):
    """Take what is left of an order out of the book; with `version`, only if the order has that version."""

    order_id: UUID
    version: int | None = None


class Answer(enum.Enum):
    """The answer to a command. The first four say how the order stands; the others, why nothing was done."""

    OPEN = "open"
    PARTIALLY_FILLED = "partially_filled"
    FILLED = "filled"
    CANCELLED = "cancelled"
    INSUFFICIENT_FUNDS = "insufficient_funds"
    NO_USER = "no_user"
    NO_ASSET = "no_asset"
    NO_ORDER = "no_order"
    NOT_OPEN = "not_open"
    OTHER_VERSION = "other_version"

    @property
    def done(self) -> bool:
        return self in _DONE


_DONE = frozenset((Answer.OPEN, Answer.PARTIALLY_FILLED, Answer.FILLED, Answer.CANCELLED))


class Outcome(msgspec.Struct, frozen=True):
    """What became of one command: the answer, and the order as it stands after the whole batch.

    A new order that meets one of its own user is cancelled for what is left of it. The order of a refused command is
    absent (all its fields are None), or the one that could not be cancelled.
    """

    outcome: Answer
    id: UUID | None
    user_id: UUID | None
    asset_id: UUID | None
    side: Side | None
    price: int | None
    quantity: int | None
    filled_quantity: int | None
    status: OrderStatus | None
    cancelled_at: datetime | None
    created_at: datetime | None
    updated_at: datetime | None
    version: int | None


def columns_of(commands: Sequence[Place | Cancel]) -> dict[str, list[Any]]:
    """The arguments of trading.run, an array each. Raises InvalidValue."""
    places = [command if isinstance(command, Place) else None for command in commands]
    cancels = [command if isinstance(command, Cancel) else None for command in commands]
    for place in places:
        if place is not None:
            _check(place)
    return {
        "actions": ["cancel" if place is None else "place" for place in places],
        "given_ids": [None if cancel is None else cancel.order_id for cancel in cancels],
        "wanted_versions": [None if cancel is None else cancel.version for cancel in cancels],
        "given_users": [None if place is None else place.user_id for place in places],
        "given_assets": [None if place is None else place.asset_id for place in places],
        "given_sides": [None if place is None else place.side.value for place in places],
        "given_prices": [None if place is None else place.price for place in places],
        "given_quantities": [None if place is None else place.quantity for place in places],
    }


def call_of(commands: Sequence[Place | Cancel]) -> tuple[str, dict[str, Any]]:
    """The named query that runs these commands, and its arguments: one alone has a shorter way. Raises InvalidValue."""
    if len(commands) > 1:
        return "run", columns_of(commands)
    [command] = commands
    if isinstance(command, Cancel):
        return "cancel", {"order_id": command.order_id, "version": command.version}
    _check(command)
    return "place", {
        "user_id": command.user_id,
        "asset_id": command.asset_id,
        "side": command.side.value,
        "price": command.price,
        "quantity": command.quantity,
    }


def _check(place: Place) -> None:
    for field in ("price", "quantity"):
        value = getattr(place, field)
        if type(value) is not int or not 1 <= value <= AMOUNT_MAX:
            raise InvalidValue(
                f"trading.orders: {value!r} is no {field}.",
                remedy=f"Pass a whole number from 1 to {AMOUNT_MAX}.",
                columns=[field],
            )
    if place.price * place.quantity > AMOUNT_MAX:
        raise InvalidValue(
            "trading.orders: the value of the order, price times quantity, is no amount.",
            remedy="Place smaller orders.",
            columns=["price", "quantity"],
        )
