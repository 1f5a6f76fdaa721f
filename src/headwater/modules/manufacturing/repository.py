"""The verbs of manufacturing: order parts, agree on milestones, produce, inspect, complete or cancel.

Every step of an order or of its milestones locks the order first, so that steps of one order follow one another and
the rules below see what they judge. Money moves with the step that earns it (`payments.py`).
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Annotated, Any
from uuid import UUID

import msgspec
from sqlalchemy import ColumnElement, func, insert, select, update

from headwater.kernel.cached import Tag, cached, json_of
from headwater.kernel.errors import AlreadyExists, InvalidValue, NotFound, StateConflict, VersionConflict
from headwater.kernel.pages import JsonPage, Page
from headwater.kernel.postgres import Postgres, Runner
from headwater.kernel.queries import Queries
from headwater.kernel.repository import Repository
from headwater.kernel.transaction import Transaction
from headwater.modules.ledger.repository import LedgerRepository
from headwater.modules.manufacturing.models import (
    Inspection,
    InspectionResult,
    Milestone,
    MilestoneStatus,
    Order,
    ProductionStatus,
)
from headwater.modules.manufacturing.payments import CURRENCY, Payments

QUERIES = Queries.load(__package__)

MILESTONES_MAX = 100
"""Milestones one order may have."""

ORDER_STEPS: dict[ProductionStatus, tuple[ProductionStatus, ...]] = {
    ProductionStatus.PENDING: (ProductionStatus.IN_PRODUCTION, ProductionStatus.CANCELLED),
    ProductionStatus.IN_PRODUCTION: (ProductionStatus.QUALITY_CHECK, ProductionStatus.CANCELLED),
    ProductionStatus.QUALITY_CHECK: (
        ProductionStatus.COMPLETED,
        ProductionStatus.IN_PRODUCTION,
        ProductionStatus.CANCELLED,
    ),
    ProductionStatus.COMPLETED: (),
    ProductionStatus.CANCELLED: (),
}
"""Where an order can go from each status."""

MILESTONE_STEPS: dict[MilestoneStatus, tuple[MilestoneStatus, ...]] = {
    MilestoneStatus.PENDING: (MilestoneStatus.IN_PROGRESS,),
    MilestoneStatus.IN_PROGRESS: (MilestoneStatus.COMPLETED,),
    MilestoneStatus.FAILED: (MilestoneStatus.IN_PROGRESS,),
    MilestoneStatus.COMPLETED: (),
    MilestoneStatus.PASSED: (),
    MilestoneStatus.CANCELLED: (),
}
"""Where the workshop can take a milestone; passed and failed are said by an inspection alone."""

_Count = Annotated[int, msgspec.Meta(ge=0)]
_Percent = Annotated[float, msgspec.Meta(ge=0, le=100)]


class NewMilestone(msgspec.Struct, frozen=True):
    """A milestone to agree on. Its position is the next one of the order unless it is given."""

    title: str
    amount: int
    due_at: datetime | None = None
    position: int | None = None


class Progress(msgspec.Struct, frozen=True):
    """How far an order is. `percent` is what the milestones that passed are worth of what all are worth, cut off after
    two decimals; `amount_passed` of `amount` says it exactly. An order without milestones is at 0.
    """

    order_id: UUID
    status: ProductionStatus
    percent: _Percent
    milestones: _Count
    milestones_passed: _Count
    amount: int
    amount_passed: int


class OrderPayments(msgspec.Struct, frozen=True):
    """Where the money of an order is, by what its milestones are worth, in minor units of its currency.

    `escrow` is what its account in the ledger holds; it equals `held`.
    """

    order_id: UUID
    currency: str
    due: int
    held: int
    paid: int
    refunded: int
    escrow: int


class Statistics(msgspec.Struct, frozen=True):
    """Production as a whole. Amounts are in minor units and leave cancelled milestones out."""

    orders: _Count
    orders_pending: _Count
    orders_in_production: _Count
    orders_quality_check: _Count
    orders_completed: _Count
    orders_cancelled: _Count
    parts_completed: int
    production_seconds_average: float
    milestones: _Count
    milestones_passed: _Count
    milestones_overdue: _Count
    amount: int
    amount_passed: int
    inspections: _Count
    inspections_passed: _Count
    inspections_failed: _Count
    pass_rate_percent: _Percent


class MilestoneRepository(Repository[Milestone]):
    """The milestones of orders. Read them here; ManufacturingRepository takes them from state to state."""


class InspectionRepository(Repository[Inspection]):
    """What inspectors found. Read it here; ManufacturingRepository.record_inspection adds to it."""


class ManufacturingRepository(Repository[Order]):
    """Orders for parts, their milestones and inspections."""

    def __init__(self, postgres: Postgres) -> None:
        super().__init__(postgres)
        self._milestones = MilestoneRepository(postgres)
        self._inspections = InspectionRepository(postgres)
        self._payments = Payments(LedgerRepository(postgres))

    # -- reads -------------------------------------------------------------------------------------------------------

    async def orders(
        self,
        *,
        user_id: UUID | None = None,
        asset_id: UUID | None = None,
        status: ProductionStatus | None = None,
        limit: int = 50,
        cursor: str | None = None,
        tx: Runner | None = None,
    ) -> Page[Order]:
        """A page of orders, the newest first, narrowed by what is given."""
        where = _fitting(user_id, asset_id, status)
        return await self.list(*where, order=(Order.created_at.desc(),), limit=limit, cursor=cursor, tx=tx)

    async def orders_json(
        self,
        *,
        user_id: UUID | None = None,
        asset_id: UUID | None = None,
        status: ProductionStatus | None = None,
        limit: int = 50,
        cursor: str | None = None,
        tx: Runner | None = None,
    ) -> JsonPage[Order]:
        """The page that `orders` gives, as JSON."""
        where = _fitting(user_id, asset_id, status)
        return await self.list_json(*where, order=(Order.created_at.desc(),), limit=limit, cursor=cursor, tx=tx)

    async def milestones(
        self, order_id: UUID, *, limit: int = 100, cursor: str | None = None, tx: Runner | None = None
    ) -> Page[Milestone]:
        """A page of an order's milestones, by position. Raises NotFound for no such order."""
        page = await self._milestones.list(
            Milestone.order_id == order_id, order=(Milestone.position,), limit=limit, cursor=cursor, tx=tx
        )
        if not page.items:
            await self.get(order_id, tx=tx)
        return page

    async def inspections(
        self, milestone_id: UUID, *, limit: int = 50, cursor: str | None = None, tx: Runner | None = None
    ) -> Page[Inspection]:
        """A page of a milestone's inspections, the newest first. Raises NotFound for no such milestone."""
        page = await self._inspections.list(
            Inspection.milestone_id == milestone_id,
            order=(Inspection.inspected_at.desc(),),
            limit=limit,
            cursor=cursor,
            tx=tx,
        )
        if not page.items:
            await self._milestones.get(milestone_id, tx=tx)
        return page

    async def progress(self, order_id: UUID, *, tx: Runner | None = None) -> Progress:
        """How far an order is, in percent by amount. Raises NotFound."""
        found: Progress | None = await (tx or self.postgres).fetch_one(
            QUERIES["progress"], into=Progress, order_id=order_id
        )
        if found is None:
            raise NotFound(f"There is no order {order_id}.", remedy="Check the id.", order_id=str(order_id))
        return found

    async def payments(self, order_id: UUID, *, tx: Runner | None = None) -> OrderPayments:
        """Where the money of an order is. Raises NotFound."""
        found: OrderPayments | None = await (tx or self.postgres).fetch_one(
            QUERIES["payments"], into=OrderPayments, order_id=order_id
        )
        if found is None:
            raise NotFound(f"There is no order {order_id}.", remedy="Check the id.", order_id=str(order_id))
        return found

    @cached(
        "manufacturing_analytics",
        tags=lambda: (Tag(Order), Tag(Milestone), Tag(Inspection)),
        ttl_seconds=1800,
        timeless=False,
    )
    async def statistics(self, *, tx: Runner | None = None) -> Statistics:
        """Production as a whole: counts by status, amounts, what is late, how inspections went.

        What is late is told as of the last change, at most half an hour ago; the rest as it is.
        """
        found: Statistics = await (tx or self.postgres).fetch_one(QUERIES["statistics"], into=Statistics)
        return found

    statistics_json = json_of(statistics)

    # -- orders ------------------------------------------------------------------------------------------------------

    async def create_order(
        self,
        tx: Transaction,
        *,
        user_id: UUID,
        asset_id: UUID,
        quantity: int,
        specifications: dict[str, Any],
        milestones: Sequence[NewMilestone] = (),
        due_at: datetime | None = None,
        currency: str = CURRENCY,
    ) -> Order:
        """Order parts, with the milestones agreed so far.

        Raises MissingReference for an unknown user or asset, InvalidValue, AlreadyExists for a position given twice.
        """
        tx.require_block("create_order()")
        if len(milestones) > MILESTONES_MAX:
            raise _too_many_milestones()
        positions = _positions(milestones, after=0)
        order = await self.create(
            tx,
            user_id=user_id,
            asset_id=asset_id,
            quantity=quantity,
            specifications=specifications,
            due_at=due_at,
            currency=currency,
        )
        for position, milestone in zip(positions, milestones, strict=True):
            await self._milestones.create(
                tx,
                order_id=order.id,
                position=position,
                title=milestone.title,
                amount=milestone.amount,
                due_at=milestone.due_at,
            )
        return order

    async def advance_order(
        self, tx: Transaction, order_id: UUID, to: ProductionStatus, *, version: int | None = None
    ) -> Order:
        """Take an order to its next status.

        Production starts with at least one milestone, and what all are worth is then held from the customer;
        quality_check begins when the work of all is done; an order is completed when all have passed. Cancelling is
        `cancel_order`. Raises NotFound, StateConflict (also when the customer cannot pay), VersionConflict.
        """
        if to is ProductionStatus.CANCELLED:
            return await self.cancel_order(tx, order_id, version=version)
        order = await self._lock_order(tx, order_id, to, version)
        states = await tx.fetch_one(QUERIES["milestone_states"], order_id=order_id)
        if to is ProductionStatus.IN_PRODUCTION and states.milestones == 0:
            raise _blocked(order, to, "it has no milestones", "Add the milestones it is to be paid by first.")
        if to is ProductionStatus.QUALITY_CHECK and states.unfinished:
            raise _blocked(order, to, f"{states.unfinished} of its milestones are not done", "Complete them first.")
        if to is ProductionStatus.COMPLETED and states.not_passed:
            raise _blocked(
                order,
                to,
                f"{states.not_passed} of its milestones have not passed inspection",
                "Inspect them, or take the order back to in_production for rework.",
            )
        changes: dict[str, Any] = {"status": to}
        if order.status is ProductionStatus.PENDING:
            changes["started_at"] = func.now()
            await self._payments.hold(tx, order, await self._all_milestones(tx, order_id))
        if to is ProductionStatus.COMPLETED:
            changes["completed_at"] = func.now()
        return await self._change_order(tx, order_id, changes)

    async def cancel_order(self, tx: Transaction, order_id: UUID, *, version: int | None = None) -> Order:
        """Cancel an order, and its milestones that have not passed: the customer gets back what is held for them. Those
        that have passed keep what they earned.

        Raises NotFound; StateConflict for one that is completed or cancelled; VersionConflict.
        """
        order = await self._lock_order(tx, order_id, ProductionStatus.CANCELLED, version)
        open_ones = (Milestone.order_id == order_id, Milestone.status != MilestoneStatus.PASSED)
        milestones = await tx.fetch(select(Milestone).where(*open_ones).order_by(Milestone.position))
        await tx.execute(update(Milestone).where(*open_ones).values(status=MilestoneStatus.CANCELLED))
        await self._payments.refund(tx, order, milestones)
        return await self._change_order(
            tx, order_id, {"status": ProductionStatus.CANCELLED, "cancelled_at": func.now()}
        )

    # -- milestones --------------------------------------------------------------------------------------------------

    async def add_milestone(self, tx: Transaction, order_id: UUID, milestone: NewMilestone) -> Milestone:
        """Agree on one more milestone while the order is pending; from then on their amounts are fixed.

        Raises NotFound, StateConflict once production has started, AlreadyExists for a position that is taken.
        """
        order = await self.lock(tx, order_id)
        if order.status is not ProductionStatus.PENDING:
            raise StateConflict(
                f"The order {order_id} is {order.status.value}: its milestones are fixed.",
                remedy="Milestones are agreed while an order is pending. Place another order for more work.",
                order_id=str(order_id),
                status=order.status.value,
            )
        row = await tx.fetch_one(QUERIES["milestone_states"], order_id=order_id)
        if row.milestones >= MILESTONES_MAX:
            raise _too_many_milestones()
        position = milestone.position if milestone.position is not None else row.last_position + 1
        return await self._milestones.create(
            tx,
            order_id=order_id,
            position=position,
            title=milestone.title,
            amount=milestone.amount,
            due_at=milestone.due_at,
        )

    async def advance_milestone(
        self, tx: Transaction, milestone_id: UUID, to: MilestoneStatus, *, version: int | None = None
    ) -> Milestone:
        """Take a milestone to in_progress or completed, while its order is in production.

        Raises NotFound, StateConflict, VersionConflict.
        """
        order, milestone = await self._lock_milestone(tx, milestone_id)
        if to not in MILESTONE_STEPS[milestone.status]:
            raise _no_step(
                "milestone", milestone_id, milestone.status.value, to.value, MILESTONE_STEPS[milestone.status]
            )
        _require_version("milestone", milestone, version)
        if order.status is not ProductionStatus.IN_PRODUCTION:
            raise _order_not_ready(order, f"the milestone {milestone_id} cannot become {to.value}")
        done = func.now() if to is MilestoneStatus.COMPLETED else None
        changed: Milestone = await tx.fetch_one(
            update(Milestone)
            .where(Milestone.id == milestone_id)
            .values(status=to, completed_at=done)
            .returning(Milestone)
        )
        return changed

    async def complete_milestone(self, tx: Transaction, milestone_id: UUID, *, version: int | None = None) -> Milestone:
        """Say that a milestone's work is done; it waits for its inspection. Raises as `advance_milestone`."""
        return await self.advance_milestone(tx, milestone_id, MilestoneStatus.COMPLETED, version=version)

    async def record_inspection(
        self,
        tx: Transaction,
        milestone_id: UUID,
        *,
        inspector_id: UUID,
        result: InspectionResult,
        findings: dict[str, Any] | None = None,
    ) -> Inspection:
        """Record what an inspector found at a completed milestone, which then has passed or failed. One that has
        passed is paid to the maker of the part, in the same transaction.

        Raises NotFound; StateConflict unless the milestone waits for inspection and its order is being made;
        MissingReference for an unknown inspector.
        """
        order, milestone = await self._lock_milestone(tx, milestone_id)
        if milestone.status is not MilestoneStatus.COMPLETED:
            raise StateConflict(
                f"The milestone {milestone_id} is {milestone.status.value} and cannot be inspected.",
                remedy="Only a completed milestone can be inspected.",
                milestone_id=str(milestone_id),
                status=milestone.status.value,
            )
        if order.status not in (ProductionStatus.IN_PRODUCTION, ProductionStatus.QUALITY_CHECK):
            raise _order_not_ready(order, f"the milestone {milestone_id} cannot be inspected")
        inspection: Inspection = await tx.fetch_one(
            insert(Inspection)
            .values(milestone_id=milestone_id, inspector_id=inspector_id, result=result, findings=findings or {})
            .returning(Inspection)
        )
        passed = result is InspectionResult.PASSED
        await tx.execute(
            update(Milestone)
            .where(Milestone.id == milestone_id)
            .values(status=MilestoneStatus.PASSED if passed else MilestoneStatus.FAILED)
        )
        if passed:
            await self._payments.pay(tx, order, milestone)
        return inspection

    # -- inside ------------------------------------------------------------------------------------------------------

    async def _lock_order(self, tx: Transaction, order_id: UUID, to: ProductionStatus, version: int | None) -> Order:
        order = await self.lock(tx, order_id)
        if to not in ORDER_STEPS[order.status]:
            raise _no_step("order", order_id, order.status.value, to.value, ORDER_STEPS[order.status])
        _require_version("order", order, version)
        return order

    async def _all_milestones(self, tx: Transaction, order_id: UUID) -> list[Milestone]:
        return await tx.fetch(select(Milestone).where(Milestone.order_id == order_id).order_by(Milestone.position))

    async def _change_order(self, tx: Transaction, order_id: UUID, changes: dict[str, Any]) -> Order:
        changed: Order = await tx.fetch_one(
            update(Order).where(Order.id == order_id).values(**changes).returning(Order)
        )
        return changed

    async def _lock_milestone(self, tx: Transaction, milestone_id: UUID) -> tuple[Order, Milestone]:
        """The order first, then the milestone: one order of locks everywhere."""
        tx.require_block("This step")
        order_id = (await self._milestones.get(milestone_id, tx=tx)).order_id
        order = await self.lock(tx, order_id)
        return order, await self._milestones.lock(tx, milestone_id)


def _positions(milestones: Sequence[NewMilestone], *, after: int) -> list[int]:
    """The positions given, and the next free one for each milestone without."""
    taken: list[int] = []
    for milestone in milestones:
        position = milestone.position if milestone.position is not None else max(taken, default=after) + 1
        if position in taken:
            raise AlreadyExists(
                f"manufacturing.milestones: two milestones are at position {position}.",
                remedy="Give each its own position, or none.",
                columns=["position"],
            )
        taken.append(position)
    return taken


def _too_many_milestones() -> InvalidValue:
    return InvalidValue(
        f"An order has at most {MILESTONES_MAX} milestones.", remedy="Join some of them.", field="milestones"
    )


def _no_step(what: str, key: UUID, status: str, to: str, allowed: Sequence[Any]) -> StateConflict:
    names = ", ".join(step.value for step in allowed)
    return StateConflict(
        f"The {what} {key} is {status} and cannot become {to}.",
        remedy=f"From {status} it can become {names}." if names else f"A {what} that is {status} takes no such step.",
        status=status,
        **{f"{what}_id": str(key)},
    )


def _blocked(order: Order, to: ProductionStatus, why: str, remedy: str) -> StateConflict:
    return StateConflict(
        f"The order {order.id} cannot become {to.value}: {why}.",
        remedy=remedy,
        order_id=str(order.id),
        status=order.status.value,
    )


def _order_not_ready(order: Order, what: str) -> StateConflict:
    return StateConflict(
        f"The order {order.id} is {order.status.value}: {what}.",
        remedy="Work on milestones goes on while their order is in production.",
        order_id=str(order.id),
        order_status=order.status.value,
    )


def _require_version(what: str, current: Order | Milestone, version: int | None) -> None:
    if version is not None and current.version != version:
        raise VersionConflict(
            f"The {what} {current.id} has version {current.version}, not {version}: it has changed since it was read.",
            current=current,
            remedy="Read it again and decide anew.",
            current_version=current.version,
        )


def _fitting(user_id: UUID | None, asset_id: UUID | None, status: ProductionStatus | None) -> list[ColumnElement[bool]]:
    return [
        column == wanted
        for column, wanted in ((Order.user_id, user_id), (Order.asset_id, asset_id), (Order.status, status))
        if wanted is not None
    ]
