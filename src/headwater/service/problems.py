"""Problems: every refusal as RFC 9457 `application/problem+json`, with a stable type and what to do."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from headwater.kernel import errors

Headers = tuple[tuple[bytes, bytes], ...]


class FieldError(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One thing wrong with a request: where (a JSON pointer into the body, or a parameter's name) and what."""

    detail: str
    pointer: str | None = None
    parameter: str | None = None


class Problem(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What went wrong, in the form of RFC 9457. `remedy` says what to do, `facts` holds data for programs."""

    type: str
    title: str
    status: int
    detail: str
    instance: str = ""
    remedy: str = ""
    errors: list[FieldError] = []
    facts: dict[str, Any] = {}


@dataclass(frozen=True, slots=True)
class Kind:
    """One type of problem: what it means and what a client does about it. Served as `/problems/<slug>`."""

    slug: str
    status: int
    title: str
    meaning: str
    remedy: str

    @property
    def type(self) -> str:
        """The stable URI of the type, relative to the service."""
        return f"/problems/{self.slug}"


KINDS: dict[str, Kind] = {
    kind.slug: kind
    for kind in (
        Kind(
            "input",
            422,
            "The request cannot be",
            "What was asked cannot be; nothing was changed.",
            "Correct the request.",
        ),
        Kind(
            "invalid-value",
            422,
            "A value is wrong",
            "A value has the wrong shape, type or range. `errors` names each one.",
            "Correct the values named in `errors`.",
        ),
        Kind(
            "rule-broken",
            409,
            "A rule of the data forbids it",
            "Each value is well formed, but together, or with the rows as they are, they break a rule of the database.",
            "Read `detail` and `facts`; they name the rule and its columns.",
        ),
        Kind(
            "missing-reference",
            409,
            "Something referred to does not exist",
            "The request refers to a row that does not exist; nothing was changed.",
            "Create what is referred to first, or correct its id.",
        ),
        Kind(
            "invalid-cursor",
            422,
            "The cursor cannot be used",
            "The page cursor is damaged or belongs to another listing.",
            "Start again without a cursor, and take `next` from each page as it is.",
        ),
        Kind(
            "not-found",
            404,
            "There is no such thing",
            "Nothing lives at this path, or the row does not exist.",
            "Check the path and the id; `/openapi.json` lists every path.",
        ),
        Kind(
            "conflict",
            409,
            "The rows as they stand forbid it",
            "The request is well formed but the state of the data forbids it.",
            "Read the current state and decide again.",
        ),
        Kind(
            "already-exists",
            409,
            "A value is taken",
            "A value that must be unique belongs to another row.",
            "Choose another value, or read the row that has it.",
        ),
        Kind(
            "version-conflict",
            409,
            "The row has changed",
            "The row has changed since it was read. The status is 412 when an If-Match header asked for the check.",
            "Read the row again and repeat the change on its current version.",
        ),
        Kind(
            "still-referenced",
            409,
            "Other rows refer to it",
            "The row cannot go while other rows refer to it.",
            "Remove what refers to it first.",
        ),
        Kind(
            "state-conflict",
            409,
            "Its state does not allow this step",
            "The step is not possible from the state the row is in.",
            "Read the row's state; its documentation says which steps it allows.",
        ),
        Kind(
            "unauthenticated",
            401,
            "A key is needed",
            "The request has no key, or one that is wrong, expired or revoked.",
            "Send `Authorization: Bearer <key>` or `X-API-Key: <key>`.",
        ),
        Kind("access", 403, "Not allowed", "The caller may not do this.", "Ask an administrator."),
        Kind(
            "forbidden",
            403,
            "The key lacks the scope",
            "The key is good but its role does not grant the scope of this operation.",
            "Use a key with the scope, or ask an administrator to grant it.",
        ),
        Kind(
            "transient",
            503,
            "Try again",
            "The same request, sent again, can succeed; nothing was changed.",
            "Send it again after the time in Retry-After.",
        ),
        Kind(
            "serialization-failure",
            503,
            "Try again",
            "Concurrent transactions stood in each other's way and this one gave way; nothing was changed.",
            "Send it again after the time in Retry-After.",
        ),
        Kind(
            "deadlock-detected",
            503,
            "Try again",
            "Concurrent transactions waited for each other and this one gave way; nothing was changed.",
            "Send it again after the time in Retry-After.",
        ),
        Kind(
            "lock-not-available",
            503,
            "Try again",
            "Another transaction holds what this one needs; nothing was changed.",
            "Send it again after the time in Retry-After.",
        ),
        Kind(
            "unavailable",
            503,
            "A store cannot serve now",
            "A store that the request needs cannot serve now.",
            "Send it again after the time in Retry-After; `/health` says which store.",
        ),
        Kind(
            "unreachable",
            503,
            "A store does not answer",
            "A store that the request needs does not answer. A write may or may not have happened.",
            "Read before you repeat a write, or repeat it with the same Idempotency-Key.",
        ),
        Kind(
            "pool-exhausted",
            503,
            "Too busy",
            "No connection became free in time; nothing was changed.",
            "Send it again after the time in Retry-After.",
        ),
        Kind(
            "statement-timeout",
            503,
            "It took too long",
            "PostgreSQL ended a statement that ran too long; nothing was changed.",
            "Ask for less at once, or try again later.",
        ),
        Kind(
            "migration",
            409,
            "The schema is not where it should be",
            "The migrations cannot be applied as they are.",
            "Run `headwater validate --verbose`; it names every difference.",
        ),
        Kind(
            "checksum-mismatch",
            409,
            "An applied revision was edited",
            "A migration file differs from what was applied.",
            "Restore the file and add a new revision instead.",
        ),
        Kind(
            "schema-drift",
            409,
            "The schema has drifted",
            "The database differs from what the migrations made.",
            "Run `headwater validate --verbose`; it names every object.",
        ),
        Kind(
            "pending-migrations",
            409,
            "Migrations are pending",
            "Revisions wait to be applied.",
            "Run `headwater migrate`.",
        ),
        Kind(
            "stream",
            409,
            "The change stream cannot go on",
            "The change stream cannot go on from the position that was named.",
            "Begin again from the entities themselves, then follow from the newest position.",
        ),
        Kind(
            "stream-gap",
            410,
            "That part of the change stream is gone",
            "Changes after the position are no longer kept, or are missing.",
            "Begin again from the entities themselves, then follow from the newest position.",
        ),
        Kind(
            "epoch-changed",
            410,
            "The position is of another life of the database",
            "The database was restored, promoted or copied since the position was handed out.",
            "Begin again from the entities themselves, then follow from the newest position.",
        ),
        Kind(
            "keyring",
            500,
            "What is encrypted cannot be used",
            "Something encrypted at rest cannot be read or written.",
            "Report it with the request id in `instance`.",
        ),
        Kind(
            "key-missing",
            503,
            "A key is not there",
            "The keyring of the service does not hold the key that is needed; nothing was changed.",
            "Its operator puts the key into HEADWATER_KEYRING.",
        ),
        Kind(
            "seal-broken",
            500,
            "An encrypted value is damaged",
            "What is stored does not open: it was changed, or belongs to another row. Nothing was changed.",
            "Its operator restores the row from a backup.",
        ),
        Kind(
            "refused",
            409,
            "Refused",
            "The operation would do harm and was refused before it began.",
            "Read `detail`; it says what would have been harmed.",
        ),
        Kind(
            "programming",
            500,
            "A fault of the service",
            "The service is put together in a way that cannot work.",
            "Report it with the request id in `instance`.",
        ),
        Kind(
            "error",
            500,
            "A fault of the service",
            "Something failed that has no type of its own.",
            "Report it with the request id in `instance`.",
        ),
        Kind(
            "internal",
            500,
            "A fault of the service",
            "The service failed in a way it did not foresee; what it was doing was rolled back.",
            "Report it with the request id in `instance`.",
        ),
        Kind(
            "malformed",
            400,
            "The request cannot be read",
            "The body is not JSON, or a header or the query string cannot be decoded.",
            "Send well-formed UTF-8 JSON.",
        ),
        Kind(
            "method-not-allowed",
            405,
            "Wrong method",
            "The path exists, but not with this method. `Allow` lists its methods.",
            "Use one of the methods in `Allow`.",
        ),
        Kind(
            "too-large",
            413,
            "The body is too large",
            "The body has more bytes than the service reads.",
            "Send less at once.",
        ),
        Kind(
            "unsupported-media-type",
            415,
            "Wrong content type",
            "The operation does not read bodies of this content type.",
            "Send `Content-Type: application/json` (a PATCH may also say `application/merge-patch+json`).",
        ),
        Kind(
            "precondition-failed",
            412,
            "The entity tag does not match",
            "If-Match names a tag that the row does not have.",
            "Read the row again and use its ETag.",
        ),
        Kind(
            "idempotency-key-reused",
            409,
            "The key belongs to another request",
            "The Idempotency-Key was used before with another body.",
            "Use a fresh key for each new request, and the same key only to repeat one.",
        ),
        Kind(
            "overloaded",
            503,
            "Too busy",
            "More requests wait than the service can serve in time; nothing was done.",
            "Send it again after the time in Retry-After.",
        ),
    )
}


class Refusal(Exception):  # noqa: N818  # a refusal is an answer, not a failure of ours
    """A request refused by the service itself, before or beside the modules."""

    def __init__(
        self, slug: str, detail: str, *, remedy: str = "", errors: Iterable[FieldError] = (), headers: Headers = ()
    ) -> None:
        super().__init__(detail)
        self.kind = KINDS[slug]
        self.detail = detail
        self.remedy = remedy
        self.errors = list(errors)
        self.headers = headers


_CHECK_VIOLATION = "23514"
_CHALLENGE = ((b"www-authenticate", b'Bearer realm="headwater"'),)
_RETRY = ((b"retry-after", b"1"),)


def kind_of(error: type[errors.HeadwaterError]) -> Kind:
    """The kind of a kernel error: by its own slug, or by the nearest ancestor that has one."""
    for ancestor in error.__mro__:
        known = KINDS.get(vars(ancestor).get("slug", ""))
        if known is not None:
            return known
    return KINDS["error"]


def problem_of(error: Exception, instance: str, *, if_match: bool = False) -> tuple[Problem, Headers]:
    """The problem that answers an error, and its headers. Unforeseen errors tell nothing of the inside."""
    if isinstance(error, Refusal):
        kind, headers = error.kind, error.headers
        problem = Problem(
            type=kind.type,
            title=kind.title,
            status=kind.status,
            detail=error.detail,
            instance=instance,
            remedy=error.remedy or kind.remedy,
            errors=error.errors,
        )
    elif isinstance(error, errors.HeadwaterError):
        # A CHECK is a rule between values and rows that no schema can say: the request was well formed.
        kind = KINDS["rule-broken"] if error.detail.get("sqlstate") == _CHECK_VIOLATION else kind_of(type(error))
        status = 412 if if_match and isinstance(error, errors.VersionConflict) else kind.status
        if status == 500:
            return _unforeseen(instance), ()
        problem = Problem(
            type=kind.type,
            title=kind.title,
            status=status,
            detail=error.message,
            instance=instance,
            remedy=error.remedy or kind.remedy,
            facts=_plain(error.detail),
        )
        headers = ()
    else:
        return _unforeseen(instance), ()
    if problem.status == 401:
        headers += _CHALLENGE
    elif problem.status == 503:
        headers += _RETRY
    return problem, headers


def _unforeseen(instance: str) -> Problem:
    kind = KINDS["internal"]
    return Problem(
        type=kind.type, title=kind.title, status=500, detail=kind.meaning, instance=instance, remedy=kind.remedy
    )


def _plain(facts: Mapping[str, Any]) -> dict[str, Any]:
    """Facts as JSON can say them; what JSON has no word for is written as text."""
    return {name: msgspec.to_builtins(value, enc_hook=str) for name, value in facts.items()}
