"""Orders written in plain SQL mean what they say: placed, released, or refused. Any writer leaves the books right."""

from __future__ import annotations

from uuid import UUID

import asyncpg
import pytest

from headwater.kernel.errors import InvalidValue
from headwater.kernel.lifecycle import Headwater
from headwater.modules.trading.models import OrderStatus, Side

INSERT = """
insert into trading.orders (user_id, asset_id, side, price, quantity) values ($1, $2, $3, $4, $5) returning id
"""


async def insert(headwater: Headwater, *values: object) -> UUID:
    async with headwater.postgres.connection() as connection:
        key: UUID = await connection.fetchval(INSERT, *values)
        return key


async def test_an_inserted_order_is_placed_matched_and_settled(headwater, marketplace, people, parts) -> None:
    await marketplace.fund(money=10_000, tokens=100)
    sell = await marketplace.place(1, Side.SELL, price=50, quantity=4)
    key = await insert(headwater, people[0], parts[0], "buy", 60, 10)
    order = await marketplace.trading.get(key)
    assert (order.status, order.filled_quantity) == (OrderStatus.PARTIALLY_FILLED, 4)
    assert (await marketplace.trading.get(sell.id)).status is OrderStatus.FILLED
    assert await marketplace.money(0) == (10_000 - 200, 360)
    assert (await marketplace.trading.order_book(parts[0])).best_bid == 60
    await marketplace.audit()
    await marketplace.place(2, Side.SELL, price=60, quantity=6)
    assert (await marketplace.trading.get(key)).status is OrderStatus.FILLED
    await marketplace.audit()


async def test_inserted_orders_that_cannot_be_paid_are_refused_together(headwater, marketplace, people, parts) -> None:
    await marketplace.fund(money=100, tokens=1)
    with pytest.raises(InvalidValue, match=r"cannot place an order .* insufficient funds"):
        await insert(headwater, people[0], parts[0], "buy", 60, 10)
    rows = [
        {"user_id": people[0], "asset_id": parts[0], "side": Side.BUY, "price": 60, "quantity": quantity}
        for quantity in (1, 1)
    ]
    with pytest.raises(InvalidValue, match="insufficient funds"):
        await marketplace.trading.bulk_insert(headwater.autocommit, rows)
    assert await marketplace.trading.count() == 0
    await marketplace.audit()


async def test_a_cancelled_or_deleted_order_gives_its_reservation_back(headwater, marketplace, people, parts) -> None:
    await marketplace.fund(money=1_000)
    first, second = [await insert(headwater, people[0], parts[0], "buy", 10, 10) for _ in range(2)]
    assert await marketplace.money(0) == (1_000, 200)
    async with headwater.postgres.connection() as connection:
        await connection.execute(
            "update trading.orders set status = 'cancelled', cancelled_at = now() where id = $1", first
        )
        await marketplace.audit()
        await connection.execute("delete from trading.orders where id = $1", second)
        await marketplace.audit()
        assert await marketplace.money(0) == (1_000, 0)
        await connection.execute("delete from trading.orders")  # nothing of it rests
    await marketplace.audit()


async def test_what_the_matcher_alone_may_say_is_refused(headwater, marketplace, people, parts) -> None:
    await marketplace.fund()
    key = await insert(headwater, people[0], parts[0], "buy", 10, 10)
    over = await marketplace.place(1, Side.SELL, price=99)
    await marketplace.cancel(over.id)
    before = await marketplace.trading.get(key)
    async with headwater.postgres.connection() as connection:
        for wrong in (
            "price = 11",
            "quantity = 20",
            "filled_quantity = 5, status = 'partially_filled'",
            "filled_quantity = quantity, status = 'filled'",
            "side = 'sell'",
        ):
            with pytest.raises(asyncpg.RaiseError, match="only the matcher changes what it says"):
                await connection.execute(f"update trading.orders set {wrong} where id = $1", key)
        with pytest.raises(asyncpg.RaiseError, match="rests in the book, or would"):
            await connection.execute(
                "update trading.orders set status = 'open', cancelled_at = null where id = $1", over.id
            )
        await connection.execute("update trading.orders set updated_at = now() where id = $1", key)
    assert (await marketplace.trading.get(key)).price == before.price
    await marketplace.audit()


async def test_an_order_that_was_over_before_is_only_recorded(headwater, marketplace, people, parts) -> None:
    async with headwater.postgres.connection() as connection:
        await connection.execute(
            "insert into trading.orders (user_id, asset_id, side, price, quantity, filled_quantity, status)"
            " values ($1, $2, 'buy', 5, 5, 5, 'filled')",
            people[0],
            parts[0],
        )
    assert (await marketplace.trading.order_book(parts[0])).bids == []
