"""Orders are placed, shown in the book and cancelled; what is refused changes nothing."""

from __future__ import annotations

import asyncio
import random
from collections import defaultdict
from uuid import UUID, uuid4

import pytest
from sqlalchemy import insert, select, update

from headwater.kernel.errors import (
    InvalidCursor,
    InvalidValue,
    MissingReference,
    NotFound,
    ProgrammingError,
    StateConflict,
    VersionConflict,
)
from headwater.kernel.lifecycle import Headwater
from headwater.modules.trading.models import Escrow, EscrowState, Order, OrderStatus, Side, Trade
from headwater.modules.trading.repository import QUERIES, Level, TradingRepository


@pytest.fixture
def trading(headwater: Headwater) -> TradingRepository:
    return headwater.repository(TradingRepository)


async def place(
    headwater: Headwater, user_id: UUID, asset_id: UUID, side: Side = Side.BUY, price: int = 100, quantity: int = 10
) -> Order:
    return await headwater.repository(TradingRepository).place_order(
        headwater.autocommit, user_id=user_id, asset_id=asset_id, side=side, price=price, quantity=quantity
    )


async def fill(headwater: Headwater, order: Order, quantity: int) -> None:
    """What the ledger's matcher will do one day, by hand."""
    status = OrderStatus.FILLED if quantity == order.quantity else OrderStatus.PARTIALLY_FILLED
    await headwater.postgres.execute(
        update(Order).where(Order.id == order.id).values(filled_quantity=quantity, status=status)
    )


async def test_a_placed_order_is_open_and_whole(headwater, trading, people, parts) -> None:
    order = await place(headwater, people[0], parts[0], Side.SELL, price=118_400, quantity=25)
    assert (order.side, order.price, order.quantity, order.filled_quantity) == (Side.SELL, 118_400, 25, 0)
    assert (order.status, order.version, order.cancelled_at) == (OrderStatus.OPEN, 1, None)
    assert type(order.price) is int
    assert await trading.get(order.id) == order


async def test_amounts_beyond_64_bits_are_kept_exactly(headwater, trading, people, parts) -> None:
    price = 10**37 + 3
    order = await place(headwater, people[0], parts[0], price=price, quantity=9)
    assert (await trading.get(order.id)).price == price
    assert (await trading.order_book(parts[0])).best_bid == price


async def test_an_amount_out_of_range_is_refused_and_changes_nothing(headwater, trading, people, parts) -> None:
    for wrong in (
        {"price": 0}, {"price": -5}, {"quantity": 0}, {"price": 10**38}, {"price": 10**60}, {"price": 1.5},
        {"price": "7"},
    ):  # fmt: skip
        with pytest.raises(InvalidValue):
            await place(headwater, people[0], parts[0], **({"price": 100, "quantity": 10} | wrong))
        assert await trading.count() == 0


async def test_an_order_whose_value_is_no_amount_is_refused(headwater, trading, people, parts) -> None:
    with pytest.raises(InvalidValue, match="value"):
        await place(headwater, people[0], parts[0], price=10**20, quantity=10**18)
    assert await trading.count() == 0


async def test_an_unknown_user_or_asset_is_named_and_changes_nothing(headwater, trading, people, parts) -> None:
    with pytest.raises(MissingReference, match="no such user"):
        await place(headwater, uuid4(), parts[0])
    with pytest.raises(MissingReference, match="no such asset"):
        await place(headwater, people[0], uuid4())
    assert await trading.count() == 0


async def test_a_verb_does_not_commit_for_its_caller(headwater, trading, people, parts) -> None:
    with pytest.raises(RuntimeError):
        async with headwater.transaction() as tx:
            await trading.place_order(tx, user_id=people[0], asset_id=parts[0], side=Side.BUY, price=1, quantity=1)
            raise RuntimeError("the caller changed their mind")
    assert await trading.count() == 0


async def test_an_open_and_a_partly_filled_order_can_be_cancelled(headwater, trading, people, parts) -> None:
    for filled in (0, 4):
        order = await place(headwater, people[0], parts[0])
        if filled:
            await fill(headwater, order, filled)
        cancelled = await trading.cancel_order(headwater.autocommit, order.id)
        assert (cancelled.status, cancelled.filled_quantity) == (OrderStatus.CANCELLED, filled)
        assert cancelled.cancelled_at is not None
        assert cancelled.version > order.version
    assert (await trading.order_book(parts[0])).bids == []


async def test_a_filled_order_cannot_be_cancelled_and_stays_as_it_is(headwater, trading, people, parts) -> None:
    order = await place(headwater, people[0], parts[0])
    await fill(headwater, order, order.quantity)
    before = await trading.get(order.id)
    with pytest.raises(StateConflict, match="is filled and cannot be cancelled") as refused:
        await trading.cancel_order(headwater.autocommit, order.id)
    assert refused.value.detail["status"] == "filled"
    assert await trading.get(order.id) == before


async def test_cancelling_twice_is_refused_the_second_time(headwater, trading, people, parts) -> None:
    order = await place(headwater, people[0], parts[0])
    cancelled = await trading.cancel_order(headwater.autocommit, order.id)
    with pytest.raises(StateConflict, match="is cancelled"):
        await trading.cancel_order(headwater.autocommit, order.id)
    assert await trading.get(order.id) == cancelled


async def test_a_cancel_with_an_old_version_is_refused_with_the_current_order(
    headwater, trading, people, parts
) -> None:
    order = await place(headwater, people[0], parts[0])
    await fill(headwater, order, 3)
    with pytest.raises(VersionConflict) as refused:
        await trading.cancel_order(headwater.autocommit, order.id, version=order.version)
    assert refused.value.current == await trading.get(order.id)
    assert refused.value.current.status is OrderStatus.PARTIALLY_FILLED
    cancelled = await trading.cancel_order(headwater.autocommit, order.id, version=refused.value.current.version)
    assert cancelled.status is OrderStatus.CANCELLED


async def test_cancelling_an_order_that_does_not_exist_says_so(headwater, trading) -> None:
    with pytest.raises(NotFound, match="There is no order"):
        await trading.cancel_order(headwater.autocommit, uuid4())


async def test_of_many_cancels_at_once_exactly_one_succeeds(headwater, trading, people, parts, crowd) -> None:
    order = await place(headwater, people[0], parts[0])
    outcomes = await asyncio.gather(
        *(trading.cancel_order(headwater.autocommit, order.id) for _ in range(8)), return_exceptions=True
    )
    assert sum(isinstance(outcome, Order) for outcome in outcomes) == 1
    assert sum(isinstance(outcome, StateConflict) for outcome in outcomes) == 7
    assert (await trading.get(order.id)).version == 2


async def test_a_cancel_that_waits_for_a_fill_sees_the_fill(headwater, trading, people, parts) -> None:
    order = await place(headwater, people[0], parts[0])
    async with headwater.transaction() as tx:
        await tx.execute(
            update(Order).where(Order.id == order.id).values(filled_quantity=order.quantity, status=OrderStatus.FILLED)
        )
        waiting = asyncio.create_task(trading.cancel_order(headwater.autocommit, order.id))
        await until_somebody_waits(headwater)
    with pytest.raises(StateConflict, match="is filled"):
        await waiting
    assert (await trading.get(order.id)).filled_quantity == order.quantity


async def test_a_fill_cannot_pass_a_cancel(headwater, trading, people, parts) -> None:
    order = await place(headwater, people[0], parts[0])
    async with headwater.transaction() as tx:
        await trading.cancel_order(tx, order.id)
        matcher = asyncio.create_task(
            headwater.postgres.execute(
                update(Order)
                .where(Order.id == order.id, Order.status.in_((OrderStatus.OPEN, OrderStatus.PARTIALLY_FILLED)))
                .values(filled_quantity=5, status=OrderStatus.PARTIALLY_FILLED)
            )
        )
        await until_somebody_waits(headwater)
    assert await matcher == 0
    assert (await trading.get(order.id)).filled_quantity == 0


async def until_somebody_waits(headwater: Headwater) -> None:
    """Until PostgreSQL says that a backend of this database waits for a lock."""
    waiting = "select count(*) from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'"
    async with headwater.postgres.connection() as connection, asyncio.timeout(10):
        while not await connection.fetchval(waiting):
            pass


async def test_the_database_keeps_status_and_fill_consistent_for_every_writer(
    headwater, trading, people, parts
) -> None:
    good = {"user_id": people[0], "asset_id": parts[0], "side": Side.BUY, "price": 1, "quantity": 10}
    for wrong in (
        {"filled_quantity": 11, "status": OrderStatus.PARTIALLY_FILLED},
        {"filled_quantity": -1},
        {"filled_quantity": 5, "status": OrderStatus.OPEN},
        {"filled_quantity": 0, "status": OrderStatus.PARTIALLY_FILLED},
        {"filled_quantity": 9, "status": OrderStatus.FILLED},
        {"filled_quantity": 0, "status": OrderStatus.CANCELLED},
    ):
        with pytest.raises(InvalidValue):
            await trading.create(headwater.autocommit, **(good | wrong))
        assert await trading.count() == 0


async def test_the_book_equals_a_reference_on_random_orders(headwater, trading, people, parts) -> None:
    chance = random.Random(20_260_101)
    placed: list[Order] = []
    for _ in range(150):
        placed.append(
            await place(
                headwater,
                chance.choice(people),
                chance.choice(parts),
                chance.choice((Side.BUY, Side.SELL)),
                price=chance.randrange(1, 12),
                quantity=chance.randrange(1, 50),
            )
        )
        if chance.random() < 0.5:
            order = chance.choice(placed)
            current = await trading.get(order.id)
            if current.status is OrderStatus.OPEN:
                if chance.random() < 0.4:
                    await trading.cancel_order(headwater.autocommit, order.id)
                else:
                    await fill(headwater, current, chance.randrange(1, current.quantity + 1))
    orders = await headwater.postgres.fetch(select(Order))
    for asset_id in parts:
        levels: dict[Side, dict[int, list[int]]] = {Side.BUY: defaultdict(list), Side.SELL: defaultdict(list)}
        for order in orders:
            if order.asset_id == asset_id and order.status in (OrderStatus.OPEN, OrderStatus.PARTIALLY_FILLED):
                levels[order.side][order.price].append(order.quantity - order.filled_quantity)
        bids, asks = (
            [Level(price=p, quantity=sum(side[p]), orders=len(side[p])) for p in sorted(side, reverse=down)]
            for side, down in ((levels[Side.BUY], True), (levels[Side.SELL], False))
        )
        for depth in (1, 3, 500):
            book = await trading.order_book(asset_id, depth)
            assert book.bids == bids[:depth]
            assert book.asks == asks[:depth]
            assert (book.best_bid, book.best_ask) == (bids[0].price, asks[0].price)
            assert book.spread == asks[0].price - bids[0].price


async def test_the_book_of_an_asset_nobody_trades_is_empty_and_of_an_unknown_one_is_not_found(
    headwater, trading, parts
) -> None:
    book = await trading.order_book(parts[1])
    assert (book.bids, book.asks, book.best_bid, book.best_ask, book.spread) == ([], [], None, None, None)
    with pytest.raises(NotFound, match="There is no asset"):
        await trading.order_book(uuid4())


async def test_a_deep_book_is_read_from_its_index_without_a_sort(headwater, trading, people, parts) -> None:
    rows = [
        {"user_id": people[0], "asset_id": parts[0], "side": side, "price": 1 + n % 997, "quantity": 5}
        for n in range(6_000)
        for side in Side
    ]
    await trading.bulk_insert(headwater.autocommit, rows)
    async with headwater.postgres.connection() as connection:
        await connection.execute("analyze trading.orders")
        plan = "\n".join(
            row[0]
            for row in await connection.fetch(
                "explain " + QUERIES["order_book"].sql,
                parts[0],
                20,
            )
        )
    assert "orders_book_idx" in plan
    assert "Sort" not in plan


async def test_orders_are_listed_newest_first_page_by_page_and_narrowed(headwater, trading, people, parts) -> None:
    placed = [await place(headwater, people[n % 2], parts[n % 2], price=n + 1) for n in range(7)]
    await trading.cancel_order(headwater.autocommit, placed[0].id)
    seen, cursor = [], None
    while True:
        page = await trading.orders(limit=3, cursor=cursor)
        seen += [order.id for order in page.items]
        cursor = page.next
        if cursor is None:
            break
    assert seen == [order.id for order in reversed(placed)]
    mine = await trading.orders(user_id=people[1], asset_id=parts[1], status=OrderStatus.OPEN, side=Side.BUY)
    assert [order.id for order in mine.items] == [placed[n].id for n in (5, 3, 1)]
    assert (await trading.orders(side=Side.SELL)).items == ()
    assert [o.id for o in (await trading.orders(status=OrderStatus.CANCELLED)).items] == [placed[0].id]
    with pytest.raises(InvalidCursor):
        await trading.orders(cursor="bm9uc2Vuc2U")


async def test_the_market_adds_up_orders_and_trades(headwater, trading, people, parts) -> None:
    buy = await place(headwater, people[0], parts[0], Side.BUY, price=90, quantity=10)
    sell = await place(headwater, people[1], parts[0], Side.SELL, price=100, quantity=10)
    await place(headwater, people[1], parts[1], Side.SELL, price=7, quantity=1)
    for price, quantity in ((95, 2), (96, 3)):
        await headwater.postgres.execute(
            insert(Trade).values(
                asset_id=parts[0],
                buy_order_id=buy.id,
                sell_order_id=sell.id,
                taker_side=Side.BUY,
                price=price,
                quantity=quantity,
            )
        )
    market = await trading.market_summary()
    assert (market.orders_open, market.orders_filled, market.trades, market.traded_value) == (3, 0, 2, 478)
    first, second = market.markets
    assert (first.asset_id, first.symbol, first.best_bid, first.best_ask, first.spread) == (
        parts[0],
        "DRV0",
        90,
        100,
        10,
    )
    assert (first.last_price, first.traded_quantity, first.traded_value, first.resting_orders) == (96, 5, 478, 2)
    assert (second.asset_id, second.best_bid, second.last_price, second.trades) == (parts[1], None, None, 0)
    assert len((await trading.market_summary(limit=1)).markets) == 1


async def test_the_market_of_an_empty_database_is_all_zero(trading) -> None:
    market = await trading.market_summary()
    assert (market.orders_open, market.trades, market.traded_value, market.markets) == (0, 0, 0, [])


async def test_an_escrow_needs_two_parties_an_amount_and_a_settlement_that_fits_its_state(headwater, people) -> None:
    escrows = headwater.repository(Escrow)
    good = {"buyer_id": people[0], "seller_id": people[1], "amount": 500}
    held = await escrows.create(headwater.autocommit, **good)
    assert (held.state, held.settled_at) == (EscrowState.HELD, None)
    for wrong in ({"amount": 0}, {"seller_id": people[0]}, {"state": EscrowState.RELEASED}):
        with pytest.raises(InvalidValue):
            await escrows.create(headwater.autocommit, **(good | wrong))
    assert await escrows.count() == 1


async def test_values_are_immutable(headwater, people, parts) -> None:
    order = await place(headwater, people[0], parts[0])
    with pytest.raises(AttributeError, match="immutable"):
        order.price = 1
    with pytest.raises(ProgrammingError):
        await headwater.repository(TradingRepository).create(headwater.autocommit, prize=1)
