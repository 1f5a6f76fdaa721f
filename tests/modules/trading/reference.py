"""The reference matcher: price-time priority, partial fills, cancels and self-trade prevention in plain Python.

It is written to be read, not to be fast: the tests hold the matcher in the database against it, trade by trade and
balance by balance. Users, assets and orders are small numbers here.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from typing import Literal

Side = Literal["buy", "sell"]


@dataclass(frozen=True)
class Place:
    """Put an order into the market of an asset."""

    user: int
    asset: int
    side: Side
    price: int
    quantity: int


@dataclass(frozen=True)
class Cancel:
    """Take what is left of the order that command number `order` placed out of the book."""

    order: int


@dataclass(frozen=True)
class Trade:
    """What one fill was: the numbers of the commands that placed the two orders, who came second, at which price."""

    buy: int
    sell: int
    taker_side: Side
    price: int
    quantity: int


@dataclass
class Order:
    """An order that was accepted."""

    number: int
    user: int
    asset: int
    side: Side
    price: int
    quantity: int
    filled: int = 0
    cancelled: bool = False

    @property
    def left(self) -> int:
        return self.quantity - self.filled

    @property
    def resting(self) -> bool:
        return self.left > 0 and not self.cancelled

    @property
    def status(self) -> str:
        if self.cancelled:
            return "cancelled"
        if self.left == 0:
            return "filled"
        return "partially_filled" if self.filled else "open"

    @property
    def reserves(self) -> int:
        """What it keeps from being spent twice: money for a buy, tokens for a sell."""
        if not self.resting:
            return 0
        return self.left * self.price if self.side == "buy" else self.left


@dataclass
class Exchange:
    """Every market, and what everybody owns. `settles` says whether a fill reaches the parties at once or waits."""

    settles: bool = True
    money: dict[int, int] = field(default_factory=lambda: defaultdict(int))
    tokens: dict[tuple[int, int], int] = field(default_factory=lambda: defaultdict(int))
    orders: dict[int, Order] = field(default_factory=dict)
    trades: list[Trade] = field(default_factory=list)
    escrowed_money: int = 0
    escrowed_tokens: dict[int, int] = field(default_factory=lambda: defaultdict(int))
    commands: int = 0

    def run(self, command: Place | Cancel) -> str:
        """The outcome of one command, in the words of the database."""
        number = self.commands
        self.commands += 1
        return self._place(number, command) if isinstance(command, Place) else self._cancel(command)

    def held_money(self, user: int) -> int:
        """What the buy orders of a user reserve."""
        return sum(o.reserves for o in self.orders.values() if o.user == user and o.side == "buy")

    def held_tokens(self, user: int, asset: int) -> int:
        """What the sell orders of a user reserve of one asset."""
        return sum(o.reserves for o in self.orders.values() if o.user == user and o.side == "sell" and o.asset == asset)

    def book(self, asset: int, side: Side) -> list[Order]:
        """The resting orders of one side, best price first, then first come."""
        sign = 1 if side == "sell" else -1
        resting = [o for o in self.orders.values() if o.resting and o.asset == asset and o.side == side]
        return sorted(resting, key=lambda o: (sign * o.price, o.number))

    def _place(self, number: int, place: Place) -> str:
        if place.side == "buy":
            if self.money[place.user] - self.held_money(place.user) < place.price * place.quantity:
                return "insufficient_funds"
        elif self.tokens[place.user, place.asset] - self.held_tokens(place.user, place.asset) < place.quantity:
            return "insufficient_funds"
        taker = Order(number, place.user, place.asset, place.side, place.price, place.quantity)
        for maker in self.book(place.asset, "sell" if place.side == "buy" else "buy"):
            too_dear = maker.price > taker.price if place.side == "buy" else maker.price < taker.price
            if taker.left == 0 or too_dear:
                break
            if maker.user == taker.user:
                taker.cancelled = True  # nobody trades with themselves: what is left of the newer order goes
                break
            self._fill(taker, maker, min(taker.left, maker.left))
        self.orders[number] = taker
        return taker.status

    def _fill(self, taker: Order, maker: Order, quantity: int) -> None:
        buyer, seller = (taker, maker) if taker.side == "buy" else (maker, taker)
        value = maker.price * quantity
        taker.filled += quantity
        maker.filled += quantity
        self.money[buyer.user] -= value
        self.tokens[seller.user, seller.asset] -= quantity
        if self.settles:
            self.money[seller.user] += value
            self.tokens[buyer.user, buyer.asset] += quantity
        else:
            self.escrowed_money += value
            self.escrowed_tokens[taker.asset] += quantity
        self.trades.append(Trade(buyer.number, seller.number, taker.side, maker.price, quantity))

    def _cancel(self, cancel: Cancel) -> str:
        order = self.orders.get(cancel.order)
        if order is None:
            return "no_order"
        if not order.resting:
            return "not_open"
        order.cancelled = True
        return "cancelled"
