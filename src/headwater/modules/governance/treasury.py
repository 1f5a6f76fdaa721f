"""Treasury: what the users own together, an account in the ledger per currency. Only an executed proposal spends it."""

from __future__ import annotations

from uuid import UUID

from headwater.kernel.errors import MissingReference, StateConflict
from headwater.kernel.postgres import Runner
from headwater.kernel.transaction import Transaction
from headwater.modules.governance.models import Proposal
from headwater.modules.ledger.models import Account
from headwater.modules.ledger.repository import LedgerRepository, Receipt, Status, id_of


class Treasury:
    """Takes money in from users, and pays what passed proposals say, in the caller's transaction."""

    def __init__(self, ledger: LedgerRepository) -> None:
        self._ledger = ledger

    async def balance(self, currency: str, *, tx: Runner | None = None) -> int:
        """What the treasury has of a currency, in its smallest unit."""
        account = await self._ledger.find_account("treasury", None, currency, tx=tx)
        return 0 if account is None else account.balance

    async def deposit(
        self, tx: Transaction, *, user_id: UUID, amount: int, currency: str, id: UUID | None = None
    ) -> Receipt:
        """Move money of a user into the treasury. Raises StateConflict when the user lacks it, InvalidValue."""
        account = await self._ledger.find_account("user", user_id, currency, tx=tx)
        if account is None:
            raise StateConflict(
                f"The user {user_id} has no {currency} to give to the treasury.",
                remedy="Credit the account of the user in the ledger first.",
                user_id=str(user_id),
                status=Status.EXCEEDS_BALANCE.name.lower(),
            )
        treasury = await self._account(tx, currency)
        receipt = await self._ledger.transfer(tx, debit=account.id, credit=treasury.id, amount=amount, id=id)
        return receipt.or_raise()

    async def spend(self, tx: Transaction, proposal: Proposal) -> None:
        """Pay what a proposal says, once: the transfer's id follows from the proposal. Nothing if it spends nothing.

        Raises StateConflict when the treasury lacks it, MissingReference for a currency that the ledger does not know.
        """
        amount, recipient, currency = proposal.spend_amount, proposal.spend_recipient_id, proposal.spend_currency
        if amount is None or recipient is None or currency is None:
            return
        treasury = await self._account(tx, currency)
        account = await self._ledger.account(tx, "user", recipient, currency)
        receipt = await self._ledger.transfer(
            tx,
            debit=treasury.id,
            credit=account.id,
            amount=amount,
            id=spend_id(proposal.id),
            reference=f"proposal:{proposal.id}",
        )
        if receipt.status is Status.EXCEEDS_BALANCE:
            raise StateConflict(
                f"The proposal {proposal.id} cannot be executed: the treasury cannot pay {amount} of {currency}.",
                remedy="Deposit into the treasury, then execute it.",
                proposal_id=str(proposal.id),
                needed=amount,
                available=treasury.available,
                status=receipt.status.name.lower(),
            )
        receipt.or_raise()

    async def _account(self, tx: Transaction, currency: str) -> Account:
        try:
            return await self._ledger.account(tx, "treasury", None, currency)
        except MissingReference as unknown:
            raise MissingReference(
                f"governance.proposals: the ledger knows no currency '{currency}'.",
                remedy="Open it in the ledger, or spend another one.",
                columns=["spend_currency"],
            ) from unknown


def spend_id(proposal_id: UUID) -> UUID:
    """The transfer that pays what a proposal says."""
    return id_of("governance", proposal_id, "spend")
