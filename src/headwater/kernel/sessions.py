"""Sessions: who has signed in, kept in Valkey under `session:{session_id}` until a time to live runs out.

The token a client holds is a secret. Its SHA-256 gives the session's id, so that reading Valkey, its keys included,
signs nobody in. What a session says is the caller's business: a payload of plain values.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from uuid import UUID

import msgspec

from headwater.kernel.errors import InvalidValue, Unreachable

if TYPE_CHECKING:
    from valkey.asyncio import Valkey

TOKEN_PREFIX = "hws_"  # noqa: S105  # what tokens begin with, not a token
TTL_SECONDS = 12 * 3600
TTL_SECONDS_MAX = 30 * 24 * 3600
_SECRET_BYTES = 32


@dataclass(frozen=True, slots=True)
class NewSession:
    """What creating a session gives: the token is shown once and kept nowhere."""

    id: UUID
    token: str
    ttl_seconds: int

    def __repr__(self) -> str:
        return f"NewSession(id={self.id!r}, token='***', ttl_seconds={self.ttl_seconds})"


def session_id(token: str) -> UUID:
    """The id of the session a token belongs to, whether or not there is one."""
    return UUID(bytes=hashlib.sha256(token.encode()).digest()[:16])


def _key(session: UUID) -> str:
    return f"session:{session}"


class Sessions:
    """The sessions in one Valkey. Every verb raises Unreachable when it does not answer."""

    def __init__(self, valkey: Valkey | None) -> None:
        self._valkey = valkey

    async def create(self, payload: Mapping[str, Any], *, ttl_seconds: int = TTL_SECONDS) -> NewSession:
        """Begin a session with an unguessable token."""
        _require_ttl(ttl_seconds)
        token = TOKEN_PREFIX + secrets.token_urlsafe(_SECRET_BYTES)
        new = NewSession(session_id(token), token, ttl_seconds)
        async with self._answering() as valkey:
            await valkey.set(_key(new.id), msgspec.json.encode(payload), ex=ttl_seconds)
        return new

    async def get(self, token: str) -> dict[str, Any] | None:
        """The payload of the token's session; None when it has ended or never was."""
        if not token.startswith(TOKEN_PREFIX):
            return None
        async with self._answering() as valkey:
            found = await valkey.get(_key(session_id(token)))
        return None if found is None else msgspec.json.decode(found, type=dict[str, Any])

    async def refresh(self, session: UUID, *, ttl_seconds: int = TTL_SECONDS) -> bool:
        """Let a session live for `ttl_seconds` from now on; False when it has ended."""
        _require_ttl(ttl_seconds)
        async with self._answering() as valkey:
            return bool(await valkey.expire(_key(session), ttl_seconds))

    async def delete(self, session: UUID) -> bool:
        """End a session; False when it had ended."""
        async with self._answering() as valkey:
            return bool(await valkey.delete(_key(session)))

    @asynccontextmanager
    async def _answering(self) -> AsyncIterator[Valkey]:
        from valkey.exceptions import ValkeyError  # importing the client costs; most commands need no session

        if self._valkey is None:
            raise Unreachable(
                "There are no sessions: no Valkey is configured.",
                remedy="Set HEADWATER_VALKEY_URL, or use an API key, which needs PostgreSQL only.",
            )
        try:
            yield self._valkey
        except (ValkeyError, OSError) as error:
            raise Unreachable(
                f"Sessions are not available: Valkey does not answer ({type(error).__name__}).",
                remedy="Try again soon, or use an API key, which needs PostgreSQL only.",
            ) from error


def _require_ttl(ttl_seconds: int) -> None:
    if not 1 <= ttl_seconds <= TTL_SECONDS_MAX:
        raise InvalidValue(
            f"A session cannot live for {ttl_seconds} seconds.",
            remedy=f"Choose between 1 and {TTL_SECONDS_MAX}.",
            field="ttl_seconds",
        )
