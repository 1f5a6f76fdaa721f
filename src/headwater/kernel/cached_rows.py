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

import asyncpg.pgproto.pgproto
import msgspec
from sqlalchemy import ARRAY, JSON, Enum, Text, bindparam, func, select

from headwater.kernel.amounts import WholeNumber
from headwater.kernel.cache_policy import CachePolicy
from headwater.kernel.errors import ProgrammingError, Unreachable
from headwater.kernel.gathered_reads import Absent, GatheredReads
from headwater.kernel.near_cache import NearCache
from headwater.kernel.postgres import Postgres
from headwater.kernel.rendering import Json, written
from headwater.kernel.rows import Shape, bind_processor, shape
from headwater.kernel.snapshots import covers
from headwater.kernel.statements import Prepared, Template
from headwater.kernel.tracking import table_name
from headwater.kernel.wire import ReplyError

if TYPE_CHECKING:
    from headwater.kernel.cache import Cache

HEAD = struct.Struct(">dfH")
UNREACHABLE = (Unreachable, ReplyError)
LEASE_MS = 500
"""How long a loader that has died keeps others waiting; one that lives renews it."""
_JITTER = 0.1
_PREFIX = 11  # V, four bytes of generation, six of fingerprint
_head_of = HEAD.unpack_from
_pack = msgspec.msgpack.Encoder().encode
_row_of = msgspec.msgpack.Decoder(tuple[msgspec.Raw, bytes, int | None]).decode


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

    BODY = _PREFIX + HEAD.size
    """Where the snapshot of an entry begins."""
    head_of = staticmethod(HEAD.unpack_from)

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
            form=f"{known.label}({form}){' json' if policy.json else ''}",
        )
        self.strict = policy.level in ("strict", "snapshot")
        self.served_as = served_as(policy)
        self._stem = policy.kind.encode() + b":"
        self._codec = Codec(known)
        self._loader = _RowLoader(cache.postgres, known, cache.loads)
        kind_of_key = known.key_columns[0].type.python_type
        by_uuid = kind_of_key is UUID
        self.key_types = frozenset({UUID, asyncpg.pgproto.pgproto.UUID} if by_uuid else {kind_of_key})
        self._reads = GatheredReads(self, self._stem, by_uuid=by_uuid)
        if not policy.json:
            self.decode = self._codec.decode  # type: ignore[method-assign]  # the same, with one call less
        self.plain = None if policy.json else self._codec.plain
        self._key_type: Callable[[str], Any] = known.key_columns[0].type.python_type
        if policy.near:
            self.near = NearCache(policy.near)
        else:
            self.find = self._reads.read  # type: ignore[method-assign]  # the same, with one call less

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

    # An entry is the row as the codec writes it; of a kind with JSON, `[row, JSON, version]`.

    def encode(self, value: Any) -> bytes | None:
        """A row as it is stored; nothing for no row; None when it cannot be encoded."""
        row = self._codec.encode(value)
        if not row or not self.policy.json:
            return row
        shown = written(value)
        return _pack((msgspec.Raw(row), shown.body, shown.version))

    def decode(self, payload: bytes) -> Any:
        return self._codec.decode(_row_of(payload)[0]) if self.policy.json else self._codec.decode(payload)

    def decode_json(self, payload: bytes) -> Json[Any]:
        """The JSON of an entry, as it is; nothing else of it is looked at."""
        if not self.policy.json:
            return written(self._codec.decode(payload))
        _, body, version = _row_of(payload)
        return Json(body, version)

    async def load(self, key: Any) -> Loaded:
        """The row from PostgreSQL, together with the snapshot it was read in."""
        value, snapshot = await self._loader.load(key)
        return Loaded(value, self.encode(value), snapshot)

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

    async def find(self, key: Any, absent: Absent | None = None, as_json: bool = False) -> Any:
        """The row with this key, or None; with `absent`, what that makes of the key is raised instead of None.

        `key` has the type of its column. With `as_json` the row is a Json.
        """
        payload = self._nearby(key)
        if payload is None:
            return await self._reads.ask(key, absent, as_json)
        return self.given(key, payload, absent, as_json)

    def given(self, key: Any, payload: bytes, absent: Absent | None = None, as_json: bool = False) -> Any:
        """What a reader gets of the encoded row; nothing is no row."""
        if payload:
            return self.decode_json(payload) if as_json else self.decode(payload)
        if absent is not None:
            raise absent(key)
        return None

    async def find_each(self, keys: Sequence[Any]) -> list[Any]:
        """The rows with these keys, each as `find` would give it."""
        nearby = [self._nearby(key) for key in keys]
        asked = [self._reads.ask(key) for key, payload in zip(keys, nearby, strict=True) if payload is None]
        arrived = iter(await asyncio.gather(*asked))
        return [
            next(arrived) if payload is None else self.given(key, payload)
            for key, payload in zip(keys, nearby, strict=True)
        ]

    def _nearby(self, key: Any) -> bytes | None:
        """The encoded row from the near cache; nothing for no row; None when it is not there."""
        near = self.near
        if near is None:
            return None
        now = monotonic()
        payload: bytes | None = near.get(key, now) if now < near.until else None
        if payload is not None:
            self.figures.near_hits += 1
        return payload

    async def examine(self, key: Any, name: bytes, prefix: bytes, raw: bytes | None) -> Any:
        """The value of an entry of which more must be known before it is given, or of none."""
        cache, avoid = self.cache, b""
        if raw is not None and raw.startswith(prefix):
            at, snapshot = body_of(raw, prefix)
            if name not in cache.floors or not cache.floors.above(name, snapshot):
                self.figures.hits += 1
                self._refresh_early(key, name, prefix, raw, snapshot)
                payload = raw[at:]
                return self.decode(payload) if payload else None
            avoid = snapshot
        return await cache.missed(self, name, prefix, raw, lambda: self.load(key), avoid)

    async def direct(self, key: Any, name: bytes) -> Any:
        """The value from PostgreSQL, since Valkey cannot be believed or reached."""
        self.figures.bypasses += 1
        value, snapshot = await self._loader.load(key)
        self.cache.floors.lift(name, snapshot)
        return value

    def keep(self, near: NearCache, key: Any, ticket: object, name: bytes, prefix: bytes, raw: bytes) -> bytes | None:
        """The payload of an entry that is plainly there, kept in the near cache if it may be; None for another."""
        if not raw.startswith(prefix):
            return None
        at, snapshot = body_of(raw, prefix)
        left = _head_of(raw, len(prefix))[0] - time.time()
        if left <= 0 or (name in self.cache.floors and self.cache.floors.above(name, snapshot)):
            return None
        payload, now = raw[at:], monotonic()
        self.figures.hits += 1
        self._refresh_early(key, name, prefix, raw, snapshot)
        if now >= near.until:
            near.abandon(key, ticket)
        elif near.store(key, ticket, payload, now + left) and payload and self._codec.immutable:
            near.answer(key, self.decode(payload))
        return payload

    def _refresh_early(self, key: Any, name: bytes, prefix: bytes, raw: bytes, snapshot: bytes) -> None:
        expiry, load_seconds, _ = _head_of(raw, len(prefix))
        if load_seconds and self.cache.should_refresh(expiry - time.time(), load_seconds):
            self.cache.refresh(self, name, prefix, snapshot, lambda: self.load(key))

    def render(self, value: Any) -> Json[Any] | None:
        """A value as it leaves the process."""
        return None if value is None else written(value)

    async def find_together(self, keys: Sequence[Any]) -> dict[Any, Any]:
        """Rows of one moment: from the cache when all of them were valid at the relay's position, else one statement.

        The cursor is read with the entries, in one command. What the relay had delivered by then has removed what it
        concerns: an entry whose snapshot the cursor covers was valid at the cursor. Entries valid at one position are
        consistent.
        """
        cache = self.cache
        names = [self.name_of(key) for key in keys]
        prefix = self.prefix
        if monotonic() < cache.good_until:
            with contextlib.suppress(*UNREACHABLE):
                cursor, *found = await cache.wire.send(b"MGET", cache.cursor_name, *names)
                values = None if cursor is None else self._together(cursor, keys, names, prefix, found)
                if values is not None:
                    self.figures.hits += len(keys)
                    return values
                return await self._load_together(keys, names, prefix)
        self.figures.bypasses += len(keys)
        rows, snapshot = await self._loader.load_all(keys)
        for name in names:
            cache.floors.lift(name, snapshot)
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
            if not covers(position, snapshot) or (self.cache.floors and self.cache.floors.above(name, snapshot)):
                return None
            values[key] = self.decode(raw[at:]) if at < len(raw) else None
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
            payload = self.encode(rows.get(key))
            if lease is None and payload is not None:
                entry, ms = self.entry(prefix, Loaded(None, payload, snapshot), took)
                fills.append(cache.step(name, b"fill", token, snapshot, entry, ms))
            cache.floors.lift(name, snapshot)
        await asyncio.gather(*fills, return_exceptions=True)
        return rows


def served_as(policy: CachePolicy) -> str:
    """How a relay says that it invalidates the entries of this kind."""
    known = shape(policy.model)
    own = f"{table_name(policy.model)}.{known.key_columns[0].name}"
    return hashlib.sha256("|".join((policy.kind, own, *policy.told_by)).encode()).hexdigest()[:8]


def body_of(raw: bytes, prefix: bytes) -> tuple[int, bytes]:
    """Where the payload of a value begins, and the snapshot it was read in."""
    length = HEAD.unpack_from(raw, len(prefix))[2]
    at = len(prefix) + HEAD.size + length
    return at, raw[at - length : at]


class Codec:
    """Values of one model to bytes and back: msgpack arrays in the order of the columns, typed."""

    def __init__(self, known: Shape) -> None:
        kinds = [_stored_type(known, c.type) for c in known.columns]
        row: Any = tuple.__class_getitem__(
            tuple(kind | None if c.nullable else kind for kind, c in zip(kinds, known.columns, strict=True))
        )
        self._required = [i for i, c in enumerate(known.columns) if not c.nullable]
        self._decoder = msgspec.msgpack.Decoder(row)
        self._encoder = msgspec.msgpack.Encoder(uuid_format="bytes")
        self._restore = restore = known.restore
        self._tuple_of = known.tuple_of
        decode = self._decoder.decode
        self._wide = [i for i, c in enumerate(known.columns) if _is_wide(c.type)]
        self.plain: tuple[Callable[[bytes], Any], Callable[[Any], Any]] | None = None
        """What `decode` is made of, for who would save a call: bytes to a tuple, a tuple to the value."""
        if not self._wide:
            self.plain = (decode, restore)
            self.decode = lambda payload: restore(decode(payload))  # type: ignore[method-assign]  # the same, in less time
        self.immutable = not any(isinstance(c.type, (JSON, ARRAY)) for c in known.columns)

    def encode(self, value: Any) -> bytes | None:
        """Nothing for no row; None when it cannot be encoded."""
        if value is None:
            return b""
        row: Any = self._tuple_of(value)
        if None in row and any(row[i] is None for i in self._required):
            return None  # the table is looser than its model; what is read back is checked
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
