"""What manufacturing serves: orders and their steps, milestones, inspections, progress, statistics."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal
from uuid import UUID

import msgspec
from msgspec import Meta

from headwater.kernel.amounts import PositiveAmount
from headwater.kernel.errors import (
    AlreadyExists,
    InvalidCursor,
    InvalidValue,
    MissingReference,
    NotFound,
    StateConflict,
    VersionConflict,
)
from headwater.kernel.pages import JsonPage, Page
from headwater.kernel.rendering import Json
from headwater.kernel.routes import PageQuery, Route
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
    MILESTONES_MAX,
    ManufacturingRepository,
    MilestoneRepository,
    NewMilestone,
    OrderPayments,
    Progress,
    Statistics,
)

QUANTITY_MAX = 1_000_000_000

Title = Annotated[str, Meta(min_length=1, max_length=200)]


class MilestoneBody(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """A milestone and the payment it is worth, in minor units. Its position is the next one unless it is given."""

    title: Title
    amount: PositiveAmount
    due_at: datetime | None = None
    position: Annotated[int, Meta(ge=1, le=1_000)] | None = None

    def agreed(self) -> NewMilestone:
        """What the repository takes."""
        return NewMilestone(title=self.title, amount=self.amount, due_at=self.due_at, position=self.position)


class NewManufacturingOrder(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """Parts to make. `specifications` says how they differ from the asset as it is listed."""

    user_id: UUID
    asset_id: UUID
    quantity: Annotated[int, Meta(ge=1, le=QUANTITY_MAX)]
    specifications: dict[str, Any] = {}
    milestones: Annotated[list[MilestoneBody], Meta(max_length=MILESTONES_MAX)] = []
    due_at: datetime | None = None
    currency: Annotated[str, Meta(min_length=1, max_length=100, pattern="^[A-Za-z0-9:_-]+$")] = "USD"


class OrderStep(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """Where the order is to go. Cancelling has an operation of its own."""

    to: Literal["in_production", "quality_check", "completed"]


class MilestoneStep(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """Where the milestone is to go. Whether it passes is said by an inspection."""

    to: Literal["in_progress", "completed"]


class NewInspection(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """What an inspector found at a completed milestone."""

    inspector_id: UUID
    result: InspectionResult
    findings: dict[str, Any] = {}


class ManufacturingOrderQuery(PageQuery):
    """Which orders, and where in the listing."""

    user_id: UUID | None = None
    asset_id: UUID | None = None
    status: ProductionStatus | None = None


async def list_orders(query: ManufacturingOrderQuery, manufacturing: ManufacturingRepository) -> JsonPage[Order]:
    return await manufacturing.orders_json(
        user_id=query.user_id,
        asset_id=query.asset_id,
        status=query.status,
        limit=query.limit,
        cursor=query.cursor,
    )


async def get_order(order_id: UUID, manufacturing: ManufacturingRepository) -> Json[Order]:
    return await manufacturing.get_json(order_id)


async def get_progress(order_id: UUID, manufacturing: ManufacturingRepository) -> Progress:
    return await manufacturing.progress(order_id)


async def create_order(body: NewManufacturingOrder, tx: Transaction, manufacturing: ManufacturingRepository) -> Order:
    return await manufacturing.create_order(
        tx,
        user_id=body.user_id,
        asset_id=body.asset_id,
        quantity=body.quantity,
        specifications=body.specifications,
        milestones=[milestone.agreed() for milestone in body.milestones],
        due_at=body.due_at,
        currency=body.currency,
    )


async def get_payments(order_id: UUID, manufacturing: ManufacturingRepository) -> OrderPayments:
    return await manufacturing.payments(order_id)


async def advance_order(
    order_id: UUID, body: OrderStep, tx: Transaction, manufacturing: ManufacturingRepository, if_match: int | None
) -> Order:
    return await manufacturing.advance_order(tx, order_id, ProductionStatus(body.to), version=if_match)


async def cancel_order(
    order_id: UUID, tx: Transaction, manufacturing: ManufacturingRepository, if_match: int | None
) -> Order:
    return await manufacturing.cancel_order(tx, order_id, version=if_match)


async def list_milestones(order_id: UUID, query: PageQuery, manufacturing: ManufacturingRepository) -> Page[Milestone]:
    return await manufacturing.milestones(order_id, limit=query.limit, cursor=query.cursor)


async def add_milestone(
    order_id: UUID, body: MilestoneBody, tx: Transaction, manufacturing: ManufacturingRepository
) -> Milestone:
    return await manufacturing.add_milestone(tx, order_id, body.agreed())


async def get_milestone(milestone_id: UUID, milestones: MilestoneRepository) -> Milestone:
    return await milestones.get(milestone_id)


async def advance_milestone(
    milestone_id: UUID,
    body: MilestoneStep,
    tx: Transaction,
    manufacturing: ManufacturingRepository,
    if_match: int | None,
) -> Milestone:
    return await manufacturing.advance_milestone(tx, milestone_id, MilestoneStatus(body.to), version=if_match)


async def list_inspections(
    milestone_id: UUID, query: PageQuery, manufacturing: ManufacturingRepository
) -> Page[Inspection]:
    return await manufacturing.inspections(milestone_id, limit=query.limit, cursor=query.cursor)


async def record_inspection(
    milestone_id: UUID, body: NewInspection, tx: Transaction, manufacturing: ManufacturingRepository
) -> Inspection:
    return await manufacturing.record_inspection(
        tx, milestone_id, inspector_id=body.inspector_id, result=body.result, findings=body.findings
    )


async def statistics(manufacturing: ManufacturingRepository) -> Json[Statistics]:
    return await manufacturing.statistics_json()


# Seeded rows: seeds.py plants them, and a test reads them.
_USER_ID = "5eeda0bb-1738-8000-8000-000000000001"
_ASSET_ID = "5eed4791-421a-8000-8000-000000000001"
_ORDER_ID = "5eed12c2-f296-8000-8000-000000000001"
_MILESTONE_ID = "5eedb9e5-361f-8000-8000-00000000000b"
_ORDER_PATH = {"order_id": _ORDER_ID}
_MILESTONE_PATH = {"milestone_id": _MILESTONE_ID}

_SPECIFICATIONS = {"material": "titanium Ti-6Al-4V", "finish": "hard anodised", "tolerance_mm": 0.01, "payload_kg": 12}
_ORDER: dict[str, Any] = {
    "id": _ORDER_ID,
    "user_id": _USER_ID,
    "asset_id": _ASSET_ID,
    "quantity": 4,
    "specifications": _SPECIFICATIONS,
    "status": "pending",
    "due_at": "2026-03-01T00:00:00Z",
    "started_at": None,
    "completed_at": None,
    "cancelled_at": None,
    "currency": "USD",
    "created_at": "2026-01-01T00:00:00Z",
    "updated_at": "2026-01-01T00:00:00Z",
    "version": 1,
}
_STARTED = _ORDER | {"status": "in_production", "started_at": "2026-01-04T00:00:00Z", "version": 2}
_MILESTONE: dict[str, Any] = {
    "id": _MILESTONE_ID,
    "order_id": _ORDER_ID,
    "position": 1,
    "title": "Design approved",
    "amount": 240_000,
    "status": "pending",
    "due_at": "2026-01-15T00:00:00Z",
    "completed_at": None,
    "payment": "due",
    "settled_at": None,
    "created_at": "2026-01-01T00:00:00Z",
    "updated_at": "2026-01-01T00:00:00Z",
    "version": 1,
}
_INSPECTION: dict[str, Any] = {
    "id": "019bb1a0-0000-7000-8000-000000000001",
    "milestone_id": _MILESTONE_ID,
    "inspector_id": _USER_ID,
    "result": "passed",
    "findings": {"note": "within tolerance"},
    "inspected_at": "2026-01-14T12:00:00Z",
}

ROUTES: tuple[Route, ...] = (
    Route(
        method="GET",
        path="/api/manufacturing/orders",
        handler=list_orders,
        summary="List manufacturing orders, the newest first",
        description="Narrowed by customer, asset and status.",
        raises=(InvalidValue, InvalidCursor),
        query_example={"status": "in_production", "limit": 20},
        answer_example={"items": [_STARTED], "next": None},
        tag="manufacturing",
    ),
    Route(
        method="POST",
        path="/api/manufacturing/orders",
        handler=create_order,
        summary="Order parts to be made",
        description="With the milestones agreed so far, in one transaction. Amounts are in minor units.",
        status=201,
        scope="manufacturing:order:write",
        raises=(MissingReference, AlreadyExists, InvalidValue),
        body_example={
            "user_id": _USER_ID,
            "asset_id": _ASSET_ID,
            "quantity": 4,
            "specifications": _SPECIFICATIONS,
            "milestones": [
                {"title": "Design approved", "amount": 240_000, "due_at": "2026-01-15T00:00:00Z"},
                {"title": "Assembled and tested", "amount": 960_000},
            ],
            "due_at": "2026-03-01T00:00:00Z",
        },
        answer_example=_ORDER,
        tag="manufacturing",
    ),
    Route(
        method="GET",
        path="/api/manufacturing/orders/{order_id}",
        handler=get_order,
        summary="Read a manufacturing order",
        raises=(NotFound,),
        path_examples=_ORDER_PATH,
        answer_example=_ORDER,
        tag="manufacturing",
    ),
    Route(
        method="GET",
        path="/api/manufacturing/orders/{order_id}/progress",
        handler=get_progress,
        summary="How far an order is",
        description="In percent of its milestones' amount, cut off after two decimals, and exactly as two amounts.",
        raises=(NotFound,),
        path_examples=_ORDER_PATH,
        answer_example={
            "order_id": _ORDER_ID,
            "status": "in_production",
            "percent": 33.33,
            "milestones": 3,
            "milestones_passed": 1,
            "amount": 720_000,
            "amount_passed": 240_000,
        },
        tag="manufacturing",
    ),
    Route(
        method="POST",
        path="/api/manufacturing/orders/{order_id}/advance",
        handler=advance_order,
        summary="Take an order to its next status",
        description="pending to in_production (with a milestone at least), to quality_check (the work of all is done), "
        "to completed (all have passed inspection); from quality_check back to in_production for rework. When "
        "production starts, what the milestones are worth is held from the customer; refused when they "
        "cannot pay.",
        scope="manufacturing:order:write",
        raises=(NotFound, StateConflict, VersionConflict, InvalidValue),
        path_examples=_ORDER_PATH,
        body_example={"to": "in_production"},
        answer_example=_STARTED,
        tag="manufacturing",
    ),
    Route(
        method="POST",
        path="/api/manufacturing/orders/{order_id}/cancel",
        handler=cancel_order,
        summary="Cancel an order",
        description="Its milestones that have not passed inspection are cancelled with it, and the customer gets back "
        "what is held for them.",
        scope="manufacturing:order:write",
        raises=(NotFound, StateConflict, VersionConflict),
        path_examples=_ORDER_PATH,
        answer_example=_ORDER | {"status": "cancelled", "cancelled_at": "2026-01-02T00:00:00Z", "version": 2},
        tag="manufacturing",
    ),
    Route(
        method="GET",
        path="/api/manufacturing/orders/{order_id}/payments",
        handler=get_payments,
        summary="Where the money of an order is",
        description="By what its milestones are worth: due, held in escrow, paid to the maker, or given back.",
        raises=(NotFound,),
        path_examples=_ORDER_PATH,
        answer_example={
            "order_id": _ORDER_ID,
            "currency": "USD",
            "due": 0,
            "held": 480_000,
            "paid": 240_000,
            "refunded": 0,
            "escrow": 480_000,
        },
        tag="manufacturing",
    ),
    Route(
        method="GET",
        path="/api/manufacturing/orders/{order_id}/milestones",
        handler=list_milestones,
        summary="List the milestones of an order",
        raises=(NotFound, InvalidValue, InvalidCursor),
        path_examples=_ORDER_PATH,
        query_example={"limit": 20},
        answer_example={"items": [_MILESTONE], "next": None},
        tag="manufacturing",
    ),
    Route(
        method="POST",
        path="/api/manufacturing/orders/{order_id}/milestones",
        handler=add_milestone,
        summary="Agree on one more milestone",
        description="While the order is pending: once production has started, its milestones are fixed.",
        status=201,
        scope="manufacturing:milestone:write",
        raises=(NotFound, StateConflict, AlreadyExists, InvalidValue),
        path_examples=_ORDER_PATH,
        body_example={"title": "Design approved", "amount": 240_000, "due_at": "2026-01-15T00:00:00Z"},
        answer_example=_MILESTONE,
        tag="manufacturing",
        location="/api/manufacturing/milestones/{id}",
    ),
    Route(
        method="GET",
        path="/api/manufacturing/milestones/{milestone_id}",
        handler=get_milestone,
        summary="Read a milestone",
        raises=(NotFound,),
        path_examples=_MILESTONE_PATH,
        answer_example=_MILESTONE,
        tag="manufacturing",
    ),
    Route(
        method="POST",
        path="/api/manufacturing/milestones/{milestone_id}/advance",
        handler=advance_milestone,
        summary="Take a milestone to its next status",
        description="pending or failed to in_progress, in_progress to completed, while its order is in production.",
        scope="manufacturing:milestone:write",
        raises=(NotFound, StateConflict, VersionConflict, InvalidValue),
        path_examples=_MILESTONE_PATH,
        body_example={"to": "in_progress"},
        answer_example=_MILESTONE | {"status": "in_progress", "version": 2},
        tag="manufacturing",
    ),
    Route(
        method="GET",
        path="/api/manufacturing/milestones/{milestone_id}/inspections",
        handler=list_inspections,
        summary="List the inspections of a milestone, the newest first",
        raises=(NotFound, InvalidValue, InvalidCursor),
        path_examples=_MILESTONE_PATH,
        query_example={"limit": 20},
        answer_example={"items": [_INSPECTION], "next": None},
        tag="manufacturing",
    ),
    Route(
        method="POST",
        path="/api/manufacturing/milestones/{milestone_id}/inspections",
        handler=record_inspection,
        summary="Record an inspection",
        description="Of a completed milestone, which then has passed or failed. One that has passed is paid to the "
        "maker of the part in the same transaction; a failed one goes back to in_progress.",
        status=201,
        scope="manufacturing:inspection:write",
        raises=(NotFound, StateConflict, MissingReference, InvalidValue),
        path_examples=_MILESTONE_PATH,
        body_example={
            "inspector_id": _USER_ID,
            "result": "passed",
            "findings": {"note": "within tolerance"},
        },
        answer_example=_INSPECTION,
        tag="manufacturing",
    ),
    Route(
        method="GET",
        path="/api/analytics/manufacturing",
        handler=statistics,
        summary="Production at a glance",
        description="Orders and milestones by status, what is overdue, how long orders take, how inspections went.",
        answer_example={
            "orders": 40,
            "orders_pending": 5,
            "orders_in_production": 15,
            "orders_quality_check": 5,
            "orders_completed": 10,
            "orders_cancelled": 5,
            "parts_completed": 210,
            "production_seconds_average": 1_123_200.0,
            "milestones": 158,
            "milestones_passed": 96,
            "milestones_overdue": 12,
            "amount": 68_300_000,
            "amount_passed": 41_900_000,
            "inspections": 102,
            "inspections_passed": 96,
            "inspections_failed": 6,
            "pass_rate_percent": 94.11,
        },
        tag="analytics",
    ),
)
