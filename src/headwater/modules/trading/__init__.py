"""Trading: the market for tokenised parts. Owns markets, orders, the book, the trades and their escrows.

An order is placed and matched at once: by price, then by time, at the price of the one that waited, in as many parts
as it takes. What it needs is reserved in the ledger: money for a buy, the asset's tokens for a sell. Each fill moves
through an escrow there, in the same transaction. What is not filled rests in the book and can be cancelled.
Nobody trades with themselves: an order that would meet one of its own user is cancelled for what is left of it.

Units: `quantity` counts the smallest unit of the asset, `price` is in minor units of the market's currency for one such
unit, `amount` is in minor units. All are whole numbers. The ledger counts the tokens of an asset as `asset:<id>`.

Public names: `headwater.modules.trading.models` (OpenMarket, Order, Trade, Escrow, Side, OrderStatus, EscrowState,
Settlement) and `headwater.modules.trading.repository` (TradingRepository); inside it also `commands` (Place, Cancel,
Outcome, Answer), `escrows` (EscrowRepository) and `markets` (MarketRepository).
"""

from __future__ import annotations

from headwater.kernel.module import Module

MODULE = Module(
    name="trading",
    package=__name__,
    summary="Markets that match orders and settle in the ledger through escrows.",
    depends_on=("identity", "ledger", "blockchain"),
)
