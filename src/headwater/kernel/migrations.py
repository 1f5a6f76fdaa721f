"""Migrations: bring a database to the newest revision of every module of a system, and say how it stands.

Revisions are Alembic's; the runner around them is ours, because Alembic alone has no lock, no checksums, and forgets
which revision a module is at. `migrate` holds one advisory lock on the direct DSN, applies each revision in its own
transaction together with its row in the ledger, asks for table locks with a short patience so that nobody queues behind
it, and notes in the same transaction what the revision made of the catalogue. `status` and `validate` only read.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import asyncpg
from alembic.migration import MigrationContext
from alembic.operations import Operations
from sqlalchemy import Connection as AlchemyConnection
from sqlalchemy import event
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection, create_async_engine
from sqlalchemy.pool import NullPool

from headwater.kernel import fingerprint, migration_ledger, revision_files
from headwater.kernel.errors import (
    ChecksumMismatch,
    HeadwaterError,
    LockNotAvailable,
    MigrationError,
    ProgrammingError,
    Unreachable,
)
from headwater.kernel.fingerprint import CatalogueObject, Difference, Key, RecordedObject
from headwater.kernel.migration_ledger import QUERIES, Connection, LedgerRow
from headwater.kernel.module import System
from headwater.kernel.revision_files import Revision, Revisions
from headwater.kernel.settings import Settings
from headwater.kernel.translation import translate

LOCK = 0x68_65_61_64_77_61_74_65
"""The key of the advisory lock ("headwate" in ASCII), one for each database."""

LOCK_TIMEOUT_MS = 50
"""How long a statement of a revision waits for a table lock. While it waits, everybody else queues behind it."""

LOCK_WAIT_SECONDS = 60.0
"""How long in all: for the lock of the migrations, and again for the table locks of each revision."""

Progress = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class PlannedRevision:
    """A revision that waits. `begun` is one outside a transaction that was interrupted and will be run again."""

    module: str
    revision: str
    name: str
    path: Path
    transactional: bool
    begun: bool


@dataclass(frozen=True, slots=True)
class AppliedRevision:
    """A revision that this run applied."""

    module: str
    revision: str
    name: str
    duration_ms: int
    lock_retries: int


@dataclass(frozen=True, slots=True)
class EditedRevision:
    """An applied revision whose file is not the one that was applied."""

    module: str
    revision: str
    name: str
    path: Path
    recorded_sha256: str
    actual_sha256: str


@dataclass(frozen=True, slots=True)
class MissingRevision:
    """An applied revision whose file is gone."""

    module: str
    revision: str
    name: str


@dataclass(frozen=True, slots=True)
class MigrationReport:
    """What one `migrate` did, and what it found that it did not touch."""

    applied: tuple[AppliedRevision, ...]
    missing: tuple[MissingRevision, ...]
    drift: tuple[Difference, ...]


@dataclass(frozen=True, slots=True)
class ModuleStatus:
    """One module: `current` is its newest applied revision, `head` its newest file, None when there is none."""

    module: str
    current: str | None
    head: str | None
    applied: int
    pending: tuple[PlannedRevision, ...]


@dataclass(frozen=True, slots=True)
class MigrationStatus:
    """How a database stands. `others` are modules it has and the system has not."""

    system: str
    modules: tuple[ModuleStatus, ...]
    others: tuple[str, ...]
    edited: tuple[EditedRevision, ...]
    missing: tuple[MissingRevision, ...]
    drift: tuple[Difference, ...]

    @property
    def pending(self) -> tuple[PlannedRevision, ...]:
        return tuple(planned for module in self.modules for planned in module.pending)

    @property
    def drifted(self) -> bool:
        """Whether anything differs from what was applied."""
        return bool(self.edited or self.missing or self.drift)


@dataclass(frozen=True, slots=True)
class ValidationReport:
    """Everything that is not as it should be, by name."""

    edited: tuple[EditedRevision, ...]
    missing: tuple[MissingRevision, ...]
    unapplied: tuple[PlannedRevision, ...]
    drift: tuple[Difference, ...]

    @property
    def drifted(self) -> bool:
        """Whether anything differs from what was applied."""
        return bool(self.edited or self.missing or self.drift)

    @property
    def valid(self) -> bool:
        return not (self.drifted or self.unapplied)


async def migrate(
    system: System,
    settings: Settings,
    *,
    lock_wait_seconds: float = LOCK_WAIT_SECONDS,
    progress: Progress | None = None,
) -> MigrationReport:
    """Apply every revision that waits. Any number of these may run at once; each revision is applied once.

    Raises ChecksumMismatch when an applied revision was edited, LockNotAvailable when a lock was not free in time, and
    MigrationError when a revision fails. What was applied before the failure stays; the next run goes on from there.
    """
    revisions = revision_files.read(system)
    tell = progress or _nobody_listens
    async with _session(settings) as session, session.locked(lock_wait_seconds, tell):
        if not await migration_ledger.exists(session.raw):
            await migration_ledger.create(session.raw)
        ledger = await migration_ledger.read(session.raw)
        _refuse_edited(_edited(revisions, ledger))
        applied = [
            await session.apply(revision, ledger.get(revision.revision), lock_wait_seconds, tell)
            for revision in _pending(revisions, ledger)
        ]
        async with session.raw.transaction():
            record = await migration_ledger.read_record(session.raw)
            actual = await fingerprint.take(session.raw)
        drift = fingerprint.differences(record, actual)
    return MigrationReport(tuple(applied), _missing(revisions, ledger), drift)


async def plan(system: System, settings: Settings) -> tuple[PlannedRevision, ...]:
    """The revisions that `migrate` would apply, in that order. Changes nothing."""
    state = await _look(system, settings, with_catalogue=False)
    return _planned(state.revisions, state.ledger)


async def status(system: System, settings: Settings) -> MigrationStatus:
    """How each module stands, and what differs. Changes nothing."""
    state = await _look(system, settings)
    planned = _planned(state.revisions, state.ledger)
    modules = tuple(
        ModuleStatus(
            module=name,
            current=_current(name, state.ledger),
            head=next((head.revision for head in state.revisions.heads(name)), None),
            applied=sum(row.module == name and row.state == "applied" for row in state.ledger.values()),
            pending=tuple(p for p in planned if p.module == name),
        )
        for name in state.revisions.branches
    )
    others = sorted({row.module for row in state.ledger.values()} - state.revisions.branches.keys())
    return MigrationStatus(
        system=system.name,
        modules=modules,
        others=tuple(others),
        edited=_edited(state.revisions, state.ledger),
        missing=_missing(state.revisions, state.ledger),
        drift=fingerprint.differences(state.record, state.actual) if state.ledger_exists else (),
    )


async def validate(system: System, settings: Settings) -> ValidationReport:
    """Every edited, missing or unapplied revision, and every object that differs from what the migrations made."""
    state = await _look(system, settings)
    return ValidationReport(
        edited=_edited(state.revisions, state.ledger),
        missing=_missing(state.revisions, state.ledger),
        unapplied=_planned(state.revisions, state.ledger),
        drift=fingerprint.differences(state.record, state.actual) if state.ledger_exists else (),
    )


async def accept(
    system: System, settings: Settings, *, lock_wait_seconds: float = LOCK_WAIT_SECONDS
) -> ValidationReport:
    """Take every edited revision and every differing object as they are now. The answer is what was accepted.

    For what was looked at and found right: a hand-made index that stays, an edit that changes nothing. `migrate` never
    does this by itself.
    """
    revisions = revision_files.read(system)
    async with _session(settings) as session, session.locked(lock_wait_seconds, _nobody_listens):
        if not await migration_ledger.exists(session.raw):
            return ValidationReport((), (), (), ())
        async with session.raw.transaction():
            edited = _edited(revisions, await migration_ledger.read(session.raw))
            query = QUERIES["accept_checksum"]
            for one in edited:
                values = {"sha256": one.actual_sha256, "revision": one.revision}
                await session.raw.execute(query.sql, *query.arguments(values))
            record = await migration_ledger.read_record(session.raw)
            actual = await fingerprint.take(session.raw)
            drift = fingerprint.differences(record, actual)
            await migration_ledger.correct(session.raw, fingerprint.acceptance(record, actual))
    return ValidationReport(edited, (), (), drift)


def direct_dsn(settings: Settings) -> str:
    """The DSN without a pooler, as asyncpg reads it: `postgresql+asyncpg://` is understood too."""
    if not settings.direct:
        raise Unreachable(
            "There is no database: neither direct_url nor database_url is set.",
            remedy="Set HEADWATER_DATABASE_URL (or DATABASE_URL), or start the embedded one with `headwater up`.",
        )
    scheme, separator, rest = settings.direct.partition("://")
    return f"{scheme.partition('+')[0]}{separator}{rest}"


@asynccontextmanager
async def alchemy_connection(settings: Settings) -> AsyncIterator[AsyncConnection]:
    """A SQLAlchemy connection of its own on the direct DSN, in autocommit: who uses it begins transactions by hand."""

    async def connect() -> Connection:
        connection: Connection = await asyncpg.connect(
            direct_dsn(settings),
            timeout=settings.connect_timeout_seconds,
            statement_cache_size=0,  # a plan from before an ALTER is of no use after it
            server_settings={
                "application_name": "headwater migrate",
                "search_path": "public",  # what the role has set must not decide where tables are made
                "statement_timeout": "0",
                "idle_in_transaction_session_timeout": "0",
                "jit": "off",  # one reading of the catalogue is quicker than its compilation
            },
        )
        # When the runner is killed, the server notices within a second and gives the lock back. Not every system can.
        with contextlib.suppress(asyncpg.InvalidParameterValueError):
            await connection.execute("set client_connection_check_interval = '1s'")
        return connection

    engine = create_async_engine("postgresql+asyncpg://", poolclass=NullPool, isolation_level="AUTOCOMMIT")

    @event.listens_for(engine.sync_engine, "do_connect")
    def _connect(dialect: Any, _record: object, _arguments: object, _options: object) -> Any:
        return dialect.loaded_dbapi.connect(async_creator_fn=connect, prepared_statement_cache_size=0)

    try:
        async with engine.connect() as opened:
            yield opened
    except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError, TimeoutError, DBAPIError) as error:
        cause = error.orig.__cause__ if isinstance(error, DBAPIError) and error.orig is not None else error
        known = translate(cause or error)
        if known is None:
            raise
        raise known from error
    finally:
        await engine.dispose()


@dataclass(frozen=True, slots=True)
class _Session:
    """One connection, seen by SQLAlchemy for Alembic and as it is for everything else."""

    alchemy: AsyncConnection
    raw: Connection

    @asynccontextmanager
    async def locked(self, wait_seconds: float, tell: Progress) -> AsyncIterator[None]:
        """Hold the lock of the migrations.

        It is asked for again and again and never waited for inside PostgreSQL: a waiting statement holds a snapshot,
        and the CREATE INDEX CONCURRENTLY of whoever has the lock would wait for that snapshot in turn.
        """
        deadline = time.monotonic() + wait_seconds
        told = False
        while not await self.raw.fetchval("select pg_try_advisory_lock($1)", LOCK):
            if time.monotonic() >= deadline:
                raise await self._lock_is_held(wait_seconds)
            if not told:
                tell("Another process migrates this database; waiting for it.")
                told = True
            await asyncio.sleep(random.uniform(0.02, 0.1))  # noqa: S311
        try:
            yield
        finally:
            if not self.raw.is_closed():
                await self.raw.execute("select pg_advisory_unlock($1)", LOCK)

    async def _lock_is_held(self, wait_seconds: float) -> LockNotAvailable:
        query = QUERIES["lock_holder"]
        holder = await self.raw.fetchrow(query.sql, *query.arguments({"lock": LOCK}))
        who = f" It is held by process {holder['pid']} ({holder['application']}) on the server." if holder else ""
        return LockNotAvailable(
            f"The lock of the migrations was not free within {wait_seconds:g} s.{who}",
            remedy="Wait for the other migration to end, or end it, and run this again.",
            pid=holder["pid"] if holder else None,
        )

    async def apply(
        self, revision: Revision, row: LedgerRow | None, wait_seconds: float, tell: Progress
    ) -> AppliedRevision:
        """Apply one revision, as often as it takes to get its locks."""
        tell(f"{revision.revision}  {revision.name}")
        begun = time.monotonic()
        deadline = begun + wait_seconds
        before = None if revision.transactional else await self._begin_outside(revision, row)
        retries = 0
        while True:
            try:
                if before is None:
                    await self._try_inside(revision, begun, retries)
                else:
                    await self._try_outside(revision, before, begun, retries, max(deadline - time.monotonic(), 1.0))
                break
            except Exception as error:
                if _sqlstate(error) not in ("55P03", "40P01"):
                    raise _failed(revision, error) from error
                if time.monotonic() >= deadline:
                    raise await self._table_is_locked(revision, wait_seconds, retries) from error
                if not retries:
                    tell(f"{revision.revision}  waits for a table lock")
                retries += 1
            await asyncio.sleep(min(0.05 * 2**retries, 1.0) * random.uniform(0.5, 1.5))  # noqa: S311
        duration_ms = round((time.monotonic() - begun) * 1000)
        return AppliedRevision(revision.module, revision.revision, revision.name, duration_ms, retries)

    async def _try_inside(self, revision: Revision, begun: float, retries: int) -> None:
        async with self.raw.transaction():
            timeout_ms = LOCK_TIMEOUT_MS if revision.lock_timeout_ms is None else revision.lock_timeout_ms
            await self.raw.execute("select set_config('lock_timeout', $1, true)", str(timeout_ms))
            before = await fingerprint.take(self.raw)
            await self._upgrade(revision)
            await self._end(revision, before, begun, retries)

    async def _begin_outside(self, revision: Revision, row: LedgerRow | None) -> dict[Key, CatalogueObject]:
        async with self.raw.transaction():
            if row is not None and row.before is not None:
                return await migration_ledger.before_of(self.raw, row)
            before = await fingerprint.take(self.raw)
            await migration_ledger.begin(self.raw, revision, before)
            return before

    async def _try_outside(
        self, revision: Revision, before: dict[Key, CatalogueObject], begun: float, retries: int, patience: float
    ) -> None:
        # What runs concurrently waits for old transactions without making anybody queue, so it may wait long.
        timeout_ms = round(patience * 1000) if revision.lock_timeout_ms is None else revision.lock_timeout_ms
        await self.raw.execute("select set_config('lock_timeout', $1, false)", str(timeout_ms))
        try:
            for (name,) in await self.raw.fetch(QUERIES["invalid_indexes"].sql):
                if ("index", name) not in before:  # an interrupted try of this revision left it; quoted by PostgreSQL
                    await self.raw.execute(f"drop index concurrently if exists {name}")
            await self._upgrade(revision)
        finally:
            if not self.raw.is_closed():
                await self.raw.execute("reset lock_timeout")
        async with self.raw.transaction():
            await self._end(revision, before, begun, retries)

    async def _upgrade(self, revision: Revision) -> None:
        async with _alembic_to_ourselves():
            await self.alchemy.run_sync(partial(_run_upgrade, revision))

    async def _end(self, revision: Revision, before: dict[Key, CatalogueObject], begun: float, retries: int) -> None:
        after = await fingerprint.take(self.raw)
        await migration_ledger.end(
            self.raw,
            revision,
            before=before,
            after=after,
            duration_ms=round((time.monotonic() - begun) * 1000),
            lock_retries=retries,
        )

    async def _table_is_locked(self, revision: Revision, wait_seconds: float, retries: int) -> LockNotAvailable:
        rows = await self.raw.fetch(QUERIES["oldest_transactions"].sql)
        told = "; ".join(
            f"process {r['pid']} ({r['application']}, {r['state']}), open for {r['seconds']} s" for r in rows
        )
        return LockNotAvailable(
            f"The revision '{revision.revision}' did not get its table locks within {wait_seconds:g} s "
            f"({retries + 1} tries). The oldest open transactions: {told or 'none'}.",
            remedy="End the transaction that is in the way, and run this again.",
            revision=revision.revision,
            pids=[r["pid"] for r in rows],
        )


@asynccontextmanager
async def _session(settings: Settings) -> AsyncIterator[_Session]:
    async with alchemy_connection(settings) as alchemy:
        raw = (await alchemy.get_raw_connection()).driver_connection
        assert isinstance(raw, asyncpg.Connection)
        yield _Session(alchemy, raw)


_ALEMBIC = threading.Lock()


@asynccontextmanager
async def _alembic_to_ourselves() -> AsyncIterator[None]:
    """`alembic.op` is one for the whole process: two migrations in one process take turns, also across event loops."""
    while not _ALEMBIC.acquire(blocking=False):  # noqa: ASYNC110  # an asyncio.Event belongs to one loop
        await asyncio.sleep(0.005)
    try:
        yield
    finally:
        _ALEMBIC.release()


def _run_upgrade(revision: Revision, connection: AlchemyConnection) -> None:
    context = MigrationContext.configure(connection=connection, opts={"version_table_schema": "headwater"})
    block: Any = partial(_refuse_autocommit_block, revision) if revision.transactional else contextlib.nullcontext
    context.autocommit_block = block  # type: ignore[method-assign]  # its own would commit our transaction
    with Operations.context(context):
        revision.upgrade()


def _refuse_autocommit_block(revision: Revision) -> contextlib.AbstractContextManager[None]:
    raise ProgrammingError(
        f"The revision '{revision.revision}' uses autocommit_block inside its transaction.",
        remedy="Put what cannot run in a transaction into a revision of its own with `transactional = False`.",
    )


def _sqlstate(error: BaseException) -> str | None:
    """SQLSTATE of an error of asyncpg, or of one that SQLAlchemy has wrapped."""
    at: BaseException | None = error
    while at is not None:
        state = getattr(at, "sqlstate", None)
        if isinstance(state, str):
            return state
        at = getattr(at, "orig", None) or at.__cause__
    return None


def _failed(revision: Revision, error: Exception) -> HeadwaterError:
    if isinstance(error, ProgrammingError):
        return error
    state = _sqlstate(error)
    reason = str(getattr(error, "orig", None) or error).strip().split("\n")[0]
    reason = reason.partition(": ")[2] if reason.startswith("<class ") else reason
    facts = {"revision": revision.revision, "module": revision.module, "sqlstate": state}
    if (state or "").startswith(("08", "57P")) or isinstance(error, (OSError, asyncpg.InterfaceError)):
        return Unreachable(
            f"The connection broke while the revision '{revision.revision}' was applied: {reason}",
            remedy="Check the server and run this again: it goes on where it stopped.",
            **facts,
        )
    left = (
        "Nothing of it was kept"
        if revision.transactional
        else "It runs outside a transaction: a part may have been kept, and the next run starts it again"
    )
    return MigrationError(
        f"The revision '{revision.revision}' ({revision.path.name}) failed: {reason}. {left}.",
        remedy="Mend it and run this again.",
        **facts,
    )


@dataclass(frozen=True, slots=True)
class _State:
    """What the files say and what the database says."""

    revisions: Revisions
    ledger_exists: bool
    ledger: dict[str, LedgerRow]
    record: dict[Key, RecordedObject]
    actual: dict[Key, CatalogueObject]


async def _look(system: System, settings: Settings, *, with_catalogue: bool = True) -> _State:
    revisions = revision_files.read(system)
    try:
        connection = await asyncpg.connect(
            direct_dsn(settings),
            timeout=settings.connect_timeout_seconds,
            server_settings={"application_name": "headwater status", "jit": "off"},
        )
        try:
            # One snapshot: a migration that commits meanwhile is seen wholly or not at all.
            async with connection.transaction(isolation="repeatable_read", readonly=True):
                if not await migration_ledger.exists(connection):
                    return _State(revisions, False, {}, {}, {})
                ledger = await migration_ledger.read(connection)
                if not with_catalogue:
                    return _State(revisions, True, ledger, {}, {})
                record = await migration_ledger.read_record(connection)
                return _State(revisions, True, ledger, record, await fingerprint.take(connection))
        finally:
            await connection.close()
    except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError, TimeoutError) as error:
        known = translate(error)
        if known is None:
            raise
        raise known from error


def _pending(revisions: Revisions, ledger: dict[str, LedgerRow]) -> tuple[Revision, ...]:
    return tuple(r for r in revisions.order if r.revision not in ledger or ledger[r.revision].state != "applied")


def _planned(revisions: Revisions, ledger: dict[str, LedgerRow]) -> tuple[PlannedRevision, ...]:
    return tuple(
        PlannedRevision(r.module, r.revision, r.name, r.path, r.transactional, begun=r.revision in ledger)
        for r in _pending(revisions, ledger)
    )


def _current(module: str, ledger: dict[str, LedgerRow]) -> str | None:
    mine = [row for row in ledger.values() if row.module == module and row.state == "applied"]
    built_on = {needed for row in mine for needed in row.requires}
    return next((row.revision for row in reversed(mine) if row.revision not in built_on), None)


def _edited(revisions: Revisions, ledger: dict[str, LedgerRow]) -> tuple[EditedRevision, ...]:
    return tuple(
        EditedRevision(r.module, r.revision, r.name, r.path, ledger[r.revision].sha256, r.sha256)
        for r in revisions.order
        if r.revision in ledger and ledger[r.revision].state == "applied" and ledger[r.revision].sha256 != r.sha256
    )


def _missing(revisions: Revisions, ledger: dict[str, LedgerRow]) -> tuple[MissingRevision, ...]:
    return tuple(
        MissingRevision(row.module, row.revision, row.name)
        for row in ledger.values()
        if row.module in revisions.branches and row.revision not in revisions
    )


def _refuse_edited(edited: Iterable[EditedRevision]) -> None:
    found = list(edited)
    if found:
        raise ChecksumMismatch(
            f"Applied and edited since: {', '.join(f'{e.revision} ({e.path})' for e in found)}. Nothing was applied.",
            remedy="Restore the files and put the change into a new revision; if the edit changes nothing, "
            "`headwater validate --accept` takes it.",
            revisions=[e.revision for e in found],
        )


def _nobody_listens(_: str) -> None:
    """The progress of a caller who does not want to know."""
