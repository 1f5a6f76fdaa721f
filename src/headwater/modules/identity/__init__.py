"""identity: who there is (`users`), what they may do (`roles`) and how programs prove who they are (`api_keys`).

The front door is `models` (User, Role, ApiKey, KycStatus), `repository` (UserRepository, ApiKeyRepository,
ensure_admin_key) and `authentication` (authenticate: a key or a session token becomes a Caller).
"""

from __future__ import annotations

from headwater.kernel.module import Module

__all__ = ["MODULE"]

MODULE = Module(
    name="identity",
    package=__name__,
    summary="Users, roles, API keys and sessions.",
)
