"""blockchain: the chain's view of users, tokenised parts (`assets`), transactions, prices; wallets, FODI and NFTs.

Wallets and the token FODI settle in the ledger: a row in `fodi_transactions` is a transfer there, whoever writes it.

The front door is `models` (ChainUser, Asset, ChainTransaction, PriceFeed, TransactionStatus; Wallet, TokenTransaction,
TokenTransactionType, Reward, Nft) and `repository` (AssetRepository, BlockchainRepository, WalletRepository,
TokenRepository, NftRepository). Amounts of FODI are whole units: 1 FODI = 1,000,000,000.
"""

from __future__ import annotations

from headwater.kernel.module import Module

__all__ = ["MODULE"]

MODULE = Module(
    name="blockchain",
    package=__name__,
    summary="Wallet addresses and reputation, tokenised parts, on-chain transactions and prices; wallets, FODI, NFTs.",
    depends_on=("identity", "ledger"),
)
