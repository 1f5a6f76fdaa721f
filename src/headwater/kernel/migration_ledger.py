"""The ledger of migrations: which revisions a database has, and every object as they left it. The truth of the runner.

Alembic's version table cannot be that truth: it forgets the modules that others depend on. It is kept right beside it.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from datetime import datetime
from importlib.metadata import version
from importlib.resources import files
from typing import Any, Literal

import asyncpg

from headwater.kernel import fingerprint
from headwater.kernel.fingerprint import CatalogueObject, Correction, Fingerprint, Key, RecordedObject
from headwater.kernel.queries import Queries
from headwater.kernel.revision_files import Revision

QUERIES = Queries.load("headwater.kernel", "migrations.sql")

Connection = asyncpg.Connection


@dataclass(frozen=True, slots=True)
class LedgerRow:
    """One revision that was applied, or has begun outside a transaction and not ended ('running')."""

    revision: str
    module: str
    name: str
    sha256: str
    requires: tuple[str, ...]
    state: Literal["running", "applied"]
    applied_at: datetime
    duration_ms: int | None
    lock_retries: int
    applied_by: str
    before: dict[Key, CatalogueObject | None] | None
    """What the catalogue was, beside the record, when a running revision began."""


async def exists(connection: Connection) -> bool:
    """Whether the database was ever migrated."""
    return bool(await connection.fetchval(QUERIES["has_ledger"].sql))


async def create(connection: Connection) -> None:
    """Make the schema `headwater` and the ledger, and note what is there already."""
    async with connection.transaction():
        before = await fingerprint.take(connection)
        await connection.execute((files("headwater.kernel") / "migration_ledger.sql").read_text(encoding="utf-8"))
        after = await fingerprint.take(connection)
        of_the_database = [found for found in before.values() if not found.schemas]
        await correct(connection, fingerprint.found_objects(of_the_database))
        await correct(connection, fingerprint.correction({}, before, after, None))


async def read(connection: Connection) -> dict[str, LedgerRow]:
    """Every revision, in the order applied."""
    return {row["revision"]: _ledger_row(row) for row in await connection.fetch(QUERIES["read_ledger"].sql)}


async def read_record(connection: Connection) -> dict[Key, RecordedObject]:
    """Every object as the migrations left it."""
    return {
        (r["kind"], r["name"]): RecordedObject(
            r["kind"], r["name"], r["parent"], tuple(r["schemas"]), r["definition"], r["revision"]
        )
        for r in await connection.fetch(QUERIES["read_fingerprint"].sql)
    }


async def begin(connection: Connection, revision: Revision, before: Fingerprint) -> None:
    """Note that a revision outside a transaction begins."""
    record = await read_record(connection)
    beside: list[dict[str, Any]] = [asdict(found) for key, found in before.items() if not _same(record.get(key), found)]
    beside += [{"kind": kind, "name": name, "definition": None} for kind, name in record if (kind, name) not in before]
    query = QUERIES["begin_revision"]
    await connection.execute(query.sql, *query.arguments(_identity(revision) | {"before": json.dumps(beside)}))


async def before_of(connection: Connection, row: LedgerRow) -> dict[Key, CatalogueObject]:
    """The catalogue as it was when a running revision began."""
    before: dict[Key, CatalogueObject] = dict(await read_record(connection))
    for key, found in (row.before or {}).items():
        if found is None:
            before.pop(key, None)
        else:
            before[key] = found
    return before


async def end(
    connection: Connection,
    revision: Revision,
    *,
    before: Fingerprint,
    after: Fingerprint,
    duration_ms: int,
    lock_retries: int,
) -> None:
    """Note, in the caller's transaction, that a revision is applied and what it made."""
    record = await read_record(connection)
    await correct(connection, fingerprint.correction(record, before, after, revision.revision))
    query = QUERIES["end_revision"]
    values = _identity(revision) | {"duration_ms": duration_ms, "lock_retries": lock_retries}
    await connection.execute(query.sql, *query.arguments(values))
    await connection.execute(QUERIES["forget_versions"].sql)
    await connection.execute(QUERIES["note_versions"].sql)


async def correct(connection: Connection, correction: Correction) -> None:
    """Write a correction to the record."""
    keep = QUERIES["keep_object"]
    await connection.executemany(
        keep.sql,
        [
            keep.arguments(
                {
                    "kind": kept.kind,
                    "name": kept.name,
                    "parent": kept.parent,
                    "schemas": list(kept.schemas),
                    "definition": kept.definition,
                    "sha256": fingerprint.digest(kept.definition),
                    "revision": kept.revision,
                }
            )
            for kept in correction.keep
        ],
    )
    forget = QUERIES["forget_object"]
    await connection.executemany(forget.sql, [forget.arguments({"kind": k, "name": n}) for k, n in correction.forget])


def _identity(revision: Revision) -> dict[str, object]:
    return {
        "revision": revision.revision,
        "module": revision.module,
        "name": revision.name,
        "sha256": revision.sha256,
        "requires": list(revision.requires),
        "headwater_version": version("headwater"),
    }


def _same(known: RecordedObject | None, found: CatalogueObject) -> bool:
    return known is not None and known.definition == found.definition


def _ledger_row(row: Any) -> LedgerRow:
    before = None
    if row["before"] is not None:
        before = {(o["kind"], o["name"]): _catalogue_object(o) for o in json.loads(row["before"])}
    return LedgerRow(
        revision=row["revision"],
        module=row["module"],
        name=row["name"],
        sha256=row["sha256"],
        requires=tuple(row["requires"]),
        state=row["state"],
        applied_at=row["applied_at"],
        duration_ms=row["duration_ms"],
        lock_retries=row["lock_retries"],
        applied_by=row["applied_by"],
        before=before,
    )


def _catalogue_object(found: dict[str, Any]) -> CatalogueObject | None:
    if found["definition"] is None:
        return None
    return CatalogueObject(found["kind"], found["name"], found["parent"], tuple(found["schemas"]), found["definition"])
