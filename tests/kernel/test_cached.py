"""Cached results: valid while the rows they were made from stand still, and made once for all who ask."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import pytest
import pytest_asyncio
from tests.kernel.caching import told, trusted
from tests.modules.trading.marketplace import Marketplace

from headwater.followers.invalidation import relaying
from headwater.kernel.cached import Tag, cached
from headwater.kernel.errors import NotFound, ProgrammingError
from headwater.kernel.lifecycle import Headwater
from headwater.kernel.settings import Settings
from headwater.modules.blockchain.models import Asset, ChainUser, PriceFeed
from headwater.modules.blockchain.repository import AssetRepository, BlockchainRepository
from headwater.modules.identity.models import Role, User
from headwater.modules.trading.models import Order, Side
from headwater.modules.trading.repository import TradingRepository
from headwater.systems.everything import EVERYTHING


@pytest_asyncio.fixture
async def hw(settings: Settings) -> AsyncIterator[Headwater]:
    async with Headwater.open(EVERYTHING, settings) as opened, relaying(EVERYTHING, settings):
        await trusted(opened)
        yield opened


def figures(hw: Headwater, kind: str) -> Any:
    assert hw.postgres.cache is not None
    return hw.postgres.cache.figures[kind]


async def make_asset(hw: Headwater) -> tuple[UUID, UUID]:
    unique = uuid4().hex[:12]
    user = await hw.repository(User).create(hw.autocommit, email=f"{unique}@b.example")
    await hw.repository(ChainUser).create(hw.autocommit, user_id=user.id, wallet_address=unique)
    asset = await hw.repository(Asset).create(
        hw.autocommit, asset_type="servo", issuer_id=user.id, name=f"Part {unique}", symbol=unique.upper()
    )
    marketplace = Marketplace(hw, [user.id], [asset.id])
    await marketplace.fund()
    await told(hw)
    return asset.id, user.id


async def test_an_order_book_is_kept_until_an_order_of_its_asset_changes(hw: Headwater) -> None:
    trading = hw.repository(TradingRepository)
    (asset, user), (other, _) = await make_asset(hw), await make_asset(hw)
    assert (await trading.order_book(asset)).bids == []
    first = await trading.order_book(asset)
    assert figures(hw, "order_book").hits == 1
    async with hw.transaction() as tx:
        await trading.place_order(tx, user_id=user, asset_id=other, side=Side.BUY, price=5, quantity=2)
    assert await trading.order_book(asset) == first
    hits = figures(hw, "order_book").hits
    async with hw.transaction() as tx:
        await trading.place_order(tx, user_id=user, asset_id=asset, side=Side.BUY, price=7, quantity=2)
    assert (await trading.order_book(asset)).best_bid == 7
    assert figures(hw, "order_book").hits == hits


async def test_a_foreign_write_ends_a_result(hw: Headwater, database: str) -> None:
    trading = hw.repository(TradingRepository)
    asset, user = await make_asset(hw)
    async with hw.transaction() as tx:
        order = await trading.place_order(tx, user_id=user, asset_id=asset, side=Side.SELL, price=7, quantity=2)
    assert (await trading.order_book(asset)).best_ask == 7
    foreign = await asyncpg.connect(database)
    cancel = "update trading.orders set status = 'cancelled', cancelled_at = now() where id = $1"
    await foreign.execute(cancel, order.id)
    await foreign.close()
    async with asyncio.timeout(10):
        while (await trading.order_book(asset)).best_ask is not None:  # noqa: ASYNC110  # the relay makes it so
            await asyncio.sleep(0.001)


async def test_a_row_that_moves_between_lists_leaves_one_and_enters_the_other(hw: Headwater) -> None:
    chain = hw.repository(BlockchainRepository)
    one, two = "OLD", "NEW"
    feed = await chain.record_price(hw.autocommit, symbol=one, source="pyth", price=Decimal(7))
    assert (await chain.latest_price(one)).id == feed.id
    with pytest.raises(NotFound):
        await chain.latest_price(two)
    async with hw.transaction() as tx:
        await hw.repository(PriceFeed).update(tx, feed.id, symbol=two)
    with pytest.raises(NotFound):
        await chain.latest_price(one)
    assert (await chain.latest_price(two)).id == feed.id


async def test_a_price_dated_ahead_comes_into_force_in_time(hw: Headwater) -> None:
    chain = hw.repository(BlockchainRepository)
    await chain.record_price(
        hw.autocommit, symbol="PART", source="pyth", price=Decimal(1), observed_at=datetime.now(UTC) - timedelta(days=1)
    )
    soon = datetime.now(UTC) + timedelta(seconds=1)
    await chain.record_price(hw.autocommit, symbol="PART", source="pyth", price=Decimal(2), observed_at=soon)
    await told(hw)
    assert (await chain.latest_price("part")).price == 1
    assert (await chain.latest_price("part")).price == 1
    assert figures(hw, "price").hits == 1
    async with asyncio.timeout(5):
        while (await chain.latest_price("part")).price != 2:  # noqa: ASYNC110  # time makes it so
            await asyncio.sleep(0.02)
    assert datetime.now(UTC) >= soon


async def test_what_is_refused_is_not_kept(hw: Headwater) -> None:
    with pytest.raises(NotFound):
        await hw.repository(BlockchainRepository).latest_price("NONE")
    with pytest.raises(NotFound):
        await hw.repository(TradingRepository).order_book(uuid4())


async def test_a_search_is_kept_as_json_and_ends_when_an_asset_changes(hw: Headwater) -> None:
    assets = hw.repository(AssetRepository)
    asset, _ = await make_asset(hw)
    first = await assets.search_json("part")
    assert await assets.search_json("part") == first
    assert isinstance(first.items, bytes)
    assert figures(hw, "asset_search").hits == 1
    async with hw.transaction() as tx:
        await assets.update(tx, asset, name="Something else")
    assert await assets.search_json("part") != first


class Reports:
    """Counts how often it had to work."""

    def __init__(self, hw: Headwater) -> None:
        self.postgres = hw.postgres
        self.made = 0
        self.begun = asyncio.Event()

    @cached("report", tags=lambda which: (Tag(User),), ttl_seconds=60)
    async def report(self, which: str, *, tx: Any = None) -> dict[str, int]:
        self.made += 1
        self.begun.set()
        await asyncio.sleep(0.05)
        return {which: self.made}

    @cached("pair", tags=lambda which, scale: (Tag(User),), ttl_seconds=60)
    async def pair(self, which: str, *, scale: int = 1, tx: Any = None) -> dict[str, int]:
        self.made += 1
        return {which: scale}

    @cached("wide", tags=lambda: (), ttl_seconds=60)
    async def wide(self) -> list[int]:
        return [2**100]


async def test_many_who_ask_at_once_cost_one_load_and_arguments_tell_results_apart(hw: Headwater) -> None:
    reports = Reports(hw)
    await reports.report("first")
    async with asyncio.timeout(30):
        while True:  # a machine that stands still makes Valkey seem silent: then some go past it, and it is asked again
            reports.made, past = 0, figures(hw, "report").bypasses
            many = await asyncio.gather(*(reports.report("a") for _ in range(40)))
            if figures(hw, "report").bypasses == past:
                break
            await hw.repository(User).create(hw.autocommit, email=f"{uuid4().hex}@b.example")
            await told(hw)
    assert many == [{"a": 1}] * 40
    assert await reports.report("b:c") == {"b:c": 2}
    assert await reports.report("b") == {"b": 3}
    assert await reports.report("a", tx=hw.autocommit) == {"a": 4}


async def test_many_who_go_past_the_cache_share_the_load_that_begins_after_they_asked(hw: Headwater) -> None:
    reports = Reports(hw)
    await reports.report("first")
    reports.made = 0
    reports.begun.clear()
    assert hw.postgres.cache is not None
    hw.postgres.cache.bypass()
    early = [asyncio.create_task(reports.report("a")) for _ in range(40)]
    await reports.begun.wait()
    hw.postgres.cache.bypass()
    late = [asyncio.create_task(reports.report("a")) for _ in range(40)]
    assert await asyncio.gather(*early) == [{"a": 1}] * 40
    assert await asyncio.gather(*late) == [{"a": 2}] * 40


async def test_a_call_is_told_by_its_parameters_however_they_are_passed(hw: Headwater) -> None:
    reports = Reports(hw)
    await reports.pair("a")
    for again in (reports.pair("a", scale=1), reports.pair(which="a"), reports.pair(scale=1, which="a", tx=None)):
        assert await again == {"a": 1}
    assert await reports.pair("a", scale=2) == {"a": 2}
    assert (reports.made, figures(hw, "pair").hits) == (2, 3)
    wrong: Any = reports.pair
    for arguments, named in (((), {}), (("a",), {"which": "b"}), (("a",), {"other": 1}), (("a", 1), {})):
        with pytest.raises(TypeError):
            await wrong(*arguments, **named)


async def test_what_cannot_be_written_down_is_made_each_time(hw: Headwater) -> None:
    assert [await Reports(hw).wide() for _ in range(3)] == [[2**100]] * 3


def test_a_dependency_nobody_tells_of_is_refused() -> None:
    for model, column in ((Role, {}), (Order, {"price": 5}), (PriceFeed, {"symbol": "A", "currency": "USD"})):
        with pytest.raises(ProgrammingError, match="cannot depend"):
            Tag(model, **column)
    with pytest.raises(ProgrammingError, match="level"):
        cached("x", tags=lambda: (), ttl_seconds=1, level="strict")
