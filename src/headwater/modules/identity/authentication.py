"""Authentication: a credential becomes a Caller; signing in and out.

API keys need PostgreSQL only, sessions need Valkey too.
"""

from __future__ import annotations

from typing import TYPE_CHECKING
from uuid import UUID

from headwater.kernel.caller import Caller
from headwater.kernel.errors import StateConflict, Unauthenticated
from headwater.kernel.sessions import TOKEN_PREFIX, NewSession, Sessions, session_id
from headwater.modules.identity.repository import QUERIES, ApiKeyRepository

if TYPE_CHECKING:
    from headwater.kernel.lifecycle import Headwater


async def authenticate(headwater: Headwater, credential: str) -> Caller:
    """Who holds this API key (`hw_…`) or session token (`hws_…`).

    Raises Unauthenticated; Unreachable for a session token while Valkey does not answer.
    """
    if not credential.startswith(TOKEN_PREFIX):
        return await headwater.repository(ApiKeyRepository).authenticate(credential)
    payload = await Sessions(headwater.valkey).get(credential)
    if payload is None:
        raise _no_session()
    holder = await headwater.postgres.fetch_one(QUERIES["session_holder"], user_id=UUID(payload["user_id"]))
    if holder is None:  # deactivated since they signed in
        raise _no_session()
    return Caller(id=session_id(credential), name=holder.email, scopes=frozenset(holder.scopes), user_id=holder.id)


async def sign_in(headwater: Headwater, *, email: str, password: str) -> tuple[UUID, NewSession]:
    """A session for the user with this email and password.

    Raises Unauthenticated, with the same words and after the same work, for an unknown email, a wrong password, a user
    without one and an inactive user; Unreachable while Valkey does not answer.
    """
    from headwater.modules.identity import passwords  # argon2 is loaded by those who need it

    known = await headwater.postgres.fetch_one(QUERIES["sign_in"], email=email.strip())
    stored = known.password_hash if known else None
    is_theirs = await passwords.is_password(password, stored)
    if not is_theirs or stored is None or not known.is_active:
        raise Unauthenticated(
            "There is no active user with this email and password.", remedy="Check both, or register first."
        )
    session = await Sessions(headwater.valkey).create({"user_id": str(known.id)})
    if passwords.is_outdated(stored):
        stronger = await passwords.hash_password(password)
        await headwater.autocommit.execute(
            QUERIES["keep_password_hash"], user_id=known.id, password_hash=stronger, replaced_hash=stored
        )
    return known.id, session


async def sign_out(headwater: Headwater, caller: Caller) -> None:
    """End the caller's session. Raises StateConflict for a caller who came with an API key."""
    if not await Sessions(headwater.valkey).delete(caller.id):
        raise StateConflict(
            "There is no session to end: this caller came with an API key.",
            remedy="An administrator can revoke the key.",
        )


def _no_session() -> Unauthenticated:
    return Unauthenticated("This session has ended.", remedy="Sign in again: POST /api/auth/login.")
