"""Orders go step by step to completed, or are cancelled; what is refused changes nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from fractions import Fraction
from typing import Any
from uuid import UUID, uuid4

import pytest
import pytest_asyncio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from headwater.kernel.errors import (
    AlreadyExists,
    HeadwaterError,
    InvalidValue,
    MissingReference,
    NotFound,
    ProgrammingError,
    StateConflict,
    VersionConflict,
)
from headwater.kernel.lifecycle import Headwater
from headwater.kernel.rows import as_dict
from headwater.kernel.transaction import Transaction
from headwater.modules.manufacturing.models import (
    Inspection,
    InspectionResult,
    Milestone,
    MilestoneStatus,
    Order,
    ProductionStatus,
)
from headwater.modules.manufacturing.repository import (
    MILESTONE_STEPS,
    MILESTONES_MAX,
    ORDER_STEPS,
    ManufacturingRepository,
    NewMilestone,
)

PASSED, FAILED = InspectionResult.PASSED, InspectionResult.FAILED


class Shop:
    """The verbs of manufacturing, each in a transaction of its own."""

    def __init__(self, headwater: Headwater, people: list[UUID], parts: list[UUID]) -> None:
        self.headwater = headwater
        self.repository = headwater.repository(ManufacturingRepository)
        self.people = people
        self.parts = parts

    def __getattr__(self, verb: str) -> Callable[..., Awaitable[Any]]:
        if verb.startswith("_"):
            raise AttributeError(verb)

        async def call(*args: Any, **kwargs: Any) -> Any:
            async with self.headwater.transaction() as tx:
                return await getattr(self.repository, verb)(tx, *args, **kwargs)

        return call

    async def order(self, *amounts: int, **given: Any) -> Order:
        values = {"user_id": self.people[0], "asset_id": self.parts[0], "quantity": 2, "specifications": {"dof": 6}}
        milestones = [NewMilestone(title=f"Step {n}", amount=amount) for n, amount in enumerate(amounts, 1)]
        return await self.create_order(**(values | {"milestones": milestones} | given))

    async def started(self, *amounts: int) -> tuple[Order, list[Milestone]]:
        order = await self.order(*amounts)
        order = await self.advance_order(order.id, ProductionStatus.IN_PRODUCTION)
        return order, await self.steps(order)

    async def steps(self, order: Order) -> list[Milestone]:
        return list((await self.repository.milestones(order.id)).items)

    async def finish(self, milestone: Milestone, result: InspectionResult = PASSED) -> Inspection:
        await self.advance_milestone(milestone.id, MilestoneStatus.IN_PROGRESS)
        await self.complete_milestone(milestone.id)
        return await self.record_inspection(milestone.id, inspector_id=self.people[1], result=result)

    async def everything(self) -> list[dict[str, Any]]:
        """All rows, to show that a refusal changed nothing."""
        rows: list[dict[str, Any]] = []
        for model in (Order, Milestone, Inspection):
            rows += [as_dict(value) async for value in self.headwater.repository(model).stream()]
        return rows


@pytest_asyncio.fixture
async def shop(headwater: Headwater, people: list[UUID], parts: list[UUID], give: Any) -> Shop:
    for person in people:
        await give(person, 10_000)
    return Shop(headwater, people, parts)


async def refused(shop: Shop, error: type[HeadwaterError], match: str, call: Awaitable[Any]) -> HeadwaterError:
    """The error of a call that must be refused, after checking that no row is different."""
    before = await shop.everything()
    with pytest.raises(error, match=match) as caught:
        await call
    assert await shop.everything() == before
    return caught.value


async def test_an_order_is_made_with_its_milestones_in_their_order(shop) -> None:
    order = await shop.order(500, 10**30, specifications={"payload_kg": 12, "joints": [1, 2]})
    assert (order.status, order.quantity, order.version) == (ProductionStatus.PENDING, 2, 1)
    assert order.specifications == {"payload_kg": 12, "joints": [1, 2]}
    assert [(m.position, m.title, m.amount, m.status) for m in await shop.steps(order)] == [
        (1, "Step 1", 500, MilestoneStatus.PENDING),
        (2, "Step 2", 10**30, MilestoneStatus.PENDING),
    ]


async def test_what_an_order_refers_to_must_exist_or_nothing_is_written(shop) -> None:
    await refused(shop, MissingReference, "no such user", shop.order(1, user_id=uuid4()))
    await refused(shop, MissingReference, "no such asset", shop.order(1, asset_id=uuid4()))


async def test_a_wrong_milestone_takes_the_whole_order_back(shop) -> None:
    await refused(shop, InvalidValue, "amount", shop.order(5, 0))
    await refused(shop, InvalidValue, "title", shop.order(milestones=[NewMilestone(title="", amount=5)]))
    await refused(shop, InvalidValue, "quantity", shop.order(5, quantity=0))
    twice = [NewMilestone(title="a", amount=5, position=2), NewMilestone(title="b", amount=5, position=2)]
    await refused(shop, AlreadyExists, "position 2", shop.order(milestones=twice))
    many = [NewMilestone(title="a", amount=1)] * (MILESTONES_MAX + 1)
    await refused(shop, InvalidValue, "at most", shop.order(milestones=many))


async def test_milestones_are_added_while_the_order_is_pending(shop) -> None:
    order = await shop.order(5)
    second = await shop.add_milestone(order.id, NewMilestone(title="Second", amount=7))
    ninth = await shop.add_milestone(order.id, NewMilestone(title="Ninth", amount=9, position=9))
    tenth = await shop.add_milestone(order.id, NewMilestone(title="Tenth", amount=9))
    assert [second.position, ninth.position, tenth.position] == [2, 9, 10]
    await refused(
        shop, AlreadyExists, "position", shop.add_milestone(order.id, NewMilestone(title="x", amount=1, position=9))
    )
    await refused(shop, NotFound, ".", shop.add_milestone(uuid4(), NewMilestone(title="x", amount=1)))
    await shop.advance_order(order.id, ProductionStatus.IN_PRODUCTION)
    await refused(
        shop, StateConflict, "milestones are fixed", shop.add_milestone(order.id, NewMilestone(title="x", amount=1))
    )


async def test_milestones_added_at_the_same_moment_get_positions_of_their_own(shop, crowd) -> None:
    order = await shop.order()
    await asyncio.gather(*(shop.add_milestone(order.id, NewMilestone(title=f"m{n}", amount=1)) for n in range(8)))
    assert [m.position for m in await shop.steps(order)] == list(range(1, 9))


async def test_an_order_goes_from_pending_to_completed(shop) -> None:
    order, steps = await shop.started(100, 200)
    assert order.started_at is not None
    for step in steps:
        await shop.finish(step)
    order = await shop.advance_order(order.id, ProductionStatus.QUALITY_CHECK)
    order = await shop.advance_order(order.id, ProductionStatus.COMPLETED)
    assert order.status is ProductionStatus.COMPLETED
    assert order.completed_at is not None
    assert {m.status for m in await shop.steps(order)} == {MilestoneStatus.PASSED}
    assert (await shop.repository.progress(order.id)).percent == 100


async def test_an_order_without_milestones_does_not_start(shop) -> None:
    order = await shop.order()
    await refused(shop, StateConflict, "no milestones", shop.advance_order(order.id, ProductionStatus.IN_PRODUCTION))


async def test_quality_check_waits_for_the_work_and_completion_for_the_inspections(shop) -> None:
    order, (first, second) = await shop.started(1, 1)
    await shop.finish(first)
    await refused(
        shop, StateConflict, "1 of its milestones are not done",
        shop.advance_order(order.id, ProductionStatus.QUALITY_CHECK),
    )  # fmt: skip
    await shop.advance_milestone(second.id, MilestoneStatus.IN_PROGRESS)
    await shop.complete_milestone(second.id)
    await shop.advance_order(order.id, ProductionStatus.QUALITY_CHECK)
    await refused(
        shop, StateConflict, "have not passed inspection", shop.advance_order(order.id, ProductionStatus.COMPLETED)
    )
    await shop.record_inspection(second.id, inspector_id=shop.people[1], result=PASSED)
    assert (await shop.advance_order(order.id, ProductionStatus.COMPLETED)).status is ProductionStatus.COMPLETED


async def test_a_failed_inspection_leads_to_rework(shop) -> None:
    order, (step,) = await shop.started(100)
    await shop.advance_milestone(step.id, MilestoneStatus.IN_PROGRESS)
    await shop.complete_milestone(step.id)
    await shop.advance_order(order.id, ProductionStatus.QUALITY_CHECK)
    found = await shop.record_inspection(
        step.id, inspector_id=shop.people[1], result=FAILED, findings={"bore_mm": 10.03}
    )
    assert found.findings == {"bore_mm": 10.03}
    await refused(shop, StateConflict, "is quality_check", shop.advance_milestone(step.id, MilestoneStatus.IN_PROGRESS))
    await shop.advance_order(order.id, ProductionStatus.IN_PRODUCTION)
    again = await shop.advance_milestone(step.id, MilestoneStatus.IN_PROGRESS)
    assert again.completed_at is None
    await shop.complete_milestone(step.id)
    await shop.record_inspection(step.id, inspector_id=shop.people[1], result=PASSED)
    results = [i.result for i in (await shop.repository.inspections(step.id)).items]
    assert results == [PASSED, FAILED]


async def test_only_a_completed_milestone_is_inspected(shop) -> None:
    _, (step,) = await shop.started(100)
    for status in (MilestoneStatus.PENDING, MilestoneStatus.IN_PROGRESS):
        assert (await shop.repository.milestones(step.order_id)).items[0].status is status
        await refused(
            shop, StateConflict, f"is {status.value} and cannot be inspected",
            shop.record_inspection(step.id, inspector_id=shop.people[1], result=PASSED),
        )  # fmt: skip
        await shop.advance_milestone(
            step.id, MilestoneStatus.IN_PROGRESS if status is MilestoneStatus.PENDING else MilestoneStatus.COMPLETED
        )
    await refused(
        shop, MissingReference, "no such inspector",
        shop.record_inspection(step.id, inspector_id=uuid4(), result=PASSED),
    )  # fmt: skip
    await shop.record_inspection(step.id, inspector_id=shop.people[1], result=PASSED)
    await refused(
        shop, StateConflict, "is passed and cannot be inspected",
        shop.record_inspection(step.id, inspector_id=shop.people[1], result=FAILED),
    )  # fmt: skip
    await refused(shop, NotFound, ".", shop.record_inspection(uuid4(), inspector_id=shop.people[1], result=PASSED))


async def test_work_on_milestones_needs_an_order_in_production(shop) -> None:
    order = await shop.order(5)
    (step,) = await shop.steps(order)
    await refused(shop, StateConflict, "is pending", shop.advance_milestone(step.id, MilestoneStatus.IN_PROGRESS))


async def test_every_step_that_is_not_drawn_is_refused(shop) -> None:
    order, (step,) = await shop.started(5)
    for to in MilestoneStatus:
        if to not in MILESTONE_STEPS[MilestoneStatus.PENDING]:
            await refused(shop, StateConflict, "cannot become", shop.advance_milestone(step.id, to))
    for to in ProductionStatus:
        if to not in ORDER_STEPS[ProductionStatus.IN_PRODUCTION]:
            await refused(shop, StateConflict, "cannot become", shop.advance_order(order.id, to))
    await shop.cancel_order(order.id)
    for to in ProductionStatus:
        await refused(shop, StateConflict, "is cancelled and cannot become", shop.advance_order(order.id, to))


async def test_cancelling_keeps_what_passed_and_cancels_the_rest(shop) -> None:
    order, (first, second, third) = await shop.started(1, 1, 1)
    await shop.finish(first)
    await shop.finish(second, FAILED)
    cancelled = await shop.cancel_order(order.id)
    assert cancelled.status is ProductionStatus.CANCELLED
    assert cancelled.cancelled_at is not None
    assert [m.status for m in await shop.steps(order)] == [
        MilestoneStatus.PASSED, MilestoneStatus.CANCELLED, MilestoneStatus.CANCELLED,
    ]  # fmt: skip
    await refused(shop, StateConflict, "is cancelled", shop.cancel_order(order.id))
    await refused(shop, StateConflict, "is cancelled", shop.advance_milestone(third.id, MilestoneStatus.IN_PROGRESS))


async def test_a_completed_order_cannot_be_cancelled(shop) -> None:
    order, (step,) = await shop.started(1)
    await shop.finish(step)
    await shop.advance_order(order.id, ProductionStatus.QUALITY_CHECK)
    await shop.advance_order(order.id, ProductionStatus.COMPLETED)
    await refused(shop, StateConflict, "is completed", shop.cancel_order(order.id))


async def test_a_step_against_an_old_version_is_refused_with_the_current_row(shop) -> None:
    order = await shop.order(1)
    started = await shop.advance_order(order.id, ProductionStatus.IN_PRODUCTION, version=order.version)
    error = await refused(
        shop, VersionConflict, "has version 2, not 1", shop.cancel_order(order.id, version=order.version)
    )
    assert isinstance(error, VersionConflict)
    assert error.current == started
    (step,) = await shop.steps(order)
    await shop.advance_milestone(step.id, MilestoneStatus.IN_PROGRESS, version=step.version)
    await refused(shop, VersionConflict, "milestone", shop.complete_milestone(step.id, version=step.version))


async def test_an_order_that_does_not_exist_is_not_found(shop) -> None:
    for call in (
        shop.advance_order(uuid4(), ProductionStatus.IN_PRODUCTION),
        shop.cancel_order(uuid4()),
        shop.advance_milestone(uuid4(), MilestoneStatus.IN_PROGRESS),
        shop.repository.progress(uuid4()),
        shop.repository.milestones(uuid4()),
        shop.repository.inspections(uuid4()),
    ):
        await refused(shop, NotFound, ".", call)


async def test_steps_refuse_to_run_without_a_transaction(shop, headwater) -> None:
    order = await shop.order(1)
    with pytest.raises(ProgrammingError, match="transaction"):
        await shop.repository.cancel_order(headwater.autocommit, order.id)
    with pytest.raises(ProgrammingError, match="transaction"):
        await shop.repository.create_order(
            headwater.autocommit, user_id=shop.people[0], asset_id=shop.parts[0], quantity=1, specifications={}
        )


async def test_a_cancel_and_an_inspection_at_the_same_moment_leave_one_truth(shop, crowd) -> None:
    for _ in range(5):
        order, (step,) = await shop.started(1)
        await shop.advance_milestone(step.id, MilestoneStatus.IN_PROGRESS)
        await shop.complete_milestone(step.id)
        outcomes = await asyncio.gather(
            shop.cancel_order(order.id),
            shop.record_inspection(step.id, inspector_id=shop.people[1], result=PASSED),
            return_exceptions=True,
        )
        assert isinstance(outcomes[0], Order)
        (after,) = await shop.steps(order)
        inspected = not isinstance(outcomes[1], BaseException)
        assert inspected or isinstance(outcomes[1], StateConflict)
        assert after.status is (MilestoneStatus.PASSED if inspected else MilestoneStatus.CANCELLED)
        assert len((await shop.repository.inspections(step.id)).items) == int(inspected)


async def test_of_many_starts_at_once_exactly_one_succeeds(shop, crowd) -> None:
    order = await shop.order(1)
    outcomes = await asyncio.gather(
        *(shop.advance_order(order.id, ProductionStatus.IN_PRODUCTION) for _ in range(6)), return_exceptions=True
    )
    assert sum(isinstance(outcome, Order) for outcome in outcomes) == 1
    assert sum(isinstance(outcome, StateConflict) for outcome in outcomes) == 5


async def test_progress_of_an_order_without_milestones_is_zero(shop) -> None:
    progress = await shop.repository.progress((await shop.order()).id)
    assert (progress.percent, progress.milestones, progress.amount) == (0, 0, 0)


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    milestones=st.lists(
        st.tuples(st.integers(1, 10**38 - 1) | st.integers(1, 9), st.booleans()), min_size=1, max_size=6
    )
)
async def test_progress_is_the_exact_share_by_amount_cut_off_and_100_only_when_all_passed(shop, milestones) -> None:
    order = await shop.order(*(amount for amount, _ in milestones))
    for milestone, (_, passes) in zip(await shop.steps(order), milestones, strict=True):
        if passes:
            await set_passed(shop.headwater, milestone.id)
    progress = await shop.repository.progress(order.id)
    amount, passed = sum(a for a, _ in milestones), sum(a for a, p in milestones if p)
    assert (progress.amount, progress.amount_passed) == (amount, passed)
    assert progress.percent == int(Fraction(10_000 * passed, amount)) / 100
    assert (progress.percent == 100) == all(passes for _, passes in milestones)


async def set_passed(headwater: Headwater, milestone_id: UUID) -> None:
    async with headwater.transaction() as tx:
        await headwater.repository(Milestone).update(
            tx, milestone_id, status=MilestoneStatus.PASSED, completed_at=(await now(tx))
        )


async def now(tx: Transaction) -> Any:
    return await tx.connection.fetchval("select now()")


async def test_orders_are_listed_newest_first_and_narrowed(shop) -> None:
    orders = [await shop.order(1, user_id=shop.people[n % 2], asset_id=shop.parts[n % 2]) for n in range(5)]
    await shop.cancel_order(orders[0].id)
    first = await shop.repository.orders(limit=2)
    rest = await shop.repository.orders(limit=50, cursor=first.next)
    assert [o.id for o in (*first.items, *rest.items)] == [o.id for o in reversed(orders)]
    mine = await shop.repository.orders(user_id=shop.people[0], asset_id=shop.parts[0], status=ProductionStatus.PENDING)
    assert [o.id for o in mine.items] == [orders[4].id, orders[2].id]


async def test_statistics_add_up(shop) -> None:
    empty = await shop.repository.statistics()
    assert (empty.orders, empty.pass_rate_percent, empty.production_seconds_average) == (0, 0, 0)
    order, steps = await shop.started(100, 200)
    await shop.finish(steps[0])
    await shop.finish(steps[1], FAILED)
    await shop.order(5)
    await shop.cancel_order((await shop.order(1_000)).id)
    found = await shop.repository.statistics()
    assert (found.orders, found.orders_in_production, found.orders_pending, found.orders_cancelled) == (3, 1, 1, 1)
    assert (found.milestones, found.milestones_passed, found.amount, found.amount_passed) == (4, 1, 305, 100)
    assert (found.inspections, found.inspections_passed, found.inspections_failed) == (2, 1, 1)
    assert found.pass_rate_percent == 50
    assert (await shop.repository.progress(order.id)).percent == 33.33
