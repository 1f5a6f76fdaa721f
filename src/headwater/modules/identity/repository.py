"""The verbs of identity: users, and the keys that programs hold."""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, TypedDict, Unpack
from uuid import UUID, uuid4

from sqlalchemy import func, update

from headwater.kernel.caller import Caller
from headwater.kernel.errors import InvalidValue, Unauthenticated
from headwater.kernel.queries import Queries
from headwater.kernel.repository import Repository, Updated
from headwater.modules.identity.contact import (
    checked_email,
    checked_language_code,
    checked_name,
    checked_phone,
    checked_timezone,
)
from headwater.modules.identity.models import ApiKey, KycStatus, Role, User

if TYPE_CHECKING:
    from headwater.kernel.lifecycle import Headwater
    from headwater.kernel.postgres import Runner

QUERIES = Queries.load(__package__)

_KEY = re.compile(r"hw_(?P<id>[0-9a-f]{32})_(?P<secret>[A-Za-z0-9_-]{43,86})")
_SECRET_BYTES = 32


class UserChanges(TypedDict, total=False):
    """What can be changed about a user."""

    email: str
    name: str | None
    phone: str | None
    language_code: str
    timezone: str
    is_active: bool
    kyc_status: KycStatus
    metadata_: dict[str, Any]
    password_hash: str | None


_CHECKS = {
    "email": checked_email,
    "name": checked_name,
    "phone": checked_phone,
    "language_code": checked_language_code,
    "timezone": checked_timezone,
}


class UserRepository(Repository[User]):
    """People. Emails are unique whatever their capitals; what is checked here is checked for every caller."""

    async def find_by_email(self, email: str, *, tx: Runner | None = None) -> User | None:
        """The user with this email, whatever its capitals."""
        return await self.find_by(func.lower(User.email) == func.lower(email.strip()), tx=tx)

    async def create_user(
        self,
        tx: Runner,
        *,
        email: str,
        name: str | None = None,
        phone: str | None = None,
        language_code: str = "ru",
        timezone: str = "Europe/Moscow",
        kyc_status: KycStatus = KycStatus.PENDING,
        metadata_: dict[str, Any] | None = None,
        password_hash: str | None = None,
    ) -> User:
        """A new, active user. Raises InvalidValue naming the field, AlreadyExists for a taken email."""
        return await self.create(
            tx,
            email=checked_email(email),
            name=None if name is None else checked_name(name),
            phone=None if phone is None else checked_phone(phone),
            language_code=checked_language_code(language_code),
            timezone=checked_timezone(timezone),
            kyc_status=kyc_status,
            metadata_=metadata_ or {},
            password_hash=password_hash,
        )

    async def update_user(
        self, tx: Runner, user_id: UUID, *, version: int | None = None, **changes: Unpack[UserChanges]
    ) -> Updated[User]:
        """Change what is named. Raises NotFound, VersionConflict, InvalidValue naming the field, AlreadyExists."""
        given: dict[str, Any] = dict(changes)
        for field_name, check in _CHECKS.items():
            if given.get(field_name) is not None:
                given[field_name] = check(given[field_name])
        return await self.update(tx, user_id, version=version, **given)

    async def deactivate(self, tx: Runner, user_id: UUID, *, version: int | None = None) -> Updated[User]:
        """Keep the user, end their access: keys and sessions of an inactive user count no more."""
        return await self.update(tx, user_id, version=version, is_active=False)


@dataclass(frozen=True, slots=True)
class IssuedKey:
    """A new key. `key` is its text, known here and never again."""

    id: UUID
    name: str
    role: str
    key: str = field(repr=False)


class ApiKeyRepository(Repository[ApiKey]):
    """Keys look like `hw_<id>_<secret>`. The database keeps the SHA-256 of the text: a secret of 32 random bytes cannot
    be guessed back from it, so a slow hash would only slow every request down.
    """

    async def issue(
        self,
        tx: Runner,
        *,
        name: str,
        role: str,
        user_id: UUID | None = None,
        expires_at: datetime | None = None,
    ) -> IssuedKey:
        """A new key with the scopes of `role`. Raises MissingReference for an unknown role or user, InvalidValue."""
        if expires_at is not None and expires_at.tzinfo is None:
            raise InvalidValue("'expires_at' has no time zone.", remedy="Pass an aware datetime.", field="expires_at")
        if expires_at is not None and expires_at <= datetime.now(UTC):
            raise InvalidValue(
                f"'expires_at' is {expires_at.isoformat()}, which is over.",
                remedy="Pass a time to come.",
                field="expires_at",
            )
        key_id = uuid4()  # not in order of time: a key's text should not tell when it was made
        key = f"hw_{key_id.hex}_{secrets.token_urlsafe(_SECRET_BYTES)}"
        row = await self.create(
            tx, **_stored(key_id, key), name=checked_name(name), role=role, user_id=user_id, expires_at=expires_at
        )
        return IssuedKey(row.id, row.name, row.role, key)

    async def authenticate(self, key: str, *, tx: Runner | None = None) -> Caller:
        """Who holds this key. Raises Unauthenticated, with the same words for every reason."""
        parsed = _KEY.fullmatch(key)
        if parsed is None:
            raise _unauthenticated()
        row = await (tx or self.postgres).fetch_one(QUERIES["key_holder"], key_id=UUID(parsed["id"]))
        digest = hashlib.sha256(key.encode()).digest()
        is_theirs = hmac.compare_digest(digest, bytes(32) if row is None else row.key_hash)
        if row is None or not is_theirs or not row.counts:
            raise _unauthenticated()
        return Caller(id=row.id, name=row.name, scopes=frozenset(row.scopes), user_id=row.user_id)

    async def revoke(self, tx: Runner, key_id: UUID) -> ApiKey:
        """End a key for good. A key that was revoked before stays as it is. Raises NotFound."""
        await tx.execute(
            update(ApiKey).where(ApiKey.id == key_id, ApiKey.revoked_at.is_(None)).values(revoked_at=func.now())
        )
        return await self.get(key_id, tx=tx)

    async def keep(self, tx: Runner, key: str, *, name: str, role: str) -> bool:
        """Make a key known whose text already exists, in a file for example. Whether it opens the door now.

        It does not when the text is no key, or when a row of its id has been revoked, has expired, has another role
        or another secret.
        """
        parsed = _KEY.fullmatch(key)
        if parsed is None:
            return False
        stored = _stored(UUID(parsed["id"]), key)
        added = await tx.execute(QUERIES["keep_key"], **stored, name=checked_name(name), role=role)
        if added:
            return True
        try:
            await self.authenticate(key, tx=tx)
        except Unauthenticated:
            return False
        return (await self.get(UUID(parsed["id"]), tx=tx)).role == role


class RoleRepository(Repository[Role]):
    """Roles are made by migrations; this reads them."""


async def ensure_admin_key(headwater: Headwater, plain: str | None = None) -> str:
    """The admin key in force: `plain` where it is one or can become one, otherwise a new one.

    Given what it returned before, it changes nothing.
    """
    keys = headwater.repository(ApiKeyRepository)
    async with headwater.transaction() as tx:
        if plain is not None and await keys.keep(tx, plain.strip(), name="admin", role="admin"):
            return plain.strip()
        return (await keys.issue(tx, name="admin", role="admin")).key


def _stored(key_id: UUID, key: str) -> dict[str, Any]:
    return {"id": key_id, "key_hash": hashlib.sha256(key.encode()).digest(), "last_four": key[-4:]}


def _unauthenticated() -> Unauthenticated:
    return Unauthenticated(
        "This key is not accepted.",
        remedy="Send 'Authorization: Bearer <key>' with a key that has been issued, and neither revoked nor expired.",
    )
