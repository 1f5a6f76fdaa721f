"""Payments: what the milestones of an order are worth, held when it starts, paid or given back once.

An order has an escrow account in the ledger. When production starts, the amount of each milestone moves there from the
customer; when its inspection passes, on to the maker of the part, who is the issuer of the asset; when the order is
cancelled, back to the customer. The transfers have ids that follow from the milestone, and paying and giving back have
the same one: the ledger itself lets only one of them happen, and only once.
"""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID

from sqlalchemy import func, select, update

from headwater.kernel.errors import StateConflict
from headwater.kernel.transaction import Transaction
from headwater.modules.blockchain.models import Asset
from headwater.modules.ledger.repository import LedgerRepository, Move, id_of
from headwater.modules.manufacturing.models import Milestone, Order, Payment

CURRENCY = "USD"
"""What an order is paid in unless it says otherwise."""


class Payments:
    """Moves the money of milestones in the ledger, in the transaction that takes their order a step further.

    The caller has locked the order.
    """

    def __init__(self, ledger: LedgerRepository) -> None:
        self._ledger = ledger

    async def hold(self, tx: Transaction, order: Order, milestones: Sequence[Milestone]) -> None:
        """Take what all milestones are worth from the customer. Raises StateConflict when the customer lacks it."""
        total = sum(milestone.amount for milestone in milestones)
        customer = await self._ledger.find_account("user", order.user_id, order.currency, tx=tx)
        available = 0 if customer is None else customer.available
        if customer is None or (available is not None and available < total):
            raise _cannot_pay(order, total)
        escrow = await self._escrow(tx, order)
        last = len(milestones) - 1
        moves = [
            Move(
                id=hold_id(milestone.id),
                debit=customer.id,
                credit=escrow,
                amount=milestone.amount,
                linked=at < last,
            )
            for at, milestone in enumerate(milestones)
        ]
        if not all(receipt.done for receipt in await self._ledger.post(tx, moves)):
            raise _cannot_pay(order, total)  # it was spent meanwhile
        await tx.execute(
            update(Milestone).where(Milestone.id.in_([m.id for m in milestones])).values(payment=Payment.HELD)
        )

    async def pay(self, tx: Transaction, order: Order, milestone: Milestone) -> None:
        """Give a milestone's amount to the maker of the part."""
        maker_id: UUID = await tx.fetch_value(select(Asset.issuer_id).where(Asset.id == order.asset_id))
        await self._settle(tx, order, [milestone], maker_id, Payment.PAID)

    async def refund(self, tx: Transaction, order: Order, milestones: Sequence[Milestone]) -> None:
        """Give the amounts of milestones back to the customer."""
        await self._settle(tx, order, milestones, order.user_id, Payment.REFUNDED)

    async def _settle(
        self, tx: Transaction, order: Order, milestones: Sequence[Milestone], user_id: UUID, to: Payment
    ) -> None:
        held = [milestone for milestone in milestones if milestone.payment is Payment.HELD]
        if not held:
            return  # nothing was held for an order that has not started
        escrow = await self._escrow(tx, order)
        account = await self._ledger.account(tx, "user", user_id, order.currency)
        moves = [Move(id=settle_id(m.id), debit=escrow, credit=account.id, amount=m.amount) for m in held]
        for receipt in await self._ledger.post(tx, moves):
            receipt.or_raise()
        await tx.execute(
            update(Milestone).where(Milestone.id.in_([m.id for m in held])).values(payment=to, settled_at=func.now())
        )

    async def _escrow(self, tx: Transaction, order: Order) -> int:
        account = await self._ledger.account(tx, "manufacturing", order.id, order.currency, purpose="escrow")
        return account.id


def hold_id(milestone_id: UUID) -> UUID:
    """The transfer that takes a milestone's amount from the customer."""
    return id_of("manufacturing", milestone_id, "hold")


def settle_id(milestone_id: UUID) -> UUID:
    """The transfer that pays it or gives it back."""
    return id_of("manufacturing", milestone_id, "settle")


def _cannot_pay(order: Order, total: int) -> StateConflict:
    return StateConflict(
        f"The order {order.id} cannot become in_production: its customer cannot pay {total} of {order.currency}, "
        "which its milestones are worth.",
        remedy="Credit the account of the customer in the ledger first.",
        order_id=str(order.id),
        needed=total,
        status="insufficient_funds",
    )
