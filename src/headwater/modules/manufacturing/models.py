"""Manufacturing orders, their milestones and the inspections of quality assurance."""

from __future__ import annotations

import enum
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import CheckConstraint, ForeignKey, Index, UniqueConstraint, func, text
from sqlalchemy.orm import Mapped, mapped_column

from headwater.kernel.amounts import WholeNumber
from headwater.kernel.models import Keyed, Model, Timestamped, Versioned, native_enum
from headwater.kernel.tracking import Tracked


class ProductionStatus(enum.Enum):
    """Where an order stands. Completed and cancelled are final."""

    PENDING = "pending"
    IN_PRODUCTION = "in_production"
    QUALITY_CHECK = "quality_check"
    COMPLETED = "completed"
    CANCELLED = "cancelled"


class MilestoneStatus(enum.Enum):
    """Where a milestone stands. Completed means that the work is done and waits for its inspection."""

    PENDING = "pending"
    IN_PROGRESS = "in_progress"
    COMPLETED = "completed"
    PASSED = "passed"
    FAILED = "failed"
    CANCELLED = "cancelled"


class Payment(enum.Enum):
    """Where the amount of a milestone is: with the customer, in escrow, with the maker, or with the customer again."""

    DUE = "due"
    HELD = "held"
    PAID = "paid"
    REFUNDED = "refunded"


class InspectionResult(enum.Enum):
    """What an inspector found."""

    PASSED = "passed"
    FAILED = "failed"


_production_status = native_enum(ProductionStatus, name="order_status", schema="manufacturing")
_milestone_status = native_enum(MilestoneStatus, name="milestone_status", schema="manufacturing")
_payment = native_enum(Payment, name="payment", schema="manufacturing")
_inspection_result = native_enum(InspectionResult, name="inspection_result", schema="manufacturing")

_unfinished = text("status in ('pending', 'in_progress', 'failed')")


class Order(Keyed, Timestamped, Versioned, Model, schema="manufacturing"):
    """A customer's order for parts made to their specifications."""

    __tablename__ = "orders"
    __tracked__ = Tracked("full", tags=("asset_id", "user_id"))
    __table_args__ = (
        CheckConstraint("quantity > 0", name="quantity"),
        CheckConstraint("jsonb_typeof(specifications) = 'object'", name="specifications"),
        CheckConstraint("(status = 'completed') = (completed_at is not null)", name="completed_at"),
        CheckConstraint("(status = 'cancelled') = (cancelled_at is not null)", name="cancelled_at"),
        CheckConstraint(
            "case status when 'pending' then started_at is null when 'cancelled' then true"
            " else started_at is not null end",
            name="started_at",
        ),
        Index("orders_user_id_created_at_id_idx", "user_id", "created_at", "id"),
        Index("orders_asset_id_created_at_id_idx", "asset_id", "created_at", "id"),
        Index("orders_created_at_id_idx", "created_at", "id"),
    )

    user_id: Mapped[UUID] = mapped_column(
        ForeignKey("users.id", info={"message": "manufacturing.orders: there is no such user."})
    )
    asset_id: Mapped[UUID] = mapped_column(
        ForeignKey("blockchain.assets.id", info={"message": "manufacturing.orders: there is no such asset."})
    )
    quantity: Mapped[int]
    specifications: Mapped[dict[str, Any]] = mapped_column(server_default="{}")
    status: Mapped[ProductionStatus] = mapped_column(_production_status, server_default="pending")
    due_at: Mapped[datetime | None]
    started_at: Mapped[datetime | None]
    completed_at: Mapped[datetime | None]
    cancelled_at: Mapped[datetime | None]
    currency: Mapped[str] = mapped_column(server_default="USD")


class Milestone(Keyed, Timestamped, Versioned, Model, schema="manufacturing"):
    """A step of an order, and the payment it is worth."""

    __tablename__ = "milestones"
    __tracked__ = Tracked("full", tags=("order_id",))
    __table_args__ = (
        UniqueConstraint(
            "order_id",
            "position",
            name="milestones_order_id_position_key",
            info={"message": "manufacturing.milestones: the order has a milestone at this position."},
        ),
        CheckConstraint("position > 0", name="position"),
        CheckConstraint("length(title) between 1 and 200", name="title"),
        CheckConstraint("amount > 0", name="amount"),
        CheckConstraint(
            "case status when 'cancelled' then true"
            " else (status in ('completed', 'passed', 'failed')) = (completed_at is not null) end",
            name="completed_at",
        ),
        CheckConstraint("(payment in ('paid', 'refunded')) = (settled_at is not null)", name="settled_at"),
        CheckConstraint(
            "case payment when 'paid' then status = 'passed' when 'refunded' then status = 'cancelled' else true end",
            name="payment",
        ),
        Index("milestones_due_at_idx", "due_at", postgresql_where=_unfinished),
    )

    order_id: Mapped[UUID] = mapped_column(
        ForeignKey("manufacturing.orders.id", info={"message": "manufacturing.milestones: there is no such order."})
    )
    position: Mapped[int]
    title: Mapped[str]
    amount: Mapped[int] = mapped_column(WholeNumber())
    status: Mapped[MilestoneStatus] = mapped_column(_milestone_status, server_default="pending")
    due_at: Mapped[datetime | None]
    completed_at: Mapped[datetime | None]
    payment: Mapped[Payment] = mapped_column(_payment, server_default="due")
    settled_at: Mapped[datetime | None]


class Inspection(Keyed, Model, schema="manufacturing"):
    """What an inspector found at a milestone whose work was done. Added, never changed."""

    __tablename__ = "quality_assurance"
    __tracked__ = Tracked("full", tags=("milestone_id",))
    __table_args__ = (
        CheckConstraint("jsonb_typeof(findings) = 'object'", name="findings"),
        Index("quality_assurance_milestone_id_inspected_at_idx", "milestone_id", "inspected_at"),
        Index("quality_assurance_inspector_id_idx", "inspector_id"),
    )

    milestone_id: Mapped[UUID] = mapped_column(
        ForeignKey(
            "manufacturing.milestones.id",
            info={"message": "manufacturing.quality_assurance: there is no such milestone."},
        )
    )
    inspector_id: Mapped[UUID] = mapped_column(
        ForeignKey("users.id", info={"message": "manufacturing.quality_assurance: there is no such inspector."})
    )
    result: Mapped[InspectionResult] = mapped_column(_inspection_result)
    findings: Mapped[dict[str, Any]] = mapped_column(server_default="{}")
    inspected_at: Mapped[datetime] = mapped_column(server_default=func.now())
