"""The verbs of escrow: release, refund and dispute what a market keeps between a buyer and a seller.

A market that settles immediately releases each fill at once. In one that settles on release, money and tokens of a fill
wait in the market's escrow accounts until somebody says where they go. Each way out moves both in the ledger, under ids
that follow from the escrow and can be used once.
"""

from __future__ import annotations

from typing import Any
from uuid import UUID

from sqlalchemy import func, or_, update

from headwater.kernel.errors import NotFound, StateConflict, VersionConflict
from headwater.kernel.pages import Page
from headwater.kernel.postgres import Postgres, Runner
from headwater.kernel.repository import Repository
from headwater.kernel.transaction import Transaction
from headwater.modules.ledger.repository import LedgerRepository, Move, id_of
from headwater.modules.trading.models import Escrow, EscrowState
from headwater.modules.trading.repository import QUERIES

ESCROW_STEPS: dict[EscrowState, tuple[EscrowState, ...]] = {
    EscrowState.HELD: (EscrowState.RELEASED, EscrowState.REFUNDED, EscrowState.DISPUTED),
    EscrowState.DISPUTED: (EscrowState.RELEASED, EscrowState.REFUNDED),
    EscrowState.RELEASED: (),
    EscrowState.REFUNDED: (),
}
"""Where an escrow can go from each state."""


class EscrowRepository(Repository[Escrow]):
    """What waits between buyers and sellers. Made by the matcher alone; the verbs here say where it goes."""

    def __init__(self, postgres: Postgres) -> None:
        super().__init__(postgres)
        self._ledger = LedgerRepository(postgres)

    async def escrows(
        self,
        *,
        user_id: UUID | None = None,
        state: EscrowState | None = None,
        limit: int = 50,
        cursor: str | None = None,
        tx: Runner | None = None,
    ) -> Page[Escrow]:
        """A page of escrows, the newest first, narrowed to those of a buyer or seller and to a state."""
        where = [Escrow.state == state] if state is not None else []
        if user_id is not None:
            where.append(or_(Escrow.buyer_id == user_id, Escrow.seller_id == user_id))
        return await self.list(*where, order=(Escrow.created_at.desc(),), limit=limit, cursor=cursor, tx=tx)

    async def release(self, tx: Transaction, escrow_id: UUID, *, version: int | None = None) -> Escrow:
        """The seller gets the money, the buyer the tokens. Raises NotFound, StateConflict, VersionConflict."""
        return await self._settle(tx, escrow_id, EscrowState.RELEASED, version)

    async def refund(self, tx: Transaction, escrow_id: UUID, *, version: int | None = None) -> Escrow:
        """The buyer gets the money back, the seller the tokens. Raises NotFound, StateConflict, VersionConflict."""
        return await self._settle(tx, escrow_id, EscrowState.REFUNDED, version)

    async def dispute(self, tx: Transaction, escrow_id: UUID, *, version: int | None = None) -> Escrow:
        """Say that the parties disagree: it stays where it is until somebody releases or refunds it.

        Raises NotFound, StateConflict unless it is held, VersionConflict.
        """
        await self._lock_for(tx, escrow_id, EscrowState.DISPUTED, version)
        return await self._change(tx, escrow_id, {"state": EscrowState.DISPUTED})

    async def _settle(self, tx: Transaction, escrow_id: UUID, to: EscrowState, version: int | None) -> Escrow:
        escrow = await self._lock_for(tx, escrow_id, to, version)
        way = await tx.fetch_one(QUERIES["escrow_accounts"], escrow_id=escrow_id)
        if way is None:
            raise StateConflict(
                f"The escrow {escrow_id} belongs to no trade: the ledger holds nothing for it.",
                remedy="Only the escrow of a trade can be settled.",
                escrow_id=str(escrow_id),
            )
        released = to is EscrowState.RELEASED
        money = Move(
            id=id_of("escrow", escrow_id, "money"),
            linked=True,
            debit=way.money_escrow,
            credit=way.seller_money if released else way.buyer_money,
            amount=escrow.amount,
        )
        tokens = Move(
            id=id_of("escrow", escrow_id, "tokens"),
            debit=way.token_escrow,
            credit=way.buyer_tokens if released else way.seller_tokens,
            amount=int(way.quantity),
        )
        for receipt in await self._ledger.post(tx, (money, tokens)):
            receipt.or_raise()
        return await self._change(tx, escrow_id, {"state": to, "settled_at": func.now()})

    async def _lock_for(self, tx: Transaction, escrow_id: UUID, to: EscrowState, version: int | None) -> Escrow:
        tx.require_block("This step")
        found = await self.find(escrow_id, tx=tx)
        if found is None:
            raise NotFound(f"There is no escrow {escrow_id}.", remedy="Check the id.", escrow_id=str(escrow_id))
        escrow = await self.lock(tx, escrow_id)
        allowed = ESCROW_STEPS[escrow.state]
        if to not in allowed:
            names = " or ".join(state.value for state in allowed)
            raise StateConflict(
                f"The escrow {escrow_id} is {escrow.state.value} and cannot become {to.value}.",
                remedy=f"From {escrow.state.value} it can become {names}." if names else "It is settled.",
                escrow_id=str(escrow_id),
                state=escrow.state.value,
            )
        if version is not None and escrow.version != version:
            raise VersionConflict(
                f"The escrow {escrow_id} has version {escrow.version}, not {version}: "
                "it has changed since it was read.",
                current=escrow,
                remedy="Read it again and decide anew.",
                current_version=escrow.version,
            )
        return escrow

    async def _change(self, tx: Transaction, escrow_id: UUID, changes: dict[str, Any]) -> Escrow:
        changed: Escrow = await tx.fetch_one(
            update(Escrow).where(Escrow.id == escrow_id).values(**changes).returning(Escrow)
        )
        return changed
