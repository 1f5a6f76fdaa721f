"""Seeds of tokens: wallets with FODI for the first users, transfers of every status, rewards, NFTs.

The keypairs follow from their numbers, so that everybody knows their private keys: they are for looking at.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from datetime import timedelta
from typing import Any

from headwater.kernel.keyring import Keyring
from headwater.kernel.seeds import Sowing
from headwater.modules.blockchain.keypairs import Keypair, base58
from headwater.modules.blockchain.models import (
    UNITS_PER_FODI,
    Nft,
    Reward,
    TokenTransaction,
    TokenTransactionType,
    TransactionStatus,
    Wallet,
)
from headwater.modules.blockchain.wallets import PRIVATE_KEY

WALLETS_DEMO, TRANSFERS_DEMO, REWARDS_DEMO, NFTS_DEMO = 24, 80, 12, 8
WALLET_SHARE, TRANSFER_SHARE = 0.02, 0.05
"""Which parts of the rows of `load:N` these are; wallets at most one for each user."""
_PENDING = 4  # the first transfers are on their way

Row = Mapping[str, Any]


async def sow_tokens(sowing: Sowing, users: int) -> None:
    """Wallets and what has moved between them, for the first of so many seeded users."""
    demo = sowing.profile == "demo"
    wallets = min(users, WALLETS_DEMO if demo else max(1, int(sowing.rows * WALLET_SHARE)))
    transfers = TRANSFERS_DEMO if demo else int(sowing.rows * TRANSFER_SHARE)
    rewards, nfts = min(wallets, REWARDS_DEMO), min(wallets, NFTS_DEMO)
    await sowing.plant(Wallet, _wallets(sowing, wallets), total=wallets)
    await sowing.plant(TokenTransaction, _mints(sowing, wallets), total=wallets)
    if wallets > 1:
        await sowing.plant(TokenTransaction, _transfers(sowing, wallets, transfers), total=transfers)
    await sowing.plant(TokenTransaction, _reward_transactions(sowing, rewards), total=rewards)
    await sowing.plant(Reward, _rewards(sowing, rewards), total=rewards)
    await sowing.plant(Nft, _nfts(sowing, nfts), total=nfts)


def keypair_of(number: int) -> Keypair:
    """The keypair of seeded wallet `number`."""
    return Keypair.of(hashlib.sha256(f"headwater/keypair/{number}".encode()).digest())


def mint_address_of(number: int) -> str:
    """The mint address of seeded NFT `number`."""
    return base58(hashlib.sha256(f"headwater/nft/{number}".encode()).digest())


def _wallets(sowing: Sowing, total: int) -> Iterator[Row]:
    keyring = Keyring.of(sowing.tx.postgres.settings)
    for number in range(1, total + 1):
        pair = keypair_of(number)
        place = PRIVATE_KEY.place(pair.address)
        yield {
            "id": sowing.key("blockchain.wallets", number),
            "user_id": sowing.key("users", number),
            "public_key": pair.address,
            "encrypted_private_key": keyring.seal(pair.secret, bound_to=place) if keyring.names else None,
            "created_at": sowing.now - timedelta(days=90),
        }


def _mints(sowing: Sowing, total: int) -> Iterator[Row]:
    for number in range(1, total + 1):
        at = sowing.now - timedelta(days=89)
        yield {
            "id": _key(sowing, 3 * number),
            "tx_id": f"seed-mint-{number}",
            "from_address": None,
            "to_address": keypair_of(number).address,
            "amount": 1_000 * UNITS_PER_FODI,
            "tx_type": TokenTransactionType.MINT,
            "status": TransactionStatus.CONFIRMED,
            "created_at": at,
            "confirmed_at": at,
        }


def _transfers(sowing: Sowing, wallets: int, total: int) -> Iterator[Row]:
    """Number 1 is the newest. The first few are pending, one in nine has failed."""
    for number in range(1, total + 1):
        status = (
            TransactionStatus.PENDING
            if number <= _PENDING
            else TransactionStatus.FAILED
            if number % 9 == 0
            else TransactionStatus.CONFIRMED
        )
        sender = 1 + (number - 1) % wallets
        at = sowing.now - timedelta(minutes=11 * (number % 100_000))
        yield {
            "id": _key(sowing, 3 * number + 1),
            "tx_id": f"seed-transfer-{number}",
            "from_address": keypair_of(sender).address,
            "to_address": keypair_of(1 + sender % wallets).address,
            "amount": UNITS_PER_FODI // 2 * (1 + number % 7),
            "tx_type": TokenTransactionType.TRANSFER,
            "status": status,
            "created_at": at,
            "confirmed_at": at + timedelta(seconds=13) if status is TransactionStatus.CONFIRMED else None,
        }


def _reward_transactions(sowing: Sowing, total: int) -> Iterator[Row]:
    for number in range(1, total + 1):
        at = sowing.now - timedelta(days=number)
        yield {
            "id": _key(sowing, 3 * number + 2),
            "tx_id": f"seed-reward-{number}",
            "from_address": None,
            "to_address": keypair_of(number).address,
            "amount": UNITS_PER_FODI // 4 * number,
            "tx_type": TokenTransactionType.REWARD,
            "status": TransactionStatus.CONFIRMED,
            "created_at": at,
            "confirmed_at": at,
        }


def _rewards(sowing: Sowing, total: int) -> Iterator[Row]:
    for number in range(1, total + 1):
        yield {
            "id": sowing.key("blockchain.reward_history", number),
            "user_id": sowing.key("users", number),
            "order_id": None,
            "amount": UNITS_PER_FODI // 4 * number,
            "reason": ("first order", "ten orders", "a friend invited")[number % 3],
            "tx_id": f"seed-reward-{number}",
            "created_at": sowing.now - timedelta(days=number),
        }


def _nfts(sowing: Sowing, total: int) -> Iterator[Row]:
    for number in range(1, total + 1):
        at = sowing.now - timedelta(days=30, minutes=number)
        yield {
            "id": sowing.key("blockchain.nft_metadata", number),
            "mint_address": mint_address_of(number),
            "name": f"Chef's table {number}",
            "symbol": "CHEF",
            "uri": f"https://nft.example.org/chef/{number}.json",
            "owner_address": keypair_of(number).address,
            "metadata_": {"seats": 2 + number % 5},
            "created_at": at,
            "updated_at": at,
        }


def _key(sowing: Sowing, number: int) -> Any:
    return sowing.key("blockchain.fodi_transactions", number)
