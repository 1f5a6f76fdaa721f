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
from headwater.kernel.pages import JsonPage, Page
from headwater.kernel.rendering import Json
from headwater.kernel.routes import PageQuery, Route
from headwater.kernel.transaction import Transaction
from headwater.modules.trading.commands import Cancel, Outcome, Place
from headwater.modules.trading.escrows import EscrowRepository
from headwater.modules.trading.markets import CURRENCY, MarketRepository
from headwater.modules.trading.models import (
    Escrow,
    EscrowState,
    OpenMarket,
    Order,
    OrderStatus,
    Settlement,
    Side,
    Trade,
)
from headwater.modules.trading.repository import DEPTH_MAX, MarketSummary, OrderBook, TradingRepository

COMMANDS_MAX = 1_000
"""Commands of one batch."""


class NewOrder(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """An order to place. `price` is in minor units for one unit of `quantity`, the asset's smallest unit."""

    user_id: UUID
    asset_id: UUID
    side: Side
    price: PositiveAmount
    quantity: PositiveAmount


class PlaceBody(NewOrder, tag_field="do", tag="place", kw_only=True, forbid_unknown_fields=True):
    """Place an order, as one of a batch."""


class CancelBody(msgspec.Struct, tag_field="do", tag="cancel", kw_only=True, forbid_unknown_fields=True):
    """Cancel an order, as one of a batch; with `version`, only if it has that version."""

    order_id: UUID
    version: Annotated[int, Meta(ge=1, le=2**63 - 1)] | None = None


class Batch(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """Commands to run in this order, in one transaction."""

    commands: Annotated[list[PlaceBody | CancelBody], Meta(min_length=1, max_length=COMMANDS_MAX)]


class Outcomes(msgspec.Struct, frozen=True):
    """What became of each command, in their order."""

    outcomes: list[Outcome]


class EscrowQuery(PageQuery):
    """Which escrows, and where in the listing. `user_id`: those of this buyer or seller."""

    user_id: UUID | None = None
    state: EscrowState | None = None


class NewMarket(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """How an asset is to be traded."""

    currency: Annotated[str, Meta(min_length=1, max_length=100, pattern="^[A-Za-z0-9:_-]+$")] = CURRENCY
    settlement: Settlement = Settlement.IMMEDIATE


class Issue(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """Tokens of an asset to make, and who gets them."""

    user_id: UUID
    quantity: PositiveAmount


class Issued(msgspec.Struct, frozen=True):
    """How many tokens of the asset the user now has."""

    asset_id: UUID
    user_id: UUID
    tokens: int


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


async def run_commands(body: Batch, tx: Transaction, trading: TradingRepository) -> Outcomes:
    commands: list[Place | Cancel] = [
        Place(user_id=c.user_id, asset_id=c.asset_id, side=c.side, price=c.price, quantity=c.quantity)
        if isinstance(c, PlaceBody)
        else Cancel(order_id=c.order_id, version=c.version)
        for c in body.commands
    ]
    return Outcomes(await trading.run(tx, commands))


async def list_trades(asset_id: UUID, query: PageQuery, trading: TradingRepository) -> Page[Trade]:
    return await trading.trades(asset_id, limit=query.limit, cursor=query.cursor)


async def list_escrows(query: EscrowQuery, escrows: EscrowRepository) -> Page[Escrow]:
    return await escrows.escrows(user_id=query.user_id, state=query.state, limit=query.limit, cursor=query.cursor)


async def get_escrow(escrow_id: UUID, escrows: EscrowRepository) -> Escrow:
    return await escrows.get(escrow_id)


async def release_escrow(escrow_id: UUID, tx: Transaction, escrows: EscrowRepository, if_match: int | None) -> Escrow:
    return await escrows.release(tx, escrow_id, version=if_match)


async def refund_escrow(escrow_id: UUID, tx: Transaction, escrows: EscrowRepository, if_match: int | None) -> Escrow:
    return await escrows.refund(tx, escrow_id, version=if_match)


async def dispute_escrow(escrow_id: UUID, tx: Transaction, escrows: EscrowRepository, if_match: int | None) -> Escrow:
    return await escrows.dispute(tx, escrow_id, version=if_match)


async def get_market(asset_id: UUID, markets: MarketRepository) -> OpenMarket:
    return await markets.get(asset_id)


async def open_market(asset_id: UUID, body: NewMarket, tx: Transaction, markets: MarketRepository) -> OpenMarket:
    return await markets.open_market(tx, asset_id, currency=body.currency, settlement=body.settlement)


async def issue_tokens(asset_id: UUID, body: Issue, tx: Transaction, markets: MarketRepository) -> Issued:
    await markets.issue(tx, asset_id, user_id=body.user_id, quantity=body.quantity)
    return Issued(asset_id, body.user_id, await markets.tokens_of(body.user_id, asset_id, tx=tx))


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

_ESCROW_ID = "5eeda968-e7a7-8000-8000-000000000001"
_ESCROW_PATH = {"escrow_id": _ESCROW_ID}
_ESCROW: dict[str, Any] = {
    "id": _ESCROW_ID,
    "trade_id": "5eedffaa-5efa-8000-8000-000000000001",
    "buyer_id": _USER_ID,
    "seller_id": "5eeda0bb-1738-8000-8000-000000000002",
    "amount": 1_189_000,
    "state": "held",
    "settled_at": None,
    "created_at": "2025-12-31T09:00:00Z",
    "updated_at": "2025-12-31T09:00:00Z",
    "version": 1,
}
_TRADE: dict[str, Any] = {
    "id": "5eedffaa-5efa-8000-8000-000000000001",
    "asset_id": _ASSET_ID,
    "buy_order_id": _ORDER_ID,
    "sell_order_id": "5eeda118-7463-8000-8000-000000000002",
    "taker_side": "sell",
    "price": 118_900,
    "quantity": 10,
    "executed_at": "2025-12-31T09:00:00Z",
}
_MARKET: dict[str, Any] = {
    "asset_id": _ASSET_ID,
    "currency": "USD",
    "settlement": "immediate",
    "money_id": 1,
    "token_id": 2,
    "money_escrow": 101,
    "token_escrow": 102,
    "batches": 40,
    "opened_at": "2025-12-31T09:00:00Z",
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
        description="What it needs is reserved in the ledger, and it is matched at once: by price, then by time, at "
        "the price of the order that waited. Each fill moves through an escrow in the same transaction; what is not "
        "filled rests in the book. Refused when the user cannot pay.",
        status=201,
        scope="trading:order:write",
        raises=(MissingReference, InvalidValue, StateConflict),
        body_example={"user_id": _USER_ID, "asset_id": _ASSET_ID, "side": "buy", "price": 118_400, "quantity": 25},
        answer_example=_ORDER,
        tag="trading",
    ),
    Route(
        method="POST",
        path="/api/trading/orders/{order_id}/cancel",
        handler=cancel_order,
        summary="Cancel an order",
        description="What is filled stays filled; the rest leaves the book and gives back what it reserves. A filled "
        "or cancelled order is refused. "
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
        method="POST",
        path="/api/trading/commands",
        handler=run_commands,
        summary="Place and cancel many orders",
        description="In the order given, in one transaction. A refused command says why in its outcome, changes "
        "nothing and stops nothing.",
        scope="trading:order:write",
        raises=(InvalidValue,),
        body_example={
            "commands": [
                {"do": "place", "user_id": _USER_ID, "asset_id": _ASSET_ID, "side": "buy", "price": 1, "quantity": 5},
                {"do": "cancel", "order_id": _ORDER_ID},
            ]
        },
        answer_example={
            "outcomes": [
                {"outcome": "open"} | _ORDER | {"price": 1, "quantity": 5},
                {"outcome": "cancelled"} | _ORDER | {"status": "cancelled", "cancelled_at": "2026-01-01T00:00:00Z"},
            ]
        },
        tag="trading",
    ),
    Route(
        method="GET",
        path="/api/trading/trades/{asset_id}",
        handler=list_trades,
        summary="List the trades of an asset, the newest first",
        raises=(InvalidValue, InvalidCursor),
        path_examples={"asset_id": _ASSET_ID},
        query_example={"limit": 20},
        answer_example={"items": [_TRADE], "next": None},
        tag="trading",
    ),
    Route(
        method="GET",
        path="/api/trading/escrows",
        handler=list_escrows,
        summary="List escrows, the newest first",
        description="Narrowed by a buyer or seller, and by state.",
        raises=(InvalidValue, InvalidCursor),
        query_example={"state": "held", "limit": 20},
        answer_example={"items": [_ESCROW], "next": None},
        tag="trading",
    ),
    Route(
        method="GET",
        path="/api/trading/escrows/{escrow_id}",
        handler=get_escrow,
        summary="Read an escrow",
        raises=(NotFound,),
        path_examples=_ESCROW_PATH,
        answer_example=_ESCROW,
        tag="trading",
    ),
    Route(
        method="POST",
        path="/api/trading/escrows/{escrow_id}/release",
        handler=release_escrow,
        summary="Release an escrow",
        description="The seller gets the money and the buyer the tokens, once. Of one that is held or disputed.",
        scope="trading:escrow:write",
        raises=(NotFound, StateConflict, VersionConflict),
        path_examples=_ESCROW_PATH,
        answer_example=_ESCROW | {"state": "released", "settled_at": "2026-01-02T00:00:00Z", "version": 2},
        tag="trading",
    ),
    Route(
        method="POST",
        path="/api/trading/escrows/{escrow_id}/refund",
        handler=refund_escrow,
        summary="Refund an escrow",
        description="The buyer gets the money back and the seller the tokens, once. Of one that is held or disputed.",
        scope="trading:escrow:write",
        raises=(NotFound, StateConflict, VersionConflict),
        path_examples=_ESCROW_PATH,
        answer_example=_ESCROW | {"state": "refunded", "settled_at": "2026-01-02T00:00:00Z", "version": 2},
        tag="trading",
    ),
    Route(
        method="POST",
        path="/api/trading/escrows/{escrow_id}/dispute",
        handler=dispute_escrow,
        summary="Dispute an escrow",
        description="It stays where it is until it is released or refunded.",
        scope="trading:escrow:write",
        raises=(NotFound, StateConflict, VersionConflict),
        path_examples=_ESCROW_PATH,
        answer_example=_ESCROW | {"state": "disputed", "version": 2},
        tag="trading",
    ),
    Route(
        method="GET",
        path="/api/trading/markets/{asset_id}",
        handler=get_market,
        summary="Read how an asset is traded",
        description="Not found while nobody has opened its market or placed an order for it.",
        raises=(NotFound,),
        path_examples={"asset_id": _ASSET_ID},
        answer_example=_MARKET,
        tag="trading",
    ),
    Route(
        method="POST",
        path="/api/trading/markets/{asset_id}",
        handler=open_market,
        summary="Open the market of an asset",
        description="The first order opens it in USD, settling at once; open it before to differ. Refused when it is "
        "open otherwise.",
        scope="trading:market:write",
        raises=(MissingReference, StateConflict, InvalidValue),
        path_examples={"asset_id": _ASSET_ID},
        body_example={"currency": "USD", "settlement": "immediate"},
        answer_example=_MARKET,
        tag="trading",
    ),
    Route(
        method="POST",
        path="/api/trading/markets/{asset_id}/tokens",
        handler=issue_tokens,
        summary="Issue tokens of an asset to a user",
        scope="trading:market:write",
        raises=(MissingReference, StateConflict, InvalidValue),
        path_examples={"asset_id": _ASSET_ID},
        body_example={"user_id": _USER_ID, "quantity": 100},
        answer_example={"asset_id": _ASSET_ID, "user_id": _USER_ID, "tokens": 600},
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
