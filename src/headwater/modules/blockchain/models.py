"""The entities of the schema `blockchain`: users as the chain sees them, assets, transactions, prices; FODI and NFTs.

Wallets and FODI transactions settle in the ledger: `migrations/0003_tokens.sql` holds the triggers that do it, so that
an INSERT by anybody moves tokens exactly as a verb does.
"""

from __future__ import annotations

import enum
from datetime import datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

from sqlalchemy import CheckConstraint, Computed, ForeignKey, Index, Integer, UniqueConstraint, func, text
from sqlalchemy.dialects.postgresql import TSVECTOR
from sqlalchemy.orm import Mapped, mapped_column

from headwater.kernel.amounts import WholeNumber
from headwater.kernel.models import Keyed, Model, Timestamped, Versioned, native_enum
from headwater.kernel.tracking import Tracked

SCHEMA = "blockchain"
REPUTATION_SCORE_MAX = 1_000_000
FODI = "FODI"
"""The code of the token in the ledger."""
UNITS_PER_FODI = 1_000_000_000


class TransactionStatus(enum.Enum):
    """Where an on-chain transaction stands. Confirmed and failed are final."""

    PENDING = "pending"
    CONFIRMED = "confirmed"
    FAILED = "failed"


class TokenTransactionType(enum.Enum):
    """What a FODI transaction does. Mints come from the issuer, burns go back; a reward may come from either."""

    TRANSFER = "transfer"
    MINT = "mint"
    BURN = "burn"
    REWARD = "reward"


class ChainUser(Timestamped, Versioned, Model, schema=SCHEMA):
    """A user as the chain sees them: one wallet address, and the reputation they have earned."""

    __tablename__ = "users"
    __tracked__ = Tracked("full")
    __table_args__ = (
        UniqueConstraint(
            "wallet_address",
            name="users_wallet_address_key",
            info={"message": "blockchain.users: this wallet address belongs to someone already."},
        ),
        CheckConstraint("length(wallet_address) BETWEEN 1 AND 128", name="wallet_address"),
        CheckConstraint(
            f"reputation_score BETWEEN 0 AND {REPUTATION_SCORE_MAX}",
            name="reputation_score",
            info={"message": f"blockchain.users: a reputation score lies between 0 and {REPUTATION_SCORE_MAX}."},
        ),
    )

    user_id: Mapped[UUID] = mapped_column(
        ForeignKey("users.id", name="users_user_id_fkey", info={"message": "blockchain.users: there is no such user."}),
        primary_key=True,
    )
    wallet_address: Mapped[str]
    reputation_score: Mapped[int] = mapped_column(server_default="0")


class Asset(Keyed, Timestamped, Versioned, Model, schema=SCHEMA):
    """A tokenised robotics part: what it is, who issued it, what it can do.

    Text search is PostgreSQL's own (no extension). `search` holds the words of an asset, made by
    `blockchain.asset_text`; it is deferred, so that reading an asset does not carry them along. It is stored, and not
    only an expression of the index, because a plan that filters would make the words of every row again (110 ms
    against 14 ms among 4,000 assets).
    """

    __tablename__ = "assets"
    __tracked__ = Tracked("full", tags=("issuer_id",))
    __table_args__ = (
        UniqueConstraint(
            "symbol", name="assets_symbol_key", info={"message": "blockchain.assets: this symbol is already taken."}
        ),
        CheckConstraint("length(asset_type) BETWEEN 1 AND 64", name="asset_type"),
        CheckConstraint("length(name) BETWEEN 1 AND 200", name="name"),
        CheckConstraint("length(symbol) BETWEEN 1 AND 32", name="symbol"),
        CheckConstraint("jsonb_typeof(specifications) = 'object'", name="specifications"),
        CheckConstraint("jsonb_typeof(metadata) = 'object'", name="metadata"),
        Index("assets_asset_type_name_idx", "asset_type", "name", "id"),
        Index("assets_name_idx", "name", "id"),
        Index("assets_issuer_id_idx", "issuer_id"),
        Index("assets_search_idx", "search", postgresql_using="gin"),
    )

    asset_type: Mapped[str]
    issuer_id: Mapped[UUID] = mapped_column(
        ForeignKey(
            "blockchain.users.user_id",
            name="assets_issuer_id_fkey",
            info={"message": "blockchain.assets: the issuer has no wallet address registered."},
        )
    )
    name: Mapped[str]
    symbol: Mapped[str]
    description: Mapped[str] = mapped_column(server_default="")
    specifications: Mapped[dict[str, Any]] = mapped_column(server_default="{}")
    metadata_: Mapped[dict[str, Any]] = mapped_column("metadata", server_default="{}")
    search: Mapped[str] = mapped_column(
        TSVECTOR(),
        Computed("blockchain.asset_text(symbol, name, asset_type, description, specifications)", persisted=True),
        nullable=False,
        deferred=True,
        info={"private": True},
        sort_order=93,
    )


class ChainTransaction(Keyed, Timestamped, Versioned, Model, schema=SCHEMA):
    """An on-chain transaction, known by its hash. `amount` is in the asset's smallest unit."""

    __tablename__ = "transactions"
    __tracked__ = Tracked("full", tags=("asset_id", "tx_hash"))
    __table_args__ = (
        UniqueConstraint(
            "tx_hash",
            name="transactions_tx_hash_key",
            info={"message": "blockchain.transactions: this transaction hash is recorded already."},
        ),
        CheckConstraint("length(tx_hash) BETWEEN 1 AND 128", name="tx_hash"),
        CheckConstraint("amount >= 0", name="amount"),
        CheckConstraint("block_number >= 0", name="block_number"),
        Index("transactions_from_address_idx", "from_address", text("created_at DESC")),
        Index("transactions_to_address_idx", "to_address", text("created_at DESC")),
        Index("transactions_asset_id_idx", "asset_id"),
    )

    tx_hash: Mapped[str]
    from_address: Mapped[str]
    to_address: Mapped[str]
    asset_id: Mapped[UUID | None] = mapped_column(ForeignKey("blockchain.assets.id", name="transactions_asset_id_fkey"))
    amount: Mapped[int] = mapped_column(WholeNumber())
    block_number: Mapped[int | None]
    status: Mapped[TransactionStatus] = mapped_column(
        native_enum(TransactionStatus, name="transaction_status", schema=SCHEMA),
        server_default="pending",
    )
    network: Mapped[str] = mapped_column(server_default="solana")


class PriceFeed(Keyed, Model, schema=SCHEMA):
    """One price an oracle reported for a symbol. Prices are added, never changed; the newest counts."""

    __tablename__ = "price_feeds"
    __tracked__ = Tracked("full", tags=("symbol",))
    __table_args__ = (
        UniqueConstraint(
            "symbol",
            "currency",
            "source",
            "observed_at",
            name="price_feeds_symbol_currency_source_observed_at_key",
            info={"message": "blockchain.price_feeds: this source has reported a price for that moment already."},
        ),
        CheckConstraint("price > 0 AND price < 1e20", name="price"),
        Index("price_feeds_symbol_observed_at_idx", "symbol", text("observed_at DESC"), text("id DESC")),
    )

    symbol: Mapped[str]
    price: Mapped[Decimal]
    currency: Mapped[str] = mapped_column(server_default="USD")
    source: Mapped[str]
    observed_at: Mapped[datetime]
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())


class Wallet(Keyed, Model, schema=SCHEMA):
    """A wallet whose keypair is kept here. `balance` is what the ledger says, written in the same transaction.

    The private key is sealed by the keyring for this public key, and deferred: a wallet that is read does not carry it.
    A wallet without one is watched only. `last_sync` is when the ledger last moved the balance.
    """

    __tablename__ = "wallets"
    __tracked__ = Tracked("full", tags=("user_id", "public_key"))
    __table_args__ = (
        UniqueConstraint(
            "public_key",
            name="wallets_public_key_key",
            info={"message": "blockchain.wallets: there is a wallet with this public key already."},
        ),
        CheckConstraint("length(public_key) BETWEEN 1 AND 128", name="public_key"),
        CheckConstraint("length(wallet_type) BETWEEN 1 AND 32", name="wallet_type"),
        CheckConstraint(
            "balance >= 0", name="balance", info={"message": "blockchain.wallets: a balance is never below zero."}
        ),
        Index("wallets_user_id_idx", "user_id"),
    )

    user_id: Mapped[UUID] = mapped_column(
        ForeignKey("users.id", name="wallets_user_id_fkey", info={"message": "blockchain.wallets: no such user."})
    )
    public_key: Mapped[str]
    encrypted_private_key: Mapped[str | None] = mapped_column(
        deferred=True, info={"private": True, "sealed_for": "public_key"}
    )
    wallet_type: Mapped[str] = mapped_column(server_default="solana")
    balance: Mapped[int] = mapped_column(server_default="0")
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    last_sync: Mapped[datetime | None]


class TokenTransaction(Keyed, Model, schema=SCHEMA):
    """A movement of FODI between wallets, in whole units. Pending it holds the sender's tokens, confirmed it has moved
    them, failed it has released them. Only its status ever changes, once.

    `transfer_id` is its transfer in the ledger; the wallets are found by their addresses when the row is made.
    """

    __tablename__ = "fodi_transactions"
    __tracked__ = Tracked("full", tags=("tx_id", "from_address", "to_address"), writes_more=True)
    __table_args__ = (
        UniqueConstraint(
            "tx_id",
            name="fodi_transactions_tx_id_key",
            info={"message": "blockchain.fodi_transactions: this tx_id is taken by another transaction."},
        ),
        UniqueConstraint("transfer_id", name="fodi_transactions_transfer_id_key"),
        CheckConstraint("length(tx_id) BETWEEN 1 AND 255", name="tx_id"),
        CheckConstraint(
            "amount > 0", name="amount", info={"message": "blockchain.fodi_transactions: an amount is above zero."}
        ),
        CheckConstraint("(status = 'confirmed') = (confirmed_at IS NOT NULL)", name="confirmed_at"),
        CheckConstraint(
            "from_wallet_id <> to_wallet_id",
            name="wallets",
            info={"message": "blockchain.fodi_transactions: both addresses are the same wallet."},
        ),
        Index("fodi_transactions_from_wallet_id_idx", "from_wallet_id", text("created_at DESC")),
        Index("fodi_transactions_to_wallet_id_idx", "to_wallet_id", text("created_at DESC")),
    )

    tx_id: Mapped[str]
    from_address: Mapped[str | None]
    to_address: Mapped[str | None]
    amount: Mapped[int]
    tx_type: Mapped[TokenTransactionType] = mapped_column(
        native_enum(TokenTransactionType, name="fodi_transaction_type", schema=SCHEMA)
    )
    status: Mapped[TransactionStatus] = mapped_column(
        native_enum(TransactionStatus, name="transaction_status", schema=SCHEMA),
        server_default="pending",
    )
    blockchain_tx: Mapped[str | None]
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    confirmed_at: Mapped[datetime | None]
    from_wallet_id: Mapped[UUID | None] = mapped_column(
        ForeignKey(
            "blockchain.wallets.id",
            name="fodi_transactions_from_wallet_id_fkey",
            info={"message": "blockchain.fodi_transactions: no wallet has the address that it comes from."},
        )
    )
    to_wallet_id: Mapped[UUID | None] = mapped_column(
        ForeignKey(
            "blockchain.wallets.id",
            name="fodi_transactions_to_wallet_id_fkey",
            info={"message": "blockchain.fodi_transactions: no wallet has the address that it goes to."},
        )
    )
    transfer_id: Mapped[UUID] = mapped_column(server_default=func.uuidv7())


class Nft(Keyed, Timestamped, Versioned, Model, schema=SCHEMA):
    """One non-fungible token: what it is, where its description lies, who owns it now. Earlier owners stand in the
    change stream."""

    __tablename__ = "nft_metadata"
    __tracked__ = Tracked("full", tags=("mint_address", "owner_address"))
    __table_args__ = (
        UniqueConstraint(
            "mint_address",
            name="nft_metadata_mint_address_key",
            info={"message": "blockchain.nft_metadata: there is an NFT with this mint address already."},
        ),
        CheckConstraint("length(mint_address) BETWEEN 1 AND 128", name="mint_address"),
        CheckConstraint("length(name) BETWEEN 1 AND 200", name="name"),
        CheckConstraint("length(symbol) BETWEEN 1 AND 32", name="symbol"),
        CheckConstraint("length(owner_address) BETWEEN 1 AND 128", name="owner_address"),
        CheckConstraint("jsonb_typeof(metadata) = 'object'", name="metadata"),
        Index("nft_metadata_owner_address_idx", "owner_address", text("created_at DESC")),
    )

    mint_address: Mapped[str]
    name: Mapped[str]
    symbol: Mapped[str | None]
    uri: Mapped[str | None]
    owner_address: Mapped[str]
    metadata_: Mapped[dict[str, Any]] = mapped_column("metadata", server_default="{}")


class Reward(Keyed, Model, schema=SCHEMA):
    """FODI a user was rewarded with, and what for. `order_id` is an order of commerce: the foreign key comes with that
    module."""

    __tablename__ = "reward_history"
    __tracked__ = Tracked("full", tags=("user_id",))
    __table_args__ = (
        CheckConstraint(
            "amount > 0", name="amount", info={"message": "blockchain.reward_history: an amount is above zero."}
        ),
        Index("reward_history_user_id_idx", "user_id", text("created_at DESC")),
        Index("reward_history_order_id_idx", "order_id"),
        UniqueConstraint(
            "tx_id",
            name="reward_history_tx_id_key",
            info={"message": "blockchain.reward_history: this transaction has paid another reward."},
        ),
    )

    user_id: Mapped[UUID] = mapped_column(
        ForeignKey(
            "users.id", name="reward_history_user_id_fkey", info={"message": "blockchain.reward_history: no such user."}
        )
    )
    order_id: Mapped[int | None] = mapped_column(Integer())
    amount: Mapped[int]
    reason: Mapped[str | None]
    tx_id: Mapped[str | None] = mapped_column(
        ForeignKey(
            "blockchain.fodi_transactions.tx_id",
            name="reward_history_tx_id_fkey",
            info={"message": "blockchain.reward_history: there is no such transaction."},
        )
    )
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
