"""Cached rows: the rows of one model in the cache: how they are named, written down, found, and loaded."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import random
import struct
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from time import monotonic
from typing import TYPE_CHECKING, Any, NamedTuple, cast
from uuid import UUID

import msgspec
from sqlalchemy import ARRAY, JSON, Enum, Text, bindparam, func, select

from headwater.kernel.amounts import WholeNumber
from headwater.kernel.cache_policy import CachePolicy
from headwater.kernel.errors import ProgrammingError, Unreachable
from headwater.kernel.near_cache import NearCache
from headwater.kernel.postgres import Postgres
from headwater.kernel.rows import Shape, bind_processor, shape
from headwater.kernel.snapshots import covers
from headwater.kernel.statements import Prepared, Template
from headwater.kernel.wire import ReplyError

if TYPE_CHECKING:
    from headwater.kernel.cache import Cache

HEAD = struct.Struct(">dfH")
UNREACHABLE = (Unreachable, ReplyError)
LEASE_MS = 500
"""How long a loader that has died keeps others waiting; one that lives renews it."""
_JITTER = 0.1
_ABSENT = object()


@dataclass(slots=True)
class Figures:
    """What happened to one kind in this process."""

    hits: int = 0
    near_hits: int = 0
    misses: int = 0
    bypasses: int = 0
    fills_refused: int = 0
    refreshes: int = 0


class Loaded(NamedTuple):
    """A value, encoded as it is stored, and the snapshot it was read in. Without an encoding it is not stored."""

    value: Any
    payload: bytes | None
    snapshot: str


class Kind:
    """What is common to the entries of one kind."""

    def __init__(self, cache: Cache, name: str, *, ttl_seconds: float, stale_seconds: float, form: str) -> None:
        self.cache = cache
        self.name = name
        self.ttl_seconds = ttl_seconds
        self.stale_seconds = stale_seconds
        self.figures = cache.figures.setdefault(name, Figures())
        self.fingerprint = hashlib.sha256(form.encode()).digest()[:6]
        self.prefix = b""
        self.near: NearCache | None = None

    def generation(self, generation: bytes) -> None:
        """Entries of other generations are not entries."""
        self.prefix = b"V" + generation + self.fingerprint
        if self.near is not None:
            self.near.clear()

    def entry(self, prefix: bytes, loaded: Loaded, load_seconds: float) -> tuple[bytes, int]:
        """What is stored, and for how many milliseconds."""
        assert loaded.payload is not None
        seconds = self.ttl_seconds * random.uniform(1 - _JITTER, 1 + _JITTER)  # noqa: S311  # jitter, not secrecy
        snapshot = loaded.snapshot.encode()
        head = HEAD.pack(time.time() + seconds, max(load_seconds, 1e-6), len(snapshot))
        return prefix + head + snapshot + loaded.payload, max(1, int((seconds + self.stale_seconds) * 1000))

    def decode(self, payload: bytes) -> Any:
        """The value of an encoding."""
        raise NotImplementedError


class Entity(Kind):
    """The rows of one model, by key."""

    def __init__(self, cache: Cache, policy: CachePolicy) -> None:
        self.policy = policy
        self.shape = known = shape(policy.model)
        self._require_fit()
        form = ",".join(f"{c.name} {c.type!r}" for c in known.columns)
        super().__init__(
            cache,
            policy.kind,
            ttl_seconds=policy.ttl_seconds,
            stale_seconds=policy.stale_seconds,
            form=f"{known.label}({form})",
        )
        self.strict = policy.level in ("strict", "snapshot")
        self.served_as = served_as(policy.kind, known)
        self._stem = policy.kind.encode() + b":"
        self._codec = Codec(known)
        self._loader = _RowLoader(cache.postgres, known, cache.loads)
        self._key_type: Callable[[str], Any] = known.key_columns[0].type.python_type
        if policy.near:
            self.near = NearCache(policy.near)
        self._shared = self._codec.immutable  # what the near cache may hand out again and again

    def _require_fit(self) -> None:
        known, kind = self.shape, self.policy.kind
        column = known.key_columns[0]
        if len(known.key_columns) != 1 or column.type.python_type not in (UUID, int, str):
            raise ProgrammingError(
                f"The kind '{kind}' cannot be cached: the key of {known.label} is not one uuid, number or text.",
                remedy="Leave its policy out.",
            )
        if bind_processor(column.type) is not None and column.type.python_type is not UUID:
            raise ProgrammingError(f"The kind '{kind}' cannot be cached: its key has a type of its own.")
        if known.model.__tracked__.policy == "off":
            raise ProgrammingError(
                f"The kind '{kind}' cannot be cached: {known.label} is not tracked, nothing would tell of its changes.",
                remedy="Declare __tracked__ on the model and write the migration that adds its triggers.",
            )

    def name_of(self, key: Any) -> bytes:
        """The Valkey key of a row."""
        return self._stem + str(key).encode()

    def discard_near(self, name: bytes) -> None:
        """The server said that the entry has changed."""
        if self.near is not None:
            self.near.discard(self._key_type(name[len(self._stem) :].decode()))

    def owns(self, name: bytes) -> bool:
        """Whether a Valkey key is of this kind."""
        return name.startswith(self._stem)

    def decode(self, payload: bytes) -> Any:
        return self._codec.decode(payload) if payload else None

    async def load(self, key: Any) -> Loaded:
        """The row from PostgreSQL, together with the snapshot it was read in."""
        value, snapshot = await self._loader.load(key)
        return Loaded(value, self._codec.encode(value), snapshot)

    async def differs(self, name: bytes) -> bool | None:
        """Whether an entry, the same before and after the row was read, says something else than the row.

        None when there is none that a reader would believe.
        """
        wire, prefix = self.cache.wire, self.prefix
        raw = await wire.send_get(name)
        if raw is None or not raw.startswith(prefix):
            return None
        loaded = await self.load(self._key_type(name[len(self._stem) :].decode()))
        at, snapshot = body_of(raw, prefix)
        again = await wire.send_get(name)
        same = again is not None and again.startswith(prefix) and body_of(again, prefix)[1] == snapshot
        return same and raw[at:] != loaded.payload

    async def find(self, key: Any) -> Any:
        """The row with this key, or None. `key` has the type of its column."""
        cache, near = self.cache, self.near
        now = monotonic()
        if near is not None and now < cache.near_until:
            value = near.get(key, now, _ABSENT)
            if value is not _ABSENT:
                self.figures.near_hits += 1
                return value if self._shared else self.decode(value)
        name = self._stem + str(key).encode()
        if now >= cache.good_until:
            return await self._direct(key, name)
        prefix = self.prefix
        try:
            if near is not None:
                ticket = near.begin(key)
                cache.wire.send(b"CLIENT", b"CACHING", b"YES").add_done_callback(_quiet)
            raw = await cache.wire.send_get(name)
        except UNREACHABLE:
            return await self._direct(key, name)
        if raw is not None and raw.startswith(prefix):
            at = len(prefix) + HEAD.size
            expiry, load_seconds, length = HEAD.unpack_from(raw, len(prefix))
            at += length
            if not cache.floors or not cache.below_floor(name, raw[at - length : at]):
                self.figures.hits += 1
                if load_seconds and cache.should_refresh(expiry, load_seconds):
                    cache.refresh(self, name, prefix, raw[at - length : at], lambda: self.load(key))
                payload = raw[at:]
                value = self.decode(payload)
                if near is not None and now < cache.near_until and expiry > time.time():
                    near.store(key, ticket, value if self._shared else payload, now + expiry - time.time())
                return value
            avoid = raw[at - length : at]
        else:
            avoid = b""
        if near is not None:
            near.abandon(key, ticket)
        return await cache.missed(self, name, prefix, raw, lambda: self.load(key), avoid)

    async def _direct(self, key: Any, name: bytes) -> Any:
        self.figures.bypasses += 1
        value, snapshot = await self._loader.load(key)
        self.cache.raise_floor(name, snapshot)
        return value

    async def find_together(self, keys: Sequence[Any]) -> dict[Any, Any]:
        """Rows of one moment: from the cache when all of them were valid at the relay's position, else one statement.

        The cursor is read before the entries. What the relay had delivered by then has removed what it concerns, so an
        entry whose snapshot the cursor covers was valid at the cursor; entries valid at one position are consistent.
        """
        cache = self.cache
        names = [self.name_of(key) for key in keys]
        prefix = self.prefix
        if monotonic() < cache.good_until:
            with contextlib.suppress(*UNREACHABLE):
                cursor, *found = await asyncio.gather(
                    cache.wire.send_get(cache.cursor_name), *(cache.wire.send_get(name) for name in names)
                )
                values = None if cursor is None else self._together(cursor, keys, names, prefix, found)
                if values is not None:
                    self.figures.hits += len(keys)
                    return values
                return await self._load_together(keys, names, prefix)
        self.figures.bypasses += len(keys)
        rows, snapshot = await self._loader.load_all(keys)
        for name in names:
            cache.raise_floor(name, snapshot)
        return rows

    def _together(
        self, cursor: bytes, keys: Sequence[Any], names: Sequence[bytes], prefix: bytes, found: Sequence[bytes | None]
    ) -> dict[Any, Any] | None:
        position = cursor.rpartition(b"|")[2]
        values = {}
        for key, name, raw in zip(keys, names, found, strict=True):
            if raw is None or not raw.startswith(prefix):
                return None
            length = HEAD.unpack_from(raw, len(prefix))[2]
            at = len(prefix) + HEAD.size + length
            snapshot = raw[at - length : at]
            if not covers(position, snapshot) or (self.cache.floors and self.cache.below_floor(name, snapshot)):
                return None
            values[key] = self.decode(raw[at:])
        return {key: value for key, value in values.items() if value is not None}

    async def _load_together(self, keys: Sequence[Any], names: Sequence[bytes], prefix: bytes) -> dict[Any, Any]:
        """All rows in one statement; the leases that could be had are filled with them."""
        cache = self.cache
        self.figures.misses += len(keys)
        token = cache.token()
        leases: list[Any] = await asyncio.gather(
            *(cache.step(name, b"lease", token, prefix, LEASE_MS, b"") for name in names), return_exceptions=True
        )
        started = monotonic()
        rows, snapshot = await self._loader.load_all(keys)
        took = monotonic() - started
        fills = []
        for key, name, lease in zip(keys, names, leases, strict=True):
            payload = self._codec.encode(rows.get(key))
            if lease is None and payload is not None:
                entry, ms = self.entry(prefix, Loaded(None, payload, snapshot), took)
                fills.append(cache.step(name, b"fill", token, snapshot, entry, ms))
            cache.raise_floor(name, snapshot)
        await asyncio.gather(*fills, return_exceptions=True)
        return rows


def served_as(kind: str, known: Shape) -> str:
    """How a relay says that it invalidates the entries of this kind."""
    said = f"{kind}|{known.table.schema or 'public'}.{known.table.name}|{known.key_columns[0].name}"
    return hashlib.sha256(said.encode()).hexdigest()[:8]


def body_of(raw: bytes, prefix: bytes) -> tuple[int, bytes]:
    """Where the payload of a value begins, and the snapshot it was read in."""
    length = HEAD.unpack_from(raw, len(prefix))[2]
    at = len(prefix) + HEAD.size + length
    return at, raw[at - length : at]


def _quiet(done: asyncio.Future[Any]) -> None:
    if not done.cancelled():
        done.exception()


class Codec:
    """Values of one model to bytes and back: msgpack arrays in the order of the columns, typed."""

    def __init__(self, known: Shape) -> None:
        kinds = [_stored_type(known, c.type) for c in known.columns]
        row: Any = tuple.__class_getitem__(tuple(kind | None for kind in kinds))
        self._decoder = msgspec.msgpack.Decoder(row)
        self._encoder = msgspec.msgpack.Encoder()
        self._restore = known.restore
        self._tuple_of = known.tuple_of
        self._wide = [i for i, c in enumerate(known.columns) if _is_wide(c.type)]
        self.immutable = not any(isinstance(c.type, (JSON, ARRAY)) for c in known.columns)

    def encode(self, value: Any) -> bytes | None:
        """Nothing for no row; None when it cannot be encoded."""
        if value is None:
            return b""
        row: Any = self._tuple_of(value)
        if self._wide:
            row = list(row)
            for at in self._wide:
                row[at] = None if row[at] is None else str(row[at])
        try:
            return self._encoder.encode(row)
        except (TypeError, OverflowError, ValueError):
            return None

    def decode(self, payload: bytes) -> Any:
        """The value."""
        row: Any = self._decoder.decode(payload)
        if self._wide:
            row = list(row)
            for at in self._wide:
                row[at] = None if row[at] is None else int(row[at])
        return self._restore(row)


def _is_wide(kind: Any) -> bool:
    """A whole number that may be wider than 64 bits."""
    return isinstance(kind, WholeNumber)


def _stored_type(known: Shape, kind: Any) -> Any:
    if _is_wide(kind):
        return str
    if isinstance(kind, JSON):
        return Any
    if isinstance(kind, Enum):
        return kind.enum_class or str
    if isinstance(kind, ARRAY):
        return list.__class_getitem__(_stored_type(known, kind.item_type))
    return kind.python_type


class _RowLoader:
    """Rows by key with the snapshot they were read in; the keys of one loop turn travel in one statement.

    At most a few statements at once: when Valkey is away, everyone comes here.
    """

    def __init__(self, postgres: Postgres, known: Shape, loads: asyncio.Semaphore) -> None:
        self._postgres = postgres
        self._known = known
        self._loads = loads
        self._waiting: dict[Any, asyncio.Future[tuple[Any, str]]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        column = known.key_columns[0]
        now = select(func.pg_current_snapshot().cast(Text()).label("snapshot")).subquery("now")
        wanted = column == func.any(bindparam("keys", type_=ARRAY(column.type)))
        joined = now.outerjoin(known.table, wanted)
        self._template = Template(select(now.c.snapshot, *known.columns).select_from(joined), None)

    def load(self, key: Any) -> Awaitable[tuple[Any, str]]:
        """One row, or None, and the snapshot."""
        future = self._waiting.get(key)
        if future is None:
            loop = asyncio.get_running_loop()
            future = loop.create_future()
            if not self._waiting:
                loop.call_soon(self._depart)
            self._waiting[key] = future
        return asyncio.shield(future)

    def _depart(self) -> None:
        waiting, self._waiting = self._waiting, {}
        task = asyncio.get_running_loop().create_task(self._travel(waiting))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _travel(self, waiting: dict[Any, asyncio.Future[tuple[Any, str]]]) -> None:
        try:
            rows, snapshot = await self.load_all(list(waiting))
        except BaseException as error:
            for future in waiting.values():
                future.set_exception(error)
                future.exception()
            if not isinstance(error, Exception):
                raise
            return
        for key, future in waiting.items():
            future.set_result((rows.get(key), snapshot))

    async def load_all(self, keys: Sequence[Any]) -> tuple[dict[Any, Any], str]:
        """These rows in one statement, and the snapshot."""
        prepared = Prepared(self._template.sql, self._template.arguments({"keys": list(keys)}), None, True)
        async with self._loads:
            records, _ = await self._postgres._run(prepared)
        known = self._known
        found, at = {}, 1 + known.columns.index(known.key_columns[0])
        for record in records:
            if record[at] is not None:
                value = known.make(record[1:])
                found[known.key_of(value)] = value
        return found, cast(str, records[0][0])
