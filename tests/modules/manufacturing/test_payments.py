"""The money of an order is held when it starts, paid step by step, and what is left given back: each once."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any
from uuid import UUID

import pytest

from headwater.kernel.errors import StateConflict
from headwater.kernel.lifecycle import Headwater
from headwater.modules.ledger.repository import LedgerRepository
from headwater.modules.manufacturing.models import (
    Inspection,
    InspectionResult,
    Milestone,
    MilestoneStatus,
    Order,
    Payment,
    ProductionStatus,
)
from headwater.modules.manufacturing.repository import QUERIES, ManufacturingRepository, NewMilestone

CUSTOMER, MAKER, INSPECTOR = 1, 0, 2
"""Places in `people`; the first of them has issued the parts."""


class Workshop:
    """Takes orders through production, each step in a transaction of its own."""

    def __init__(self, headwater: Headwater, people: list[UUID], parts: list[UUID]) -> None:
        self.headwater, self.people, self.parts = headwater, people, parts
        self.repository = headwater.repository(ManufacturingRepository)

    async def step(self, verb: str, *args: Any, **kwargs: Any) -> Any:
        return await self.headwater.run(lambda tx: getattr(self.repository, verb)(tx, *args, **kwargs))

    async def order(self, *amounts: int, **given: Any) -> tuple[Order, list[Milestone]]:
        milestones = [NewMilestone(title="Step", amount=amount) for amount in amounts]
        order = await self.step(
            "create_order",
            user_id=self.people[CUSTOMER],
            asset_id=self.parts[0],
            quantity=1,
            specifications={},
            milestones=milestones,
            **given,
        )
        return order, list((await self.repository.milestones(order.id)).items)

    async def start(self, order: Order) -> Order:
        started: Order = await self.step("advance_order", order.id, ProductionStatus.IN_PRODUCTION)
        return started

    async def done(self, milestone: Milestone) -> None:
        await self.step("advance_milestone", milestone.id, MilestoneStatus.IN_PROGRESS)
        await self.step("complete_milestone", milestone.id)

    async def inspect(self, milestone: Milestone, result: InspectionResult = InspectionResult.PASSED) -> Inspection:
        inspection: Inspection = await self.step(
            "record_inspection", milestone.id, inspector_id=self.people[INSPECTOR], result=result
        )
        return inspection

    async def told(self, order: Order) -> tuple[int, int, int, int]:
        """Due, held, paid and refunded; what is held is what the escrow account has."""
        payments = await self.repository.payments(order.id)
        assert payments.escrow == payments.held
        return payments.due, payments.held, payments.paid, payments.refunded


@pytest.fixture
def workshop(headwater: Headwater, people: list[UUID], parts: list[UUID]) -> Workshop:
    return Workshop(headwater, people, parts)


MoneyOf = Callable[..., Awaitable[int]]


async def test_money_is_held_at_the_start_and_paid_when_an_inspection_passes(workshop, people, give, money_of) -> None:
    await give(people[CUSTOMER], 1_000)
    order, (first, second) = await workshop.order(300, 500)
    assert await workshop.told(order) == (800, 0, 0, 0)
    await workshop.start(order)
    assert await workshop.told(order) == (0, 800, 0, 0)
    assert await money_of(people[CUSTOMER]) == 200
    await workshop.done(first)
    await workshop.inspect(first, InspectionResult.FAILED)
    assert await workshop.told(order) == (0, 800, 0, 0)
    await workshop.done(first)
    await workshop.inspect(first)
    assert await workshop.told(order) == (0, 500, 300, 0)
    assert await money_of(people[MAKER]) == 300
    paid = (await workshop.repository.milestones(order.id)).items[0]
    assert (paid.payment, paid.status) == (Payment.PAID, MilestoneStatus.PASSED)
    assert paid.settled_at is not None
    await workshop.done(second)
    await workshop.step("advance_order", order.id, ProductionStatus.QUALITY_CHECK)
    await workshop.inspect(second)
    await workshop.step("advance_order", order.id, ProductionStatus.COMPLETED)
    assert await workshop.told(order) == (0, 0, 800, 0)
    assert (await money_of(people[CUSTOMER]), await money_of(people[MAKER])) == (200, 800)


async def test_cancelling_gives_back_what_is_held_and_leaves_what_was_earned(workshop, people, give, money_of) -> None:
    await give(people[CUSTOMER], 1_000)
    order, (first, _, _) = await workshop.order(100, 200, 300)
    await workshop.start(order)
    await workshop.done(first)
    await workshop.inspect(first)
    await workshop.step("cancel_order", order.id)
    assert await workshop.told(order) == (0, 0, 100, 500)
    assert (await money_of(people[CUSTOMER]), await money_of(people[MAKER])) == (900, 100)
    with pytest.raises(StateConflict):
        await workshop.step("cancel_order", order.id)
    assert await money_of(people[CUSTOMER]) == 900


async def test_an_order_that_never_started_has_nothing_to_give_back(workshop, people, give, money_of) -> None:
    await give(people[CUSTOMER], 1_000)
    order, _ = await workshop.order(100)
    await workshop.step("cancel_order", order.id)
    assert await workshop.told(order) == (0, 0, 0, 0)
    assert await money_of(people[CUSTOMER]) == 1_000


async def test_a_customer_who_cannot_pay_all_starts_nothing(workshop, people, give, money_of) -> None:
    order, _ = await workshop.order(100, 200)
    for _ in range(2):
        with pytest.raises(StateConflict, match="its customer cannot pay 300 of USD") as refused:
            await workshop.start(order)
        assert refused.value.detail["needed"] == 300
        assert (await workshop.repository.get(order.id)).status is ProductionStatus.PENDING
        assert await workshop.told(order) == (300, 0, 0, 0)
        await give(people[CUSTOMER], 149)
    assert await money_of(people[CUSTOMER]) == 298
    await give(people[CUSTOMER], 2)
    await workshop.start(order)
    assert await money_of(people[CUSTOMER]) == 0


async def test_an_order_is_paid_in_its_currency(workshop, people, give, money_of) -> None:
    await give(people[CUSTOMER], 1_000)
    await give(people[CUSTOMER], 70, "CHF")
    order, (only,) = await workshop.order(70, currency="CHF")
    await workshop.start(order)
    await workshop.done(only)
    await workshop.inspect(only)
    assert (await money_of(people[MAKER], "CHF"), await money_of(people[CUSTOMER])) == (70, 1_000)


async def test_two_orders_cannot_hold_the_same_money(workshop, people, give, money_of, crowd) -> None:
    await give(people[CUSTOMER], 500)
    orders = [(await workshop.order(200))[0] for _ in range(6)]
    outcomes = await asyncio.gather(*(workshop.start(order) for order in orders), return_exceptions=True)
    assert sum(isinstance(outcome, Order) for outcome in outcomes) == 2
    assert all(isinstance(outcome, (Order, StateConflict)) for outcome in outcomes)
    assert await money_of(people[CUSTOMER]) == 100
    assert sum([(await workshop.told(order))[1] for order in orders]) == 400


async def test_of_paying_and_giving_back_at_once_one_happens(workshop, people, give, money_of, crowd) -> None:
    await give(people[CUSTOMER], 1_000)
    for _ in range(4):
        order, (only,) = await workshop.order(100)
        await workshop.start(order)
        await workshop.done(only)
        outcomes = await asyncio.gather(
            workshop.inspect(only), workshop.step("cancel_order", order.id), workshop.inspect(only),
            workshop.step("cancel_order", order.id), return_exceptions=True,
        )  # fmt: skip
        assert all(isinstance(o, (Order, Inspection, StateConflict)) for o in outcomes)
        due, held, paid, refunded = await workshop.told(order)
        assert (due, held, paid + refunded) == (0, 0, 100)
    assert await money_of(people[CUSTOMER]) + await money_of(people[MAKER]) == 1_000


async def test_the_ledger_settles_a_milestone_once_whatever_its_row_says(headwater, workshop, people, give) -> None:
    """The row is set back by hand, as a restored backup of one table would; the ledger still knows."""
    await give(people[CUSTOMER], 1_000)
    order, (first, _) = await workshop.order(100, 100)
    await workshop.start(order)
    await workshop.done(first)
    await workshop.inspect(first)
    async with headwater.transaction() as tx:
        await headwater.repository(Milestone).update(
            tx, first.id, payment=Payment.HELD, settled_at=None, status=MilestoneStatus.COMPLETED
        )
    with pytest.raises(StateConflict, match="refused"):  # the same id with another body
        await workshop.step("cancel_order", order.id)
    await workshop.inspect(first)  # the same id with the same body: the payment is told again, not made again
    escrow = await headwater.repository(LedgerRepository).find_account(
        "manufacturing", order.id, "USD", purpose="escrow"
    )
    assert escrow is not None
    assert escrow.balance == 100


async def test_the_accounts_are_found_by_their_owners(found_by_owner) -> None:
    await found_by_owner(QUERIES["payments"])
