"""Tokens: FODI transactions from pending to confirmed or failed, mints, burns, rewards, and the supply.

A verb writes one row; the triggers of the table move the tokens in the ledger, in the same transaction.
"""

from __future__ import annotations

from hashlib import blake2b
from typing import Any, cast
from uuid import UUID, uuid4

from sqlalchemy import or_, select, update
from sqlalchemy.dialects.postgresql import insert

from headwater.kernel.errors import AlreadyExists, InvalidValue, NotFound, StateConflict
from headwater.kernel.pages import Page
from headwater.kernel.postgres import Postgres, Runner
from headwater.kernel.repository import Repository
from headwater.modules.blockchain import formats
from headwater.modules.blockchain.models import (
    FODI,
    Reward,
    TokenTransaction,
    TokenTransactionType,
    TransactionStatus,
    Wallet,
)
from headwater.modules.ledger.models import SYSTEM, Account
from headwater.modules.ledger.models import Asset as LedgerAsset

UNITS_MAX = 2**63 - 1
TX_ID_LENGTH_MAX = 255
REASON_LENGTH_MAX = 500


class TokenRepository(Repository[TokenTransaction]):
    """FODI transactions. Each verb needs a transaction; the same tx_id with the same body gets the same answer."""

    def __init__(self, postgres: Postgres) -> None:
        super().__init__(postgres)
        self.rewards = Repository(postgres, Reward)

    async def create_transaction(
        self,
        tx: Runner,
        *,
        tx_id: str,
        from_address: str | None = None,
        to_address: str | None = None,
        amount: int,
        tx_type: TokenTransactionType = TokenTransactionType.TRANSFER,
    ) -> TokenTransaction:
        """A pending transaction; what it will take from a wallet is held from now on.

        Raises StateConflict when the sender lacks the tokens, MissingReference for an address without a wallet,
        AlreadyExists for a tx_id that stands for something else, InvalidValue.
        """
        return await self._write(tx, tx_id, from_address, to_address, amount, tx_type, TransactionStatus.PENDING)

    async def confirm(self, tx: Runner, tx_id: str, *, blockchain_tx: str | None = None) -> TokenTransaction:
        """The transaction happened: its tokens move. Telling it again changes nothing.

        `blockchain_tx` is its signature on the chain. Raises NotFound, and StateConflict when it has failed.
        """
        return await self._settle(tx, tx_id, TransactionStatus.CONFIRMED, blockchain_tx)

    async def fail(self, tx: Runner, tx_id: str, *, blockchain_tx: str | None = None) -> TokenTransaction:
        """The transaction did not happen: what it held is free again. Telling it again changes nothing.

        Raises NotFound, and StateConflict when it was confirmed.
        """
        return await self._settle(tx, tx_id, TransactionStatus.FAILED, blockchain_tx)

    async def mint(self, tx: Runner, *, tx_id: str, to_address: str, amount: int) -> TokenTransaction:
        """New tokens for a wallet, at once. Raises as `create_transaction` does."""
        return await self._write(
            tx, tx_id, None, to_address, amount, TokenTransactionType.MINT, TransactionStatus.CONFIRMED
        )

    async def burn(self, tx: Runner, *, tx_id: str, from_address: str, amount: int) -> TokenTransaction:
        """Tokens of a wallet that are no more, at once. Raises as `create_transaction` does."""
        return await self._write(
            tx, tx_id, from_address, None, amount, TokenTransactionType.BURN, TransactionStatus.CONFIRMED
        )

    async def reward(
        self,
        tx: Runner,
        *,
        user_id: UUID,
        amount: int,
        reason: str,
        order_id: int | None = None,
        tx_id: str | None = None,
        from_address: str | None = None,
    ) -> Reward:
        """Reward a user, at once: into their oldest wallet, from the issuer or from the wallet named.

        Without `tx_id` an order is rewarded once per reason, and what has no order each time. Raises StateConflict when
        the user has no wallet or the sender lacks the tokens, AlreadyExists, MissingReference, InvalidValue.
        """
        if len(reason) > REASON_LENGTH_MAX:
            raise InvalidValue(
                f"The reason has {len(reason)} characters.",
                remedy=f"Keep it within {REASON_LENGTH_MAX}.",
                field="reason",
            )
        if tx_id is None:
            tx_id = f"reward:{uuid4()}" if order_id is None else _reward_of(order_id, reason)
        known = await self.rewards.find_by(Reward.tx_id == tx_id, tx=tx)
        if known is None:
            to_address = await tx.fetch_value(
                select(Wallet.public_key)
                .where(Wallet.user_id == user_id)
                .order_by(Wallet.created_at, Wallet.id)
                .limit(1)
            )
            if to_address is None:
                raise StateConflict(
                    f"blockchain.wallets: the user {user_id} has no wallet.", remedy="Create one first."
                )
            await self._write(
                tx, tx_id, from_address, to_address, amount, TokenTransactionType.REWARD, TransactionStatus.CONFIRMED
            )
            written = await tx.fetch_one(
                insert(Reward)
                .values(user_id=user_id, order_id=order_id, amount=amount, reason=reason, tx_id=tx_id)
                .on_conflict_do_nothing(index_elements=[Reward.tx_id])
                .returning(Reward)
            )
            if written is not None:
                return cast(Reward, written)
            known = await self.rewards.find_by(Reward.tx_id == tx_id, tx=tx)
        if known is None or (known.user_id, known.order_id, known.amount, known.reason) != (
            user_id,
            order_id,
            amount,
            reason,
        ):
            raise _taken(tx_id)
        return known

    async def by_tx_id(self, tx_id: str, *, tx: Runner | None = None) -> TokenTransaction:
        """The transaction with this tx_id. Raises NotFound."""
        found = await self.find_by(TokenTransaction.tx_id == tx_id, tx=tx)
        if found is None:
            raise NotFound(
                f"blockchain.fodi_transactions: there is no transaction {tx_id}.", remedy="Check the tx_id.", key=tx_id
            )
        return found

    async def transactions_of(
        self, wallet_id: UUID, *, limit: int = 50, cursor: str | None = None, tx: Runner | None = None
    ) -> Page[TokenTransaction]:
        """What a wallet has sent and received, newest first."""
        return await self.list(
            or_(TokenTransaction.from_wallet_id == wallet_id, TokenTransaction.to_wallet_id == wallet_id),
            order=(TokenTransaction.created_at.desc(),),
            limit=limit,
            cursor=cursor,
            tx=tx,
        )

    async def rewards_of(
        self, user_id: UUID, *, limit: int = 50, cursor: str | None = None, tx: Runner | None = None
    ) -> Page[Reward]:
        """The rewards of a user, newest first."""
        return await self.rewards.list(
            Reward.user_id == user_id, order=(Reward.created_at.desc(),), limit=limit, cursor=cursor, tx=tx
        )

    async def total_supply(self, *, tx: Runner | None = None) -> int:
        """How many units exist: what the issuer owes, which is what all wallets have together."""
        owed = await (tx or self.postgres).fetch_value(
            select(-Account.balance)
            .join(LedgerAsset, LedgerAsset.id == Account.asset_id)
            .where(
                LedgerAsset.code == FODI,
                Account.owner_kind == "system",
                Account.owner_id == SYSTEM,
                Account.purpose == "issuance",
            )
        )
        return int(owed or 0)  # before the first wallet there is no issuer

    async def _write(
        self,
        tx: Runner,
        tx_id: str,
        from_address: str | None,
        to_address: str | None,
        amount: int,
        tx_type: TokenTransactionType,
        status: TransactionStatus,
    ) -> TokenTransaction:
        tx.require_block("a FODI transaction")
        body: dict[str, Any] = {
            "from_address": from_address,
            "to_address": to_address,
            "amount": checked_units(amount),
            "tx_type": tx_type,
        }
        written = await tx.fetch_one(
            insert(TokenTransaction)
            .values(tx_id=checked_tx_id(tx_id), status=status, **body)
            .on_conflict_do_nothing(index_elements=[TokenTransaction.tx_id])
            .returning(TokenTransaction)
        )
        if written is not None:
            return cast(TokenTransaction, written)
        known = await self.by_tx_id(tx_id, tx=tx)
        if any(getattr(known, name) != value for name, value in body.items()):
            raise _taken(tx_id)
        return known

    async def _settle(
        self, tx: Runner, tx_id: str, status: TransactionStatus, blockchain_tx: str | None
    ) -> TokenTransaction:
        tx.require_block("settling a FODI transaction")
        values: dict[str, Any] = {"status": status}
        if blockchain_tx is not None:
            values["blockchain_tx"] = formats.checked_tx_hash(blockchain_tx)
        settled = await tx.fetch_one(
            update(TokenTransaction)
            .where(TokenTransaction.tx_id == tx_id, TokenTransaction.status == TransactionStatus.PENDING)
            .values(**values)
            .returning(TokenTransaction)
        )
        if settled is not None:
            return cast(TokenTransaction, settled)
        known = await self.by_tx_id(tx_id, tx=tx)
        if known.status is status and values.get("blockchain_tx") in (None, known.blockchain_tx):
            return known
        raise StateConflict(
            f"blockchain.fodi_transactions: the transaction {tx_id} is {known.status.value}"
            + (f" as {known.blockchain_tx}." if known.blockchain_tx else "."),
            remedy="That is final. Move tokens by a transaction of its own.",
            status=known.status.value,
        )


def checked_units(amount: int) -> int:
    """Raises InvalidValue for what is no amount of FODI: whole units, one at least."""
    if not 1 <= amount <= UNITS_MAX:
        raise InvalidValue(
            f"{amount} is not an amount of FODI.", remedy=f"Pass whole units from 1 to {UNITS_MAX}.", field="amount"
        )
    return amount


def checked_tx_id(tx_id: str) -> str:
    """Raises InvalidValue for a tx_id that is empty or too long."""
    if not 1 <= len(tx_id) <= TX_ID_LENGTH_MAX:
        raise InvalidValue(
            f"The tx_id has {len(tx_id)} characters.", remedy=f"Pass 1 to {TX_ID_LENGTH_MAX}.", field="tx_id"
        )
    return tx_id


def _reward_of(order_id: int, reason: str) -> str:
    return f"reward:{order_id}:{blake2b(reason.encode(), digest_size=8).hexdigest()}"


def _taken(tx_id: str) -> AlreadyExists:
    return AlreadyExists(
        f"blockchain.fodi_transactions: the tx_id {tx_id} stands for another transaction.",
        remedy="Use a new tx_id for each transaction, and the same one only to repeat it.",
        columns=["tx_id"],
    )
