"""The fingerprint: every object of the catalogue by name, what the migrations made of it, and how the two differ.

After each revision, in its transaction, only what *that revision* changed is written to `headwater.fingerprint`. What
somebody else changed by hand is therefore never taken for right, however many migrations follow.

A schema is watched as soon as a revision makes something in it. What was there before stays: it is noted as found,
so that a foreign table in `public` is no difference, but a table that appears there later is.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

import asyncpg

from headwater.kernel.queries import Queries

QUERIES = Queries.load("headwater.kernel", "fingerprint.sql")

Key = tuple[str, str]
"""Kind and name, as in ("index", "trading.orders_asset_id_idx")."""


@dataclass(frozen=True, slots=True)
class CatalogueObject:
    """One object. `parent` is the "kind name" it lives and dies with; `schemas` is empty for what the database owns."""

    kind: str
    name: str
    parent: str
    schemas: tuple[str, ...]
    definition: str

    @property
    def key(self) -> Key:
        return self.kind, self.name


@dataclass(frozen=True, slots=True)
class RecordedObject(CatalogueObject):
    """What the migrations left. `revision` made or changed it last; None means that it was found."""

    revision: str | None = None


Fingerprint = Mapping[Key, CatalogueObject]
Record = Mapping[Key, RecordedObject]


@dataclass(frozen=True, slots=True)
class Difference:
    """One object that is not as the migrations left it."""

    change: Literal["added", "removed", "changed"]
    kind: str
    name: str
    recorded: str | None
    actual: str | None
    revision: str | None

    def __str__(self) -> str:
        return f"{self.kind} {self.name}"


@dataclass(frozen=True, slots=True)
class Correction:
    """What to write to the record: `keep` replaces or adds, `forget` removes."""

    keep: tuple[RecordedObject, ...]
    forget: tuple[Key, ...]


async def take(connection: asyncpg.Connection) -> dict[Key, CatalogueObject]:
    """Read the catalogue. Inside a transaction it leaves no trace in the session."""
    transaction = connection.transaction()
    await transaction.start()
    try:
        await connection.execute(QUERIES["settle"].sql)
        rows = await connection.fetch(QUERIES["fingerprint"].sql)
    finally:
        # A savepoint that is rolled back takes the search path of `settle` with it.
        await transaction.rollback()
    return {
        (r["kind"], r["name"]): CatalogueObject(r["kind"], r["name"], r["parent"], tuple(r["schemas"]), r["definition"])
        for r in rows
    }


def watched(record: Record) -> frozenset[str]:
    """The schemas in which a revision has made something."""
    return frozenset(schema for known in record.values() for schema in known.schemas)


def differences(record: Record, actual: Fingerprint) -> tuple[Difference, ...]:
    """How the catalogue differs from the record, without the parts of what came or went as a whole."""
    schemas = watched(record)
    found: dict[Key, Difference] = {}
    for key, known in record.items():
        there = actual.get(key)
        if there is None:
            found[key] = Difference("removed", *key, known.definition, None, known.revision)
        elif there.definition != known.definition:
            found[key] = Difference("changed", *key, known.definition, there.definition, known.revision)
    for key, there in actual.items():
        if key not in record and (not there.schemas or not schemas.isdisjoint(there.schemas)):
            found[key] = Difference("added", *key, None, there.definition, None)
    whole = {(d.change, str(d)) for d in found.values() if d.change != "changed"}
    parents = {key: (record.get(key) or actual[key]).parent for key in found}
    return tuple(
        difference for key, difference in sorted(found.items()) if (difference.change, parents[key]) not in whole
    )


def correction(record: Record, before: Fingerprint, after: Fingerprint, revision: str | None) -> Correction:
    """What one revision changes in the record, given the catalogue before and after it."""
    schemas = watched(record)
    keep: dict[Key, RecordedObject] = {}
    forget: list[Key] = []
    for key in before.keys() | after.keys():
        was, now = before.get(key), after.get(key)
        known = record.get(key)
        if was == now:
            continue
        if now is None:
            forget.append(key)
        elif was is None or _is_sound(was, known, schemas):
            keep[key] = _recorded(now, revision)
        # else somebody had changed it by hand and the revision changed it further: nobody can say what is right, so
        # the record stays and the object stays reported until it is as recorded, or accepted.
    newly = {schema for kept in keep.values() for schema in kept.schemas} - schemas
    for key, was in before.items():
        if key in after and key not in record and key not in keep and not newly.isdisjoint(was.schemas):
            keep[key] = _recorded(was, None)
    return Correction(tuple(keep.values()), tuple(forget))


def _is_sound(was: CatalogueObject, known: RecordedObject | None, schemas: frozenset[str]) -> bool:
    """Whether it was as the migrations left it, or nobody's business until now."""
    if known is not None:
        return known.definition == was.definition
    return bool(was.schemas) and schemas.isdisjoint(was.schemas)


def _recorded(found: CatalogueObject, revision: str | None) -> RecordedObject:
    return RecordedObject(found.kind, found.name, found.parent, found.schemas, found.definition, revision)


def found_objects(objects: Iterable[CatalogueObject]) -> Correction:
    """Note objects that no revision made."""
    return Correction(tuple(_recorded(o, None) for o in objects), ())


def acceptance(record: Record, actual: Fingerprint) -> Correction:
    """What makes the record say what the catalogue says, in the schemas that are watched."""
    schemas = watched(record)
    keep = []
    for key, there in actual.items():
        known = record.get(key)
        if known is None:
            if not there.schemas or not schemas.isdisjoint(there.schemas):
                keep.append(_recorded(there, None))
        elif known.definition != there.definition:
            keep.append(_recorded(there, known.revision))
    return Correction(tuple(keep), tuple(key for key in record if key not in actual))


def digest(definition: str) -> str:
    """A short name for a definition, for comparing two databases by eye."""
    return hashlib.sha256(definition.encode()).hexdigest()
