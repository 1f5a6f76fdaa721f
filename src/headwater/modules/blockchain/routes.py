"""What blockchain serves: assets and their search, wallets and reputation, transactions by hash, prices."""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal
from typing import Annotated, Any, Literal
from uuid import UUID

import msgspec
from msgspec import UNSET, Meta, UnsetType

from headwater.kernel.amounts import Amount
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
from headwater.modules.blockchain import formats
from headwater.modules.blockchain.models import (
    REPUTATION_SCORE_MAX,
    Asset,
    ChainTransaction,
    ChainUser,
    PriceFeed,
    TransactionStatus,
)
from headwater.modules.blockchain.repository import (
    AssetChanges,
    AssetRepository,
    BlockchainRepository,
    UserStats,
    WalletOwner,
)
from headwater.modules.blockchain.token_routes import TOKEN_ROUTES

Wallet = Annotated[str, Meta(pattern=formats.WALLET_PATTERN, description="A Solana address in base58.")]
Address = Annotated[str, Meta(pattern=formats.ADDRESS_PATTERN, description="Base58, or 0x and 40 hexadecimal digits.")]
TxHash = Annotated[str, Meta(pattern=formats.TX_HASH_PATTERN, description="Base58, or 0x and 64 hexadecimal digits.")]
Symbol = Annotated[str, Meta(pattern=formats.SYMBOL_PATTERN)]
SymbolInPath = Annotated[str, Meta(pattern=formats.SYMBOL_ANY_CASE_PATTERN)]
AssetType = Annotated[str, Meta(pattern=formats.ASSET_TYPE_PATTERN, description="Lower case: servo_motor, lidar.")]
Name = Annotated[str, Meta(pattern=formats.NAME_PATTERN, min_length=1, max_length=formats.NAME_LENGTH_MAX)]
Description = Annotated[str, Meta(max_length=formats.DESCRIPTION_LENGTH_MAX)]
Network = Annotated[str, Meta(pattern=formats.NETWORK_PATTERN)]
Currency = Annotated[str, Meta(pattern=formats.CURRENCY_PATTERN)]
Source = Annotated[str, Meta(pattern=formats.SOURCE_PATTERN, description="The oracle: pyth, chainlink.")]
Price = Annotated[str, Meta(pattern=formats.PRICE_PATTERN, description="A decimal above zero, written as text.")]
BlockNumber = Annotated[int, Meta(ge=0, le=2**63 - 1)]


class NewAsset(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """A part to tokenise. The issuer must have registered a wallet address."""

    issuer_id: UUID
    asset_type: AssetType
    name: Name
    symbol: Symbol
    description: Description = ""
    specifications: dict[str, Any] = {}
    metadata: dict[str, Any] = {}


class AssetPatch(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """What changes; a field that is absent stays as it is. Objects are replaced as a whole."""

    asset_type: AssetType | UnsetType = UNSET
    name: Name | UnsetType = UNSET
    description: Description | UnsetType = UNSET
    specifications: dict[str, Any] | UnsetType = UNSET
    metadata: dict[str, Any] | UnsetType = UNSET


class AssetSearch(PageQuery):
    """Words and a type; both may be absent."""

    q: Annotated[str, Meta(max_length=500, description='Words; "quoted phrases", or, -without.')] | None = None
    asset_type: AssetType | None = None


class NewWallet(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """The wallet address of a user."""

    user_id: UUID
    wallet_address: Wallet


class WalletChange(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """Another wallet address."""

    wallet_address: Wallet


class ReputationChange(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """What to add to the score; negative takes away."""

    change: Annotated[int, Meta(ge=-REPUTATION_SCORE_MAX, le=REPUTATION_SCORE_MAX)]


class NewTransaction(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """What the chain reports. The amount is in the asset's smallest unit."""

    tx_hash: TxHash
    from_address: Address
    to_address: Address
    amount: Amount
    asset_id: UUID | None = None
    block_number: BlockNumber | None = None
    status: TransactionStatus = TransactionStatus.PENDING
    network: Network = "solana"


class Settlement(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """How a pending transaction ended."""

    status: Literal["confirmed", "failed"]
    block_number: BlockNumber | None = None


class NewPrice(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """What an oracle reports."""

    symbol: Symbol
    price: Price
    source: Source
    currency: Currency = "USD"
    observed_at: datetime | None = None


class PriceQuery(msgspec.Struct, kw_only=True):
    """In which currency."""

    currency: Currency = "USD"


class PriceHistoryQuery(PageQuery):
    """In which currency, and where in the listing."""

    currency: Currency = "USD"


async def get_wallet_owner(wallet_address: Wallet, chain: BlockchainRepository) -> WalletOwner:
    return await chain.wallet_owner(wallet_address)


async def get_user_stats(user_id: UUID, chain: BlockchainRepository) -> UserStats:
    return await chain.user_stats(user_id)


async def get_chain_user(user_id: UUID, chain: BlockchainRepository) -> ChainUser:
    return await chain.get(user_id)


async def register_wallet(body: NewWallet, tx: Transaction, chain: BlockchainRepository) -> ChainUser:
    return await chain.register_wallet(tx, user_id=body.user_id, wallet_address=body.wallet_address)


async def change_wallet(
    user_id: UUID, body: WalletChange, tx: Transaction, chain: BlockchainRepository, if_match: int | None
) -> ChainUser:
    return (await chain.change_wallet(tx, user_id, body.wallet_address, version=if_match)).new


async def change_reputation(
    user_id: UUID, body: ReputationChange, tx: Transaction, chain: BlockchainRepository
) -> ChainUser:
    return await chain.change_reputation(tx, user_id, body.change)


async def get_asset(asset_id: UUID, assets: AssetRepository) -> Json[Asset]:
    return await assets.get_json(asset_id)


async def search_assets(query: AssetSearch, assets: AssetRepository) -> JsonPage[Asset]:
    return await assets.search_json(query.q, asset_type=query.asset_type, limit=query.limit, cursor=query.cursor)


async def create_asset(body: NewAsset, tx: Transaction, assets: AssetRepository) -> Asset:
    return await assets.create_asset(
        tx,
        issuer_id=body.issuer_id,
        asset_type=body.asset_type,
        name=body.name,
        symbol=body.symbol,
        description=body.description,
        specifications=body.specifications,
        metadata_=body.metadata,
    )


async def update_asset(
    asset_id: UUID, body: AssetPatch, tx: Transaction, assets: AssetRepository, if_match: int | None
) -> Asset:
    changes: AssetChanges = {}
    if body.asset_type is not UNSET:
        changes["asset_type"] = body.asset_type
    if body.name is not UNSET:
        changes["name"] = body.name
    if body.description is not UNSET:
        changes["description"] = body.description
    if body.specifications is not UNSET:
        changes["specifications"] = body.specifications
    if body.metadata is not UNSET:
        changes["metadata_"] = body.metadata
    if not changes:  # an empty merge patch is a valid one
        unchanged = await assets.lock(tx, asset_id)
        if if_match not in (None, unchanged.version):
            raise VersionConflict(
                f"blockchain.assets: the row {asset_id} is at version {unchanged.version}, not {if_match}.",
                current=unchanged,
            )
        return unchanged
    return (await assets.update_asset(tx, asset_id, version=if_match, **changes)).new


async def get_transaction(tx_hash: TxHash, chain: BlockchainRepository) -> Json[ChainTransaction]:
    return await chain.transaction_by_hash_json(tx_hash)


async def record_transaction(body: NewTransaction, tx: Transaction, chain: BlockchainRepository) -> ChainTransaction:
    return await chain.record_transaction(
        tx,
        tx_hash=body.tx_hash,
        from_address=body.from_address,
        to_address=body.to_address,
        amount=body.amount,
        asset_id=body.asset_id,
        block_number=body.block_number,
        status=body.status,
        network=body.network,
    )


async def settle_transaction(
    tx_hash: TxHash, body: Settlement, tx: Transaction, chain: BlockchainRepository
) -> ChainTransaction:
    return await chain.settle_transaction(
        tx, tx_hash, status=TransactionStatus(body.status), block_number=body.block_number
    )


async def get_price(asset_symbol: SymbolInPath, query: PriceQuery, chain: BlockchainRepository) -> Json[PriceFeed]:
    return await chain.latest_price_json(asset_symbol, currency=query.currency)


async def list_prices(
    asset_symbol: SymbolInPath, query: PriceHistoryQuery, chain: BlockchainRepository
) -> Page[PriceFeed]:
    return await chain.price_history(asset_symbol, currency=query.currency, limit=query.limit, cursor=query.cursor)


async def record_price(body: NewPrice, tx: Transaction, chain: BlockchainRepository) -> PriceFeed:
    return await chain.record_price(
        tx,
        symbol=body.symbol,
        price=Decimal(body.price),
        source=body.source,
        currency=body.currency,
        observed_at=body.observed_at,
    )


_USER_ID = "5eeda0bb-1738-8000-8000-000000000001"
_USER_ID_WITHOUT_WALLET = "5eeda0bb-1738-8000-8000-000000000006"
_WALLET = "HLtUosv6WvWnsr3eqgNbcCLunMkjXAzGkFYazZR47mwS"
_TX_HASH = "2cw5oSAy5fXqLhgrf9RhHY64BR1R5S7hcFX5cazbwq1XzDHJuoYjyjTxuLdTjWUrio6MVC88KQQWRUYHRyyZW1uM"
_WALLET_TO_REGISTER = "5JWch9q3ENfHGwZqpwXdWsxxQurZrgJr2C4di5AtUEzP"
_PENDING_TX_HASH = "5mGgzsX3trE2e6tq8gXdbSBxnsUX7zC1FYR9Ziwy1naE1HN4EWjuZCdqC26XyCPGmv3AHMptGFTtjm3btmfr1PSL"
_TX_HASH_TO_RECORD = "4GbEdvMhvH7wdJ6U5Lqw7gse3Bpv52rP639dobrP6cNEgS2gJPuAimxbErhy3ZjPW3jagLg6K2bkqVxidnEuQbCZ"
_STAMPS = {"created_at": "2026-01-01T00:00:00Z", "updated_at": "2026-01-01T00:00:00Z", "version": 1}
_ASSET = {
    "id": "5eed4791-421a-8000-8000-000000000002",
    "asset_type": "harmonic_drive",
    "issuer_id": _USER_ID,
    "name": "Strain wave gear unit CSG-20-100",
    "symbol": "CSG-20-100",
    "description": "Zero-backlash gear unit with a cross roller bearing.",
    "specifications": {"ratio": 100, "rated_torque_nm": 52, "peak_torque_nm": 107, "weight_kg": 0.98},
    "metadata": {"datasheet": "https://parts.example.org/csg-20-100.pdf"},
    **_STAMPS,
}
_NEW_ASSET = {name: value for name, value in _ASSET.items() if name not in ("id", *_STAMPS)} | {
    "name": "Strain wave gear unit CSG-17-80",
    "symbol": "CSG-17-80",
}
_CHAIN_USER = {"user_id": _USER_ID, "wallet_address": _WALLET, "reputation_score": 120, **_STAMPS}
_TRANSACTION = {
    "id": "5eed0925-6c4e-8000-8000-000000000007",
    "tx_hash": _TX_HASH,
    "from_address": _WALLET,
    "to_address": "BZNb5jPFLvv3XiwDu1YsBYmKxUV9TunXC79EV6VogKHo",
    "asset_id": _ASSET["id"],
    "amount": 25,
    "block_number": 311_204_775,
    "status": "confirmed",
    "network": "solana",
    **_STAMPS,
}
_NEW_TRANSACTION = {name: value for name, value in _TRANSACTION.items() if name not in ("id", *_STAMPS)} | {
    "tx_hash": _TX_HASH_TO_RECORD
}
_PRICE = {
    "id": "5eedbaf2-a5a6-8000-8000-0000001e8480",
    "symbol": "CSG-20-100",
    "price": "1184.50",
    "currency": "USD",
    "source": "pyth",
    "observed_at": "2026-01-01T00:00:00Z",
    "created_at": "2026-01-01T00:00:00Z",
}
_NEW_PRICE = {name: value for name, value in _PRICE.items() if name not in ("id", "created_at")} | {
    "observed_at": "2026-01-02T00:00:00Z"
}

ROUTES: tuple[Route, ...] = (
    Route(
        method="GET",
        path="/api/users/wallet/{wallet_address}",
        handler=get_wallet_owner,
        summary="Find the user of a wallet address",
        description="Shows what is public about them; the email is not.",
        raises=(NotFound,),
        path_examples={"wallet_address": _WALLET},
        answer_example={
            "user_id": _USER_ID,
            "wallet_address": _WALLET,
            "reputation_score": 120,
            "name": "Ada Lindqvist",
            "is_active": True,
            "kyc_status": "verified",
            "created_at": "2026-01-01T00:00:00Z",
        },
        tag="users",
    ),
    Route(
        method="GET",
        path="/api/users/{user_id}/stats",
        handler=get_user_stats,
        summary="What a user has done on the chain",
        raises=(NotFound,),
        path_examples={"user_id": _USER_ID},
        answer_example={
            "user_id": _USER_ID,
            "is_active": True,
            "kyc_status": "verified",
            "member_since": "2026-01-01T00:00:00Z",
            "wallet_address": _WALLET,
            "reputation_score": 120,
            "assets_issued": 4,
            "transactions_sent": 17,
            "transactions_received": 9,
        },
        tag="users",
    ),
    Route(
        method="POST",
        path="/api/blockchain/users",
        handler=register_wallet,
        summary="Register a user's wallet address",
        status=201,
        scope="blockchain:user:write",
        raises=(AlreadyExists, MissingReference, InvalidValue),
        body_example={"user_id": _USER_ID_WITHOUT_WALLET, "wallet_address": _WALLET_TO_REGISTER},
        answer_example=_CHAIN_USER
        | {"user_id": _USER_ID_WITHOUT_WALLET, "wallet_address": _WALLET_TO_REGISTER, "reputation_score": 0},
        tag="blockchain",
        location="/api/blockchain/users/{user_id}",
    ),
    Route(
        method="GET",
        path="/api/blockchain/users/{user_id}",
        handler=get_chain_user,
        summary="Read a user's wallet address and reputation",
        raises=(NotFound,),
        path_examples={"user_id": _USER_ID},
        answer_example=_CHAIN_USER,
        tag="blockchain",
    ),
    Route(
        method="PATCH",
        path="/api/blockchain/users/{user_id}",
        handler=change_wallet,
        summary="Move a user to another wallet address",
        scope="blockchain:user:write",
        raises=(NotFound, VersionConflict, AlreadyExists, InvalidValue),
        path_examples={"user_id": _USER_ID},
        body_example={"wallet_address": _WALLET},
        answer_example=_CHAIN_USER | {"version": 2},
        tag="blockchain",
    ),
    Route(
        method="POST",
        path="/api/blockchain/users/{user_id}/reputation",
        handler=change_reputation,
        summary="Add to a user's reputation, or take from it",
        scope="blockchain:reputation:write",
        raises=(NotFound, StateConflict, InvalidValue),
        path_examples={"user_id": _USER_ID},
        body_example={"change": 10},
        answer_example=_CHAIN_USER | {"reputation_score": 130, "version": 2},
        tag="blockchain",
    ),
    Route(
        method="GET",
        path="/api/assets/search",
        handler=search_assets,
        summary="Search assets by words and type",
        description="All words must occur in the symbol, name, type, description or specifications. "
        "Inflected English words are found, and the last word may be cut off. Sorted by name.",
        raises=(InvalidValue, InvalidCursor),
        query_example={"q": "harmonic", "asset_type": "harmonic_drive", "limit": 20},
        answer_example={"items": [_ASSET], "next": None},
        tag="assets",
    ),
    Route(
        method="GET",
        path="/api/assets/{asset_id}",
        handler=get_asset,
        summary="Read an asset",
        raises=(NotFound,),
        path_examples={"asset_id": str(_ASSET["id"])},
        answer_example=_ASSET,
        tag="assets",
    ),
    Route(
        method="POST",
        path="/api/assets",
        handler=create_asset,
        summary="Issue an asset",
        status=201,
        scope="blockchain:asset:write",
        raises=(AlreadyExists, MissingReference, InvalidValue),
        body_example=_NEW_ASSET,
        answer_example=_ASSET,
        tag="assets",
    ),
    Route(
        method="PATCH",
        path="/api/assets/{asset_id}",
        handler=update_asset,
        summary="Change an asset",
        description="Symbol and issuer stay. If-Match makes the change conditional on the version that was read.",
        scope="blockchain:asset:write",
        raises=(NotFound, VersionConflict, InvalidValue),
        path_examples={"asset_id": str(_ASSET["id"])},
        body_example={"description": "Zero-backlash gear unit with a cross roller bearing, IP65."},
        answer_example=_ASSET | {"version": 2},
        tag="assets",
    ),
    Route(
        method="GET",
        path="/api/blockchain/transactions/{tx_hash}",
        handler=get_transaction,
        summary="Read a transaction by its hash",
        raises=(NotFound,),
        path_examples={"tx_hash": _TX_HASH},
        answer_example=_TRANSACTION,
        tag="blockchain",
    ),
    Route(
        method="POST",
        path="/api/blockchain/transactions",
        handler=record_transaction,
        summary="Record a transaction of the chain",
        status=201,
        scope="blockchain:transaction:write",
        raises=(AlreadyExists, MissingReference, InvalidValue),
        body_example=_NEW_TRANSACTION,
        answer_example=_TRANSACTION,
        tag="blockchain",
        location="/api/blockchain/transactions/{tx_hash}",
    ),
    Route(
        method="PATCH",
        path="/api/blockchain/transactions/{tx_hash}",
        handler=settle_transaction,
        summary="Confirm a pending transaction, or mark it as failed",
        description="Saying the same again changes nothing; saying otherwise is refused.",
        scope="blockchain:transaction:write",
        raises=(NotFound, StateConflict, InvalidValue),
        path_examples={"tx_hash": _PENDING_TX_HASH},
        body_example={"status": "confirmed", "block_number": 311_204_775},
        answer_example=_TRANSACTION | {"tx_hash": _PENDING_TX_HASH, "version": 2},
        tag="blockchain",
    ),
    Route(
        method="GET",
        path="/api/blockchain/prices/{asset_symbol}",
        handler=get_price,
        summary="The newest price of a symbol",
        raises=(NotFound, InvalidValue),
        path_examples={"asset_symbol": "CSG-20-100"},
        query_example={"currency": "USD"},
        answer_example=_PRICE,
        tag="blockchain",
    ),
    Route(
        method="GET",
        path="/api/blockchain/prices/{asset_symbol}/history",
        handler=list_prices,
        summary="The prices of a symbol, newest first",
        raises=(InvalidValue, InvalidCursor),
        path_examples={"asset_symbol": "CSG-20-100"},
        query_example={"currency": "USD", "limit": 100},
        answer_example={"items": [_PRICE], "next": None},
        tag="blockchain",
    ),
    Route(
        method="POST",
        path="/api/blockchain/prices",
        handler=record_price,
        summary="Record a price an oracle reports",
        status=201,
        scope="blockchain:price:write",
        raises=(AlreadyExists, InvalidValue),
        body_example=_NEW_PRICE,
        answer_example=_PRICE,
        tag="blockchain",
        location="/api/blockchain/prices/{symbol}",
    ),
    *TOKEN_ROUTES,
)
