"""How the rows of identity are cached."""

from __future__ import annotations

from headwater.kernel.cache_policy import CachePolicy
from headwater.modules.identity.models import User

CACHE = (CachePolicy(kind="user", model=User, ttl_seconds=600, near=1000, json=True),)
