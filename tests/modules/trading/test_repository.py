"""Orders are placed, matched, shown in the book and cancelled; what is refused changes nothing."""

from __future__ import annotations

import asyncio
import random
from collections import defaultdict
from uuid import uuid4

import pytest
from sqlalchemy import select

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
from headwater.modules.trading.commands import Answer, Cancel, Place
from headwater.modules.trading.models import Order, OrderStatus, Side
from headwater.modules.trading.repository import QUERIES, Level, TradingRepository


@pytest.fixture
def trading(headwater: Headwater) -> TradingRepository:
    return headwater.repository(TradingRepository)


async def test_a_placed_order_is_open_and_whole(marketplace) -> None:
    await marketplace.fund()
    order = await marketplace.place(0, Side.SELL, price=118_400, quantity=25)
    assert (order.side, order.price, order.quantity, order.filled_quantity) == (Side.SELL, 118_400, 25, 0)
    assert (order.status, order.version, order.cancelled_at) == (OrderStatus.OPEN, 1, None)
    assert type(order.price) is int
    assert await marketplace.trading.get(order.id) == order


async def test_an_order_reserves_what_it_needs_until_it_is_filled_or_cancelled(marketplace) -> None:
    await marketplace.fund(money=1_000, tokens=50)
    buy = await marketplace.place(0, Side.BUY, price=30, quantity=20)
    sell = await marketplace.place(1, Side.SELL, price=31, quantity=40)
    assert (await marketplace.money(0), await marketplace.tokens(1)) == ((1_000, 600), (50, 40))
    await marketplace.place(2, Side.SELL, price=30, quantity=5)
    assert (await marketplace.money(0), await marketplace.tokens(0)) == ((850, 450), (55, 0))
    for order in (buy, sell):
        await marketplace.cancel(order.id)
    assert (await marketplace.money(0), await marketplace.tokens(1)) == ((850, 0), (50, 0))
    await marketplace.audit()


async def test_an_order_that_cannot_be_paid_is_refused_and_changes_nothing(marketplace) -> None:
    await marketplace.fund(money=999, tokens=9)
    for side in Side:
        with pytest.raises(StateConflict, match="cannot pay for the order") as refused:
            await marketplace.place(0, side, price=100, quantity=10)
        assert refused.value.detail["needed"] == (1_000 if side is Side.BUY else 10)
    assert await marketplace.trading.count() == 0
    await marketplace.place(0, Side.BUY, price=99, quantity=10)
    with pytest.raises(StateConflict, match="cannot pay"):  # what is reserved cannot be reserved again
        await marketplace.place(0, Side.BUY, price=1, quantity=10)
    await marketplace.audit()


async def test_who_waited_names_the_price_and_the_earlier_of_two_goes_first(marketplace) -> None:
    await marketplace.fund()
    first = await marketplace.place(0, Side.SELL, price=100, quantity=5)
    second = await marketplace.place(1, Side.SELL, price=100, quantity=5)
    dearer = await marketplace.place(1, Side.SELL, price=101, quantity=5)
    taker = await marketplace.place(2, Side.BUY, price=105, quantity=12)
    assert (taker.status, taker.filled_quantity, taker.version) == (OrderStatus.FILLED, 12, 1)
    trades = await marketplace.trades()
    assert [(t.sell_order_id, t.price, t.quantity, t.taker_side) for t in trades] == [
        (first.id, 100, 5, Side.BUY),
        (second.id, 100, 5, Side.BUY),
        (dearer.id, 101, 2, Side.BUY),
    ]
    left = await marketplace.trading.get(dearer.id)
    assert (left.status, left.filled_quantity, left.version) == (OrderStatus.PARTIALLY_FILLED, 2, 2)
    page = await marketplace.trading.trades(marketplace.parts[0], limit=2)
    assert [t.price for t in page.items] == [101, 100]
    assert (await marketplace.money(2), await marketplace.tokens(2)) == ((10**9 - 1_202, 0), (10**6 + 12, 0))
    await marketplace.audit()


async def test_nobody_trades_with_themselves(marketplace) -> None:
    await marketplace.fund()
    other = await marketplace.place(1, Side.SELL, price=99, quantity=3)
    mine = await marketplace.place(0, Side.SELL, price=100, quantity=10)
    behind = await marketplace.place(1, Side.SELL, price=100, quantity=10)
    taker = await marketplace.place(0, Side.BUY, price=100, quantity=10)
    assert (taker.status, taker.filled_quantity) == (OrderStatus.CANCELLED, 3)
    assert (await marketplace.trading.get(other.id)).status is OrderStatus.FILLED
    for untouched in (mine, behind):
        assert await marketplace.trading.get(untouched.id) == untouched
    assert (await marketplace.money(0))[1] == 0
    await marketplace.audit()


async def test_amounts_beyond_64_bits_are_kept_exactly(marketplace) -> None:
    price = 10**36 + 3
    await marketplace.fund(money=9 * price, tokens=9)
    order = await marketplace.place(0, Side.BUY, price=price, quantity=9)
    assert (await marketplace.trading.get(order.id)).price == price
    assert (await marketplace.trading.order_book(marketplace.parts[0])).best_bid == price
    await marketplace.place(1, Side.SELL, price=price - 5, quantity=8)
    assert await marketplace.money(1) == (17 * price, 0)
    await marketplace.audit()


async def test_an_amount_out_of_range_is_refused_and_changes_nothing(marketplace) -> None:
    await marketplace.fund()
    for wrong in (
        {"price": 0}, {"price": -5}, {"quantity": 0}, {"price": 10**38}, {"price": 10**60}, {"price": 1.5},
        {"price": "7"}, {"price": True},
    ):  # fmt: skip
        with pytest.raises(InvalidValue):
            await marketplace.place(0, **({"price": 100, "quantity": 10} | wrong))
        assert await marketplace.trading.count() == 0


async def test_an_order_whose_value_is_no_amount_is_refused(marketplace) -> None:
    with pytest.raises(InvalidValue, match="value"):
        await marketplace.place(0, price=10**20, quantity=10**18)
    assert await marketplace.trading.count() == 0


async def test_an_unknown_user_or_asset_is_named_and_changes_nothing(headwater, trading, people, parts) -> None:
    order = {"side": Side.BUY, "price": 1, "quantity": 1}
    async with headwater.transaction() as tx:
        with pytest.raises(MissingReference, match="no such user"):
            await trading.place_order(tx, user_id=uuid4(), asset_id=parts[0], **order)
        with pytest.raises(MissingReference, match="no such asset"):
            await trading.place_order(tx, user_id=people[0], asset_id=uuid4(), **order)
    assert await trading.count() == 0


async def test_a_verb_does_not_commit_for_its_caller(headwater, marketplace) -> None:
    await marketplace.fund()
    with pytest.raises(RuntimeError):
        async with headwater.transaction() as tx:
            await marketplace.trading.place_order(
                tx, user_id=marketplace.people[0], asset_id=marketplace.parts[0], side=Side.BUY, price=1, quantity=1
            )
            raise RuntimeError("the caller changed their mind")
    assert await marketplace.trading.count() == 0
    assert await marketplace.money(0) == (10**9, 0)


async def test_a_verb_needs_a_transaction(headwater, marketplace) -> None:
    with pytest.raises(ProgrammingError):
        await marketplace.trading.run(headwater.autocommit, [Cancel(order_id=uuid4())])


async def test_a_batch_runs_in_order_and_what_is_refused_stops_nothing(marketplace) -> None:
    await marketplace.fund(money=1_000, tokens=10)
    user, part = marketplace.people, marketplace.parts
    waiting = await marketplace.place(2, Side.SELL, price=50, quantity=4)
    outcomes = await marketplace.run(
        Place(user_id=user[0], asset_id=part[0], side=Side.BUY, price=100, quantity=11),
        Place(user_id=user[0], asset_id=part[0], side=Side.BUY, price=60, quantity=10),
        Place(user_id=user[1], asset_id=part[0], side=Side.SELL, price=60, quantity=6),
        Cancel(order_id=waiting.id),
        Cancel(order_id=uuid4()),
        Place(user_id=uuid4(), asset_id=part[0], side=Side.BUY, price=1, quantity=1),
        Place(user_id=user[0], asset_id=uuid4(), side=Side.BUY, price=1, quantity=1),
        Place(user_id=user[1], asset_id=part[1], side=Side.SELL, price=7, quantity=10),
        Place(user_id=user[0], asset_id=part[1], side=Side.BUY, price=7, quantity=10),
    )
    assert [outcome.outcome for outcome in outcomes] == [
        Answer.INSUFFICIENT_FUNDS, Answer.FILLED, Answer.FILLED, Answer.NOT_OPEN, Answer.NO_ORDER, Answer.NO_USER,
        Answer.NO_ASSET, Answer.FILLED, Answer.FILLED,
    ]  # fmt: skip
    assert [outcome.outcome.done for outcome in outcomes].count(True) == 4
    assert await marketplace.money(0) == (1_000 - 4 * 50 - 6 * 60 - 70, 0)
    assert await marketplace.run() == []
    await marketplace.audit()


async def test_an_open_and_a_partly_filled_order_can_be_cancelled(marketplace) -> None:
    await marketplace.fund()
    for filled in (0, 4):
        order = await marketplace.place(0)
        if filled:
            await marketplace.place(1, Side.SELL, quantity=filled)
        cancelled = await marketplace.cancel(order.id)
        assert (cancelled.status, cancelled.filled_quantity) == (OrderStatus.CANCELLED, filled)
        assert cancelled.cancelled_at is not None
        assert cancelled.version > order.version
        assert await marketplace.trading.get(order.id) == cancelled
    assert (await marketplace.trading.order_book(marketplace.parts[0])).bids == []
    assert (await marketplace.money(0))[1] == 0
    await marketplace.audit()


async def test_a_filled_order_cannot_be_cancelled_and_stays_as_it_is(marketplace) -> None:
    await marketplace.fund()
    order = await marketplace.place(0)
    await marketplace.place(1, Side.SELL)
    before = await marketplace.trading.get(order.id)
    with pytest.raises(StateConflict, match="is filled and cannot be cancelled") as refused:
        await marketplace.cancel(order.id)
    assert refused.value.detail["status"] == "filled"
    assert await marketplace.trading.get(order.id) == before


async def test_cancelling_twice_is_refused_the_second_time(marketplace) -> None:
    await marketplace.fund()
    order = await marketplace.place(0)
    cancelled = await marketplace.cancel(order.id)
    with pytest.raises(StateConflict, match="is cancelled"):
        await marketplace.cancel(order.id)
    twice = await marketplace.run(Cancel(order_id=order.id), Cancel(order_id=order.id))
    assert [outcome.outcome for outcome in twice] == [Answer.NOT_OPEN, Answer.NOT_OPEN]
    assert await marketplace.trading.get(order.id) == cancelled


async def test_a_cancel_with_an_old_version_is_refused_with_the_current_order(marketplace) -> None:
    await marketplace.fund()
    order = await marketplace.place(0)
    await marketplace.place(1, Side.SELL, quantity=3)
    with pytest.raises(VersionConflict) as refused:
        await marketplace.cancel(order.id, version=order.version)
    assert refused.value.current == await marketplace.trading.get(order.id)
    assert refused.value.current.status is OrderStatus.PARTIALLY_FILLED
    cancelled = await marketplace.cancel(order.id, version=refused.value.current.version)
    assert cancelled.status is OrderStatus.CANCELLED


async def test_cancelling_an_order_that_does_not_exist_says_so(marketplace) -> None:
    with pytest.raises(NotFound, match="There is no order"):
        await marketplace.cancel(uuid4())


async def test_of_many_cancels_at_once_exactly_one_succeeds(marketplace, crowd) -> None:
    await marketplace.fund()
    order = await marketplace.place(0)
    outcomes = await asyncio.gather(*(marketplace.cancel(order.id) for _ in range(8)), return_exceptions=True)
    assert sum(isinstance(outcome, Order) for outcome in outcomes) == 1
    assert sum(isinstance(outcome, StateConflict) for outcome in outcomes) == 7
    assert (await marketplace.trading.get(order.id)).version == 2
    await marketplace.audit()


async def test_a_cancel_that_waits_for_a_fill_sees_the_fill(headwater, marketplace) -> None:
    await marketplace.fund()
    order = await marketplace.place(0)
    async with headwater.transaction() as tx:
        await marketplace.trading.place_order(
            tx, user_id=marketplace.people[1], asset_id=marketplace.parts[0], side=Side.SELL, price=100, quantity=10
        )
        waiting = asyncio.create_task(marketplace.cancel(order.id))
        await until_somebody_waits(headwater)
    with pytest.raises(StateConflict, match="is filled"):
        await waiting
    assert (await marketplace.trading.get(order.id)).filled_quantity == order.quantity


async def test_a_fill_cannot_pass_a_cancel(headwater, marketplace) -> None:
    await marketplace.fund()
    order = await marketplace.place(0)
    async with headwater.transaction() as tx:
        await marketplace.trading.cancel_order(tx, order.id)
        taker = asyncio.create_task(marketplace.place(1, Side.SELL))
        await until_somebody_waits(headwater)
    assert (await taker).status is OrderStatus.OPEN
    assert (await marketplace.trading.get(order.id)).filled_quantity == 0
    await marketplace.audit()


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


async def test_the_book_equals_a_reference_on_random_orders(headwater, marketplace) -> None:
    chance = random.Random(20_260_101)
    trading, parts = marketplace.trading, marketplace.parts
    await marketplace.fund()
    placed: list[Order] = []
    for _ in range(120):
        side = chance.choice((Side.BUY, Side.SELL))
        price = chance.randrange(1, 12) + (4 if side is Side.SELL else 0)
        placed.append(
            await marketplace.place(chance.randrange(3), side, price, chance.randrange(1, 50), part=chance.randrange(2))
        )
        if chance.random() < 0.2:
            current = await trading.get(chance.choice(placed).id)
            if current.status in (OrderStatus.OPEN, OrderStatus.PARTIALLY_FILLED):
                await marketplace.cancel(current.id)
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
            assert book.spread > 0
    await marketplace.audit()


async def test_the_book_of_an_asset_nobody_trades_is_empty_and_of_an_unknown_one_is_not_found(
    headwater, trading, parts
) -> None:
    book = await trading.order_book(parts[1])
    assert (book.bids, book.asks, book.best_bid, book.best_ask, book.spread) == ([], [], None, None, None)
    with pytest.raises(NotFound, match="There is no asset"):
        await trading.order_book(uuid4())


async def test_a_deep_book_is_read_from_its_index_without_a_sort(headwater, marketplace, people, parts) -> None:
    await marketplace.fund(money=10**12, tokens=10**9)
    rows = [
        {"user_id": people[0], "asset_id": parts[0], "side": side, "price": price, "quantity": 5}
        for n in range(3_000)
        for side, price in ((Side.BUY, 1 + n % 997), (Side.SELL, 2_000 + n % 997))
    ]
    await marketplace.trading.bulk_insert(headwater.autocommit, rows)
    async with headwater.postgres.connection() as connection:
        await connection.execute("analyze trading.resting")
        plan = "\n".join(
            row[0]
            for row in await connection.fetch(
                "explain " + QUERIES["order_book"].sql,
                parts[0],
                20,
            )
        )
    assert "resting_priority_idx" in plan
    assert "Sort" not in plan


async def test_orders_are_listed_newest_first_page_by_page_and_narrowed(marketplace, people, parts) -> None:
    trading = marketplace.trading
    await marketplace.fund()
    placed = [await marketplace.place(n % 2, price=n + 1, part=n % 2) for n in range(7)]
    await marketplace.cancel(placed[0].id)
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


async def test_the_market_adds_up_orders_and_trades(marketplace, parts) -> None:
    await marketplace.fund()
    await marketplace.place(0, Side.BUY, price=90, quantity=10)
    await marketplace.place(1, Side.SELL, price=100, quantity=10)
    await marketplace.place(1, Side.SELL, price=7, quantity=1, part=1)
    await marketplace.place(2, Side.BUY, price=100, quantity=2)
    await marketplace.place(2, Side.SELL, price=89, quantity=3)
    market = await marketplace.trading.market_summary()
    assert (market.orders_open, market.orders_partially_filled, market.orders_filled) == (1, 2, 2)
    assert (market.trades, market.traded_value) == (2, 470)
    first, second = market.markets
    assert (first.asset_id, first.symbol, first.best_bid, first.best_ask, first.spread) == (
        parts[0],
        "DRV0",
        90,
        100,
        10,
    )
    assert (first.last_price, first.traded_quantity, first.traded_value, first.resting_orders) == (90, 5, 470, 2)
    assert (second.asset_id, second.best_bid, second.last_price, second.trades) == (parts[1], None, None, 0)
    assert len((await marketplace.trading.market_summary(limit=1)).markets) == 1


async def test_the_market_of_an_empty_database_is_all_zero(trading) -> None:
    market = await trading.market_summary()
    assert (market.orders_open, market.trades, market.traded_value, market.markets) == (0, 0, 0, [])


async def test_values_are_immutable(headwater, marketplace) -> None:
    await marketplace.fund()
    order = await marketplace.place(0)
    with pytest.raises(AttributeError, match="immutable"):
        order.price = 1
    with pytest.raises(ProgrammingError):
        await headwater.repository(TradingRepository).create(headwater.autocommit, prize=1)
