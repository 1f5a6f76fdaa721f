"""Cache: values in Valkey that cannot go stale. A lease at the miss, a snapshot of PostgreSQL as version, tombstones.

A hit is one GET. Everything that changes an entry is one step of `cache.lua`, and the relay in
`followers/invalidation.py` carries every committed change there. The guard, a key the relay renews, says that the relay
has caught up with this very server; without it, and whenever Valkey does not answer, reads go to PostgreSQL.
docs/why/cache.md argues each part.
"""

from __future__ import annotations

import asyncio
import contextlib
import enum
import hashlib
import itertools
import math
import os
import random
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from time import monotonic
from typing import Any, NamedTuple

import msgspec
from sqlalchemy import text

from headwater.kernel.cache_policy import CachePolicy
from headwater.kernel.cached_rows import LEASE_MS, UNREACHABLE, Entity, Figures, Kind, Loaded, body_of
from headwater.kernel.errors import HeadwaterError, ProgrammingError, Unreachable
from headwater.kernel.models import Model
from headwater.kernel.postgres import Postgres
from headwater.kernel.rows import shape
from headwater.kernel.snapshots import Floors, fulfilled
from headwater.kernel.wire import ReplyError, Script, Wire

STEPS = Script.load(Path(__file__).with_name("cache.lua"))

GUARD_SECONDS = 0.7
"""How long the relay's word counts. With what it takes to notice, a value is at most a second old."""
_GUARD_LOOK_SECONDS = 0.05
_NEAR_SECONDS = 0.25
_BYPASS_SECONDS = 1.0
_MARK_MS = 10_000
_LOADS_MAX = 4
_CHANGES_MAX = 1_000
_V, _L, _T, _D = (ord(letter) for letter in "VLTD")

_IDENTITY = text(
    """SELECT (pg_control_system()).system_identifier::text || ':' || (SELECT oid FROM pg_database
       WHERE datname = current_database())::text"""
)
_WRITTEN = """SELECT "table", key, new, old FROM headwater.change
WHERE id > $1 AND xid = pg_current_xact_id_if_assigned() LIMIT $2"""


class Cache:
    """The cache of one process: its connection, its kinds, and whether Valkey may be believed now."""

    def __init__(self, url: str, postgres: Postgres, policies: Iterable[CachePolicy]) -> None:
        self.postgres = postgres
        self.figures: dict[str, Figures] = {}
        self.loads = asyncio.Semaphore(_LOADS_MAX)
        self.kinds: list[Kind] = []
        self.entities: dict[type[Model], Entity] = {}
        self.by_table: dict[str, Entity] = {}
        for policy in policies:
            entity = Entity(self, policy)
            if policy.model in self.entities or any(kind.name == policy.kind for kind in self.kinds):
                raise ProgrammingError(f"'{policy.kind}' is declared twice.", remedy="One policy per kind and model.")
            self.entities[policy.model] = self.by_table[table_name(policy.model)] = entity
            self.kinds.append(entity)
        self.wire = Wire(url, pushed=self._pushed, lost=self._distrust)
        if any(kind.near is not None for kind in self.kinds):
            self.wire.greet.append((b"CLIENT", b"TRACKING", b"ON", b"OPTIN"))
        self.results: dict[Any, Kind] = {}
        self.good_until = 0.0
        self.near_until = 0.0
        self.epoch = time.time() - monotonic()
        """What to add to monotonic() for the time of day, by which entries end; looked at again with the guard."""
        self.floors = Floors(_BYPASS_SECONDS)
        self.cursor_name = self.guard_name = self.figures_name = b""
        self._generation = b""
        self._changes_from = 0
        self._bypass_until = 0.0
        self._flights: dict[tuple[bytes, bytes], asyncio.Future[Loaded]] = {}
        self._tasks: set[asyncio.Task[Any]] = set()
        self._tokens = os.urandom(5).hex()
        self._token = 0

    def add(self, kind: Kind) -> None:
        """A kind that is met later: the results of a function."""
        self.kinds.append(kind)
        kind.generation(self._generation)

    async def open(self) -> None:
        """Connect, if Valkey answers, and begin to watch the guard."""
        identity = str(await self.postgres.fetch_value(_IDENTITY))
        self.cursor_name, self.guard_name = names_of(identity)
        self.figures_name = self.cursor_name.replace(b":cursor", b":figures")
        await self.wire.open()
        with contextlib.suppress(*UNREACHABLE):
            await self.look()
        self.spawn(self._watch())

    async def close(self) -> None:
        """Stop; loads under way are given up."""
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.wire.close()

    # -- whether to believe ------------------------------------------------------------------------------------------

    async def look(self) -> None:
        """Read the guard once. Raises Unreachable or ReplyError."""
        sent = monotonic()
        self.epoch = time.time() - sent
        guard, left = await asyncio.gather(
            self.wire.send_get(self.guard_name), self.wire.send(b"PTTL", self.guard_name)
        )
        words = [] if guard is None else guard.decode().split(" ")
        if len(words) != 3 or words[0] != self.wire.run_id or left <= 0:
            self._distrust()
            return
        generation = bytes.fromhex(words[1])
        if generation != self._generation:
            self._generation = generation
            for kind in self.kinds:
                kind.generation(generation)
        self._changes_from = int(words[2])
        if sent >= self._bypass_until:
            self.good_until = sent + left / 1000
            self._believe_near(min(self.good_until, sent + _NEAR_SECONDS))

    async def _watch(self) -> None:
        for turn in itertools.count():
            try:
                if self.wire.up:
                    await self.look()
                    if turn % 20 == 0:
                        self.floors.forget_old()
                        await self.report()
            except UNREACHABLE:
                self._distrust()
            await asyncio.sleep(_GUARD_LOOK_SECONDS)

    async def report(self) -> None:
        """Leave this process's figures where `headwater cache stats` finds them."""
        if self.figures and self.wire.up:
            self.count()
            said = {"at": time.time(), "kinds": {name: asdict(each) for name, each in self.figures.items()}}
            name = self.figures_name
            await self.wire.send(b"HSET", name, f"{os.getpid()}.{self._tokens}", msgspec.json.encode(said))
            await self.wire.send(b"EXPIRE", name, 60)

    def count(self) -> None:
        """Bring the figures up to now: what the near caches gave away is counted where it lies."""
        for kind in self.kinds:
            if kind.near is not None:
                kind.figures.near_hits += kind.near.count()

    def _believe_near(self, until: float) -> None:
        self.near_until = until
        for kind in self.kinds:
            if kind.near is not None:
                kind.near.until = until

    def _distrust(self) -> None:
        self.good_until = 0.0
        self._believe_near(0.0)
        for kind in self.kinds:
            if kind.near is not None:
                kind.near.clear()

    def bypass(self) -> None:
        """Something was written that could not be invalidated here: for a second, read PostgreSQL.

        By then the relay has done it, or the guard has run out.
        """
        self._bypass_until = monotonic() + _BYPASS_SECONDS
        self._distrust()

    def _pushed(self, push: list[Any]) -> None:
        if push[0] != b"invalidate":
            return
        if push[1] is None:
            for kind in self.kinds:
                if kind.near is not None:
                    kind.near.clear()
            return
        for name in push[1]:
            for kind in self.entities.values():
                if kind.near is not None and kind.owns(name):
                    kind.discard_near(name)

    # -- misses ------------------------------------------------------------------------------------------------------

    def token(self) -> bytes:
        """A name for one lease that nobody else uses."""
        self._token += 1
        return f"{self._tokens}{self._token:06x}".encode()

    def step(self, name: bytes, what: bytes, *arguments: Any) -> Awaitable[Any]:
        """One step of cache.lua on one key."""
        return self.wire.run(STEPS, [name], what, *arguments)

    async def missed(
        self,
        kind: Kind,
        name: bytes,
        prefix: bytes,
        raw: bytes | None,
        load: Callable[[], Awaitable[Loaded]],
        avoid: bytes = b"",
    ) -> Any:
        """What to do without a value: load it under a lease, wait for who does, or go past the cache."""
        kind.figures.misses += 1
        wait_until, pause = monotonic() + 3 * LEASE_MS / 1000, 0.001
        try:
            while True:
                lease = _lease(raw)
                if lease is None or lease[2] != prefix:
                    token = self.token()
                    raw = await self.step(name, b"lease", token, prefix, LEASE_MS, avoid)
                    if raw is None:
                        return await self._lead(kind, name, prefix, token, load)
                    if raw[0] == _V:
                        at, snapshot = body_of(raw, prefix)
                        if not self.floors.above(name, snapshot):
                            return kind.decode(raw[at:]) if at < len(raw) else None
                        break
                    lease = _lease(raw)
                    if lease is None:  # marked by a writer, or Valkey is full
                        break
                token, needs, _ = lease
                flight = self._flights.get((name, token))
                if flight is not None:
                    loaded = await asyncio.shield(flight)
                    if fulfilled(needs, loaded.snapshot):
                        return loaded.value
                elif monotonic() >= wait_until:
                    break
                else:
                    await asyncio.sleep(pause)
                    pause = min(pause * 2, 0.008)
                raw = await self.wire.send_get(name)
                if raw is not None and raw.startswith(prefix):
                    at, snapshot = body_of(raw, prefix)
                    if snapshot != avoid and not self.floors.above(name, snapshot):
                        return kind.decode(raw[at:]) if at < len(raw) else None
        except UNREACHABLE:
            pass
        kind.figures.bypasses += 1
        loaded = await load()
        self.floors.lift(name, loaded.snapshot)
        return loaded.value

    async def _lead(
        self, kind: Kind, name: bytes, prefix: bytes, token: bytes, load: Callable[[], Awaitable[Loaded]]
    ) -> Any:
        flight: asyncio.Future[Loaded] = asyncio.get_running_loop().create_future()
        self._flights[name, token] = flight
        # A task of its own: a reader that gives up takes nothing from those who wait for the same value.
        return await asyncio.shield(self.spawn(self._load_and_fill(kind, name, prefix, token, load, flight)))

    async def _load_and_fill(
        self,
        kind: Kind,
        name: bytes,
        prefix: bytes,
        token: bytes,
        load: Callable[[], Awaitable[Loaded]],
        flight: asyncio.Future[Loaded],
    ) -> Any:
        started = monotonic()
        entry, ms, snapshot = b"", 1, ""

        loop = asyncio.get_running_loop()
        renewing: asyncio.TimerHandle | None = None

        def renew() -> None:
            nonlocal renewing
            if renewing is not None:
                self.spawn(_ignore(lambda: self.step(name, b"renew", token, LEASE_MS)))
            renewing = loop.call_later(LEASE_MS / 3000, renew)

        renew()
        try:
            loaded = await load()
            flight.set_result(loaded)
            snapshot = loaded.snapshot
            if loaded.payload is not None:
                entry, ms = kind.entry(prefix, loaded, monotonic() - started)
        except BaseException as error:
            if not flight.done():
                flight.set_exception(error if isinstance(error, Exception) else Unreachable("The load was given up."))
                flight.exception()  # seen: perhaps nobody waits
            raise
        finally:
            assert renewing is not None
            renewing.cancel()
            del self._flights[name, token]
            filled = None
            with contextlib.suppress(*UNREACHABLE):
                filled = await self.step(name, b"fill", token, snapshot, entry, ms)
        if not filled:
            kind.figures.fills_refused += 1
            self.floors.lift(name, snapshot)
        return loaded.value

    # -- early refresh -----------------------------------------------------------------------------------------------

    def should_refresh(self, left: float, load_seconds: float) -> bool:
        """XFetch (Vattani et al., VLDB 2015): the nearer the end and the longer the load, the more likely."""
        return left < 20 * load_seconds and left <= -load_seconds * math.log(random.random())  # noqa: S311  # a lot, not a secret

    def refresh(
        self, kind: Kind, name: bytes, prefix: bytes, snapshot: bytes, load: Callable[[], Awaitable[Loaded]]
    ) -> None:
        """Load anew in the background, if nobody else does; readers keep the value they have until then."""
        self.spawn(_ignore(lambda: self._refresh(kind, name, prefix, snapshot, load)))

    async def _refresh(
        self, kind: Kind, name: bytes, prefix: bytes, snapshot: bytes, load: Callable[[], Awaitable[Loaded]]
    ) -> None:
        if not await self.step(name, b"claim", prefix, snapshot):
            return
        started = monotonic()
        loaded = await load()
        if loaded.payload is not None:
            entry, ms = kind.entry(prefix, loaded, monotonic() - started)
            if await self.step(name, b"refill", prefix, snapshot, entry, ms):
                kind.figures.refreshes += 1

    # -- writes ------------------------------------------------------------------------------------------------------

    async def invalidate(self, written: Written) -> None:
        """What a writer has committed is gone from the cache when this returns, or this process goes past it."""
        for entity, key in written.rows:
            if entity.near is not None:
                entity.near.discard(key)
        steps = [self.step(entity.name_of(key), b"invalidate", b"") for entity, key in written.rows]
        steps += [_plain(self.wire, b"DEL", tag) for tag in written.tags]
        outcomes = await asyncio.gather(*steps, return_exceptions=True)
        if any(isinstance(outcome, UNREACHABLE) for outcome in outcomes):
            self.bypass()

    async def committed(self, model: type[Model], values: Sequence[Any]) -> None:
        """A verb outside a transaction has written a row."""
        written = Written()
        self.add_values(written, model, values)
        if written:
            await asyncio.shield(self.invalidate(written))

    def add_values(self, written: Written, model: type[Model], values: Sequence[Any]) -> None:
        """What a verb has written concerns: the row, and the lists it was and is in."""
        tracked = model.__tracked__
        if tracked.policy == "off":
            return
        known, entity = shape(model), self.entities.get(model)
        table = table_name(model)
        written.tags.add(tag_name(table))
        columns = [known.table.columns[name] for name in tracked.tags]
        for value in values:
            if entity is not None:
                written.rows.add((entity, known.key_of(value)))
            for column in (*known.key_columns, *columns):
                written.tags.add(tag_name(table, column.name, getattr(value, known.name_of[column])))

    async def mark(self, written: Written) -> Marks:
        """Before COMMIT: from now on readers of strict rows read PostgreSQL."""
        names = [entity.name_of(key) for entity, key in written.rows if entity.strict]
        marks = Marks(self.token(), names)
        steps = [self.step(name, b"mark", marks.token, _MARK_MS) for name in names]
        await asyncio.gather(*steps, return_exceptions=True)  # those that failed are waited for in `unmark`
        return marks

    async def unmark(self, marks: Marks) -> None:
        """After COMMIT or ROLLBACK. While Valkey does not hear it, wait: a second at most, when the guard is out."""
        left, until = list(marks.names), monotonic() + _BYPASS_SECONDS
        while left:
            outcomes = await asyncio.gather(
                *(self.step(name, b"unmark", marks.token) for name in left), return_exceptions=True
            )
            left = [n for n, outcome in zip(left, outcomes, strict=True) if isinstance(outcome, UNREACHABLE)]
            if left and monotonic() >= until:
                self.bypass()
                return
            if left:
                await asyncio.sleep(0.005)

    def settle(self, written: Written, marks: Marks, *, complete: bool) -> Awaitable[None]:
        """After COMMIT: take the marks away and invalidate the rest, even when the caller is cancelled meanwhile."""
        return asyncio.shield(self.spawn(self._settle(written, marks, complete)))

    async def _settle(self, written: Written, marks: Marks, complete: bool) -> None:
        if marks.names:
            await self.unmark(marks)
            written.rows = {row for row in written.rows if not row[0].strict}
        if written:
            await self.invalidate(written)
        if not complete:
            self.bypass()

    async def unseen(self, written: Written, connection: Any) -> bool:
        """Add what a transaction wrote past the verbs, as the change stream has captured it. False: it was too much."""
        rows = await connection.fetch(_WRITTEN, self._changes_from, _CHANGES_MAX + 1)
        for row in rows:
            self.add_change(written, row["table"], row["key"], row["new"], row["old"])
        return len(rows) <= _CHANGES_MAX

    def add_change(
        self,
        written: Written,
        table: str,
        key: Mapping[str, Any] | None,
        new: Mapping[str, Any] | None,
        old: Mapping[str, Any] | None,
    ) -> None:
        """What a captured change concerns."""
        entity = self.by_table.get(table)
        if entity is not None:
            column = entity.shape.key_columns[0].name
            for said in (key, new, old):
                if said is not None and said.get(column) is not None:
                    written.rows.add((entity, entity._key_type(str(said[column]))))
        written.tags.update(tags_of(table, key, new, old))

    def spawn(self, work: Any) -> asyncio.Task[Any]:
        """Work that goes on by itself; it ends with the cache."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task


class Marks(NamedTuple):
    """The marks one writer has set."""

    token: bytes
    names: list[bytes]


NO_MARKS = Marks(b"", [])


class Written:
    """What a transaction has written, as far as the cache is concerned."""

    __slots__ = ("rows", "tags")

    def __init__(self) -> None:
        self.rows: set[tuple[Entity, Any]] = set()
        self.tags: set[bytes] = set()

    def __bool__(self) -> bool:
        return bool(self.rows or self.tags)


def names_of(identity: str) -> tuple[bytes, bytes]:
    """The Valkey keys of the relay's cursor and guard for one database."""
    stem = "headwater:cache:{" + hashlib.sha256(identity.encode()).hexdigest()[:12] + "}:"
    return (stem + "cursor").encode(), (stem + "guard").encode()


def tags_of(
    table: str, key: Mapping[str, Any] | None, new: Mapping[str, Any] | None, old: Mapping[str, Any] | None
) -> set[bytes]:
    """The tags a change concerns: its table, and each column of its key and of its old and new tag values."""
    found = {tag_name(table)}
    for said in (key, new, old):
        for column, value in (said if isinstance(said, dict) else {}).items():
            if isinstance(value, (str, int)) and len(str(value)) <= 64:
                found.add(tag_name(table, column, value))
    return found


def tag_name(table: str, column: str = "", value: Any = None) -> bytes:
    """The Valkey key of a tag."""
    if not column:
        return f"tag:{table}".encode()
    plain = value.value if isinstance(value, enum.Enum) else value
    return f"tag:{table}:{column}={json_text(plain)}".encode()


def json_text(value: Any) -> str:
    """A value as jsonb would show it without quotes."""
    return str(value).lower() if isinstance(value, bool) else str(value)


def table_name(model: type[Model]) -> str:
    """A model's table as the change stream names it."""
    table = shape(model).table
    return f"{table.schema or 'public'}.{table.name}"


def _lease(raw: bytes | None) -> tuple[bytes, bytes, bytes] | None:
    if raw is None or not raw or raw[0] != _L:
        return None
    token, needs, prefix = raw[1:].split(b"|", 2)
    return token, needs, prefix


async def _ignore(work: Callable[[], Awaitable[Any]]) -> None:
    """Background work whose failure means only that it was not done."""
    with contextlib.suppress(HeadwaterError, ReplyError):
        await work()


async def _plain(wire: Wire, *command: Any) -> Any:
    return await wire.send(*command)
