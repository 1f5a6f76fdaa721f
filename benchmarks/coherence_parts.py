"""CoherenceParts: the parts of the cache's protocol, each of which can be taken away to see what it is for."""

from __future__ import annotations

import asyncio
import json
import tempfile
import time
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

PARTS = ("lease", "tombstone", "relay", "ordering", "guard", "marks")


def remove(part: str) -> None:
    """Take a part of the protocol away in this process."""
    {
        "lease": _without_lease,
        "tombstone": _without_tombstone,
        "relay": _without_relay,
        "ordering": _without_ordering,
        "guard": _without_guard,
        "marks": _without_marks,
    }[part]()


def rewrite(old: str, new: str) -> Any:
    """The script of the cache with something else in one place."""
    from headwater.kernel import cache
    from headwater.kernel.wire import Script

    text = cache.STEPS.text.decode()
    assert text.count(old) == 1, old
    with tempfile.NamedTemporaryFile("w", suffix=".lua") as file:
        file.write(text.replace(old, new))
        file.flush()
        return Script.load(Path(file.name))


def script_without_lease() -> Any:
    """A fill is a plain SET."""
    head = "function steps.fill(key, token, snapshot, entry, ms)\n"
    return rewrite(head, head + "  if entry ~= '' then return put(key, entry, ms) and 1 or 0 end\n")


def script_without_tombstone() -> Any:
    """What was invalidated leaves nothing behind that a fill would have to have seen."""
    return rewrite("if entry ~= '' and fulfilled(needs, snapshot) then", "if entry ~= '' then")


def _install(script: Any) -> None:
    from headwater.followers import invalidation
    from headwater.kernel import cache

    cache.STEPS = invalidation.STEPS = script


def _without_lease() -> None:
    _install(script_without_lease())


def _without_tombstone() -> None:
    _install(script_without_tombstone())


def _without_relay() -> None:
    """It reads, moves its cursor, renews the guard, and invalidates nothing."""
    from headwater.followers.invalidation import Invalidation

    Invalidation._concerned = lambda self, changes: ({}, set(), False)  # type: ignore[method-assign]


def _without_ordering() -> None:
    """A value is kept nearby even if its invalidation came while it was on its way, or before its reader's turn."""
    from headwater.kernel.near_cache import NearCache

    NearCache.store = careless_store(NearCache.store)  # type: ignore[method-assign]
    if find_spec("headwater.kernel.gathered_reads") is None:
        return
    reads = import_module("headwater.kernel.gathered_reads").GatheredReads
    honest = reads.arrived

    def arrived(self: Any, departure: Any, replies: Any) -> None:
        """In a turn of its own, as the task of a reader would be."""
        self._loop.call_later(0.001, honest, self, departure, replies)

    reads.arrived = arrived


def careless_store(honest: Any) -> Any:
    """`NearCache.store` that asks for no ticket."""

    def store(self: Any, key: Any, ticket: object, value: Any, deadline: float) -> bool:
        self._reading[key] = ticket
        return bool(honest(self, key, ticket, value, deadline))

    return store


def _without_guard() -> None:
    """Whichever Valkey answers is believed."""
    from headwater.kernel.cache import Cache

    Cache.look = credulous_look  # type: ignore[method-assign]
    Cache._distrust = lambda self: None  # type: ignore[method-assign]


async def credulous_look(self: Any) -> None:
    """`Cache.look` that asks the cursor for the generation and believes."""
    cursor = await self.wire.send_get(self.cursor_name)
    if cursor is not None:
        generation = bytes.fromhex(cursor.split(b"|")[0].decode())
        if generation != self._generation:
            self._generation = generation
            for kind in self.kinds:
                kind.generation(generation)
        self.good_until = self.near_until = time.monotonic() + 3600


def _without_marks() -> None:
    """A strict writer says nothing before it commits."""
    from headwater.kernel.cache import Cache

    Cache.mark = silent_mark  # type: ignore[method-assign]


async def silent_mark(self: Any, written: Any) -> Any:
    """`Cache.mark` that marks nothing."""
    from headwater.kernel.cache import Marks

    return Marks(self.token(), [entity.name_of(key) for entity, key in written.rows if entity.strict])


def load_old_rows(seconds: float) -> None:
    """Loads see the database as it was a moment ago, as on a standby that lags: what tombstones are for."""
    import asyncpg

    from headwater.kernel.cached_rows import _RowLoader

    lock = asyncio.Lock()
    held: dict[str, Any] = {}

    async def load_all(self: Any, keys: Any) -> Any:
        async with lock:
            if not held or time.monotonic() - held["at"] > seconds:
                if held:
                    await held["connection"].close()
                connection = await asyncpg.connect(self._postgres.settings.database_url)
                await connection.set_type_codec(
                    "jsonb", encoder=json.dumps, decoder=json.loads, schema="pg_catalog", format="text"
                )
                await connection.execute("begin isolation level repeatable read read only; select 1")
                held.update(connection=connection, at=time.monotonic())
            arguments = self._template.arguments({"keys": list(keys)})
            records = await held["connection"].fetch(self._template.sql, *arguments)
        known = self._known
        at = 1 + known.columns.index(known.key_columns[0])
        values = [known.make(record[1:]) for record in records if record[at] is not None]
        return {known.key_of(value): value for value in values}, records[0][0]

    _RowLoader.load_all = load_all  # type: ignore[method-assign]
