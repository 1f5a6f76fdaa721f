"""What blockchain serves of tokens: wallets and their balances, FODI transactions, rewards, the supply, NFTs."""

from __future__ import annotations

from typing import Annotated, Any
from uuid import UUID

import msgspec
from msgspec import Meta

from headwater.kernel.amounts import PositiveAmount
from headwater.kernel.errors import (
    AlreadyExists,
    InvalidCursor,
    InvalidValue,
    KeyMissing,
    MissingReference,
    NotFound,
    StateConflict,
)
from headwater.kernel.pages import Page
from headwater.kernel.routes import PageQuery, Route
from headwater.kernel.transaction import Transaction
from headwater.modules.blockchain import formats
from headwater.modules.blockchain.models import Nft, Reward, TokenTransaction, TokenTransactionType, Wallet
from headwater.modules.blockchain.nfts import URI_PATTERN, NftRepository
from headwater.modules.blockchain.tokens import REASON_LENGTH_MAX, TokenRepository
from headwater.modules.blockchain.wallets import WalletBalance, WalletRepository

TX_ID_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9:._~+=@,-]{0,254}$"
"""Stricter than the table, since over HTTP a tx_id stands in a path."""

PublicKey = Annotated[str, Meta(pattern=formats.WALLET_PATTERN, description="A Solana address in base58.")]
MintAddress = Annotated[str, Meta(pattern=formats.ADDRESS_PATTERN, description="Base58, or 0x and 40 hex digits.")]
TxId = Annotated[str, Meta(pattern=TX_ID_PATTERN, description="Chosen by the client, once.")]
Signature = Annotated[str, Meta(pattern=formats.TX_HASH_PATTERN, description="The signature on the chain.")]
Reason = Annotated[str, Meta(min_length=1, max_length=REASON_LENGTH_MAX)]
WalletType = Annotated[str, Meta(pattern=formats.NETWORK_PATTERN)]
OrderId = Annotated[int, Meta(ge=1, le=2**31 - 1)]
Name = Annotated[str, Meta(pattern=formats.NAME_PATTERN, min_length=1, max_length=formats.NAME_LENGTH_MAX)]
Symbol = Annotated[str, Meta(pattern=formats.SYMBOL_PATTERN)]
Uri = Annotated[str, Meta(pattern=URI_PATTERN, max_length=2_100)]


class NewKeptWallet(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """A wallet to make for a user: its keypair is made and kept here."""

    user_id: UUID
    wallet_type: WalletType = "solana"


class NewTokenTransaction(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """A FODI transaction to come. A mint has no sender, a burn no receiver."""

    tx_id: TxId
    from_address: PublicKey | None = None
    to_address: PublicKey | None = None
    amount: PositiveAmount
    tx_type: TokenTransactionType = TokenTransactionType.TRANSFER


class TokenConfirmation(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """What the chain says of it, if it says anything."""

    blockchain_tx: Signature | None = None


class NewMint(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """Tokens to make."""

    tx_id: TxId
    to_address: PublicKey
    amount: PositiveAmount


class NewBurn(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """Tokens to destroy."""

    tx_id: TxId
    from_address: PublicKey
    amount: PositiveAmount


class NewReward(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """A reward for a user: once per order and reason, or per tx_id."""

    user_id: UUID
    amount: PositiveAmount
    reason: Reason
    order_id: OrderId | None = None
    tx_id: TxId | None = None
    from_address: PublicKey | None = None


class Supply(msgspec.Struct, frozen=True, kw_only=True):
    """How many units of FODI exist; 1 FODI = 1,000,000,000 units."""

    symbol: str
    scale: int
    total_supply: int


class NewNft(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """An NFT to mint; without a mint address it gets one."""

    name: Name
    owner_address: MintAddress
    symbol: Symbol | None = None
    uri: Uri | None = None
    mint_address: MintAddress | None = None
    metadata: dict[str, Any] = {}


class NftTransfer(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """From its owner to another."""

    from_address: MintAddress
    to_address: MintAddress


class NftQuery(PageQuery):
    """Whose, and where in the listing."""

    owner: MintAddress


async def create_wallet(body: NewKeptWallet, tx: Transaction, wallets: WalletRepository) -> Wallet:
    """A keypair for a user."""
    return await wallets.create_wallet(tx, user_id=body.user_id, wallet_type=body.wallet_type)


async def get_wallet(public_key: PublicKey, wallets: WalletRepository) -> Wallet:
    """By its address."""
    return await wallets.by_address(public_key)


async def get_balance(user_id: UUID, wallets: WalletRepository) -> WalletBalance:
    """Of all wallets of a user."""
    return await wallets.balance_of(user_id)


async def list_wallet_transactions(
    public_key: PublicKey, query: PageQuery, wallets: WalletRepository, tokens: TokenRepository
) -> Page[TokenTransaction]:
    """In and out."""
    wallet = await wallets.by_address(public_key)
    return await tokens.transactions_of(wallet.id, limit=query.limit, cursor=query.cursor)


async def create_transaction(body: NewTokenTransaction, tx: Transaction, tokens: TokenRepository) -> TokenTransaction:
    """Pending: it holds what it will send."""
    return await tokens.create_transaction(
        tx,
        tx_id=body.tx_id,
        from_address=body.from_address,
        to_address=body.to_address,
        amount=body.amount,
        tx_type=body.tx_type,
    )


async def get_token_transaction(tx_id: TxId, tokens: TokenRepository) -> TokenTransaction:
    """By its tx_id."""
    return await tokens.by_tx_id(tx_id)


async def confirm_transaction(
    tx_id: TxId, body: TokenConfirmation, tx: Transaction, tokens: TokenRepository
) -> TokenTransaction:
    """It happened."""
    return await tokens.confirm(tx, tx_id, blockchain_tx=body.blockchain_tx)


async def fail_transaction(
    tx_id: TxId, body: TokenConfirmation, tx: Transaction, tokens: TokenRepository
) -> TokenTransaction:
    """It did not."""
    return await tokens.fail(tx, tx_id, blockchain_tx=body.blockchain_tx)


async def mint(body: NewMint, tx: Transaction, tokens: TokenRepository) -> TokenTransaction:
    """New tokens."""
    return await tokens.mint(tx, tx_id=body.tx_id, to_address=body.to_address, amount=body.amount)


async def burn(body: NewBurn, tx: Transaction, tokens: TokenRepository) -> TokenTransaction:
    """Tokens that are no more."""
    return await tokens.burn(tx, tx_id=body.tx_id, from_address=body.from_address, amount=body.amount)


async def reward(body: NewReward, tx: Transaction, tokens: TokenRepository) -> Reward:
    """Into the user's oldest wallet."""
    return await tokens.reward(
        tx,
        user_id=body.user_id,
        amount=body.amount,
        reason=body.reason,
        order_id=body.order_id,
        tx_id=body.tx_id,
        from_address=body.from_address,
    )


async def list_rewards(user_id: UUID, query: PageQuery, tokens: TokenRepository) -> Page[Reward]:
    """Newest first."""
    return await tokens.rewards_of(user_id, limit=query.limit, cursor=query.cursor)


async def get_supply(tokens: TokenRepository) -> Supply:
    """What the issuer owes."""
    return Supply(symbol="FODI", scale=9, total_supply=await tokens.total_supply())


async def mint_nft(body: NewNft, tx: Transaction, nfts: NftRepository) -> Nft:
    """A new one."""
    return await nfts.mint_nft(
        tx,
        name=body.name,
        owner_address=body.owner_address,
        symbol=body.symbol,
        uri=body.uri,
        mint_address=body.mint_address,
        metadata_=body.metadata,
    )


async def get_nft(mint_address: MintAddress, nfts: NftRepository) -> Nft:
    """By its mint address."""
    return await nfts.by_mint_address(mint_address)


async def list_nfts(query: NftQuery, nfts: NftRepository) -> Page[Nft]:
    """Of one owner."""
    return await nfts.nfts_of(query.owner, limit=query.limit, cursor=query.cursor)


async def transfer_nft(mint_address: MintAddress, body: NftTransfer, tx: Transaction, nfts: NftRepository) -> Nft:
    """To another owner."""
    return await nfts.transfer_nft(tx, mint_address, from_address=body.from_address, to_address=body.to_address)


_USER_ID = "5eeda0bb-1738-8000-8000-000000000001"
_WALLET_ID, _OTHER_WALLET_ID = "5eed3076-c7e3-8000-8000-000000000001", "5eed3076-c7e3-8000-8000-000000000002"
_ADDRESS = "3wvTg9H8ydCaYBwd9ShCMgFjUDooLijFoLmVZqNBJNfB"
_OTHER_ADDRESS = "2qr2NCaA2WvbK5mCR3PfxVuHUYuqJTtf4Qjw8tyCgSxc"
_MINT_ADDRESS = "DT9C1LEejoyVN35c9pjqNLBMFPAwsC5DLqB46X1zC3mf"
_SIGNATURE = "2cw5oSAy5fXqLhgrf9RhHY64BR1R5S7hcFX5cazbwq1XzDHJuoYjyjTxuLdTjWUrio6MVC88KQQWRUYHRyyZW1uM"
_AT = "2026-01-01T00:00:00Z"
_WALLET = {
    "id": _WALLET_ID,
    "user_id": _USER_ID,
    "public_key": _ADDRESS,
    "wallet_type": "solana",
    "balance": 1_000_000_000_000,
    "created_at": _AT,
    "last_sync": _AT,
}
_TRANSACTION = {
    "id": "5eedeb81-5a61-8000-8000-00000000004c",
    "tx_id": "seed-transfer-25",
    "from_address": _ADDRESS,
    "to_address": _OTHER_ADDRESS,
    "amount": 2_500_000_000,
    "tx_type": "transfer",
    "status": "confirmed",
    "blockchain_tx": None,
    "created_at": _AT,
    "confirmed_at": _AT,
    "from_wallet_id": _WALLET_ID,
    "to_wallet_id": _OTHER_WALLET_ID,
    "transfer_id": "019b76da-a800-7000-8000-000000000001",
}
_PENDING = _TRANSACTION | {"tx_id": "order-1042", "status": "pending", "confirmed_at": None}
_MINTED = _TRANSACTION | {"tx_id": "mint-2026-01", "tx_type": "mint", "from_address": None, "from_wallet_id": None}
_BURNT = _TRANSACTION | {"tx_id": "burn-2026-01", "tx_type": "burn", "to_address": None, "to_wallet_id": None}
_REWARD = {
    "id": "5eed6c5a-0789-8000-8000-000000000001",
    "user_id": _USER_ID,
    "order_id": 1042,
    "amount": 250_000_000,
    "reason": "first order",
    "tx_id": "reward-1042",
    "created_at": _AT,
}
_NFT = {
    "id": "5eedb2fe-ca31-8000-8000-000000000001",
    "mint_address": _MINT_ADDRESS,
    "name": "Chef's table 1",
    "symbol": "CHEF",
    "uri": "https://nft.example.org/chef/1.json",
    "owner_address": _ADDRESS,
    "metadata": {"seats": 2},
    "created_at": _AT,
    "updated_at": _AT,
    "version": 1,
}
_BODY_OF_A_TRANSFER = {"tx_id": "order-1042", "from_address": _ADDRESS, "to_address": _OTHER_ADDRESS, "amount": 1_500}
_MOVES = (StateConflict, AlreadyExists, MissingReference, InvalidValue)
_TRANSACTIONS = "/api/blockchain/fodi/transactions"

TOKEN_ROUTES: tuple[Route, ...] = (
    Route(
        method="POST",
        path="/api/blockchain/wallets",
        handler=create_wallet,
        summary="Make a wallet for a user",
        description="Its Ed25519 keypair is made here; the private key is stored encrypted and never shown.",
        status=201,
        scope="blockchain:wallet:write",
        raises=(MissingReference, InvalidValue, KeyMissing),
        body_example={"user_id": _USER_ID},
        answer_example=_WALLET | {"balance": 0, "last_sync": None},
        tag="tokens",
        location="/api/blockchain/wallets/{public_key}",
    ),
    Route(
        method="GET",
        path="/api/blockchain/wallets/{public_key}",
        handler=get_wallet,
        summary="Read a wallet by its address",
        raises=(NotFound,),
        path_examples={"public_key": _ADDRESS},
        answer_example=_WALLET,
        tag="tokens",
    ),
    Route(
        method="GET",
        path="/api/blockchain/wallets/{public_key}/transactions",
        handler=list_wallet_transactions,
        summary="What a wallet has sent and received, newest first",
        raises=(NotFound, InvalidValue, InvalidCursor),
        path_examples={"public_key": _ADDRESS},
        query_example={"limit": 20},
        answer_example={"items": [_TRANSACTION], "next": None},
        tag="tokens",
    ),
    Route(
        method="GET",
        path="/api/blockchain/users/{user_id}/balance",
        handler=get_balance,
        summary="What the wallets of a user have together",
        description="In units of FODI (1 FODI = 1,000,000,000). Pending transactions hold a part of the balance.",
        raises=(NotFound,),
        path_examples={"user_id": _USER_ID},
        answer_example={
            "user_id": _USER_ID,
            "wallets": 1,
            "balance": 1_000_000_000_000,
            "held": 1_500_000_000,
            "available": 998_500_000_000,
        },
        tag="tokens",
    ),
    Route(
        method="POST",
        path=_TRANSACTIONS,
        handler=create_transaction,
        summary="Make a pending FODI transaction",
        description="What it will take from a wallet is held from now on. The same tx_id and body: the same answer.",
        status=201,
        scope="blockchain:token:write",
        raises=_MOVES,
        body_example=_BODY_OF_A_TRANSFER,
        answer_example=_PENDING,
        tag="tokens",
        location=f"{_TRANSACTIONS}/{{tx_id}}",
    ),
    Route(
        method="GET",
        path=f"{_TRANSACTIONS}/{{tx_id}}",
        handler=get_token_transaction,
        summary="Read a FODI transaction",
        raises=(NotFound,),
        path_examples={"tx_id": "seed-transfer-25"},
        answer_example=_TRANSACTION,
        tag="tokens",
    ),
    Route(
        method="POST",
        path=f"{_TRANSACTIONS}/{{tx_id}}/confirm",
        handler=confirm_transaction,
        summary="Confirm a pending FODI transaction: its tokens move",
        description="Saying the same again changes nothing; saying otherwise is refused.",
        scope="blockchain:token:write",
        raises=(NotFound, StateConflict, InvalidValue),
        path_examples={"tx_id": "seed-transfer-1"},
        body_example={"blockchain_tx": _SIGNATURE},
        answer_example=_TRANSACTION | {"tx_id": "seed-transfer-1", "blockchain_tx": _SIGNATURE},
        tag="tokens",
    ),
    Route(
        method="POST",
        path=f"{_TRANSACTIONS}/{{tx_id}}/fail",
        handler=fail_transaction,
        summary="Fail a pending FODI transaction: what it held is free again",
        description="Saying the same again changes nothing; saying otherwise is refused.",
        scope="blockchain:token:write",
        raises=(NotFound, StateConflict, InvalidValue),
        path_examples={"tx_id": "seed-transfer-2"},
        body_example={"blockchain_tx": _SIGNATURE},
        answer_example=_TRANSACTION | {"tx_id": "seed-transfer-2", "status": "failed", "confirmed_at": None},
        tag="tokens",
    ),
    Route(
        method="POST",
        path="/api/blockchain/fodi/mint",
        handler=mint,
        summary="Mint FODI into a wallet",
        status=201,
        scope="blockchain:supply:admin",
        raises=_MOVES,
        body_example={"tx_id": "mint-2026-01", "to_address": _ADDRESS, "amount": 1_000_000_000},
        answer_example=_MINTED,
        tag="tokens",
        location=f"{_TRANSACTIONS}/{{tx_id}}",
    ),
    Route(
        method="POST",
        path="/api/blockchain/fodi/burn",
        handler=burn,
        summary="Burn FODI of a wallet",
        status=201,
        scope="blockchain:supply:admin",
        raises=_MOVES,
        body_example={"tx_id": "burn-2026-01", "from_address": _ADDRESS, "amount": 1_000},
        answer_example=_BURNT,
        tag="tokens",
        location=f"{_TRANSACTIONS}/{{tx_id}}",
    ),
    Route(
        method="GET",
        path="/api/blockchain/fodi/supply",
        handler=get_supply,
        summary="How many units of FODI exist",
        answer_example={"symbol": "FODI", "scale": 9, "total_supply": 24_000_000_000_000},
        tag="tokens",
    ),
    Route(
        method="POST",
        path="/api/blockchain/fodi/rewards",
        handler=reward,
        summary="Reward a user",
        description="Into their oldest wallet, from the issuer or a wallet. Once per order and reason, or per tx_id.",
        status=201,
        scope="blockchain:supply:admin",
        raises=_MOVES,
        body_example={"user_id": _USER_ID, "amount": 250_000_000, "reason": "first order", "order_id": 1042},
        answer_example=_REWARD,
        tag="tokens",
        location=f"{_TRANSACTIONS}/{{tx_id}}",
    ),
    Route(
        method="GET",
        path="/api/blockchain/users/{user_id}/rewards",
        handler=list_rewards,
        summary="The rewards of a user, newest first",
        raises=(InvalidValue, InvalidCursor),
        path_examples={"user_id": _USER_ID},
        query_example={"limit": 20},
        answer_example={"items": [_REWARD], "next": None},
        tag="tokens",
    ),
    Route(
        method="POST",
        path="/api/blockchain/nfts",
        handler=mint_nft,
        summary="Mint an NFT",
        status=201,
        scope="blockchain:nft:write",
        raises=(AlreadyExists, InvalidValue),
        body_example={"name": "Chef's table 9", "symbol": "CHEF", "owner_address": _ADDRESS, "metadata": {"seats": 4}},
        answer_example=_NFT,
        tag="tokens",
        location="/api/blockchain/nfts/{mint_address}",
    ),
    Route(
        method="GET",
        path="/api/blockchain/nfts",
        handler=list_nfts,
        summary="The NFTs of an owner, newest first",
        raises=(InvalidValue, InvalidCursor),
        query_example={"owner": _ADDRESS, "limit": 20},
        answer_example={"items": [_NFT], "next": None},
        tag="tokens",
    ),
    Route(
        method="GET",
        path="/api/blockchain/nfts/{mint_address}",
        handler=get_nft,
        summary="Read an NFT by its mint address",
        raises=(NotFound,),
        path_examples={"mint_address": _MINT_ADDRESS},
        answer_example=_NFT,
        tag="tokens",
    ),
    Route(
        method="POST",
        path="/api/blockchain/nfts/{mint_address}/transfer",
        handler=transfer_nft,
        summary="Move an NFT to another owner",
        description="Refused when it does not belong to `from_address` any more.",
        scope="blockchain:nft:write",
        raises=(NotFound, StateConflict, InvalidValue),
        path_examples={"mint_address": _MINT_ADDRESS},
        body_example={"from_address": _ADDRESS, "to_address": _OTHER_ADDRESS},
        answer_example=_NFT | {"owner_address": _OTHER_ADDRESS, "version": 2},
        tag="tokens",
    ),
)
