"""Invalidation: the relay that carries every committed change to the cache, whoever made it.

It reads `headwater.change` by snapshots of its own and does not wait for ticks: a batch is what is visible now and was
not at the cursor. The cursor lies in Valkey and moves in the same script as the invalidations, so whatever state Valkey
falls back to (an old file, a lagging replica, nothing), its cursor fits it, and the relay goes on from there. While it
has caught up it renews the guard; readers believe no Valkey without it.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator
from dataclasses import dataclass
from time import monotonic
from typing import TYPE_CHECKING, Any

import asyncpg
from sqlalchemy import text

from headwater.kernel.cache import GUARD_SECONDS, STEPS, names_of
from headwater.kernel.cached_rows import served_as
from headwater.kernel.errors import Unreachable
from headwater.kernel.postgres import connect
from headwater.kernel.snapshots import covers, parse
from headwater.kernel.tracking import tracked_table
from headwater.kernel.wire import ReplyError, Wire
from headwater.kernel.written import columns_that_tell, tags_of, tags_of_row

if TYPE_CHECKING:
    from headwater.kernel.cache import Cache
    from headwater.kernel.cache_policy import CachePolicy
    from headwater.kernel.module import System
    from headwater.kernel.settings import Settings

_LOCK = 0x68770003  # one relay per database
_SILENCE_SECONDS_MAX = 2.0
_PAUSE_SECONDS = 0.001
_RETRY_SECONDS = 0.2
_KEYS_MAX = 500
_BOUND_SECONDS = 0.1
_GUARD_RENEWED_SECONDS = 0.1
_LOOK_MS, _LOOK_IDLE_MS = 0.5, 2.5
"""How long PostgreSQL pauses between two looks for something new; a relay that was idle for a while is less eager."""
_EAGER_SECONDS = 1.0

_IDENTITY = """SELECT (pg_control_system()).system_identifier::text || ':' || (SELECT oid FROM pg_database
WHERE datname = current_database())::text,
concat(headwater.identity(), '#',
       (SELECT concat(number, identity IS NULL) FROM headwater.epoch ORDER BY number DESC LIMIT 1)),
pg_current_snapshot()::text, coalesce(pg_sequence_last_value('headwater.change_id'::regclass), 0)"""
_CHANGES = "SELECT * FROM headwater.wait_for_changes($1::text::pg_snapshot, $2, $3, $4)"
_BEHIND = text("""SELECT count(*) AS changes,
  coalesce(extract(epoch FROM clock_timestamp() - min(at)), 0)::float8 AS seconds
FROM headwater.change WHERE id > :floor AND xid >= pg_snapshot_xmin(CAST(CAST(:at AS text) AS pg_snapshot))
AND NOT pg_visible_in_snapshot(xid, CAST(CAST(:at AS text) AS pg_snapshot))""")


class _CursorMovedError(Exception):
    """The cursor in Valkey is not the one this relay wrote."""


@dataclass(frozen=True, slots=True)
class Cursor:
    """How far the cache has been told: of which generation of entries, of which history of which database.

    `floor`: every change up to this id had ended at `snapshot`, so that none of them needs to be looked at again.
    """

    generation: str
    history: str
    floor: int
    snapshot: str

    def write(self) -> bytes:
        """As it lies in Valkey; the snapshot is last, where readers look for it."""
        return f"{self.generation}|{self.history}|{self.floor}|{self.snapshot}".encode()

    @classmethod
    def read(cls, written: bytes | None) -> Cursor | None:
        """What `write` wrote; None for nothing, and for what another program wrote."""
        try:
            generation, history, floor, snapshot = (written or b"").decode().split("|")
            parse(snapshot)
            return cls(generation, history, int(floor), snapshot)
        except ValueError:
            return None

    def is_of(self, history: str, snapshot: str, last: int) -> bool:
        """Whether a database of this history, which is at `snapshot` and at the change `last`, may be where it was."""
        return self.history == history and covers(snapshot, self.snapshot) and self.floor <= last


@dataclass(slots=True)
class RelayFigures:
    """What the relay did."""

    leading: bool = False
    polls: int = 0
    changes: int = 0
    generations: int = 0
    elections: int = 0


class Invalidation:
    """The relay of one database. Every process may run one; one at a time leads, by an advisory lock."""

    def __init__(self, system: System, settings: Settings) -> None:
        self.figures = RelayFigures()
        self._settings = settings
        self._policies: dict[str, list[tuple[CachePolicy, str]]] = {}
        policies = [policy for module in system.modules for policy in module.cache]
        for policy in policies:
            for table, column in columns_that_tell(policy):
                self._policies.setdefault(table, []).append((policy, column))
        # By which columns results may depend on a table; one without a policy is told by all that its changes hold.
        tracked = (tracked_table(policy.model) for policy in policies)
        self._tagged = {known.name: {*known.keys, *known.tags} for known in tracked if known is not None}
        self._serves = ",".join(sorted(map(served_as, policies))) or "-"
        self._wire = Wire(settings.valkey_url, silence_seconds_max=_SILENCE_SECONDS_MAX)
        self._bound: tuple[int, int] | None = None
        self._bound_at = 0.0

    async def run(self) -> None:
        """Relay until cancelled. Stores that go away are waited for."""
        await self._wire.open()
        try:
            while True:
                with contextlib.suppress(Unreachable, ReplyError, OSError, TimeoutError, _CursorMovedError, *_POSTGRES):
                    async with self._elected() as connection:
                        self.figures.elections += 1
                        await self._lead(connection)
                self.figures.leading = False
                await asyncio.sleep(_RETRY_SECONDS / 4)
        finally:
            self.figures.leading = False
            await self._wire.close()

    @contextlib.asynccontextmanager
    async def _elected(self) -> AsyncIterator[Any]:
        connection = await connect(self._settings.direct, self._settings)
        try:
            while not await connection.fetchval("SELECT pg_try_advisory_lock($1)", _LOCK):  # noqa: ASYNC110  # another process holds it
                await asyncio.sleep(_RETRY_SECONDS)
            yield connection
        finally:
            connection.terminate()

    async def _lead(self, connection: Any) -> None:
        """Go on from the cursor Valkey holds. Returns by an error only."""
        identity, history, at, last_change = await connection.fetchrow(_IDENTITY)
        cursor_name, guard_name = names_of(identity)
        changes_since = await connection.prepare(_CHANGES)
        written: bytes | None = await self._wire.send_get(cursor_name)
        run_id = self._wire.run_id
        cursor = Cursor.read(written)
        seconds, micros = await self._wire.send(b"TIME")
        server_ms, renewed_at = int(seconds) * 1000 + int(micros) // 1000, 0.0
        if cursor is None or not cursor.is_of(history, at, last_change):
            cursor = await self._begin(connection, history)
            server_ms = await self._advance(cursor_name, guard_name, written, cursor, {}, set(), b"", 0)
            written = cursor.write()
        busy_at = monotonic()
        while True:
            if self._wire.run_id != run_id:
                raise _CursorMovedError
            asked_at = monotonic()
            wait = max(0.0, renewed_at + _GUARD_RENEWED_SECONDS - asked_at)
            pause = _LOOK_MS if asked_at - busy_at < _EAGER_SECONDS else _LOOK_IDLE_MS
            rows = await changes_since.fetch(cursor.snapshot, cursor.floor, int(wait * 1000), pause)
            self.figures.polls += 1
            snapshot, last = rows[0][0], rows[0][1] or 0
            now = monotonic()
            changes = [] if rows[0][2] is None else rows
            self.figures.changes += len(changes)
            keys, tags, whole = self._concerned(changes)
            floor = await self._floor(connection, cursor, snapshot, last)
            generation = os.urandom(4).hex() if whole else cursor.generation
            self.figures.generations += whole
            after = Cursor(generation, history, floor, snapshot)
            guard = f"{run_id} {generation} {floor} {server_ms} {self._serves}".encode()
            guard_at = server_ms + int(GUARD_SECONDS * 1000)
            server_ms = await self._advance(cursor_name, guard_name, written, after, keys, tags, guard, guard_at)
            cursor, written, renewed_at = after, after.write(), now
            self.figures.leading = True
            if changes:
                busy_at = now
                await asyncio.sleep(_PAUSE_SECONDS)  # more of them travel together

    async def _begin(self, connection: Any, history: str) -> Cursor:
        """Valkey knows nothing, or of another history: a new generation, as of now. Older entries are none any more."""
        self.figures.generations += 1
        self._bound = None
        snapshot = await connection.fetchval("SELECT pg_current_snapshot()::text")
        return Cursor(os.urandom(4).hex(), history, 0, snapshot)

    def _concerned(self, changes: list[Any]) -> tuple[dict[bytes, str], set[bytes], bool]:
        """Entries with the transaction that changed them, tags, and whether a whole table was emptied."""
        keys: dict[bytes, str] = {}
        tags: set[bytes] = set()
        for _, _, table, op, xid, key, new, old in changes:
            if table.startswith("topic:"):
                continue
            if op == "t":
                tags |= tags_of(table, None, None, None)
                return keys, tags, True
            tags |= tags_of(table, key, new, old, self._tagged.get(table))
            for policy, column in self._policies.get(table, ()):
                for said in (key, new, old):
                    if said is not None and said.get(column) is not None:
                        keys[f"{policy.kind}:{said[column]}|{xid}".encode()] = xid
                        tags |= tags_of_row(policy, said[column])
        return keys, tags, False

    async def _floor(self, connection: Any, cursor: Cursor, snapshot: str, last: int) -> int:
        """The highest id up to which every change had ended at `snapshot`.

        `last` was drawn before the transaction id taken here; whoever drew an id up to it had an older transaction id
        (a change takes its xid before its id). Once all those have ended, none of their changes can appear any more.
        """
        floor = cursor.floor
        if self._bound is not None and parse(snapshot).xmin > self._bound[1]:
            floor, self._bound = max(floor, self._bound[0]), None
        if self._bound is None and last > floor and monotonic() - self._bound_at > _BOUND_SECONDS:
            self._bound_at = monotonic()
            self._bound = (last, int(await connection.fetchval("SELECT pg_current_xact_id()::text")))
        return floor

    async def _advance(
        self,
        cursor_name: bytes,
        guard_name: bytes,
        written: bytes | None,
        after: Cursor,
        keys: dict[bytes, str],
        tags: set[bytes],
        guard: bytes,
        guard_at: int,
    ) -> int:
        """Invalidate, then move the cursor and renew the guard with the last part. The server's clock after it, in ms.

        The guard ends at an instant of the server's own clock, reckoned from its time before the poll: a relay that was
        held up in between renews nothing.
        """
        expected = b"" if written is None else written
        named = [(name.rpartition(b"|")[0], xid) for name, xid in keys.items()]
        parts: list[tuple[list[tuple[bytes, str]], list[bytes]]] = [
            (named[i : i + _KEYS_MAX], []) for i in range(0, len(named), _KEYS_MAX)
        ]
        listed = list(tags)
        parts += [([], listed[i : i + _KEYS_MAX]) for i in range(0, len(listed), _KEYS_MAX)]
        parts = parts or [([], [])]
        now_ms = 0
        for i, (rows, some) in enumerate(parts):
            final = i == len(parts) - 1
            now_ms = await self._wire.run(
                STEPS,
                [cursor_name, guard_name, *(name for name, _ in rows), *some],
                b"advance",
                expected,
                after.write() if final else b"",
                guard,
                guard_at if final else 0,
                len(rows),
                *(xid for _, xid in rows),
            )
            if not now_ms:
                raise _CursorMovedError
        return int(now_ms)


@dataclass(frozen=True, slots=True)
class RelayStanding:
    """How far the cache has been told. Lag is what was committed and not carried to it yet."""

    trusted: bool
    lag_changes: int
    lag_seconds: float


async def relay_standing(cache: Cache) -> RelayStanding | None:
    """Where the cursor in Valkey stands; None when there is none. Raises Unreachable, ReplyError."""
    cursor = Cursor.read(await cache.wire.send_get(cache.cursor_name))
    if cursor is None:
        return None
    behind = await cache.postgres.fetch_one(_BEHIND, floor=cursor.floor, at=cursor.snapshot)
    return RelayStanding(cache.believes(), behind.changes, behind.seconds)


_POSTGRES = (asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError)  # the last: it was terminated


@contextlib.asynccontextmanager
async def relaying(system: System, settings: Settings) -> AsyncIterator[Invalidation | None]:
    """The relay in the background of this process for as long as the block runs; None without a Valkey."""
    if not settings.valkey_url:
        yield None
        return
    relay = Invalidation(system, settings)
    task = asyncio.get_running_loop().create_task(relay.run())
    try:
        yield relay
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
