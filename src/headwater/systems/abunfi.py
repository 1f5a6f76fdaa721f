"""Abunfi: savings with yield. Its documents (preferences) come with the module of that name, which is not there yet."""

from __future__ import annotations

from headwater.kernel.module import System
from headwater.modules.finance import MODULE as FINANCE
from headwater.modules.identity import MODULE as IDENTITY
from headwater.modules.ledger import MODULE as LEDGER

ABUNFI = System("abunfi", [IDENTITY, LEDGER, FINANCE], "Savings with yield.")
