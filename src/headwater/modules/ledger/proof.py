"""Proof: recompute everything that the ledger says, name the first row that is wrong, seal, export and check digests.

Nothing here trusts what the functions wrote: sums, versions, balances, holds and chains are made again from the rows of
`ledger.transfers`. A digest that was kept elsewhere proves that not even the owner of the database has rewritten what
it covers.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from time import perf_counter
from typing import Any

import msgspec

from headwater.kernel.errors import InvalidValue
from headwater.kernel.postgres import Postgres, Runner
from headwater.kernel.queries import Queries
from headwater.kernel.transaction import transaction

CHECKS = Queries.load(__package__, "proof.sql")

_TABLES = ("zero_sum", "limits", "holds", "reversals", "answers")
_ORDER = ("cluster", "rows", *_TABLES, "chains", "seals", "seal_again", "digest")
_GLANCED_AT_MAX = 10_000_000
"""Up to this id the assets of all accounts are held in one array: 40 MB, and twice that while it is made."""

Tell = Callable[[str], None]


class Digest(msgspec.Struct, frozen=True, kw_only=True):
    """What to keep elsewhere: the digest of a seal, over every transfer up to it."""

    seal: int
    transfers: int
    digest: str
    sealed_at: datetime


class Fault(msgspec.Struct, frozen=True):
    """The first row that a check found wrong."""

    check: str
    place: str
    message: str


class Report(msgspec.Struct, frozen=True):
    """What a verification looked at, and what it found."""

    transfers: int
    accounts: int
    assets: int
    holds: int
    seals: int
    unsealed: int
    seconds: float
    faults: list[Fault]

    @property
    def sound(self) -> bool:
        return not self.faults


async def seal(tx: Runner) -> Digest | None:
    """Seal what is finished; the digest of the newest seal, or None while there is none."""
    await tx.fetch(CHECKS["seal"])
    return await newest_digest(tx)


async def newest_digest(tx: Runner) -> Digest | None:
    """The digest of the newest seal, or None."""
    row = await tx.fetch_one(CHECKS["newest_digest"])
    if row is None:
        return None
    return Digest(seal=row.number, transfers=row.transfers, digest=row.digest.hex(), sealed_at=row.created_at)


def read_digest(text: str | bytes) -> Digest:
    """A digest as it was exported. Raises InvalidValue."""
    try:
        return msgspec.json.decode(text, type=Digest)
    except msgspec.DecodeError as wrong:
        raise InvalidValue(
            f"This is no digest of a ledger: {wrong}.", remedy="Give the file that `ledger verify --export` wrote."
        ) from None


async def verify(
    postgres: Postgres, *, digest: Digest | None = None, workers: int = 2, tell: Tell | None = None
) -> Report:
    """Recompute everything, each check in one statement of its own, several at a time. Writers are not held up.

    The faults are in the report: the first bad row of each check, the plainest check first.
    """
    started = perf_counter()
    counts = await postgres.fetch_one(CHECKS["counts"])
    seals = await postgres.fetch(CHECKS["seals"])
    faults = _renumbered(seals, counts.next_xid) + _seals(seals, digest)
    work = _work(seals, workers, at_a_glance=counts.highest <= _GLANCED_AT_MAX)

    async def worker() -> None:
        async with transaction(postgres) as tx:
            for setting in ("SET LOCAL statement_timeout = 0", "SET LOCAL work_mem = '64MB'"):
                await tx.connection.execute(setting)
            for name, arguments in work:
                found = await tx.fetch(CHECKS[name], **arguments)
                if found and name == "rows_at_a_glance":
                    name, found = "rows", await tx.fetch(CHECKS["rows"])
                faults.extend(Fault(name, row.place, row.message) for row in found)
                if tell is not None:
                    tell(name)

    async with asyncio.TaskGroup() as group:
        for _ in range(workers):
            group.create_task(worker())
    faults.sort(key=lambda fault: _ORDER.index(fault.check))
    return Report(
        transfers=counts.transfers,
        accounts=counts.accounts,
        assets=counts.assets,
        holds=counts.holds,
        seals=len(seals),
        unsealed=counts.transfers - sum(row.transfers for row in seals),
        seconds=perf_counter() - started,
        faults=faults,
    )


def _work(seals: Sequence[Any], workers: int, *, at_a_glance: bool) -> Iterator[tuple[str, dict[str, Any]]]:
    """What there is to do: first what cannot be divided, the longest before the others, so that all end together."""
    for row in sorted(seals, key=lambda row: row.transfers, reverse=True):
        yield "seal_again", {"number": row.number}
    parts = 2 * workers if seals else workers  # each reads all transfers: no more than keep every worker busy
    for part in range(parts):
        yield "chains", {"part": part, "parts": parts}
    yield "rows_at_a_glance" if at_a_glance else "rows", {}
    for name in _TABLES:
        yield name, {}


def _renumbered(seals: Sequence[Any], next_xid: int) -> list[Fault]:
    """A database from a dump begins to count its transactions anew: what it writes now falls into what is sealed."""
    if not seals or seals[-1].xid_to <= next_xid:
        return []
    return [
        Fault(
            "cluster",
            f"ledger.seals {seals[-1].number}",
            f"transactions are sealed up to {seals[-1].xid_to}, and this cluster is at {next_xid}: it was restored from"
            " a dump into a new cluster. What is written here falls into what is sealed, and nothing new can be sealed;"
            " restore a physical backup instead",
        )
    ]


def _seals(seals: Sequence[Any], digest: Digest | None) -> list[Fault]:
    """The faults of the chain of seals, and of a digest that was kept elsewhere."""
    faults = []
    for row in seals:
        place = f"ledger.seals {row.number}"
        if row.number != row.follows or row.xid_from != row.begins:
            faults.append(Fault("seals", place, "it does not begin where the one before ends"))
        elif row.digest != row.again:
            faults.append(Fault("seals", place, "it was rewritten: its digest is not that of its content"))
    if digest is not None:
        sealed = [row for row in seals if row.number == digest.seal]
        place = f"ledger.seals {digest.seal}"
        if not sealed:
            faults.append(Fault("digest", place, "the seal of the exported digest is gone"))
        elif sealed[0].digest.hex() != digest.digest:
            faults.append(Fault("digest", place, "it is not the one whose digest was exported"))
        elif sum(row.transfers for row in seals if row.number <= digest.seal) != digest.transfers:
            faults.append(Fault("digest", place, "it covers another number of transfers than the exported digest"))
    return faults[:1] if digest is None else faults
