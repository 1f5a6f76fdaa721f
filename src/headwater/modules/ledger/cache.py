"""How the rows of the ledger are cached: balances strictly, no read is older than a commit somebody was told of."""

from __future__ import annotations

from headwater.kernel.cache_policy import CachePolicy
from headwater.modules.ledger.models import Account

CACHE = (
    CachePolicy(
        kind="account",
        model=Account,
        ttl_seconds=60,
        level="strict",
        # The row of a transfer says which balances it changed: the accounts themselves tell nothing then.
        told_by=("ledger.transfers.debit_account_id", "ledger.transfers.credit_account_id"),
    ),
)
