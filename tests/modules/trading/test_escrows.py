"""Escrows keep what is between a buyer and a seller until somebody says, once, where it goes."""

from __future__ import annotations

import asyncio
from uuid import UUID, uuid4

import pytest
from tests.modules.trading.marketplace import Marketplace

from headwater.kernel.errors import InvalidValue, NotFound, StateConflict, VersionConflict
from headwater.kernel.lifecycle import Headwater
from headwater.modules.trading.escrows import EscrowRepository
from headwater.modules.trading.models import Escrow, EscrowState, Settlement, Side
from headwater.modules.trading.repository import QUERIES


@pytest.fixture
def escrows(headwater: Headwater) -> EscrowRepository:
    return headwater.repository(EscrowRepository)


async def held(marketplace: Marketplace, escrows: EscrowRepository) -> Escrow:
    """An escrow over 3 tokens at 100 between a buyer (0) and a seller (1), in a market that settles on release."""
    await marketplace.open(Settlement.ON_RELEASE)
    await marketplace.fund(money=1_000, tokens=10)
    await marketplace.place(1, Side.SELL, price=100, quantity=3)
    await marketplace.place(0, Side.BUY, price=100, quantity=3)
    return (await escrows.escrows(user_id=marketplace.people[0])).items[0]


async def step(headwater: Headwater, verb: str, escrow_id: UUID, version: int | None = None) -> Escrow:
    async with headwater.transaction() as tx:
        changed: Escrow = await getattr(headwater.repository(EscrowRepository), verb)(tx, escrow_id, version=version)
        return changed


async def test_a_fill_that_settles_at_once_leaves_a_released_escrow(marketplace, escrows) -> None:
    await marketplace.fund()
    await marketplace.place(1, Side.SELL, price=7, quantity=3)
    await marketplace.place(0, Side.BUY, price=9, quantity=3)
    [escrow] = (await escrows.escrows(state=EscrowState.RELEASED)).items
    assert (escrow.buyer_id, escrow.seller_id, escrow.amount) == (*marketplace.people[:2], 21)
    assert escrow.settled_at is not None
    await marketplace.audit()


async def test_what_is_held_belongs_to_neither_until_it_is_released(headwater, marketplace, escrows) -> None:
    escrow = await held(marketplace, escrows)
    assert (escrow.state, escrow.settled_at, escrow.amount) == (EscrowState.HELD, None, 300)
    assert (await marketplace.money(0), await marketplace.tokens(0)) == ((700, 0), (10, 0))
    assert (await marketplace.money(1), await marketplace.tokens(1)) == ((1_000, 0), (7, 0))
    await marketplace.audit()
    released = await step(headwater, "release", escrow.id)
    assert (released.state, released.version) == (EscrowState.RELEASED, 2)
    assert released.settled_at is not None
    assert (await marketplace.money(0), await marketplace.tokens(0)) == ((700, 0), (13, 0))
    assert (await marketplace.money(1), await marketplace.tokens(1)) == ((1_300, 0), (7, 0))
    await marketplace.audit()


async def test_a_refund_gives_both_back(headwater, marketplace, escrows) -> None:
    escrow = await held(marketplace, escrows)
    refunded = await step(headwater, "refund", escrow.id)
    assert refunded.state is EscrowState.REFUNDED
    for person in (0, 1):
        assert (await marketplace.money(person), await marketplace.tokens(person)) == ((1_000, 0), (10, 0))
    await marketplace.audit()


async def test_a_disputed_escrow_waits_until_it_is_decided(headwater, marketplace, escrows) -> None:
    escrow = await held(marketplace, escrows)
    disputed = await step(headwater, "dispute", escrow.id)
    assert (disputed.state, disputed.settled_at) == (EscrowState.DISPUTED, None)
    await marketplace.audit()
    with pytest.raises(StateConflict, match="is disputed and cannot become disputed"):
        await step(headwater, "dispute", escrow.id)
    with pytest.raises(VersionConflict):
        await step(headwater, "refund", escrow.id, version=1)
    assert (await step(headwater, "refund", escrow.id, version=2)).state is EscrowState.REFUNDED
    await marketplace.audit()


async def test_an_escrow_is_settled_once(headwater, marketplace, escrows) -> None:
    escrow = await held(marketplace, escrows)
    ways = ["release", "refund", "release", "refund", "dispute", "release"]
    outcomes = await asyncio.gather(*(step(headwater, way, escrow.id) for way in ways), return_exceptions=True)
    settled = [o for o in outcomes if isinstance(o, Escrow) and o.state is not EscrowState.DISPUTED]
    assert len(settled) == 1
    assert all(isinstance(o, (Escrow, StateConflict)) for o in outcomes)
    for way in ("release", "refund", "dispute"):
        with pytest.raises(StateConflict, match="It is settled"):
            await step(headwater, way, escrow.id)
    await marketplace.audit()


async def test_an_escrow_that_does_not_exist_is_not_found_and_one_without_a_trade_is_not_settled(
    headwater, escrows, people
) -> None:
    with pytest.raises(NotFound, match="There is no escrow"):
        await step(headwater, "release", uuid4())
    stray = await escrows.create(headwater.autocommit, buyer_id=people[0], seller_id=people[1], amount=5)
    with pytest.raises(StateConflict, match="belongs to no trade"):
        await step(headwater, "release", stray.id)


async def test_an_escrow_needs_two_parties_an_amount_and_a_settlement_that_fits_its_state(
    headwater, escrows, people
) -> None:
    good = {"buyer_id": people[0], "seller_id": people[1], "amount": 500}
    held = await escrows.create(headwater.autocommit, **good)
    assert (held.state, held.settled_at) == (EscrowState.HELD, None)
    for wrong in ({"amount": 0}, {"seller_id": people[0]}, {"state": EscrowState.RELEASED}):
        with pytest.raises(InvalidValue):
            await escrows.create(headwater.autocommit, **(good | wrong))
    assert await escrows.count() == 1


async def test_the_accounts_are_found_by_their_owners(found_by_owner) -> None:
    await found_by_owner(QUERIES["escrow_accounts"])
