"""The entities of identity: people, the roles that grant scopes, and the keys that programs hold.

What proves an identity (`password_hash`, `key_hash`) is deferred: no value that is read ever carries it.
"""

from __future__ import annotations

import enum
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import CheckConstraint, ForeignKey, Index, UniqueConstraint, func
from sqlalchemy.orm import Mapped, mapped_column

from headwater.kernel.models import Keyed, Model, Timestamped, Versioned, native_enum
from headwater.kernel.tracking import Tracked


class KycStatus(enum.Enum):
    """How far the check of a person's identity has come."""

    PENDING = "pending"
    VERIFIED = "verified"
    REJECTED = "rejected"


_EMAIL_TAKEN = "users: this email is already taken."


class User(Keyed, Timestamped, Versioned, Model):
    """A person. Two users never share an email, whatever its capitals; it is kept as it was written.

    `users_email_key` serves `ON CONFLICT (email)` and look-ups of the exact text; `users_email_lower_key` is the rule.
    """

    __tablename__ = "users"
    __tracked__ = Tracked("full")
    __table_args__ = (
        UniqueConstraint("email", name="users_email_key", info={"message": _EMAIL_TAKEN}),
        CheckConstraint("email LIKE '%_@_%'", name="email", info={"message": "users: an email needs an @."}),
        CheckConstraint("jsonb_typeof(metadata) = 'object'", name="metadata"),
        Index("users_is_active_idx", "is_active"),
        Index("users_created_at_idx", "created_at"),
    )

    email: Mapped[str]
    name: Mapped[str | None]
    phone: Mapped[str | None]
    language_code: Mapped[str] = mapped_column(server_default="ru")
    timezone: Mapped[str] = mapped_column(server_default="Europe/Moscow")
    is_active: Mapped[bool] = mapped_column(server_default="true")
    kyc_status: Mapped[KycStatus] = mapped_column(native_enum(KycStatus, name="kyc_status"), server_default="pending")
    metadata_: Mapped[dict[str, Any]] = mapped_column("metadata", server_default="{}")
    password_hash: Mapped[str | None] = mapped_column(info={"private": True}, deferred=True, sort_order=93)


Index("users_email_lower_key", func.lower(User.email), unique=True, info={"message": _EMAIL_TAKEN})


class Role(Model):
    """A named set of scopes (`module:entity:action`, `*` for any part). Made by migrations."""

    __tablename__ = "roles"
    __tracked__ = Tracked("off")

    name: Mapped[str] = mapped_column(primary_key=True)
    scopes: Mapped[list[str]]
    description: Mapped[str] = mapped_column(server_default="")


class ApiKey(Keyed, Model):
    """A key a program holds. Only the SHA-256 of its text is kept; `last_four` helps people to tell keys apart."""

    __tablename__ = "api_keys"
    __tracked__ = Tracked("keys", tags=("user_id",))
    __table_args__ = (
        CheckConstraint("octet_length(key_hash) = 32", name="key_hash"),
        Index("api_keys_user_id_idx", "user_id"),
    )

    name: Mapped[str]
    role: Mapped[str] = mapped_column(
        ForeignKey("roles.name", name="api_keys_role_fkey", info={"message": "api_keys: there is no such role."})
    )
    user_id: Mapped[UUID | None] = mapped_column(ForeignKey("users.id", name="api_keys_user_id_fkey"))
    key_hash: Mapped[bytes] = mapped_column(info={"private": True}, deferred=True)
    last_four: Mapped[str]
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    expires_at: Mapped[datetime | None]
    revoked_at: Mapped[datetime | None]
