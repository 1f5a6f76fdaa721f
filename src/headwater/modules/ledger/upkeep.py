"""What the ledger wants done by itself: holds whose time is over are released, also when nobody asks for them."""

from __future__ import annotations

from headwater.kernel.postgres import Postgres
from headwater.kernel.upkeep import Upkeep
from headwater.modules.ledger.repository import LedgerRepository

HOLDS_AT_ONCE = 1_000
"""Few enough that the accounts are not locked for long."""


async def release_overdue_holds(postgres: Postgres) -> int:
    """Release every hold whose time is over; returns how many."""
    ledger = LedgerRepository(postgres)
    released = 0
    while True:
        told = await ledger.expire_holds(postgres, most=HOLDS_AT_ONCE)
        released += told
        if not told:
            return released


UPKEEP = (Upkeep(name="overdue holds", every_seconds=1.0, work=release_overdue_holds),)
