"""The verbs of blockchain: assets and their search; wallets and reputation; transactions by hash; prices."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, TypedDict, Unpack, cast
from uuid import UUID

import msgspec
from sqlalchemy import ColumnElement, func, select, update

from headwater.kernel.cached import Tag, cached
from headwater.kernel.errors import InvalidValue, NotFound, StateConflict
from headwater.kernel.pages import JsonPage, Page
from headwater.kernel.postgres import Postgres, Runner
from headwater.kernel.queries import Queries
from headwater.kernel.rendering import Json, written
from headwater.kernel.repository import Repository, Updated
from headwater.modules.blockchain import formats
from headwater.modules.blockchain.models import (
    REPUTATION_SCORE_MAX,
    Asset,
    ChainTransaction,
    ChainUser,
    PriceFeed,
    TransactionStatus,
)
from headwater.modules.blockchain.nfts import NftRepository
from headwater.modules.blockchain.tokens import TokenRepository
from headwater.modules.blockchain.wallets import WalletBalance, WalletRepository
from headwater.modules.identity.models import KycStatus

__all__ = [
    "AMOUNT_MAX",
    "AssetChanges",
    "AssetRepository",
    "BlockchainRepository",
    "NftRepository",
    "TokenRepository",
    "UserStats",
    "WalletBalance",
    "WalletOwner",
    "WalletRepository",
]

QUERIES = Queries.load(__package__)

AMOUNT_MAX = 10**38 - 1
"""The largest amount of one transaction; a sum of ten still fits the column."""


class AssetChanges(TypedDict, total=False):
    """What can be changed about an asset. Its symbol and issuer stay: prices and trades go by them."""

    asset_type: str
    name: str
    description: str
    specifications: dict[str, Any]
    metadata_: dict[str, Any]


class AssetRepository(Repository[Asset]):
    """Tokenised parts."""

    async def create_asset(
        self,
        tx: Runner,
        *,
        issuer_id: UUID,
        asset_type: str,
        name: str,
        symbol: str,
        description: str = "",
        specifications: dict[str, Any] | None = None,
        metadata_: dict[str, Any] | None = None,
    ) -> Asset:
        """A new asset. Raises InvalidValue naming the field, AlreadyExists for a taken symbol, MissingReference for an
        issuer without a registered wallet.
        """
        values = _checked_asset(
            {
                "asset_type": asset_type,
                "name": name,
                "description": description,
                "specifications": specifications or {},
                "metadata_": metadata_ or {},
            }
        )
        return await self.create(tx, **values, issuer_id=issuer_id, symbol=formats.checked_symbol(symbol))

    async def update_asset(
        self, tx: Runner, asset_id: UUID, *, version: int | None = None, **changes: Unpack[AssetChanges]
    ) -> Updated[Asset]:
        """Change what is named; jsonb is replaced as a whole. Raises NotFound, VersionConflict, InvalidValue."""
        return await self.update(tx, asset_id, version=version, **_checked_asset(dict(changes)))

    async def find_by_symbol(self, symbol: str, *, tx: Runner | None = None) -> Asset | None:
        """The asset with this symbol, in capitals or not."""
        return await self.find_by(Asset.symbol == symbol.upper(), tx=tx)

    async def search(
        self,
        words: str | None = None,
        *,
        asset_type: str | None = None,
        limit: int = 50,
        cursor: str | None = None,
        tx: Runner | None = None,
    ) -> Page[Asset]:
        """The assets that hold all `words`, by name. A word fits its English inflections; the last one may be cut off.

        `"quoted words"` stand together, `or` and `-word` mean what they do in web searches.
        """
        where = _fitting(words, asset_type)
        return await self.list(*where, order=(Asset.name,), limit=limit, cursor=cursor, tx=tx)

    @cached("asset_search", tags=lambda words, asset_type, limit, cursor: (Tag(Asset),), ttl_seconds=300)
    async def search_json(
        self,
        words: str | None = None,
        *,
        asset_type: str | None = None,
        limit: int = 50,
        cursor: str | None = None,
        tx: Runner | None = None,
    ) -> JsonPage[Asset]:
        """The page that `search` gives, as JSON."""
        where = _fitting(words, asset_type)
        return await self.list_json(*where, order=(Asset.name,), limit=limit, cursor=cursor, tx=tx)


def _fitting(words: str | None, asset_type: str | None) -> list[ColumnElement[bool]]:
    where: list[ColumnElement[bool]] = []
    if words is not None and words.strip():
        where.append(Asset.search.bool_op("@@")(func.blockchain.asset_query(words)))
    if asset_type is not None:
        where.append(Asset.asset_type == asset_type)
    return where


def _checked_asset(values: dict[str, Any]) -> dict[str, Any]:
    if "asset_type" in values:
        formats.checked("asset_type", values["asset_type"], formats.ASSET_TYPE_PATTERN, "servo_motor")
    if "name" in values:
        formats.checked_name(values["name"])
    if "description" in values:
        formats.checked_description(values["description"])
    if "specifications" in values:
        formats.checked_specifications(values["specifications"])
    if "metadata_" in values:
        formats.checked_specifications(values["metadata_"], field="metadata")
    return values


class WalletOwner(msgspec.Struct, frozen=True, kw_only=True):
    """Who a wallet address belongs to."""

    user_id: UUID
    wallet_address: str
    reputation_score: int
    name: str | None
    is_active: bool
    kyc_status: KycStatus
    created_at: datetime


class UserStats(msgspec.Struct, frozen=True, kw_only=True):
    """What one user has done. Without a wallet address the counts of transactions are zero."""

    user_id: UUID
    is_active: bool
    kyc_status: KycStatus
    member_since: datetime
    wallet_address: str | None
    reputation_score: int
    assets_issued: int
    transactions_sent: int
    transactions_received: int


class _Newest(msgspec.Struct, frozen=True):
    """The newest price of a symbol, and when a price that is dated ahead comes into force."""

    price: PriceFeed | None
    upcoming: datetime | None
    json: bytes
    """The price as it leaves the process."""


class BlockchainRepository(Repository[ChainUser]):
    """Users as the chain sees them, and what the chain and the oracles report."""

    def __init__(self, postgres: Postgres) -> None:
        super().__init__(postgres)
        self.transactions = Repository(postgres, ChainTransaction)
        self.prices = Repository(postgres, PriceFeed)

    # -- wallets and reputation --------------------------------------------------------------------------------------

    async def register_wallet(self, tx: Runner, *, user_id: UUID, wallet_address: str) -> ChainUser:
        """Give a user their wallet address. Raises AlreadyExists when the address is taken or the user has one,
        MissingReference for an unknown user, InvalidValue.
        """
        return await self.create(tx, user_id=user_id, wallet_address=formats.checked_wallet(wallet_address))

    async def change_wallet(
        self, tx: Runner, user_id: UUID, wallet_address: str, *, version: int | None = None
    ) -> Updated[ChainUser]:
        """Move a user to another wallet address. Raises NotFound, VersionConflict, AlreadyExists, InvalidValue."""
        return await self.update(tx, user_id, version=version, wallet_address=formats.checked_wallet(wallet_address))

    async def wallet_owner(self, wallet_address: str, *, tx: Runner | None = None) -> WalletOwner:
        """Who the address belongs to. Raises NotFound."""
        owner = await (tx or self.postgres).fetch_one(
            QUERIES["wallet_owner"], into=WalletOwner, wallet_address=wallet_address
        )
        if owner is None:
            raise NotFound(
                f"blockchain.users: nobody has registered the wallet address {wallet_address}.",
                remedy="Check the address.",
                key=wallet_address,
            )
        return cast(WalletOwner, owner)

    async def change_reputation(self, tx: Runner, user_id: UUID, change: int) -> ChainUser:
        """Add to the score, or take from it, in one statement.

        Raises NotFound, and StateConflict when the score would leave its range.
        """
        score = ChainUser.reputation_score + change
        changed = await tx.fetch_one(
            update(ChainUser)
            .where(ChainUser.user_id == user_id, score.between(0, REPUTATION_SCORE_MAX))
            .values(reputation_score=score)
            .returning(ChainUser)
        )
        if changed is None:
            now = await self.get(user_id, tx=tx)
            raise StateConflict(
                f"blockchain.users: the reputation of {user_id} is {now.reputation_score} and cannot go {change:+}.",
                remedy=f"A score lies between 0 and {REPUTATION_SCORE_MAX}.",
                reputation_score=now.reputation_score,
            )
        return cast(ChainUser, changed)

    async def user_stats(self, user_id: UUID, *, tx: Runner | None = None) -> UserStats:
        """What one user has done. Raises NotFound."""
        stats = await (tx or self.postgres).fetch_one(QUERIES["user_stats"], into=UserStats, user_id=user_id)
        if stats is None:
            raise NotFound(f"users: there is no row with the key {user_id}.", remedy="Check the key.", key=str(user_id))
        return cast(UserStats, stats)

    # -- transactions ------------------------------------------------------------------------------------------------

    async def record_transaction(
        self,
        tx: Runner,
        *,
        tx_hash: str,
        from_address: str,
        to_address: str,
        amount: int,
        asset_id: UUID | None = None,
        block_number: int | None = None,
        status: TransactionStatus = TransactionStatus.PENDING,
        network: str = "solana",
    ) -> ChainTransaction:
        """What the chain reports. Raises AlreadyExists for a hash that is recorded, MissingReference, InvalidValue."""
        if not 0 <= amount <= AMOUNT_MAX:
            raise InvalidValue(
                f"{amount} is not an amount.",
                remedy="Pass a whole number from 0 with at most 38 digits.",
                field="amount",
            )
        return await self.transactions.create(
            tx,
            tx_hash=formats.checked_tx_hash(tx_hash),
            from_address=formats.checked_address(from_address, field="from_address"),
            to_address=formats.checked_address(to_address, field="to_address"),
            amount=amount,
            asset_id=asset_id,
            block_number=block_number,
            status=status,
            network=formats.checked("network", network, formats.NETWORK_PATTERN, "solana"),
        )

    async def transaction_by_hash(self, tx_hash: str, *, tx: Runner | None = None) -> ChainTransaction:
        """The transaction with this hash. Raises NotFound, InvalidValue."""
        wanted = formats.checked_tx_hash(tx_hash)
        found = await self.transactions.find_by(ChainTransaction.tx_hash == wanted, tx=tx)
        if found is None:
            raise _no_transaction(tx_hash)
        return found

    async def transaction_by_hash_json(self, tx_hash: str) -> Json[ChainTransaction]:
        """The transaction that `transaction_by_hash` gives, as JSON."""
        key = await self._transaction_id(formats.checked_tx_hash(tx_hash))
        if key is None:
            raise _no_transaction(tx_hash)
        return await self.transactions.get_json(key)

    @cached("transaction_id", tags=lambda wanted: (Tag(ChainTransaction, tx_hash=wanted),), ttl_seconds=300)
    async def _transaction_id(self, wanted: str) -> UUID | None:
        found = await self.transactions.find_by(ChainTransaction.tx_hash == wanted)
        return None if found is None else found.id

    async def settle_transaction(
        self, tx: Runner, tx_hash: str, *, status: TransactionStatus, block_number: int | None = None
    ) -> ChainTransaction:
        """A pending transaction was confirmed or has failed. Telling it again changes nothing.

        Raises NotFound, and StateConflict for a transaction that ended otherwise.
        """
        if status is TransactionStatus.PENDING:
            raise InvalidValue(
                "A transaction cannot be settled as pending.", remedy="Pass confirmed or failed.", field="status"
            )
        values: dict[str, Any] = {"status": status}
        if block_number is not None:
            values["block_number"] = block_number
        settled = await tx.fetch_one(
            update(ChainTransaction)
            .where(
                ChainTransaction.tx_hash == formats.checked_tx_hash(tx_hash),
                ChainTransaction.status == TransactionStatus.PENDING,
            )
            .values(**values)
            .returning(ChainTransaction)
        )
        if settled is not None:
            return cast(ChainTransaction, settled)
        known = await self.transaction_by_hash(tx_hash, tx=tx)
        if known.status is status and block_number in (None, known.block_number):
            return known
        raise StateConflict(
            f"blockchain.transactions: {known.tx_hash} is {known.status.value}, block {known.block_number}.",
            remedy="That is final. Record what happened since as a transaction of its own.",
            status=known.status.value,
        )

    # -- prices ------------------------------------------------------------------------------------------------------

    async def record_price(
        self,
        tx: Runner,
        *,
        symbol: str,
        price: Decimal,
        source: str,
        currency: str = "USD",
        observed_at: datetime | None = None,
    ) -> PriceFeed:
        """What an oracle reports, now or at `observed_at`. Raises AlreadyExists when that source has reported a price
        of that moment, InvalidValue.
        """
        if observed_at is not None and observed_at.tzinfo is None:
            raise InvalidValue("'observed_at' has no time zone.", remedy="Pass an aware datetime.", field="observed_at")
        return await self.prices.create(
            tx,
            symbol=formats.checked_symbol(symbol),
            price=formats.checked_price(price),
            currency=formats.checked("currency", currency, formats.CURRENCY_PATTERN, "USD"),
            source=formats.checked("source", source, formats.SOURCE_PATTERN, "pyth"),
            observed_at=observed_at or datetime.now(UTC),
        )

    async def latest_price(self, symbol: str, *, currency: str = "USD", tx: Runner | None = None) -> PriceFeed:
        """The newest price of a symbol, whatever its source; one that is dated ahead waits for its time.

        Raises NotFound.
        """
        newest = await self._known_price(symbol, currency, tx)
        return cast(PriceFeed, newest.price)

    async def latest_price_json(
        self, symbol: str, *, currency: str = "USD", tx: Runner | None = None
    ) -> Json[PriceFeed]:
        """The price that `latest_price` gives, as JSON."""
        return Json((await self._known_price(symbol, currency, tx)).json)

    async def _known_price(self, symbol: str, currency: str, tx: Runner | None) -> _Newest:
        known = await self._newest_price(symbol.upper(), currency, tx=tx)
        if known.upcoming is not None and known.upcoming <= datetime.now(UTC):  # its time has come since
            known = await self._read_newest_price(symbol.upper(), currency, tx)
        if known.price is None:
            raise NotFound(
                f"blockchain.price_feeds: there is no price of {symbol.upper()} in {currency}.",
                remedy="Check the symbol and the currency.",
                key=symbol.upper(),
            )
        return known

    @cached("price", tags=lambda symbol, currency: (Tag(PriceFeed, symbol=symbol),), ttl_seconds=30, timeless=False)
    async def _newest_price(self, symbol: str, currency: str, *, tx: Runner | None = None) -> _Newest:
        return await self._read_newest_price(symbol, currency, tx)

    async def _read_newest_price(self, symbol: str, currency: str, tx: Runner | None) -> _Newest:
        runner = tx or self.postgres
        feeds = (PriceFeed.symbol == symbol, PriceFeed.currency == currency)
        upcoming = await runner.fetch_value(
            select(func.min(PriceFeed.observed_at)).where(*feeds, PriceFeed.observed_at > func.clock_timestamp())
        )
        price = await runner.fetch_one(
            select(PriceFeed)
            .where(*feeds, PriceFeed.observed_at <= func.clock_timestamp())
            .order_by(PriceFeed.observed_at.desc(), PriceFeed.id.desc())
            .limit(1)
        )
        return _Newest(price, upcoming, b"" if price is None else written(price).body)

    async def price_history(
        self,
        symbol: str,
        *,
        currency: str = "USD",
        limit: int = 50,
        cursor: str | None = None,
        tx: Runner | None = None,
    ) -> Page[PriceFeed]:
        """The prices of a symbol, newest first."""
        return await self.prices.list(
            PriceFeed.symbol == symbol.upper(),
            PriceFeed.currency == currency,
            order=(PriceFeed.observed_at.desc(),),
            limit=limit,
            cursor=cursor,
            tx=tx,
        )


def _no_transaction(tx_hash: str) -> NotFound:
    return NotFound(
        f"blockchain.transactions: the hash {tx_hash} is not recorded.", remedy="Check the hash.", key=tx_hash
    )
