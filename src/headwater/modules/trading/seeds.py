"""Seeds of trading: a market with a past and a book that has depth on both sides and does not cross."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from datetime import datetime, timedelta
from itertools import count
from typing import Any
from uuid import UUID

from sqlalchemy import select

from headwater.kernel.seeds import FIRST_KEY, LAST_KEY, Sowing
from headwater.modules.blockchain.models import Asset, PriceFeed
from headwater.modules.identity.models import User
from headwater.modules.trading.models import Order, OrderStatus, Side, Trade

MARKETS = 12
"""Assets that get a market in the demo profile."""
LEVELS = 10
LOAD_SHARE = 0.35
"""Which part of the rows of `load:N` are orders and trades."""
LOAD_FIRST = 1_000_001
"""Numbers from here on belong to the load profile, so that it can be planted beside the demo."""

Row = Mapping[str, Any]


async def seed(sowing: Sowing) -> None:
    """Orders in every status for the first assets, and the trades that explain what is filled."""
    users = await sowing.tx.fetch(
        select(User.id).where(User.id.between(FIRST_KEY, LAST_KEY)).order_by(User.id).limit(1_000)
    )
    newest = (
        select(PriceFeed.price)
        .where(PriceFeed.symbol == Asset.symbol, PriceFeed.observed_at <= sowing.now)
        .order_by(PriceFeed.observed_at.desc(), PriceFeed.id.desc())
        .limit(1)
        .scalar_subquery()
    )
    assets = await sowing.tx.fetch(
        select(Asset.id, newest.label("price"))
        .where(Asset.id.between(FIRST_KEY, LAST_KEY))
        .order_by(Asset.id)
        .limit(MARKETS if sowing.profile == "demo" else 200)
    )
    if len(users) < 2 or not assets:
        return
    user_ids, asset_ids = [row.id for row in users], [row.id for row in assets]
    if sowing.profile == "demo":
        mids = [max(1_000, int((row.price or 250) * 100)) for row in assets]
        orders, trades = _Demo(sowing, user_ids, asset_ids, mids).grow()
        await sowing.plant(Order, orders, total=len(orders))
        await sowing.plant(Trade, trades, total=len(trades))
        return
    pairs = max(1, int(sowing.rows * LOAD_SHARE / 2.25))  # a pair is two orders, and every fourth one a trade
    await sowing.plant(Order, _load_orders(sowing, user_ids, asset_ids, pairs), total=2 * pairs)
    await sowing.plant(Trade, _load_trades(sowing, asset_ids, pairs), total=(pairs + 3) // 4)


class _Demo:
    """Grows the demo market asset by asset, numbering what it plants."""

    def __init__(self, sowing: Sowing, user_ids: list[UUID], asset_ids: list[UUID], mids: list[int]) -> None:
        self.sowing = sowing
        self.random = sowing.random
        self.user_ids = user_ids[:200]
        self.markets = list(zip(asset_ids, mids, strict=True))
        self.orders: list[Row] = []
        self.trades: list[Row] = []

    def grow(self) -> tuple[list[Row], list[Row]]:
        """All orders and all trades, around what the oracles say each asset is worth."""
        for asset_id, mid in self.markets:
            tick = max(10, mid // 200)
            self._book(asset_id, mid, tick)
            self._past(asset_id, mid, tick)
        return self.orders, self.trades

    def _book(self, asset_id: UUID, mid: int, tick: int) -> None:
        """Open orders on both sides, deeper away from the middle; the best of each side is partly filled."""
        for level in range(LEVELS):
            for side, price in ((Side.BUY, mid - tick * (level + 1)), (Side.SELL, mid + tick * (level + 1))):
                for _ in range(self.random.choice((1, 1, 2, 3))):
                    self._order(asset_id, side, price, 5 * self.random.randrange(1, 6 + 3 * level))
        for side, price in ((Side.BUY, mid - tick), (Side.SELL, mid + tick)):
            quantity = 10 * self.random.randrange(3, 12)
            self._fill(asset_id, side, price, quantity, quantity // self.random.choice((2, 3)))

    def _past(self, asset_id: UUID, mid: int, tick: int) -> None:
        """What is over: orders that were filled, and some that were cancelled."""
        for _ in range(6):
            side = self.random.choice((Side.BUY, Side.SELL))
            quantity = 5 * self.random.randrange(1, 12)
            self._fill(asset_id, side, mid + self.random.randrange(-3, 4) * tick // 2, quantity, quantity)
        for side, price in ((Side.BUY, mid - 2 * tick), (Side.SELL, mid + 3 * tick)):
            self._order(asset_id, side, price, 20, status=OrderStatus.CANCELLED)
        self._fill(asset_id, Side.BUY, mid, 40, 10, cancelled=True)

    def _fill(
        self, asset_id: UUID, side: Side, price: int, quantity: int, filled: int, *, cancelled: bool = False
    ) -> None:
        """A resting order that another one met, wholly or in part, and their trade."""
        if cancelled:
            status = OrderStatus.CANCELLED
        else:
            status = OrderStatus.FILLED if filled == quantity else OrderStatus.PARTIALLY_FILLED
        maker = self._order(asset_id, side, price, quantity, filled=filled, status=status)
        other = Side.SELL if side is Side.BUY else Side.BUY
        taker = self._order(
            asset_id, other, price, filled, filled=filled, status=OrderStatus.FILLED, not_by=maker["user_id"]
        )
        buy, sell = (maker, taker) if side is Side.BUY else (taker, maker)
        self.trades.append(
            {
                "id": self.sowing.key("trading.trades", len(self.trades) + 1),
                "asset_id": asset_id,
                "buy_order_id": buy["id"],
                "sell_order_id": sell["id"],
                "taker_side": other,
                "price": price,
                "quantity": filled,
                "executed_at": taker["created_at"],
            }
        )

    def _order(
        self,
        asset_id: UUID,
        side: Side,
        price: int,
        quantity: int,
        *,
        filled: int = 0,
        status: OrderStatus = OrderStatus.OPEN,
        not_by: UUID | None = None,
    ) -> Row:
        number = len(self.orders) + 1
        user_id = self.random.choice(self.user_ids)
        while user_id == not_by:
            user_id = self.random.choice(self.user_ids)
        placed = self.sowing.now - timedelta(days=20) + timedelta(minutes=17 * number)
        row = {
            "id": self.sowing.key("trading.orders", number),
            "user_id": user_id,
            "asset_id": asset_id,
            "side": side,
            "price": price,
            "quantity": quantity,
            "filled_quantity": filled,
            "status": status,
            "cancelled_at": placed + timedelta(hours=5) if status is OrderStatus.CANCELLED else None,
            "created_at": placed,
            "updated_at": placed,
        }
        self.orders.append(row)
        return row


def _load_orders(sowing: Sowing, user_ids: list[UUID], asset_ids: list[UUID], pairs: int) -> Iterator[Row]:
    """Pairs of a buy and a sell order: every fourth is filled, every sixteenth cancelled, the others rest apart."""
    for pair, asset_id, mid, quantity, placed in _pairs(sowing, asset_ids, pairs):
        offset = 1 + pair % 200
        filled = pair % 4 == 0
        cancelled = pair % 16 == 1
        for side, price in ((Side.BUY, mid - offset), (Side.SELL, mid + offset)):
            status = OrderStatus.FILLED if filled else OrderStatus.CANCELLED if cancelled else OrderStatus.OPEN
            number = LOAD_FIRST + 2 * pair + (side is Side.SELL)
            yield {
                "id": sowing.key("trading.orders", number),
                "user_id": user_ids[number * 7_919 % len(user_ids)],
                "asset_id": asset_id,
                "side": side,
                "price": mid if filled else price,
                "quantity": quantity,
                "filled_quantity": quantity if filled else 0,
                "status": status,
                "cancelled_at": placed if cancelled else None,
                "created_at": placed,
                "updated_at": placed,
            }


def _load_trades(sowing: Sowing, asset_ids: list[UUID], pairs: int) -> Iterator[Row]:
    """The trade of every filled pair."""
    for pair, asset_id, mid, quantity, placed in _pairs(sowing, asset_ids, pairs):
        if pair % 4 == 0:
            yield {
                "id": sowing.key("trading.trades", LOAD_FIRST + pair),
                "asset_id": asset_id,
                "buy_order_id": sowing.key("trading.orders", LOAD_FIRST + 2 * pair),
                "sell_order_id": sowing.key("trading.orders", LOAD_FIRST + 2 * pair + 1),
                "taker_side": Side.SELL,
                "price": mid,
                "quantity": quantity,
                "executed_at": placed,
            }


def _pairs(sowing: Sowing, asset_ids: list[UUID], pairs: int) -> Iterator[tuple[int, UUID, int, int, datetime]]:
    """The same pairs in every pass: number, asset, middle price, quantity, instant."""
    repeatable = random.Random("trading/load")  # noqa: S311  # repeatable on purpose
    mids = [repeatable.randrange(1_000, 40_000) * 10 for _ in asset_ids]
    step = timedelta(days=365) / pairs
    begin = sowing.now - timedelta(days=365)
    for pair, quantity in zip(range(pairs), (repeatable.randrange(1, 500) for _ in count()), strict=False):
        which = pair * 104_729 % len(asset_ids)
        yield pair, asset_ids[which], mids[which], quantity, begin + step * pair
