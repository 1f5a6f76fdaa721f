"""What identity serves: users, registration and sign-in, and the administration of keys."""

from __future__ import annotations

import enum
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Any
from uuid import UUID

import msgspec
from msgspec import UNSET, Meta, UnsetType

from headwater.kernel.caller import Caller
from headwater.kernel.errors import (
    AlreadyExists,
    Forbidden,
    InvalidValue,
    MissingReference,
    NotFound,
    StateConflict,
    Unauthenticated,
    UnavailableError,
    VersionConflict,
)
from headwater.kernel.lifecycle import Headwater
from headwater.kernel.pages import JsonPage
from headwater.kernel.rendering import Json
from headwater.kernel.routes import PageQuery, Route
from headwater.kernel.transaction import Transaction
from headwater.modules.identity import authentication
from headwater.modules.identity.contact import (
    EMAIL_LENGTH_MAX,
    EMAIL_PATTERN,
    LANGUAGE_PATTERN,
    NAME_LENGTH_MAX,
    NAME_PATTERN,
    PHONE_PATTERN,
    time_zones,
)
from headwater.modules.identity.models import ApiKey, KycStatus, User
from headwater.modules.identity.passwords import PASSWORD_LENGTH_MAX, PASSWORD_LENGTH_MIN, hash_password
from headwater.modules.identity.repository import ApiKeyRepository, RoleRepository, UserChanges, UserRepository

Email = Annotated[
    str, Meta(pattern=EMAIL_PATTERN, max_length=EMAIL_LENGTH_MAX, description="Unique, whatever its case.")
]
Name = Annotated[str, Meta(pattern=NAME_PATTERN, min_length=1, max_length=NAME_LENGTH_MAX)]
Phone = Annotated[str, Meta(pattern=PHONE_PATTERN, description="E.164, with the country code.")]
Language = Annotated[str, Meta(pattern=LANGUAGE_PATTERN, description="ISO 639, with a region if need be: pt-BR.")]
Password = Annotated[str, Meta(min_length=PASSWORD_LENGTH_MIN, max_length=PASSWORD_LENGTH_MAX)]

if TYPE_CHECKING:

    class TimeZone(enum.Enum):
        """A name of the IANA database."""

        MOSCOW = "Europe/Moscow"

else:  # 600 names, so that the OpenAPI document says exactly what is accepted
    TimeZone = enum.Enum("TimeZone", {zone: zone for zone in sorted(time_zones())}, module=__name__)
    TimeZone.__doc__ = "A name of the IANA database."

MOSCOW = TimeZone("Europe/Moscow")


class NewUser(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """A user to create."""

    email: Email
    name: Name | None = None
    phone: Phone | None = None
    language_code: Language = "ru"
    timezone: TimeZone = MOSCOW
    metadata: dict[str, Any] = {}


class Registration(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """Someone who makes a user of their own."""

    email: Email
    password: Password
    name: Name | None = None
    phone: Phone | None = None
    language_code: Language = "ru"
    timezone: TimeZone = MOSCOW


class UserPatch(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """What changes; a field that is absent stays as it is, null empties it. `metadata` is replaced as a whole."""

    email: Email | UnsetType = UNSET
    name: Name | UnsetType | None = UNSET
    phone: Phone | UnsetType | None = UNSET
    language_code: Language | UnsetType = UNSET
    timezone: TimeZone | UnsetType = UNSET
    metadata: dict[str, Any] | UnsetType = UNSET
    is_active: bool | UnsetType = UNSET
    kyc_status: KycStatus | UnsetType = UNSET


class Credentials(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """What someone signs in with."""

    email: Annotated[str, Meta(max_length=EMAIL_LENGTH_MAX)]
    password: Annotated[str, Meta(max_length=PASSWORD_LENGTH_MAX)]


class SignedIn(msgspec.Struct, kw_only=True):
    """A session. Send its token as `Authorization: Bearer hws_…`."""

    token: str
    token_type: str
    expires_in: int
    user_id: UUID


class Me(msgspec.Struct, kw_only=True):
    """Who the credential belongs to and what it may do."""

    name: str
    scopes: list[str]
    user_id: UUID | None


class NewKey(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """A key to issue. Roles: admin, writer, reader, member."""

    name: Name
    role: Annotated[str, Meta(min_length=1, max_length=64)]
    user_id: UUID | None = None
    lifetime_days: Annotated[int, Meta(ge=1, le=3_650, description="It expires after so many days.")] | None = None


class KeyShownOnce(msgspec.Struct, kw_only=True):
    """The text of a new key. It is not stored and cannot be shown again."""

    id: UUID
    name: str
    role: str
    key: str


async def get_user(user_id: UUID, users: UserRepository) -> Json[User]:
    return await users.get_json(user_id)


async def create_user(body: NewUser, tx: Transaction, users: UserRepository) -> User:
    return await users.create_user(
        tx,
        email=body.email,
        name=body.name,
        phone=body.phone,
        language_code=body.language_code,
        timezone=body.timezone.value,
        metadata_=body.metadata,
    )


async def update_user(
    user_id: UUID, body: UserPatch, caller: Caller, tx: Transaction, users: UserRepository, if_match: int | None
) -> User:
    changes: UserChanges = {}
    if body.email is not UNSET:
        changes["email"] = body.email
    if body.name is not UNSET:
        changes["name"] = body.name
    if body.phone is not UNSET:
        changes["phone"] = body.phone
    if body.language_code is not UNSET:
        changes["language_code"] = body.language_code
    if body.timezone is not UNSET:
        changes["timezone"] = body.timezone.value
    if body.metadata is not UNSET:
        changes["metadata_"] = body.metadata
    if body.is_active is not UNSET:
        changes["is_active"] = body.is_active
    if body.kyc_status is not UNSET:
        changes["kyc_status"] = body.kyc_status
    decided_by_others = changes.keys() & {"is_active", "kyc_status"}
    if caller.user_id != user_id or decided_by_others:
        caller.require("identity:user:write")
    if not changes:  # an empty merge patch is a valid one
        unchanged = await users.lock(tx, user_id)
        if if_match not in (None, unchanged.version):
            raise VersionConflict(
                f"users: the row {user_id} is at version {unchanged.version}, not {if_match}.", current=unchanged
            )
        return unchanged
    return (await users.update_user(tx, user_id, version=if_match, **changes)).new


async def register(body: Registration, headwater: Headwater) -> User:
    # No transaction is open while the password is hashed: it takes longer than everything else.
    password_hash = await hash_password(body.password)
    return await headwater.repository(UserRepository).create_user(
        headwater.autocommit,
        email=body.email,
        name=body.name,
        phone=body.phone,
        language_code=body.language_code,
        timezone=body.timezone.value,
        password_hash=password_hash,
    )


async def login(body: Credentials, headwater: Headwater) -> SignedIn:
    user_id, session = await authentication.sign_in(headwater, email=body.email, password=body.password)
    return SignedIn(token=session.token, token_type="Bearer", expires_in=session.ttl_seconds, user_id=user_id)  # noqa: S106  # the name of the scheme


async def logout(caller: Caller, headwater: Headwater) -> None:
    await authentication.sign_out(headwater, caller)


async def me(caller: Caller) -> Me:
    return Me(name=caller.name, scopes=sorted(caller.scopes), user_id=caller.user_id)


async def issue_key(
    body: NewKey, caller: Caller, tx: Transaction, keys: ApiKeyRepository, roles: RoleRepository
) -> KeyShownOnce:
    role = await roles.find(body.role, tx=tx)
    for scope in role.scopes if role else ():
        caller.require(scope)  # nobody hands out more than they have
    expires_at = None if body.lifetime_days is None else datetime.now(UTC) + timedelta(days=body.lifetime_days)
    issued = await keys.issue(tx, name=body.name, role=body.role, user_id=body.user_id, expires_at=expires_at)
    return KeyShownOnce(id=issued.id, name=issued.name, role=issued.role, key=issued.key)


async def list_keys(query: PageQuery, keys: ApiKeyRepository) -> JsonPage[ApiKey]:
    return await keys.list_json(order=(ApiKey.created_at.desc(),), limit=query.limit, cursor=query.cursor)


async def get_key(key_id: UUID, keys: ApiKeyRepository) -> ApiKey:
    return await keys.get(key_id)


async def revoke_key(key_id: UUID, tx: Transaction, keys: ApiKeyRepository) -> ApiKey:
    return await keys.revoke(tx, key_id)


_USER = {
    "id": "5eeda0bb-1738-8000-8000-000000000001",
    "email": "ada.lindqvist@example.org",
    "name": "Ada Lindqvist",
    "phone": "+46701234567",
    "language_code": "sv",
    "timezone": "Europe/Stockholm",
    "is_active": True,
    "kyc_status": "verified",
    "metadata": {"team": "motion"},
    "created_at": "2026-01-01T00:00:00Z",
    "updated_at": "2026-01-01T00:00:00Z",
    "version": 1,
}
_NEW_USER = _USER | {
    "id": "019b7617-5e6f-7c3a-9b1e-0d6f1a2b3c4d",
    "email": "ingrid.solberg@example.org",
    "name": "Ingrid Solberg",
    "phone": "+4791234567",
    "language_code": "nb",
    "timezone": "Europe/Oslo",
    "kyc_status": "pending",
    "metadata": {},
}
_USER_PATH = {"user_id": str(_USER["id"])}
_KEY_ID = "0a5c1f60-3f0e-4b7e-9c39-5a2f7f1f3a10"

ROUTES: tuple[Route, ...] = (
    Route(
        method="GET",
        path="/api/users/{user_id}",
        handler=get_user,
        summary="Read a user",
        raises=(NotFound,),
        path_examples=_USER_PATH,
        answer_example=_USER,
        tag="users",
    ),
    Route(
        method="POST",
        path="/api/users",
        handler=create_user,
        summary="Create a user",
        description="The user has no password; they can hold API keys. Emails are unique, whatever their capitals.",
        status=201,
        scope="identity:user:write",
        raises=(AlreadyExists, InvalidValue),
        body_example={
            "email": "ingrid.solberg@example.org",
            "name": "Ingrid Solberg",
            "phone": "+4791234567",
            "language_code": "nb",
            "timezone": "Europe/Oslo",
        },
        answer_example=_NEW_USER,
        tag="users",
    ),
    Route(
        method="PATCH",
        path="/api/users/{user_id}",
        handler=update_user,
        summary="Change a user",
        description="A signed-in user may change themselves, but not is_active and kyc_status. "
        "If-Match makes the change conditional on the version that was read.",
        scope="identity:self:write",
        raises=(NotFound, VersionConflict, AlreadyExists, InvalidValue, Forbidden),
        path_examples=_USER_PATH,
        body_example={"name": "Ada Lindqvist-Berg", "timezone": "Europe/Stockholm"},
        answer_example=_USER | {"name": "Ada Lindqvist-Berg", "version": 2},
        tag="users",
    ),
    Route(
        method="POST",
        path="/api/auth/register",
        handler=register,
        summary="Register a user with a password",
        status=201,
        public=True,
        raises=(AlreadyExists, InvalidValue, UnavailableError),
        body_example={"email": "tove.nyman@example.org", "password": "harmonic-drive-100", "name": "Tove Nyman"},
        answer_example=_NEW_USER | {"email": "tove.nyman@example.org", "name": "Tove Nyman", "phone": None},
        tag="authentication",
        location="/api/users/{id}",
    ),
    Route(
        method="POST",
        path="/api/auth/login",
        handler=login,
        summary="Sign in with email and password",
        description="Starts a session. Send its token as 'Authorization: Bearer hws_…'. "
        "An unknown email and a wrong password are told apart by nothing.",
        public=True,
        raises=(Unauthenticated, UnavailableError),
        body_example={"email": "tove.nyman@example.org", "password": "harmonic-drive-100"},
        answer_example={
            "token": "hws_kS0mU7mY2zJ0b5cGqk3nXh1dV9wR4tLpE8aFiQoZxyA",
            "token_type": "Bearer",
            "expires_in": 43_200,
            "user_id": _USER["id"],
        },
        tag="authentication",
    ),
    Route(
        method="POST",
        path="/api/auth/logout",
        handler=logout,
        summary="End the session",
        status=204,
        scope="identity:self:write",
        raises=(StateConflict, UnavailableError),
        tag="authentication",
    ),
    Route(
        method="GET",
        path="/api/auth/me",
        handler=me,
        summary="Who this credential belongs to",
        scope="identity:self:read",
        answer_example={
            "name": "ada.lindqvist@example.org",
            "scopes": ["*:*:read", "identity:self:write"],
            "user_id": _USER["id"],
        },
        tag="authentication",
    ),
    Route(
        method="GET",
        path="/api/admin/keys",
        handler=list_keys,
        summary="List API keys, newest first",
        scope="identity:api_key:admin",
        raises=(InvalidValue,),
        query_example={"limit": 20},
        tag="administration",
    ),
    Route(
        method="POST",
        path="/api/admin/keys",
        handler=issue_key,
        summary="Issue an API key",
        description="The answer holds the key's text, which is not stored. Nobody can grant more than they may do.",
        status=201,
        scope="identity:api_key:admin",
        raises=(MissingReference, InvalidValue, Forbidden),
        body_example={"name": "warehouse scanner", "role": "writer", "lifetime_days": 365},
        answer_example={
            "id": _KEY_ID,
            "name": "warehouse scanner",
            "role": "writer",
            "key": "hw_0a5c1f603f0e4b7e9c395a2f7f1f3a10_Zk1WcD8yTqk2p0VxRr3yJm5uHs7aLb9nEo4iGf6tQwA",
        },
        tag="administration",
        location="/api/admin/keys/{id}",
    ),
    Route(
        method="GET",
        path="/api/admin/keys/{key_id}",
        handler=get_key,
        summary="Read an API key without its text",
        scope="identity:api_key:admin",
        raises=(NotFound,),
        path_examples={"key_id": _KEY_ID},
        tag="administration",
    ),
    Route(
        method="DELETE",
        path="/api/admin/keys/{key_id}",
        handler=revoke_key,
        summary="Revoke an API key",
        description="It opens nothing from now on. Revoking it again changes nothing.",
        scope="identity:api_key:admin",
        raises=(NotFound,),
        path_examples={"key_id": _KEY_ID},
        tag="administration",
    ),
)
