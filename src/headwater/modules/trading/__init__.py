"""Trading: the market for tokenised parts. Owns orders to buy and sell, the trades between them and their escrows.

An order is placed, rests in the order book of its asset and can be cancelled while it is not filled. Matching and
settlement in money belong to the ledger; until that module is there, nothing here fills an order.

Units: `quantity` counts the smallest unit of the asset, `price` is in minor units of the market's currency for one such
unit, `amount` is in minor units. All are whole numbers.

Public names: `headwater.modules.trading.models` (Order, Trade, Escrow, Side, OrderStatus, EscrowState) and
`headwater.modules.trading.repository` (TradingRepository).
"""

from __future__ import annotations

from headwater.kernel.module import Module

MODULE = Module(
    name="trading",
    package=__name__,
    summary="Orders, the order book, trades and escrows of the market.",
    depends_on=("identity", "blockchain"),
)
