"""Idempotency keys: a request that is sent twice has one effect, and both senders get the same answer.

The key is claimed and its answer stored in the transaction that does the work: either both are there or neither. A
concurrent twin waits for the first one at the claim. When the work fails nothing is stored and the twin goes on.
Keys live for 24 hours; after that they count as never used.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from uuid import UUID

from headwater.kernel.errors import StateConflict
from headwater.kernel.postgres import Runner
from headwater.kernel.queries import Queries

QUERIES = Queries.load(__package__, "idempotency.sql")

NOBODY = UUID(int=0)
"""Stands for the caller of a public operation, who has no id."""


@dataclass(frozen=True, slots=True)
class Claim:
    """One request under one key. `caller_id` keeps the keys of different callers apart."""

    key: str
    caller_id: UUID
    route: str
    request_sha256: bytes


@dataclass(frozen=True, slots=True)
class StoredAnswer:
    """The answer of the request that used the key first."""

    status: int
    headers: dict[str, str]
    body: bytes


class KeyReused(StateConflict):
    """The key was used before for another request."""

    slug = "idempotency-key-reused"


async def claim(tx: Runner, asked: Claim) -> StoredAnswer | None:
    """Take the key, or return the answer stored under it. Raises KeyReused. Needs a transaction."""
    tx.require_block("claim()")
    by: dict[str, Any] = {"key": asked.key, "caller_id": asked.caller_id, "route": asked.route}
    taken = by | {"request_sha256": asked.request_sha256}
    for _ in range(3):
        if await tx.fetch_value(QUERIES["claim"], **taken) is not None:
            return None
        before = await tx.fetch_one(QUERIES["recall"], **by)
        if before is None:
            continue  # it was swept between the two statements
        if before.expired:
            await tx.execute(QUERIES["reclaim"], **taken)
            return None
        if before.route != asked.route or bytes(before.request_sha256) != asked.request_sha256:
            break
        return StoredAnswer(before.status, before.headers, bytes(before.body))
    raise KeyReused(
        f"The Idempotency-Key '{asked.key}' was used before, for another request.",
        remedy="Use a fresh key for each new request, and the same key only to repeat one.",
        key=asked.key,
    )


async def store(tx: Runner, asked: Claim, answer: StoredAnswer) -> None:
    """Keep the answer for those who ask again."""
    await tx.execute(
        QUERIES["store"],
        key=asked.key,
        caller_id=asked.caller_id,
        route=asked.route,
        status=answer.status,
        headers=answer.headers,
        body=answer.body,
    )


async def sweep(tx: Runner, *, rows_max: int = 1_000) -> int:
    """Remove up to `rows_max` expired keys and say how many."""
    return await tx.execute(QUERIES["sweep"], rows_max=rows_max)
