"""Seeds of blockchain: wallets for most users, the parts of the catalogue, transfers between wallets, price series.

Row number n has the same key and the same unique values in every profile, so that a load can be planted over the demo.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Mapping
from datetime import timedelta
from decimal import Decimal
from typing import Any

from sqlalchemy import func, select

from headwater.kernel.seeds import FIRST_KEY, LAST_KEY, Sowing
from headwater.modules.blockchain.catalogue import CATALOGUE
from headwater.modules.blockchain.keypairs import base58
from headwater.modules.blockchain.models import Asset, ChainTransaction, ChainUser, PriceFeed, TransactionStatus
from headwater.modules.blockchain.token_seeds import sow_tokens
from headwater.modules.identity.models import User

TRANSACTIONS_DEMO = 400
PRICES_EACH_DEMO = 90
ASSET_SHARE, TRANSACTION_SHARE, PRICE_SHARE = 0.02, 0.10, 0.10
"""Which parts of the rows of `load:N` these are. Wallets come on top, by the number of users."""
PRICES_EACH_MAX = 1_000_000

_ISSUERS = 8
_WITHOUT_WALLET = 6  # every sixth user has none

Row = Mapping[str, Any]


async def seed(sowing: Sowing) -> None:
    """The demo, or the shares of a load."""
    users = await sowing.tx.fetch_value(
        select(func.count()).select_from(User).where(User.id.between(FIRST_KEY, LAST_KEY))
    )
    if not users:
        return
    if sowing.profile == "demo":
        assets, transactions, prices_each = len(CATALOGUE), TRANSACTIONS_DEMO, PRICES_EACH_DEMO
    else:
        assets = max(1, int(sowing.rows * ASSET_SHARE))
        transactions = max(1, int(sowing.rows * TRANSACTION_SHARE))
        prices_each = min(PRICES_EACH_MAX, max(1, math.ceil(sowing.rows * PRICE_SHARE / assets)))
    wallets = [number for number in range(1, users + 1) if number % _WITHOUT_WALLET]
    await sowing.plant(ChainUser, _chain_users(sowing, wallets), total=len(wallets))
    await sowing.plant(Asset, _assets(sowing, assets, wallets[:_ISSUERS]), total=assets)
    await sowing.plant(ChainTransaction, _transactions(sowing, transactions, wallets, assets), total=transactions)
    await sowing.plant(PriceFeed, _prices(sowing, assets, prices_each), total=assets * prices_each)
    await sow_tokens(sowing, users)


def wallet_of(number: int) -> str:
    """The wallet address of seeded user `number`: base58 of 32 bytes, which nobody has the private key of."""
    return base58(hashlib.sha256(f"headwater/wallet/{number}".encode()).digest())


def tx_hash_of(number: int) -> str:
    """The hash of seeded transaction `number`: base58 of 64 bytes, as a Solana signature."""
    return base58(hashlib.sha512(f"headwater/transaction/{number}".encode()).digest())


def _chain_users(sowing: Sowing, wallets: list[int]) -> Iterator[Row]:
    for number in wallets:
        created_at = sowing.now - timedelta(days=399, seconds=-300 * (number % 100_000))
        yield {
            "user_id": sowing.key("users", number),
            "wallet_address": wallet_of(number),
            "reputation_score": _draw("reputation", number) % 1_000,
            "created_at": created_at,
            "updated_at": created_at,
        }


def _assets(sowing: Sowing, total: int, issuers: list[int]) -> Iterator[Row]:
    for number in range(1, total + 1):
        part = CATALOGUE[(number - 1) % len(CATALOGUE)]
        revision = (number - 1) // len(CATALOGUE)
        created_at = sowing.now - timedelta(days=300) + timedelta(minutes=number % 400_000)
        yield {
            "id": sowing.key("blockchain.assets", number),
            "asset_type": part.asset_type,
            "issuer_id": sowing.key("users", issuers[number % len(issuers)]),
            "name": f"{part.name} revision {revision}" if revision else part.name,
            "symbol": _symbol(number),
            "description": part.description,
            "specifications": dict(part.specifications),
            "metadata_": {
                "datasheet": f"https://parts.example.org/{_symbol(number).lower()}.pdf",
                "lead_time_days": 5 + _draw("lead time", number) % 40,
            },
            "created_at": created_at,
            "updated_at": created_at,
        }


def _transactions(sowing: Sowing, total: int, wallets: list[int], assets: int) -> Iterator[Row]:
    """Number 1 is the newest. The last few are still pending, one in fifty has failed."""
    for number in range(1, total + 1):
        draw = _draw("transaction", number)
        sender, receiver = wallets[draw % len(wallets)], wallets[draw // 7 % len(wallets)]
        pending, failed = number <= 6, draw % 50 == 0
        status = TransactionStatus.PENDING if pending else TransactionStatus.FAILED if failed else None
        created_at = sowing.now - timedelta(minutes=7 * number)
        yield {
            "id": sowing.key("blockchain.transactions", number),
            "tx_hash": tx_hash_of(number),
            "from_address": wallet_of(sender),
            "to_address": wallet_of(receiver),
            "asset_id": sowing.key("blockchain.assets", 1 + draw // 11 % assets),
            "amount": 1 + draw // 13 % 250,
            "block_number": None if pending else max(0, 311_204_775 - 1_050 * number),
            "status": status or TransactionStatus.CONFIRMED,
            "network": "solana",
            "created_at": created_at,
            "updated_at": created_at,
        }


def _prices(sowing: Sowing, assets: int, each: int) -> Iterator[Row]:
    """A series for each asset: one price a day, back from now, that wanders around the catalogue's."""
    for number in range(1, assets + 1):
        base, symbol = CATALOGUE[(number - 1) % len(CATALOGUE)].price_usd, _symbol(number)
        phase = _draw("price", number) % 1_000 / 159.0
        for day in range(each):
            wave = 0.06 * math.sin(day / 11.0 + phase) + 0.02 * math.sin(day / 2.3 + 2 * phase)
            yield {
                "id": sowing.key("blockchain.price_feeds", number * PRICES_EACH_MAX + day),
                "symbol": symbol,
                "price": Decimal(f"{base * (1 + wave - 0.0004 * (day % 365)):.2f}"),
                "currency": "USD",
                "source": "pyth" if number % 3 else "chainlink",
                "observed_at": sowing.now - timedelta(days=day),
                "created_at": sowing.now - timedelta(days=day),
            }


def _symbol(number: int) -> str:
    part, revision = CATALOGUE[(number - 1) % len(CATALOGUE)], (number - 1) // len(CATALOGUE)
    return f"{part.symbol}-R{revision}" if revision else part.symbol


def _draw(what: str, number: int) -> int:
    """A number that looks random and is the same for the same row in every run."""
    return int.from_bytes(hashlib.blake2b(f"{what}/{number}".encode(), digest_size=8).digest())
