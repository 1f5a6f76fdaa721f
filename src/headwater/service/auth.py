"""Auth: from the key a request carries to its Caller. Who a key belongs to is the identity module's knowledge.

A verified key is remembered for `REMEMBERED_SECONDS`: a revoked key can work that long in each process. Tokens of
sessions are not remembered, so that signing out counts at once.
"""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from time import monotonic

from headwater.kernel.caller import Caller
from headwater.kernel.errors import Unauthenticated
from headwater.kernel.lifecycle import Headwater
from headwater.kernel.sessions import TOKEN_PREFIX

Authenticate = Callable[[str], Awaitable[Caller]]

REMEMBERED_SECONDS = 15.0
REMEMBERED_MAX = 10_000


class Gate:
    """Finds the caller of a request. Wrong keys are refused on every operation, also on public ones."""

    def __init__(
        self, authenticate: Authenticate, *, seconds: float = REMEMBERED_SECONDS, size_max: int = REMEMBERED_MAX
    ) -> None:
        self._authenticate = authenticate
        self._seconds = seconds
        self._size_max = size_max
        self._remembered: dict[bytes, tuple[Caller, float]] = {}

    async def caller(self, headers: Mapping[bytes, bytes]) -> Caller | None:
        """Who asks, or None without a key. Raises Unauthenticated."""
        given = headers.get(b"authorization")
        if given is not None:
            scheme, _, key = given.partition(b" ")
            if scheme.lower() != b"bearer":
                raise Unauthenticated(
                    "The Authorization header does not use the Bearer scheme.",
                    remedy="Send `Authorization: Bearer <key>`.",
                )
            key = key.strip()
        else:
            key = headers.get(b"x-api-key", b"")
            if not key and b"x-api-key" not in headers:
                return None
        digest = hashlib.sha256(key).digest()
        known = self._remembered.get(digest)
        if known is not None:
            if known[1] > monotonic():
                return known[0]
            del self._remembered[digest]
        return await self._verify(key, digest)

    async def _verify(self, key: bytes, digest: bytes) -> Caller:
        try:
            text = key.decode("ascii")
        except UnicodeDecodeError:
            text = ""
        if not text or not text.isprintable():
            raise Unauthenticated("The key is malformed.", remedy="Send the key as it was given to you.")
        caller = await self._authenticate(text)
        if not text.startswith(TOKEN_PREFIX):
            if len(self._remembered) >= self._size_max:
                self._remembered.pop(next(iter(self._remembered)))
            self._remembered[digest] = (caller, monotonic() + self._seconds)
        return caller


def authenticate_with(headwater: Headwater) -> Authenticate:
    """How keys are verified in this system: by its identity module, or not at all."""
    if "identity" not in headwater.system:

        async def unknown(_: str) -> Caller:
            raise Unauthenticated(
                f"The system '{headwater.system.name}' has no identity module, so it knows no keys.",
                remedy="Compose a system with the module 'identity'.",
            )

        return unknown
    from headwater.modules.identity import authentication  # a system without identity never needs it

    return partial(authentication.authenticate, headwater)
