"""Seeded manufacturing orders obey the rules that the verbs enforce."""

from __future__ import annotations

from collections import defaultdict
from uuid import UUID

from sqlalchemy import select

from headwater.kernel.rows import as_dict
from headwater.kernel.seeds import seed
from headwater.modules.manufacturing.models import (
    Inspection,
    InspectionResult,
    Milestone,
    MilestoneStatus,
    Order,
    ProductionStatus,
)
from headwater.modules.manufacturing.repository import ManufacturingRepository
from headwater.modules.manufacturing.routes import ROUTES

ALLOWED = {
    ProductionStatus.PENDING: {MilestoneStatus.PENDING},
    ProductionStatus.IN_PRODUCTION: set(MilestoneStatus) - {MilestoneStatus.CANCELLED},
    ProductionStatus.QUALITY_CHECK: {MilestoneStatus.COMPLETED, MilestoneStatus.PASSED, MilestoneStatus.FAILED},
    ProductionStatus.COMPLETED: {MilestoneStatus.PASSED},
    ProductionStatus.CANCELLED: {MilestoneStatus.PASSED, MilestoneStatus.CANCELLED},
}


async def test_orders_are_in_every_status_with_milestones_and_inspections_that_fit(headwater) -> None:
    for profile in ("demo", "load:2000"):
        await seed(headwater, profile)
        orders = await headwater.postgres.fetch(select(Order))
        milestones: dict[UUID, list[Milestone]] = defaultdict(list)
        for milestone in await headwater.postgres.fetch(select(Milestone)):
            milestones[milestone.order_id].append(milestone)
        results = {i.milestone_id: i.result for i in await headwater.postgres.fetch(select(Inspection))}
        assert {order.status for order in orders} == set(ProductionStatus)
        for order in orders:
            steps = milestones[order.id]
            assert len(steps) >= 3
            assert sorted(step.position for step in steps) == list(range(1, len(steps) + 1))
            assert {step.status for step in steps} <= ALLOWED[order.status]
            for step in steps:
                passed = {
                    MilestoneStatus.PASSED: InspectionResult.PASSED,
                    MilestoneStatus.FAILED: InspectionResult.FAILED,
                }
                assert results.get(step.id) is passed.get(step.status)
    assert {step.status for steps in milestones.values() for step in steps} == set(MilestoneStatus)


async def test_seeding_again_adds_nothing_and_changes_nothing(headwater) -> None:
    for profile in ("demo", "load:500"):
        first = await seed(headwater, profile)
        tables = [name for name in first.added if name.startswith("manufacturing.")]
        assert all(first.added[name] for name in tables)
        before = [as_dict(row) async for row in headwater.repository(Milestone).stream()]
        again = await seed(headwater, profile)
        assert [again.added[name] for name in tables] == [0, 0, 0]
        assert [as_dict(row) async for row in headwater.repository(Milestone).stream()] == before


async def test_the_examples_of_the_routes_are_seeded(headwater) -> None:
    await seed(headwater)
    manufacturing = headwater.repository(ManufacturingRepository)
    shown = {name: UUID(value) for route in ROUTES for name, value in route.path_examples.items()}
    progress = await manufacturing.progress(shown["order_id"])
    assert 0 < progress.percent < 100
    assert shown["milestone_id"] in {m.id for m in (await manufacturing.milestones(shown["order_id"])).items}
