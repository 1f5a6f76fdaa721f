"""How the rows of governance are cached."""

from __future__ import annotations

from headwater.kernel.cache_policy import CachePolicy
from headwater.modules.governance.models import Proposal

CACHE = (CachePolicy(kind="proposal", model=Proposal, ttl_seconds=300, json=True),)
