"""Caller: who asks, and what they may do. How a key becomes a caller is the identity module's business."""

from __future__ import annotations

from dataclasses import dataclass
from uuid import UUID

from headwater.kernel.errors import Forbidden


@dataclass(frozen=True, slots=True)
class Caller:
    """Someone known to the service. `scopes` are `module:entity:action`; `*` stands for any part."""

    id: UUID
    name: str
    scopes: frozenset[str]
    user_id: UUID | None = None

    def may(self, scope: str) -> bool:
        """Whether one of the caller's scopes covers `scope`."""
        wanted = scope.split(":")
        for granted in self.scopes:
            parts = granted.split(":")
            if len(parts) < len(wanted) and parts[-1] == "*":
                parts += ["*"] * (len(wanted) - len(parts))
            if len(parts) == len(wanted) and all(g in ("*", w) for g, w in zip(parts, wanted, strict=True)):
                return True
        return False

    def require(self, scope: str) -> None:
        """Raise Forbidden unless the caller may."""
        if not self.may(scope):
            raise Forbidden(
                f"This key may not do '{scope}'.",
                remedy="Use a key whose role grants the scope, or ask an administrator to grant it.",
                scope=scope,
            )
