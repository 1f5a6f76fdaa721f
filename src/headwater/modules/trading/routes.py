"""What trading serves: orders, the order book, the market at a glance."""

from __future__ import annotations

from typing import Annotated, Any
from uuid import UUID

import msgspec
from msgspec import Meta

from headwater.kernel.amounts import PositiveAmount
from headwater.kernel.errors import (
    InvalidCursor,
    InvalidValue,
    MissingReference,
    NotFound,
    StateConflict,
    VersionConflict,
)
from headwater.kernel.pages import JsonPage
from headwater.kernel.rendering import Json
from headwater.kernel.routes import PageQuery, Route
from headwater.kernel.transaction import Transaction
from headwater.modules.trading.models import Order, OrderStatus, Side
from headwater.modules.trading.repository import DEPTH_MAX, MarketSummary, OrderBook, TradingRepository


class NewOrder(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """An order to place. `price` is in minor units for one unit of `quantity`, the asset's smallest unit."""

    user_id: UUID
    asset_id: UUID
    side: Side
    price: PositiveAmount
    quantity: PositiveAmount


class OrderQuery(PageQuery):
    """Which orders, and where in the listing."""

    user_id: UUID | None = None
    asset_id: UUID | None = None
    side: Side | None = None
    status: OrderStatus | None = None


class Depth(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """How many price levels a side."""

    depth: Annotated[int, Meta(ge=1, le=DEPTH_MAX)] = 20


class Top(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """How many markets."""

    limit: Annotated[int, Meta(ge=1, le=200)] = 20


async def get_order(order_id: UUID, trading: TradingRepository) -> Json[Order]:
    return await trading.get_json(order_id)


async def list_orders(query: OrderQuery, trading: TradingRepository) -> JsonPage[Order]:
    return await trading.orders_json(
        user_id=query.user_id,
        asset_id=query.asset_id,
        side=query.side,
        status=query.status,
        limit=query.limit,
        cursor=query.cursor,
    )


async def place_order(body: NewOrder, tx: Transaction, trading: TradingRepository) -> Order:
    return await trading.place_order(
        tx, user_id=body.user_id, asset_id=body.asset_id, side=body.side, price=body.price, quantity=body.quantity
    )


async def cancel_order(order_id: UUID, tx: Transaction, trading: TradingRepository, if_match: int | None) -> Order:
    return await trading.cancel_order(tx, order_id, version=if_match)


async def order_book(asset_id: UUID, query: Depth, trading: TradingRepository) -> Json[OrderBook]:
    return await trading.order_book_json(asset_id, query.depth)


async def market(query: Top, trading: TradingRepository) -> Json[MarketSummary]:
    return await trading.market_summary_json(limit=query.limit)


# Seeded rows: seeds.py plants them, and a test reads them.
_ORDER_ID = "5eeda118-7463-8000-8000-000000000001"
_USER_ID = "5eeda0bb-1738-8000-8000-000000000001"
_ASSET_ID = "5eed4791-421a-8000-8000-000000000001"

_ORDER: dict[str, Any] = {
    "id": _ORDER_ID,
    "user_id": _USER_ID,
    "asset_id": _ASSET_ID,
    "side": "buy",
    "price": 118_400,
    "quantity": 25,
    "filled_quantity": 0,
    "status": "open",
    "cancelled_at": None,
    "created_at": "2025-12-31T09:00:00Z",
    "updated_at": "2025-12-31T09:00:00Z",
    "version": 1,
}

ROUTES: tuple[Route, ...] = (
    Route(
        method="GET",
        path="/api/trading/orders",
        handler=list_orders,
        summary="List orders, the newest first",
        description="Narrowed by user, asset, side and status.",
        raises=(InvalidValue, InvalidCursor),
        query_example={"asset_id": _ASSET_ID, "status": "open", "limit": 20},
        answer_example={"items": [_ORDER], "next": None},
        tag="trading",
    ),
    Route(
        method="GET",
        path="/api/trading/orders/{order_id}",
        handler=get_order,
        summary="Read an order",
        description="Prices are in minor units, quantities in the asset's smallest unit.",
        raises=(NotFound,),
        path_examples={"order_id": _ORDER_ID},
        answer_example=_ORDER,
        tag="trading",
    ),
    Route(
        method="GET",
        path="/api/trading/orderbook/{asset_id}",
        handler=order_book,
        summary="Read the order book of an asset",
        description="What waits to be bought and sold, by price level, the best first; both sides as of one moment.",
        raises=(NotFound, InvalidValue),
        path_examples={"asset_id": _ASSET_ID},
        query_example={"depth": 10},
        answer_example={
            "asset_id": _ASSET_ID,
            "bids": [{"price": 118_400, "quantity": 40, "orders": 2}],
            "asks": [{"price": 119_100, "quantity": 15, "orders": 1}],
            "best_bid": 118_400,
            "best_ask": 119_100,
            "spread": 700,
        },
        tag="trading",
    ),
    Route(
        method="POST",
        path="/api/trading/orders",
        handler=place_order,
        summary="Place an order",
        description="It rests in the order book of its asset. Matching and settlement come with the ledger.",
        status=201,
        scope="trading:order:write",
        raises=(MissingReference, InvalidValue),
        body_example={"user_id": _USER_ID, "asset_id": _ASSET_ID, "side": "buy", "price": 118_400, "quantity": 25},
        answer_example=_ORDER,
        tag="trading",
    ),
    Route(
        method="POST",
        path="/api/trading/orders/{order_id}/cancel",
        handler=cancel_order,
        summary="Cancel an order",
        description="What is filled stays filled; the rest leaves the book. A filled or cancelled order is refused. "
        "If-Match makes it conditional on the version that was read.",
        scope="trading:order:write",
        raises=(NotFound, StateConflict, VersionConflict),
        path_examples={"order_id": _ORDER_ID},
        answer_example=_ORDER
        | {
            "status": "cancelled",
            "cancelled_at": "2026-01-01T00:00:00Z",
            "updated_at": "2026-01-01T00:00:00Z",
            "version": 2,
        },
        tag="trading",
    ),
    Route(
        method="GET",
        path="/api/analytics/market",
        handler=market,
        summary="The market at a glance",
        description="Orders by status, what was traded, and the most traded assets with their best prices.",
        raises=(InvalidValue,),
        query_example={"limit": 5},
        answer_example={
            "orders_open": 180,
            "orders_partially_filled": 12,
            "orders_filled": 60,
            "orders_cancelled": 12,
            "trades": 40,
            "traded_value": 112_480_000,
            "markets": [
                {
                    "asset_id": _ASSET_ID,
                    "symbol": "HD-100",
                    "name": "Harmonic drive 100",
                    "resting_orders": 24,
                    "best_bid": 118_400,
                    "best_ask": 119_100,
                    "spread": 700,
                    "last_price": 118_900,
                    "trades": 5,
                    "traded_quantity": 90,
                    "traded_value": 10_701_000,
                }
            ],
        },
        tag="analytics",
    ),
)
