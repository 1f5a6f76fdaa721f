"""The verbs of trading: place and cancel orders, read the order book and the market.

Matching and settlement are the ledger's: no verb here fills an order, makes a trade or moves an escrow.
"""

from __future__ import annotations

from typing import Annotated
from uuid import UUID

import msgspec
from sqlalchemy import ColumnElement, func, select, update

from headwater.kernel.cached import Tag, cached, json_of
from headwater.kernel.errors import NotFound, StateConflict, VersionConflict
from headwater.kernel.pages import JsonPage, Page
from headwater.kernel.postgres import Runner
from headwater.kernel.queries import Queries
from headwater.kernel.repository import Repository
from headwater.modules.blockchain.models import Asset
from headwater.modules.trading.models import Order, OrderStatus, Side, Trade

QUERIES = Queries.load(__package__)

DEPTH_MAX = 500
"""Price levels a side that one answer may show."""

_RESTING = (OrderStatus.OPEN, OrderStatus.PARTIALLY_FILLED)

_Count = Annotated[int, msgspec.Meta(ge=0)]


class Level(msgspec.Struct, frozen=True):
    """The orders that wait at one price: how many, and the quantity they still want."""

    price: int
    quantity: int
    orders: _Count


class OrderBook(msgspec.Struct, frozen=True):
    """What waits to be bought (bids, highest first) and sold (asks, lowest first), by price level.

    `spread` is best ask less best bid, and null when a side is empty. It is negative while orders cross, which they can
    until the ledger matches them.
    """

    asset_id: UUID
    bids: list[Level]
    asks: list[Level]
    best_bid: int | None
    best_ask: int | None
    spread: int | None


class Market(msgspec.Struct, frozen=True):
    """One asset's market: its best prices now, and what was traded."""

    asset_id: UUID
    symbol: str
    name: str
    resting_orders: _Count
    best_bid: int | None
    best_ask: int | None
    spread: int | None
    last_price: int | None
    trades: _Count
    traded_quantity: int
    traded_value: int


class MarketSummary(msgspec.Struct, frozen=True):
    """The whole market: orders by status, what was traded, and the most traded assets."""

    orders_open: _Count
    orders_partially_filled: _Count
    orders_filled: _Count
    orders_cancelled: _Count
    trades: _Count
    traded_value: int
    markets: list[Market]


class _Totals(msgspec.Struct, frozen=True):
    orders_open: int
    orders_partially_filled: int
    orders_filled: int
    orders_cancelled: int
    trades: int
    traded_value: int


class TradingRepository(Repository[Order]):
    """Orders and the book they make. Prices and amounts are in minor units, quantities in the asset's smallest unit."""

    async def place_order(
        self, tx: Runner, *, user_id: UUID, asset_id: UUID, side: Side, price: int, quantity: int
    ) -> Order:
        """Put an order into the book. One statement.

        Raises MissingReference for an unknown user or asset, InvalidValue for a price or quantity out of range.
        """
        return await self.create(tx, user_id=user_id, asset_id=asset_id, side=side, price=price, quantity=quantity)

    async def cancel_order(self, tx: Runner, order_id: UUID, *, version: int | None = None) -> Order:
        """Take what is not filled yet out of the book. One statement, which a fill at the same moment cannot pass.

        Raises NotFound; StateConflict for an order that is filled or cancelled; VersionConflict if `version` is not its
        version any more.
        """
        cancelled = (
            update(Order)
            .where(Order.id == order_id, Order.status.in_(_RESTING))
            .values(status=OrderStatus.CANCELLED, cancelled_at=func.now())
            .returning(Order)
        )
        if version is not None:
            cancelled = cancelled.where(Order.version == version)
        order: Order | None = await tx.fetch_one(cancelled)
        if order is not None:
            return order
        current: Order | None = await tx.fetch_one(select(Order).where(Order.id == order_id))
        if current is None:
            raise NotFound(f"There is no order {order_id}.", remedy="Check the id.", order_id=str(order_id))
        if current.status not in _RESTING:
            raise StateConflict(
                f"The order {order_id} is {current.status.value} and cannot be cancelled.",
                remedy="Only an open or partially filled order can be cancelled.",
                order_id=str(order_id),
                status=current.status.value,
            )
        raise VersionConflict(
            f"The order {order_id} has version {current.version}, not {version}: it has changed since it was read.",
            current=current,
            remedy="Read it again and decide anew.",
            current_version=current.version,
        )

    async def orders(
        self,
        *,
        user_id: UUID | None = None,
        asset_id: UUID | None = None,
        side: Side | None = None,
        status: OrderStatus | None = None,
        limit: int = 50,
        cursor: str | None = None,
        tx: Runner | None = None,
    ) -> Page[Order]:
        """A page of orders, the newest first, narrowed by what is given."""
        where = _fitting(user_id, asset_id, side, status)
        return await self.list(*where, order=(Order.created_at.desc(),), limit=limit, cursor=cursor, tx=tx)

    async def orders_json(
        self,
        *,
        user_id: UUID | None = None,
        asset_id: UUID | None = None,
        side: Side | None = None,
        status: OrderStatus | None = None,
        limit: int = 50,
        cursor: str | None = None,
        tx: Runner | None = None,
    ) -> JsonPage[Order]:
        """The page that `orders` gives, as JSON."""
        where = _fitting(user_id, asset_id, side, status)
        return await self.list_json(*where, order=(Order.created_at.desc(),), limit=limit, cursor=cursor, tx=tx)

    @cached(
        "order_book",
        tags=lambda asset_id, depth: (Tag(Order, asset_id=asset_id), Tag(Asset, id=asset_id)),
        ttl_seconds=60,
    )
    async def order_book(self, asset_id: UUID, depth: int = 20, *, tx: Runner | None = None) -> OrderBook:
        """The best `depth` price levels of each side, both as of one moment. Raises NotFound for an unknown asset."""
        runner = tx or self.postgres
        rows = await runner.fetch(QUERIES["order_book"], asset_id=asset_id, depth=depth)
        if not rows and await runner.fetch_value(select(Asset.id).where(Asset.id == asset_id)) is None:
            raise NotFound(f"There is no asset {asset_id}.", remedy="Check the id.", asset_id=str(asset_id))
        sides: dict[str, list[Level]] = {"buy": [], "sell": []}
        for row in rows:
            sides[row.side].append(Level(price=int(row.price), quantity=int(row.quantity), orders=row.orders))
        bids, asks = sides["buy"], sides["sell"]
        return OrderBook(
            asset_id=asset_id,
            bids=bids,
            asks=asks,
            best_bid=bids[0].price if bids else None,
            best_ask=asks[0].price if asks else None,
            spread=asks[0].price - bids[0].price if bids and asks else None,
        )

    order_book_json = json_of(order_book)

    @cached("market_analytics", tags=lambda limit: (Tag(Order), Tag(Trade), Tag(Asset)), ttl_seconds=1800)
    async def market_summary(self, *, limit: int = 20, tx: Runner | None = None) -> MarketSummary:
        """Orders by status, what was traded, and the `limit` most traded assets."""
        runner = tx or self.postgres
        totals: _Totals = await runner.fetch_one(QUERIES["market_totals"], into=_Totals)
        markets: list[Market] = await runner.fetch(QUERIES["markets"], into=Market, limit=limit)
        return MarketSummary(**msgspec.structs.asdict(totals), markets=markets)

    market_summary_json = json_of(market_summary)


def _fitting(
    user_id: UUID | None, asset_id: UUID | None, side: Side | None, status: OrderStatus | None
) -> list[ColumnElement[bool]]:
    return [
        column == wanted
        for column, wanted in (
            (Order.user_id, user_id),
            (Order.asset_id, asset_id),
            (Order.side, side),
            (Order.status, status),
        )
        if wanted is not None
    ]
