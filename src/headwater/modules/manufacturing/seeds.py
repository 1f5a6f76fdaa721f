"""Seeds of manufacturing: orders for robotics parts in every status, with milestones and inspections that fit it."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from datetime import timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import select

from headwater.kernel.seeds import FIRST_KEY, LAST_KEY, Sowing
from headwater.modules.blockchain.models import Asset
from headwater.modules.identity.models import User
from headwater.modules.ledger.repository import LedgerRepository, Move, id_of
from headwater.modules.manufacturing.models import (
    Inspection,
    InspectionResult,
    Milestone,
    MilestoneStatus,
    Order,
    Payment,
    ProductionStatus,
)
from headwater.modules.manufacturing.payments import CURRENCY, hold_id, settle_id

DEMO_ORDERS = 40
LOAD_SHARE = 0.15
"""Which part of the rows of `load:N` are orders, milestones and inspections; an order brings about six rows."""
LOAD_FIRST = 1_000_001
"""Numbers from here on belong to the load profile, so that it can be planted beside the demo."""
STEPS_MAX = 10
"""Milestones are numbered in tens, so that their keys follow from their order's number."""

Row = Mapping[str, Any]

_STEPS = ("Design approved", "Material certified", "Parts machined", "Surface treated", "Assembled and tested")
_MATERIALS = ("aluminium 7075-T6", "titanium Ti-6Al-4V", "PEEK CF30", "steel 17-4 PH", "carbon fibre T700")
_FINISHES = ("hard anodised", "passivated", "as machined", "bead blasted", "PVD coated")
_FAULTS = ("bore 0.03 mm out of tolerance", "surface roughness Ra 3.2 instead of 1.6", "backlash above 1 arcmin")

_LIVE = (
    ProductionStatus.IN_PRODUCTION,
    ProductionStatus.COMPLETED,
    ProductionStatus.PENDING,
    ProductionStatus.QUALITY_CHECK,
    ProductionStatus.IN_PRODUCTION,
    ProductionStatus.COMPLETED,
    ProductionStatus.CANCELLED,
    ProductionStatus.IN_PRODUCTION,
)


async def seed(sowing: Sowing) -> None:
    """Orders in every status, each with its milestones, and an inspection for every milestone that was judged."""
    users = await sowing.tx.fetch(
        select(User.id).where(User.id.between(FIRST_KEY, LAST_KEY)).order_by(User.id).limit(1_000)
    )
    assets = await sowing.tx.fetch(
        select(Asset.id).where(Asset.id.between(FIRST_KEY, LAST_KEY)).order_by(Asset.id).limit(1_000)
    )
    if not users or not assets:
        return
    people, parts = [row.id for row in users], [row.id for row in assets]
    demo = sowing.profile == "demo"
    orders = DEMO_ORDERS if demo else max(1, int(sowing.rows * LOAD_SHARE / 6))
    first = 1 if demo else LOAD_FIRST
    if demo:
        await _move_money(sowing, people, parts, first, orders)
    for model in (Order, Milestone, Inspection):  # three passes over the same rows: nothing is kept in memory
        rows = (row for kind, row in _grow(sowing, people, parts, first, orders) if kind is model)
        await sowing.plant(model, rows, total=orders if model is Order else None)


async def _move_money(sowing: Sowing, people: list[UUID], parts: list[UUID], first: int, orders: int) -> None:
    """What the seeded orders have held, paid and given back, under the ids the verbs give it: once, however often."""
    ledger = LedgerRepository(sowing.tx.postgres)
    await ledger.open_asset(sowing.tx, CURRENCY, scale=2)
    issuance = await ledger.account(sowing.tx, "system", None, CURRENCY, purpose="issuance", credit_limit=None)
    issuers = {
        row.id: row.issuer_id
        for row in await sowing.tx.fetch(select(Asset.id, Asset.issuer_id).where(Asset.id.in_(parts)))
    }
    rows = list(_grow(sowing, people, parts, first, orders))
    placed = {row["id"]: row for kind, row in rows if kind is Order}
    users = sorted({row["user_id"] for row in placed.values()} | {issuers[row["asset_id"]] for row in placed.values()})
    accounts = await ledger.accounts(sowing.tx, "user", users, CURRENCY)
    escrows = await ledger.accounts(sowing.tx, "manufacturing", sorted(placed), CURRENCY, purpose="escrow")
    moves: list[Move] = []
    for kind, row in rows:
        if kind is not Milestone:
            continue
        order, amount = placed[row["order_id"]], row["amount"]
        customer, escrow = accounts[order["user_id"]].id, escrows[order["id"]].id
        issued = id_of("seed", "manufacturing", row["id"])
        moves.append(Move(id=issued, debit=issuance.id, credit=customer, amount=amount))
        if row["payment"] is Payment.DUE:
            continue
        moves.append(Move(id=hold_id(row["id"]), debit=customer, credit=escrow, amount=amount))
        maker = accounts[issuers[order["asset_id"]]].id
        to = {Payment.PAID: maker, Payment.REFUNDED: customer}.get(row["payment"])
        if to is not None:
            moves.append(Move(id=settle_id(row["id"]), debit=escrow, credit=to, amount=amount))
    for receipt in await ledger.post(sowing.tx, moves):
        receipt.or_raise()


def _payment(order: ProductionStatus, milestone: MilestoneStatus) -> Payment:
    """Where the money of a milestone is, as the verbs would have moved it."""
    if order is ProductionStatus.PENDING:
        return Payment.DUE
    return {MilestoneStatus.PASSED: Payment.PAID, MilestoneStatus.CANCELLED: Payment.REFUNDED}.get(
        milestone, Payment.HELD
    )


def _grow(
    sowing: Sowing, people: list[UUID], parts: list[UUID], first: int, orders: int
) -> Iterator[tuple[type[Any], Row]]:
    """Order by order: the order, its milestones, their inspections."""
    chance = random.Random(f"manufacturing/{sowing.profile}")  # noqa: S311  # repeatable on purpose
    for number in range(first, first + orders):
        status = _LIVE[(number - first) % len(_LIVE)]
        placed = sowing.now - timedelta(days=chance.randrange(20, 180), minutes=chance.randrange(1_440))
        started = placed + timedelta(days=3)
        closed = started + timedelta(days=chance.randrange(10, 18))
        begun = status is not ProductionStatus.PENDING
        order_id = sowing.key("manufacturing.orders", number)
        yield (
            Order,
            {
                "id": order_id,
                "user_id": chance.choice(people),
                "asset_id": parts[(number - first) % len(parts)],
                "quantity": chance.choice((1, 2, 4, 10, 25, 100)),
                "specifications": {
                    "material": chance.choice(_MATERIALS),
                    "finish": chance.choice(_FINISHES),
                    "tolerance_mm": chance.choice((0.01, 0.02, 0.05)),
                    "payload_kg": chance.randrange(1, 40),
                },
                "status": status,
                "due_at": placed + timedelta(days=45),
                "started_at": started if begun else None,
                "completed_at": closed if status is ProductionStatus.COMPLETED else None,
                "cancelled_at": closed if status is ProductionStatus.CANCELLED else None,
                "created_at": placed,
                "updated_at": closed if begun else placed,
            },
        )
        steps = chance.randrange(3, len(_STEPS) + 1)
        for position, state in enumerate(_states(status, steps, chance), 1):
            judged = state in (MilestoneStatus.PASSED, MilestoneStatus.FAILED)
            done = started + timedelta(days=2 * position)
            milestone_number = STEPS_MAX * number + position
            milestone_id = sowing.key("manufacturing.milestones", milestone_number)
            # The orders of the load profile are from before the ledger: nothing is held for them.
            payment = _payment(status, state) if sowing.profile == "demo" else Payment.DUE
            settled = closed if payment is Payment.REFUNDED else done if payment is Payment.PAID else None
            yield (
                Milestone,
                {
                    "id": milestone_id,
                    "order_id": order_id,
                    "position": position,
                    "title": _STEPS[position - 1],
                    "amount": 100 * chance.randrange(150, 9_000),
                    "status": state,
                    "due_at": placed + timedelta(days=8 * position),
                    "completed_at": done if judged or state is MilestoneStatus.COMPLETED else None,
                    "payment": payment,
                    "settled_at": settled,
                    "created_at": placed,
                    "updated_at": done if judged else placed,
                },
            )
            if judged:
                passed = state is MilestoneStatus.PASSED
                yield (
                    Inspection,
                    {
                        "id": sowing.key("manufacturing.quality_assurance", milestone_number),
                        "milestone_id": milestone_id,
                        "inspector_id": chance.choice(people),
                        "result": InspectionResult.PASSED if passed else InspectionResult.FAILED,
                        "findings": {"note": "within tolerance" if passed else chance.choice(_FAULTS)},
                        "inspected_at": done + timedelta(hours=6),
                    },
                )


def _states(status: ProductionStatus, steps: int, chance: random.Random) -> list[MilestoneStatus]:
    """What the milestones of an order in `status` look like."""
    if status is ProductionStatus.PENDING:
        return [MilestoneStatus.PENDING] * steps
    if status is ProductionStatus.COMPLETED:
        return [MilestoneStatus.PASSED] * steps
    if status is ProductionStatus.QUALITY_CHECK:
        return [MilestoneStatus.PASSED] * (steps - 1) + [MilestoneStatus.COMPLETED]
    passed = chance.randrange(1, steps)
    if status is ProductionStatus.CANCELLED:
        return [MilestoneStatus.PASSED] * passed + [MilestoneStatus.CANCELLED] * (steps - passed)
    now = chance.choice((MilestoneStatus.IN_PROGRESS, MilestoneStatus.COMPLETED, MilestoneStatus.FAILED))
    return [MilestoneStatus.PASSED] * passed + [now] + [MilestoneStatus.PENDING] * (steps - passed - 1)
