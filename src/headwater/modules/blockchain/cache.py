"""How the rows of blockchain are cached."""

from __future__ import annotations

from headwater.kernel.cache_policy import CachePolicy
from headwater.modules.blockchain.models import Asset, ChainTransaction, TokenTransaction, Wallet

CACHE = (
    CachePolicy(kind="asset", model=Asset, ttl_seconds=300, near=1000, json=True),
    CachePolicy(kind="transaction", model=ChainTransaction, ttl_seconds=300, json=True),
    CachePolicy(kind="wallet", model=Wallet, ttl_seconds=300, level="strict"),  # it has a balance
    CachePolicy(kind="fodi_transaction", model=TokenTransaction, ttl_seconds=300, level="strict"),
)
