"""Cache: values in Valkey that cannot go stale. A lease at the miss, a snapshot of PostgreSQL as version, tombstones.

A hit is one GET. Everything that changes an entry is one step of `cache.lua`, and the relay in
`followers/invalidation.py` carries every committed change there. The guard, a key the relay renews, says that the relay
has caught up with this very server; without it, and whenever Valkey does not answer, reads go to PostgreSQL.
docs/why/cache.md argues each part.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import itertools
import math
import os
import random
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
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
from headwater.kernel.single_flight import SingleFlight
from headwater.kernel.snapshots import Floors, fulfilled
from headwater.kernel.wire import ReplyError, Script, Wire
from headwater.kernel.written import Written, columns_that_tell

STEPS = Script.load(Path(__file__).with_name("cache.lua"))

GUARD_SECONDS = 0.7
"""How long the relay's word counts. With what it takes to notice, a value is at most a second old."""
_GUARD_LOOK_SECONDS = 0.05
_NEAR_SECONDS = 0.25
_BYPASS_SECONDS = 1.0
_MARK_MS = 10_000
_LOADS_MAX = 4
_V, _L, _T, _D = (ord(letter) for letter in "VLTD")

_IDENTITY = text(
    """SELECT (pg_control_system()).system_identifier::text || ':' || (SELECT oid FROM pg_database
       WHERE datname = current_database())::text"""
)


class Cache:
    """The cache of one process: its connection, its kinds, and whether Valkey may be believed now."""

    def __init__(self, url: str, postgres: Postgres, policies: Iterable[CachePolicy]) -> None:
        self.postgres = postgres
        self.figures: dict[str, Figures] = {}
        self.loads = asyncio.Semaphore(_LOADS_MAX)
        self.kinds: list[Kind] = []
        self.entities: dict[type[Model], Entity] = {}
        self.told_by: dict[str, list[tuple[Entity, str]]] = {}
        for policy in policies:
            entity = Entity(self, policy)
            if policy.model in self.entities or any(kind.name == policy.kind for kind in self.kinds):
                raise ProgrammingError(f"'{policy.kind}' is declared twice.", remedy="One policy per kind and model.")
            self.entities[policy.model] = entity
            for table, column in columns_that_tell(policy):
                self.told_by.setdefault(table, []).append((entity, column))
            self.kinds.append(entity)
        self.strict = any(entity.strict for entity in self.entities.values())
        self.wire = Wire(url, pushed=self._pushed, lost=self._distrust)
        if any(kind.near is not None for kind in self.kinds):
            self.wire.greet.append((b"CLIENT", b"TRACKING", b"ON", b"OPTIN"))
        self.results: dict[Any, Kind] = {}
        self.good_until = 0.0
        self.near_until = 0.0
        self.epoch = time.time() - monotonic()
        """What to add to monotonic() for the time of day, by which entries end; looked at again with the guard."""
        self.floors = Floors(_BYPASS_SECONDS, lifted=self._discard_near)
        self.coherence: Coherence | None = None
        self.cursor_name = self.guard_name = self.figures_name = self.coherence_name = b""
        self._generation = b""
        self.changes_from = 0
        self._guard: tuple[bytes, float] = (b"", 0.0)  # as it was read last, and when it first read so
        self._bypass_until = 0.0
        self._flights: dict[tuple[bytes, bytes], asyncio.Future[Loaded]] = {}
        self._tasks: set[asyncio.Task[Any]] = set()
        self.past = SingleFlight(self.spawn)
        """Loads past the cache: without Valkey nobody else keeps a herd away."""
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
        self.coherence_name = self.cursor_name.replace(b":cursor", b":coherence")
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
        sent, connects, run_id = monotonic(), self.wire.connects_total, self.wire.run_id
        self.epoch = time.time() - sent
        # First how long, then what: a guard renewed in between is believed for the shorter time of the two.
        left, guard = await asyncio.gather(
            self.wire.send(b"PTTL", self.guard_name), self.wire.send_get(self.guard_name)
        )
        words = [] if guard is None else guard.decode().split(" ")
        same = self.wire.up and self.wire.connects_total == connects  # it may be another server by now
        if not same or not run_id or len(words) != 5 or words[0] != run_id or left <= 0 or not self._served(words[4]):
            self._distrust()
            return
        if guard != self._guard[0]:
            self._guard = (guard, sent)
        generation = bytes.fromhex(words[1])
        if generation != self._generation:
            self._generation = generation
            for kind in self.kinds:
                kind.generation(generation)
        self.changes_from = int(words[2])
        if sent >= self._bypass_until:
            # Each renewal writes another guard. One that stays the same ends by this clock, whatever Valkey's does.
            self.good_until = min(sent + left / 1000, self._guard[1] + GUARD_SECONDS)
            self._believe_near(min(self.good_until, sent + _NEAR_SECONDS))

    def believes(self) -> bool:
        """Whether what Valkey says counts now."""
        return monotonic() < self.good_until

    def _served(self, told: str) -> bool:
        """Whether the relay knows every kind of this process: an older program's may lead, or another system's."""
        known = told.split(",")
        return all(each.served_as in known for each in self.entities.values())

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
        """Leave this process's figures where `headwater cache stats` finds them, and see what `verify` has left."""
        if self.wire.up:
            left = await self.wire.send_get(self.coherence_name)
            self.coherence = None if left is None else msgspec.json.decode(left, type=Coherence)
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
            self._discard_near(name)

    def _discard_near(self, name: bytes) -> None:
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
            while self.believes():  # while this waited, Valkey may have been replaced
                lease = _lease(raw)
                if lease is None or lease[2] != prefix:
                    token = self.token()
                    raw = await self.step(name, b"lease", token, prefix, LEASE_MS, avoid)
                    if raw is None:
                        return await self._lead(kind, name, prefix, token, load)
                    if not self.believes():
                        break
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
                if raw is not None and raw.startswith(prefix) and self.believes():
                    at, snapshot = body_of(raw, prefix)
                    if snapshot != avoid and not self.floors.above(name, snapshot):
                        return kind.decode(raw[at:]) if at < len(raw) else None
        except UNREACHABLE:
            pass
        kind.figures.bypasses += 1
        loaded = await self.past.load(name, load)
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
        for entity, key in written.rows:  # again: a read that was on its way before may have been kept since
            if entity.near is not None:
                entity.near.discard(key)
        if any(isinstance(outcome, UNREACHABLE) for outcome in outcomes):
            self.bypass()

    async def committed(self, model: type[Model], values: Sequence[Any]) -> None:
        """A verb outside a transaction has written a row."""
        written = Written(self)
        written.add_values(model, values)
        if written:
            await asyncio.shield(self.spawn(self.invalidate(written)))

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
            if self.strict:  # nobody is told of the commit before every reader has heard of it, or lost the guard
                await asyncio.sleep(_BYPASS_SECONDS)

    def spawn(self, work: Any) -> asyncio.Task[Any]:
        """Work that goes on by itself; it ends with the cache."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task


class Coherence(msgspec.Struct, frozen=True):
    """What `headwater cache verify` has found last: how many entries it compared, and how many were stale."""

    at: float
    entries: int
    stale: int

    @property
    def percent(self) -> float:
        return 100.0 if not self.entries else 100.0 * (self.entries - self.stale) / self.entries


class Marks(NamedTuple):
    """The marks one writer has set."""

    token: bytes
    names: list[bytes]


NO_MARKS = Marks(b"", [])


def names_of(identity: str) -> tuple[bytes, bytes]:
    """The Valkey keys of the relay's cursor and guard for one database."""
    stem = "headwater:cache:{" + hashlib.sha256(identity.encode()).hexdigest()[:12] + "}:"
    return (stem + "cursor").encode(), (stem + "guard").encode()


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
