"""Markets are opened once, by hand or by the first order, and their tokens are counted in the ledger."""

from __future__ import annotations

import asyncio
from uuid import uuid4

import pytest

from headwater.kernel.errors import MissingReference, StateConflict
from headwater.modules.trading.models import OpenMarket, Settlement, Side


async def test_the_first_order_opens_a_market_that_settles_at_once_in_usd(marketplace) -> None:
    await marketplace.fund()
    assert await marketplace.markets.find(marketplace.parts[0]) is None
    await marketplace.place(0)
    market = await marketplace.markets.get(marketplace.parts[0])
    assert (market.currency, market.settlement, market.batches) == ("USD", Settlement.IMMEDIATE, 1)


async def test_a_market_that_is_open_stays_as_it_is(headwater, marketplace) -> None:
    async with headwater.transaction() as tx:
        first = await marketplace.markets.open_market(tx, marketplace.parts[0], currency="CHF")
    async with headwater.transaction() as tx:
        assert await marketplace.markets.open_market(tx, marketplace.parts[0], currency="CHF") == first
    with pytest.raises(StateConflict, match="is open in CHF, settling immediate"):
        async with headwater.transaction() as tx:
            await marketplace.markets.open_market(tx, marketplace.parts[0])


async def test_many_who_open_a_market_at_once_open_one(headwater, marketplace, crowd) -> None:
    opened = await asyncio.gather(
        *(headwater.run(lambda tx: marketplace.markets.open_market(tx, marketplace.parts[0])) for _ in range(8))
    )
    assert len({market.asset_id for market in opened}) == 1
    assert await headwater.repository(OpenMarket).count() == 1


async def test_a_market_needs_an_asset(headwater, marketplace) -> None:
    async with headwater.transaction() as tx:
        with pytest.raises(MissingReference, match="no such asset"):
            await marketplace.markets.open_market(tx, uuid4())
        with pytest.raises(MissingReference, match="no such asset"):
            await marketplace.markets.issue(tx, uuid4(), user_id=marketplace.people[0], quantity=1)
        with pytest.raises(MissingReference, match="no such user"):
            await marketplace.markets.issue(tx, marketplace.parts[0], user_id=uuid4(), quantity=1)


async def test_issued_tokens_are_counted_once_with_an_id_and_can_be_sold(headwater, marketplace) -> None:
    user, part, receipt_id = marketplace.people[0], marketplace.parts[0], uuid4()
    for _ in range(2):
        async with headwater.transaction() as tx:
            await marketplace.markets.issue(tx, part, user_id=user, quantity=9, id=receipt_id)
    assert await marketplace.markets.tokens_of(user, part) == 9
    assert await marketplace.markets.tokens_of(marketplace.people[1], part) == 0
    await marketplace.place(0, Side.SELL, quantity=9)
    with pytest.raises(StateConflict, match="it needs 1 of the asset"):
        await marketplace.place(0, Side.SELL, quantity=1)
