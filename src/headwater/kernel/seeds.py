"""Seeds: rows that make a fresh system worth looking at. Deterministic, idempotent, removable without touching others.

Every seeded row has a key in a range of UUIDs that nothing else is given (`5eed0000-…`, version 8), so that `clear` can
remove what was seeded and nothing else, without keeping a list.
"""

from __future__ import annotations

import itertools
import random
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import blake2b
from typing import TYPE_CHECKING, Any, Literal
from uuid import UUID

from sqlalchemy import Uuid, and_, delete, exists, func, not_, or_, select
from sqlalchemy.sql.schema import Table

from headwater.kernel import bulk
from headwater.kernel.errors import InvalidValue
from headwater.kernel.models import Model
from headwater.kernel.rows import Shape, shape
from headwater.kernel.transaction import Transaction

if TYPE_CHECKING:
    from headwater.kernel.lifecycle import Headwater

FIRST_KEY = UUID("5eed0000-0000-8000-8000-000000000000")
LAST_KEY = UUID("5eedffff-ffff-8fff-bfff-ffffffffffff")
_BATCH_ROWS = 20_000
_LOCK = 0x5EED  # one sowing at a time per database

_NUMBER = re.compile(r"[0-9]+(_[0-9]+)*")

Progress = Callable[[str, int, int | None], None]
"""Called with what is being planted, how many rows so far, and how many there will be if that is known."""


@dataclass(frozen=True, slots=True)
class SeedReport:
    """What one run did: rows added, by table. All zero when everything was there."""

    profile: str
    added: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class ClearReport:
    """Rows removed, and seeded rows kept because rows of others refer to them, by table."""

    removed: Mapping[str, int]
    kept: Mapping[str, int]


class Sowing:
    """What a module's `seed` is given: the transaction, what is wanted, and the means to plant it."""

    now = datetime(2026, 1, 1, tzinfo=UTC)
    """The instant the seeds pretend it is; fixed, so that every run plants the same."""

    def __init__(
        self, tx: Transaction, profile: Literal["demo", "load"], rows: int, module: str, progress: Progress
    ) -> None:
        self.tx = tx
        self.profile = profile
        self.rows = rows
        self.random = random.Random(f"headwater/{module}/{profile}")  # noqa: S311  # repeatable on purpose
        self.added: dict[str, int] = {}
        self._progress = progress

    def key(self, table: str, number: int) -> UUID:
        """The key of seeded row `number` of `table` (its name with schema): the same in every run, on every machine."""
        kind = int.from_bytes(blake2b(table.encode(), digest_size=4).digest())
        body = (0x5EED << 112) | (kind << 80) | (8 << 76) | (2 << 62) | (number & (2**62 - 1))
        return UUID(int=body)

    async def plant(self, model: type[Model], rows: Iterable[Mapping[str, Any]], *, total: int | None = None) -> int:
        """Add the rows that are not there yet, through COPY, and return how many were added."""
        known = shape(model)
        added = seen = 0
        iterator = iter(rows)
        while batch := list(itertools.islice(iterator, _BATCH_ROWS)):
            self._check(known, batch)
            planted = await bulk.insert_missing(self.tx, known, batch)
            added += planted
            seen += len(batch)
            self._progress(known.label, seen, total)
        self.added[known.label] = self.added.get(known.label, 0) + added
        return added

    def _check(self, known: Shape, rows: Iterable[Mapping[str, Any]]) -> None:
        for row in rows:
            key = row.get(known.key_names[0])
            if not isinstance(key, UUID) or key.version != 8 or not FIRST_KEY <= key <= LAST_KEY:
                raise InvalidValue(
                    f"{known.label}: the seeded row has the key {key!r}, which `clear` would not find.",
                    remedy="Take it from sowing.key().",
                )


def parse_profile(profile: str) -> tuple[Literal["demo", "load"], int]:
    """`demo`, or `load:N` with N rows. Raises InvalidValue."""
    if profile == "demo":
        return "demo", 0
    name, _, number = profile.partition(":")
    if name == "load" and _NUMBER.fullmatch(number) and 1 <= int(number) <= 1_000_000_000:
        return "load", int(number)
    raise InvalidValue(f"There is no seed profile '{profile}'.", remedy="Use 'demo' or 'load:N', such as load:100000.")


def _quiet(_table: str, _done: int, _total: int | None) -> None:
    """No progress."""


async def seed(headwater: Headwater, profile: str = "demo", *, progress: Progress | None = None) -> SeedReport:
    """Plant a profile in every module of the system, each module in a transaction of its own. Raises InvalidValue."""
    kind, rows = parse_profile(profile)
    added: dict[str, int] = {}
    for module in headwater.system.modules:
        if module.seed is None:
            continue
        async with headwater.transaction() as tx:
            await tx.fetch_value(select(func.pg_advisory_xact_lock(_LOCK)))
            sowing = Sowing(tx, kind, rows, module.name, progress or _quiet)
            await module.seed(sowing)
        added |= sowing.added
    if any(added.values()):  # plans made from no statistics would be the first thing a user meets
        # Of every table: what is planted in one may write into others, as an order opens accounts of the ledger.
        tables = [shape(model).table.fullname for module in headwater.system.modules for model in module.models]
        async with headwater.postgres.connection() as connection:
            for table in tables:
                await connection.execute(_analyze(table))
    return SeedReport(profile, added)


async def clear(headwater: Headwater, *, progress: Progress | None = None) -> ClearReport:
    """Remove seeded rows from every table of the system in one transaction, the referring tables first.

    A seeded row that a row of somebody else refers to stays, and is counted in `kept`.
    """
    report = progress or _quiet
    tables = [shape(model).table for module in headwater.system.modules for model in module.models]
    ordered = [t for t in reversed(Model.metadata.sorted_tables) if t in tables]
    removed: dict[str, int] = {}
    kept: dict[str, int] = {}
    async with headwater.transaction() as tx:
        await tx.fetch_value(select(func.pg_advisory_xact_lock(_LOCK)))
        for table in ordered:
            if not _is_seedable(table):
                continue
            held = [_refers(table, other) for other in ordered if _links(table, other)]
            statement = delete(table).where(_seeded(table), *(not_(h) for h in held))
            removed[table.fullname] = gone = await tx.execute(statement)
            while gone and _links(table, table):  # a row that rows of its own table point to goes after them
                gone = await tx.execute(statement)
                removed[table.fullname] += gone
            left = await tx.fetch_value(select(func.count()).select_from(table).where(_seeded(table)))
            if left:
                kept[table.fullname] = left
            report(table.fullname, removed[table.fullname], None)
    return ClearReport({t: n for t, n in removed.items() if n}, kept)


def _is_seedable(table: Table) -> bool:
    return len(table.primary_key.columns) == 1 and isinstance(next(iter(table.primary_key.columns)).type, Uuid)


def _seeded(table: Table) -> Any:
    """A row in the range, of the version nothing else makes: one random key in 65,536 begins like a seeded one."""
    key = next(iter(table.primary_key.columns))
    return and_(key.between(FIRST_KEY, LAST_KEY), func.uuid_extract_version(key) == 8)


def _links(table: Table, other: Table) -> bool:
    return any(fk.column.table is table for fk in other.foreign_keys)


def _refers(table: Table, other: Table) -> Any:
    """A row of `other` points to the row. Seeded ones are gone by now, unless another's row holds them in turn."""
    alias = other.alias()
    matches = [
        and_(*(alias.c[e.parent.name] == e.column for e in constraint.elements))
        for constraint in other.foreign_key_constraints
        if constraint.referred_table is table
    ]
    return exists(select(1).select_from(alias).where(or_(*matches)))


def _analyze(table: str) -> str:
    return "ANALYZE " + ".".join(f'"{part}"' for part in table.split("."))
