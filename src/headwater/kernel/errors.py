"""The errors of Headwater, drawn as one tree. What PostgreSQL says is translated into it once, in `translation.py`.

HeadwaterError
├── InputError               what was asked cannot be; nothing was changed
│   ├── InvalidValue             a value has the wrong shape, type or range, or breaks a CHECK
│   ├── MissingReference         a row it refers to does not exist
│   └── InvalidCursor            a page cursor is damaged, or belongs to another listing
├── NotFound                 there is no such row
├── ConflictError            the rows as they stand forbid it
│   ├── AlreadyExists            a value that must be unique is taken
│   ├── VersionConflict          the row has changed since it was read
│   ├── StillReferenced          other rows refer to it
│   └── StateConflict            the row's state does not allow this step
├── AccessError              the caller may not
│   ├── Unauthenticated          no key, or a wrong one
│   └── Forbidden                a good key that lacks the scope
├── TransientError           the same work, run again, can succeed
│   ├── SerializationFailure     SQLSTATE 40001
│   ├── DeadlockDetected         SQLSTATE 40P01
│   └── LockNotAvailable         SQLSTATE 55P03, a lock timeout ran out
├── UnavailableError         a store cannot serve now
│   ├── Unreachable              it does not answer, or the connection broke
│   ├── PoolExhausted            no connection became free in time
│   └── StatementTimeout         PostgreSQL ended a statement that ran too long
├── MigrationError           the schema cannot be brought to where it should be
│   ├── ChecksumMismatch         an applied revision was edited
│   ├── SchemaDrift              the database differs from what the migrations made
│   └── PendingMigrations        revisions wait to be applied
├── StreamError              the change stream cannot go on from a position
│   ├── StreamGap                something between is missing: it was dropped, or lost
│   └── EpochChanged             the database is not the one the position was of
├── KeyringError             what is encrypted cannot be read or written
│   ├── KeyMissing               the keyring does not hold the key
│   └── SealBroken               it was changed, or belongs to another row
├── RefusedError             an operation that would do harm, refused before it began
└── ProgrammingError         Headwater was called in a way that cannot work
"""

# ruff: noqa: N818  # the tree names what happened; only its branches end in Error

from __future__ import annotations

from typing import Any, ClassVar


class HeadwaterError(Exception):
    """Every error Headwater raises on purpose.

    `message` says what happened and to what, `remedy` what to do about it. `detail` holds JSON-serialisable facts
    (column, constraint, current version) for programs. `slug` is stable: it names the problem type over HTTP.
    """

    slug: ClassVar[str] = "error"

    def __init__(self, message: str, *, remedy: str = "", **detail: Any) -> None:
        super().__init__(message)
        self.message = message
        self.remedy = remedy
        self.detail = detail

    def __str__(self) -> str:
        return f"{self.message} {self.remedy}".rstrip()


class InputError(HeadwaterError):
    slug = "input"


class InvalidValue(InputError):
    slug = "invalid-value"


class MissingReference(InputError):
    slug = "missing-reference"


class InvalidCursor(InputError):
    slug = "invalid-cursor"


class NotFound(HeadwaterError):
    slug = "not-found"


class ConflictError(HeadwaterError):
    slug = "conflict"


class AlreadyExists(ConflictError):
    slug = "already-exists"


class VersionConflict(ConflictError):
    """`current` is the row as it stands now, for a caller who wants to merge and try again."""

    slug = "version-conflict"

    def __init__(self, message: str, *, current: Any = None, remedy: str = "", **detail: Any) -> None:
        super().__init__(message, remedy=remedy, **detail)
        self.current = current


class StillReferenced(ConflictError):
    slug = "still-referenced"


class StateConflict(ConflictError):
    slug = "state-conflict"


class AccessError(HeadwaterError):
    slug = "access"


class Unauthenticated(AccessError):
    slug = "unauthenticated"


class Forbidden(AccessError):
    slug = "forbidden"


class TransientError(HeadwaterError):
    slug = "transient"


class SerializationFailure(TransientError):
    slug = "serialization-failure"


class DeadlockDetected(TransientError):
    slug = "deadlock-detected"


class LockNotAvailable(TransientError):
    slug = "lock-not-available"


class UnavailableError(HeadwaterError):
    slug = "unavailable"


class Unreachable(UnavailableError):
    slug = "unreachable"


class PoolExhausted(UnavailableError):
    slug = "pool-exhausted"


class StatementTimeout(UnavailableError):
    slug = "statement-timeout"


class MigrationError(HeadwaterError):
    slug = "migration"


class ChecksumMismatch(MigrationError):
    slug = "checksum-mismatch"


class SchemaDrift(MigrationError):
    slug = "schema-drift"


class PendingMigrations(MigrationError):
    slug = "pending-migrations"


class StreamError(HeadwaterError):
    slug = "stream"


class StreamGap(StreamError):
    slug = "stream-gap"


class EpochChanged(StreamError):
    slug = "epoch-changed"


class KeyringError(HeadwaterError):
    slug = "keyring"


class KeyMissing(KeyringError):
    slug = "key-missing"


class SealBroken(KeyringError):
    slug = "seal-broken"


class RefusedError(HeadwaterError):
    slug = "refused"


class ProgrammingError(HeadwaterError):
    slug = "programming"
