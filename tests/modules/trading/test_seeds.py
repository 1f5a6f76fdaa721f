"""The seeded market is consistent: trades explain what is filled, and no book crosses."""

from __future__ import annotations

from collections import Counter, defaultdict
from uuid import UUID

from sqlalchemy import select

from headwater.kernel.rows import as_dict
from headwater.kernel.seeds import seed
from headwater.modules.trading.models import Order, OrderStatus, Trade
from headwater.modules.trading.repository import TradingRepository
from headwater.modules.trading.routes import ROUTES


async def test_the_demo_has_orders_in_every_status_and_a_book_with_depth(headwater) -> None:
    await seed(headwater)
    orders = await headwater.postgres.fetch(select(Order))
    assert set(Counter(order.status for order in orders)) == set(OrderStatus)
    trading = headwater.repository(TradingRepository)
    market = await trading.market_summary()
    assert len(market.markets) == 12
    for one in market.markets:
        book = await trading.order_book(one.asset_id, 50)
        assert len(book.bids) >= 10
        assert len(book.asks) >= 10
        assert book.spread is not None
        assert book.spread > 0


async def test_trades_explain_what_is_filled(headwater) -> None:
    for profile in ("demo", "load:3000"):
        await seed(headwater, profile)
        orders = {order.id: order for order in await headwater.postgres.fetch(select(Order))}
        filled: dict[UUID, int] = defaultdict(int)
        for trade in await headwater.postgres.fetch(select(Trade)):
            buy, sell = orders[trade.buy_order_id], orders[trade.sell_order_id]
            assert trade.asset_id == buy.asset_id == sell.asset_id
            assert sell.price <= trade.price <= buy.price
            filled[buy.id] += trade.quantity
            filled[sell.id] += trade.quantity
        assert {order.id: order.filled_quantity for order in orders.values() if order.filled_quantity} == filled


async def test_seeding_again_adds_nothing_and_changes_nothing(headwater) -> None:
    for profile in ("demo", "load:500"):
        first = await seed(headwater, profile)
        assert first.added["trading.orders"] > 0
        before = [as_dict(order) async for order in headwater.repository(Order).stream()]
        again = await seed(headwater, profile)
        assert (again.added["trading.orders"], again.added["trading.trades"]) == (0, 0)
        assert [as_dict(order) async for order in headwater.repository(Order).stream()] == before


async def test_the_examples_of_the_routes_are_seeded(headwater) -> None:
    await seed(headwater)
    trading = headwater.repository(TradingRepository)
    shown = {name: UUID(value) for route in ROUTES for name, value in route.path_examples.items()}
    assert (await trading.get(shown["order_id"])).status is OrderStatus.OPEN
    assert (await trading.order_book(shown["asset_id"])).bids
