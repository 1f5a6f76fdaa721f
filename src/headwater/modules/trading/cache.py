"""How the rows of trading are cached."""

from __future__ import annotations

from headwater.kernel.cache_policy import CachePolicy
from headwater.modules.trading.models import Order

CACHE = (CachePolicy(kind="order", model=Order, ttl_seconds=60, json=True),)
