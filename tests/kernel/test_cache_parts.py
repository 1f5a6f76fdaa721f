"""Each part of the cache's protocol in the interleaving it is for: with it the new row is read, without it the old one.

The steps are taken by hand, so that nothing rests on luck. `benchmarks/coherence.py` finds the same by load.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from time import monotonic
from typing import Any

import asyncpg
import pytest
import pytest_asyncio
from benchmarks import coherence_parts as parts
from benchmarks.valkey_pair import ValkeyPair
from tests.kernel.caching import (
    believing,
    cache_of,
    kind_of,
    make_user,
    name_in,
    system_of,
    told,
    trusted,
    until,
)

from headwater.followers.invalidation import Invalidation, relaying
from headwater.kernel import cache as protocol
from headwater.kernel.cache import Cache
from headwater.kernel.cached_rows import body_of
from headwater.kernel.lifecycle import Headwater
from headwater.kernel.near_cache import NearCache
from headwater.kernel.settings import Settings
from headwater.modules.identity.models import User

whole_or_without = pytest.mark.parametrize("whole", [True, False], ids=["whole", "without it"])
SEEN = {True: "new", False: "old"}


@pytest_asyncio.fixture
async def foreign(database: str) -> AsyncIterator[Any]:
    """psql."""
    connection = await asyncpg.connect(database)
    yield connection
    await connection.close()


@whole_or_without
async def test_lease_a_fill_that_comes_after_the_invalidation_is_refused(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, whole: bool
) -> None:
    if not whole:
        monkeypatch.setattr(protocol, "STEPS", parts.script_without_lease())
    async with believing(settings) as writer, believing(settings) as reader:
        user, cache, kind = await make_user(writer, name="old"), cache_of(reader), kind_of(reader)
        name = kind.name_of(user.id)
        assert await cache.step(name, b"lease", b"mine", kind.prefix, 500, b"") is None
        loaded = await kind.load(user.id)
        await writer.repository(User).update(writer.autocommit, user.id, name="new")
        entry, ms = kind.entry(kind.prefix, loaded, 0.001)
        await cache.step(name, b"fill", b"mine", loaded.snapshot, entry, ms)
        assert await name_in(reader, user) == SEEN[whole]


@whole_or_without
async def test_tombstone_a_load_that_has_not_seen_the_change_is_refused_though_its_lease_is_younger(
    settings: Settings, foreign: Any, monkeypatch: pytest.MonkeyPatch, whole: bool
) -> None:
    if not whole:
        monkeypatch.setattr(protocol, "STEPS", parts.script_without_tombstone())
    async with believing(settings) as reader:
        user, cache, kind = await make_user(reader, name="old"), cache_of(reader), kind_of(reader)
        name = kind.name_of(user.id)
        loaded = await kind.load(user.id)  # as of a standby that lags
        async with foreign.transaction():
            await foreign.execute("update users set name = 'new' where id = $1", user.id)
            xid = await foreign.fetchval("select pg_current_xact_id()::text")
        await cache.step(name, b"invalidate", xid)
        assert await cache.step(name, b"lease", b"mine", kind.prefix, 500, b"") is None
        entry, ms = kind.entry(kind.prefix, loaded, 0.001)
        await cache.step(name, b"fill", b"mine", loaded.snapshot, entry, ms)
        assert await name_in(reader, user) == SEEN[whole]


@whole_or_without
async def test_relay_what_psql_writes_is_heard_of(
    settings: Settings, foreign: Any, monkeypatch: pytest.MonkeyPatch, whole: bool
) -> None:
    if not whole:
        monkeypatch.setattr(Invalidation, "_concerned", lambda self, changes: ({}, set(), False))
    system = system_of()
    async with Headwater.open(system, settings) as reader, relaying(system, settings):
        await trusted(reader)
        user = await make_user(reader, name="old")
        assert await name_in(reader, user) == "old"
        await foreign.execute("update users set name = 'new' where id = $1", user.id)
        await told(reader)
        assert await name_in(reader, user) == SEEN[whole]


@whole_or_without
async def test_ordering_a_value_whose_invalidation_came_before_it_was_kept_is_not_kept(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, whole: bool
) -> None:
    if not whole:
        monkeypatch.setattr(NearCache, "store", parts.careless_store(NearCache.store))
    async with believing(settings, near=10) as writer, believing(settings, near=10) as reader:
        user, cache, kind = await make_user(writer, name="old"), cache_of(reader), kind_of(reader)
        await name_in(reader, user)  # into Valkey
        near = kind.near
        assert near is not None
        near.clear()
        await cache.wire.send(b"CLIENT", b"CACHING", b"YES")
        ticket = near.begin(user.id)
        raw = await cache.wire.send_get(kind.name_of(user.id))  # its reply is here, and its reader not at its turn yet
        pushed, discard = asyncio.Event(), kind.discard_near
        monkeypatch.setattr(kind, "discard_near", lambda name: (discard(name), pushed.set()))
        await writer.repository(User).update(writer.autocommit, user.id, name="new")
        await asyncio.wait_for(pushed.wait(), 5)
        near.store(user.id, ticket, raw[body_of(raw, kind.prefix)[0] :], monotonic() + 60)
        await cache.look()  # what is near counts for a quarter of a second
        assert await name_in(reader, user) == SEEN[whole]


@whole_or_without
@pytest.mark.parametrize("how", ["a replica is promoted", "it starts from an old file"])
async def test_guard_a_valkey_that_knows_less_is_not_believed_before_the_relay_has_told_it(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, whole: bool, how: str
) -> None:
    if not whole:
        monkeypatch.setattr(Cache, "look", parts.credulous_look)
        monkeypatch.setattr(Cache, "_distrust", lambda self: None)
    system = system_of()
    async with ValkeyPair(tmp_path, replica=how.startswith("a replica")) as valkey:
        chosen = replace(settings, valkey_url=valkey.url)
        async with Headwater.open(system, chosen) as writer, Headwater.open(system, chosen) as reader:
            async with relaying(system, chosen):
                await trusted(writer, reader)
                user = await make_user(writer, name="old")
                await told(writer)
                assert await name_in(reader, user) == "old"

                before = cache_of(reader).wire.connects_total
                await valkey.part()  # from here on the one that comes next hears nothing
                await writer.repository(User).update(writer.autocommit, user.id, name="new")
                await told(writer)
            # The relay is gone: nobody tells the server that comes now what it has missed.
            await valkey.replace(follow=False)
            await until(lambda: cache_of(reader).wire.connects_total > before and cache_of(reader).wire.up)
            if not whole:
                await cache_of(reader).look()
            assert await name_in(reader, user) == SEEN[whole]
            if whole:
                async with relaying(system, chosen):
                    await trusted(reader)
                    hits = kind_of(reader).figures.hits
                    assert await name_in(reader, user) == "new"
                    assert await name_in(reader, user) == "new"
                    assert kind_of(reader).figures.hits > hits


@whole_or_without
async def test_marks_between_commit_and_return_others_read_postgresql(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, whole: bool
) -> None:
    if not whole:
        monkeypatch.setattr(Cache, "mark", parts.silent_mark)
    system = system_of("strict")
    async with (
        Headwater.open(system, settings) as writer,
        Headwater.open(system, settings) as reader,
        relaying(system, settings),
    ):
        await trusted(writer, reader)
        user = await make_user(writer, name="old")
        await told(writer)
        assert await name_in(reader, user) == "old"
        monkeypatch.setattr(Invalidation, "_concerned", lambda self, changes: ({}, set(), False))  # or it may be first
        honest, committed, go_on = Cache.unmark, asyncio.Event(), asyncio.Event()

        async def unmark(self: Cache, marks: Any) -> None:
            committed.set()
            await go_on.wait()
            await honest(self, marks)

        monkeypatch.setattr(Cache, "unmark", unmark)
        writing = asyncio.create_task(writer.repository(User).update(writer.autocommit, user.id, name="new"))
        await committed.wait()
        assert await name_in(reader, user) == SEEN[whole]
        go_on.set()
        await writing
        assert await name_in(reader, user) == "new"


async def test_a_mark_that_valkey_lost_costs_nobody_who_was_told(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    system = system_of("strict")
    async with (
        Headwater.open(system, settings) as writer,
        Headwater.open(system, settings) as reader,
        relaying(system, settings),
    ):
        await trusted(writer, reader)
        user = await make_user(writer, name="old")
        await told(writer)
        monkeypatch.setattr(Invalidation, "_concerned", lambda self, changes: ({}, set(), False))
        honest = Cache.mark

        async def mark(self: Cache, written: Any) -> Any:
            """The mark is set, evicted, and the old row is read into its place before COMMIT."""
            marks = await honest(self, written)
            assert (await self.wire.send_get(kind_of(reader).name_of(user.id)))[:1] == b"D"
            await self.wire.send(b"DEL", *marks.names)
            assert await name_in(reader, user) == "old"
            assert (await self.wire.send_get(kind_of(reader).name_of(user.id)))[:1] == b"V"
            return marks

        monkeypatch.setattr(Cache, "mark", mark)
        await writer.repository(User).update(writer.autocommit, user.id, name="new")
        assert await name_in(reader, user) == "new"
