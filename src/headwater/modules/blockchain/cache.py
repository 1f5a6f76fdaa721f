"""How the rows of blockchain are cached."""

from __future__ import annotations

from headwater.kernel.cache_policy import CachePolicy
from headwater.modules.blockchain.models import Asset

CACHE = (CachePolicy(kind="asset", model=Asset, ttl_seconds=300, near=1000, json=True),)
