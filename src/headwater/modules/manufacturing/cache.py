"""How the rows of manufacturing are cached."""

from __future__ import annotations

from headwater.kernel.cache_policy import CachePolicy
from headwater.modules.manufacturing.models import Order

CACHE = (CachePolicy(kind="production_order", model=Order, ttl_seconds=60, json=True),)
