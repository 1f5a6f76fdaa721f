"""The verbs of markets: open one, and issue the tokens that are traded in it."""

from __future__ import annotations

from uuid import UUID

from headwater.kernel.errors import MissingReference, StateConflict
from headwater.kernel.postgres import Postgres, Runner
from headwater.kernel.repository import Repository
from headwater.kernel.transaction import Transaction
from headwater.modules.ledger.repository import LedgerRepository, Receipt
from headwater.modules.trading.models import OpenMarket, Settlement
from headwater.modules.trading.repository import QUERIES

CURRENCY = "USD"
"""What a market is traded in unless it was opened with another currency."""


def token_of(asset_id: UUID) -> str:
    """The code by which the ledger counts the tokens of an asset."""
    return f"asset:{asset_id}"


class MarketRepository(Repository[OpenMarket]):
    """The markets. The first order for an asset opens its market in USD, settling at once; open it before to differ."""

    def __init__(self, postgres: Postgres) -> None:
        super().__init__(postgres)
        self._ledger = LedgerRepository(postgres)

    async def open_market(
        self,
        tx: Transaction,
        asset_id: UUID,
        *,
        currency: str = CURRENCY,
        settlement: Settlement = Settlement.IMMEDIATE,
    ) -> OpenMarket:
        """The market of an asset, opened if it is not. Raises MissingReference for an unknown asset, StateConflict when
        it is open with another currency or settlement.
        """
        tx.require_block("open_market()")
        await tx.fetch_value(QUERIES["open_market"], asset_id=asset_id, currency=currency, settlement=settlement)
        market = await self.find(asset_id, tx=tx)
        if market is None:
            raise MissingReference("trading.markets: there is no such asset.", remedy="Check the id.")
        if (market.currency, market.settlement) != (currency, settlement):
            raise StateConflict(
                f"The market of {asset_id} is open in {market.currency}, settling {market.settlement.value}.",
                remedy="Trade in it as it is.",
                asset_id=str(asset_id),
            )
        return market

    async def issue(
        self, tx: Transaction, asset_id: UUID, *, user_id: UUID, quantity: int, id: UUID | None = None
    ) -> Receipt:
        """Make tokens of an asset and give them to a user. Their sum is what the issuance account of the asset owes.

        Raises MissingReference for an unknown asset or user; InvalidValue.
        """
        token = await self._token(tx, asset_id)
        known = await tx.fetch_value(QUERIES["user_exists"], user_id=user_id)
        if not known:
            raise MissingReference("trading.markets: there is no such user.", remedy="Check the id.")
        issuance = await self._ledger.account(tx, "system", None, token, purpose="issuance", credit_limit=None)
        owner = await self._ledger.account(tx, "user", user_id, token)
        receipt = await self._ledger.transfer(tx, debit=issuance.id, credit=owner.id, amount=quantity, id=id)
        return receipt.or_raise()

    async def tokens_of(self, user_id: UUID, asset_id: UUID, *, tx: Runner | None = None) -> int:
        """How many tokens of an asset a user has, those in open sell orders included."""
        account = await self._ledger.find_account("user", user_id, token_of(asset_id), tx=tx)
        return 0 if account is None else account.balance

    async def _token(self, tx: Transaction, asset_id: UUID) -> str:
        if not await tx.fetch_value(QUERIES["asset_exists"], asset_id=asset_id):
            raise MissingReference("trading.markets: there is no such asset.", remedy="Check the id.")
        return (await self._ledger.open_asset(tx, token_of(asset_id), scale=0)).code
