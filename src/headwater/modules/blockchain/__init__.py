"""blockchain: the on-chain face of users, the tokenised parts (`assets`), transactions by hash, and oracle prices.

The front door is `models` (ChainUser, Asset, ChainTransaction, PriceFeed, TransactionStatus) and `repository`
(AssetRepository, BlockchainRepository). Tokens and wallets with balances come with the ledger.
"""

from __future__ import annotations

from headwater.kernel.module import Module

__all__ = ["MODULE"]

MODULE = Module(
    name="blockchain",
    package=__name__,
    summary="Wallet addresses and reputation, tokenised parts, on-chain transactions and prices.",
    depends_on=("identity",),
)
