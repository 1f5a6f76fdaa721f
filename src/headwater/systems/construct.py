"""The Construct: a market for tokenised robotics parts, made to order and governed by its users."""

from __future__ import annotations

from headwater.kernel.module import System
from headwater.modules.blockchain import MODULE as BLOCKCHAIN
from headwater.modules.governance import MODULE as GOVERNANCE
from headwater.modules.identity import MODULE as IDENTITY
from headwater.modules.ledger import MODULE as LEDGER
from headwater.modules.manufacturing import MODULE as MANUFACTURING
from headwater.modules.trading import MODULE as TRADING

CONSTRUCT = System(
    "construct",
    [IDENTITY, LEDGER, BLOCKCHAIN, TRADING, MANUFACTURING, GOVERNANCE],
    "A market for tokenised robotics parts, made to order, governed by its users.",
)
