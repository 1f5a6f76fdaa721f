"""Outages of the cache: Valkey stopped, replaced, emptied or full costs speed, never an error and never a stale row."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from pathlib import Path
from time import monotonic
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import pytest
import pytest_asyncio
from benchmarks.valkey_pair import ValkeyPair
from tests.kernel.caching import TRUNCATE_USERS, cache_of, kind_of, make_user, name_in, system_of, told, trusted, until

from headwater.followers.invalidation import relaying
from headwater.kernel.lifecycle import Headwater
from headwater.kernel.settings import Settings
from headwater.modules.identity.models import User


@pytest_asyncio.fixture
async def valkey(tmp_path: Path) -> AsyncIterator[ValkeyPair]:
    async with ValkeyPair(tmp_path, replica=False) as running:
        yield running


@pytest_asyncio.fixture
async def foreign(database: str) -> AsyncIterator[Any]:
    """psql."""
    connection = await asyncpg.connect(database)
    yield connection
    await connection.close()


@asynccontextmanager
async def two(settings: Settings, valkey: ValkeyPair, level: Any = "bounded") -> AsyncIterator[list[Headwater]]:
    """Two processes and a relay on this Valkey."""
    system, chosen = system_of(level), replace(settings, valkey_url=valkey.url)
    async with (
        Headwater.open(system, chosen) as first,
        Headwater.open(system, chosen) as second,
        relaying(system, chosen),
    ):
        await trusted(first, second)
        yield [first, second]


async def test_away_and_back_nobody_fails_and_nobody_reads_what_was_before(
    settings: Settings, valkey: ValkeyPair, foreign: Any
) -> None:
    async with two(settings, valkey) as (writer, reader):
        user = await make_user(writer, name="0")
        assert await name_in(reader, user) == "0"
        await valkey.ask("SAVE")  # what comes back later is this
        await valkey.stop()
        for number in ("1", "2"):
            await writer.repository(User).update(writer.autocommit, user.id, name=number)
            assert await asyncio.gather(*(name_in(one, user) for one in (writer, reader) * 8)) == [number] * 16
        await foreign.execute("update users set name = '3' where id = $1", user.id)
        assert (await name_in(writer, user), await name_in(reader, user)) == ("3", "3")
        assert kind_of(reader).figures.bypasses > 0
        await valkey.restart()
        await trusted(writer, reader)
        assert (await name_in(writer, user), await name_in(reader, user)) == ("3", "3")
        hits = kind_of(reader).figures.hits
        await name_in(reader, user)
        assert kind_of(reader).figures.hits == hits + 1


async def test_away_from_the_beginning_is_no_error_either(settings: Settings, valkey: ValkeyPair) -> None:
    await valkey.stop()
    chosen = replace(settings, valkey_url=valkey.url)
    async with Headwater.open(system_of(), chosen) as headwater:
        user = await make_user(headwater, name="0")
        assert await name_in(headwater, user) == "0"
        async with relaying(system_of(), chosen):
            await valkey.restart()
            await trusted(headwater)
            assert await name_in(headwater, user) == "0"


async def test_away_loads_are_few_at_once_however_many_read(
    settings: Settings, valkey: ValkeyPair, foreign: Any
) -> None:
    async with two(settings, valkey) as (headwater, _):
        keys = [(await make_user(headwater)).id for _ in range(40)]
        await valkey.stop()
        await until(lambda: not cache_of(headwater).wire.up)
        async with AsyncExitStack() as stack:  # connections made beforehand: a new one would wait for the lock as well
            for _ in range(6):
                await stack.enter_async_context(headwater.postgres.connection())
        async with foreign.transaction():
            await foreign.execute("lock table users in access exclusive mode")

            async def read(key: UUID) -> User:
                return await headwater.repository(User).get(key)

            readers = []
            for key in keys:  # in turns of their own, so that they do not travel together
                readers.append(asyncio.create_task(read(key)))
                await asyncio.sleep(0)
                await asyncio.sleep(0)
            waiting = """select count(*) from pg_stat_activity
                         where datname = current_database() and wait_event_type = 'Lock'"""
            async with asyncio.timeout(10):
                while await foreign.fetchval(waiting) < 4:  # noqa: ASYNC110  # PostgreSQL makes it so
                    await asyncio.sleep(0.005)
            for _ in range(10):
                assert await foreign.fetchval(waiting) == 4
        assert {user.id for user in await asyncio.gather(*readers)} == set(keys)


async def test_emptied_a_value_that_was_on_its_way_is_not_kept(settings: Settings, valkey: ValkeyPair) -> None:
    async with two(settings, valkey) as (writer, reader):
        user, cache, kind = await make_user(writer, name="old"), cache_of(reader), kind_of(reader)
        await told(writer)
        name, prefix = kind.name_of(user.id), kind.prefix
        assert await cache.step(name, b"lease", b"mine", prefix, 500, b"") is None
        loaded = await kind.load(user.id)
        await valkey.flush()
        await writer.repository(User).update(writer.autocommit, user.id, name="new")
        entry, ms = kind.entry(prefix, loaded, 0.001)
        assert await cache.step(name, b"fill", b"mine", loaded.snapshot, entry, ms) == 0
        assert await name_in(reader, user) == "new"


async def test_replaced_while_a_reader_waits_what_the_other_server_says_is_not_believed(
    settings: Settings, valkey: ValkeyPair
) -> None:
    """The reader waits for someone else's load; meanwhile the address has become another server's."""
    async with two(settings, valkey) as (_, reader):
        user, cache, kind = await make_user(reader, name="new"), cache_of(reader), kind_of(reader)
        await told(reader)
        name = kind.name_of(user.id)
        await cache.step(name, b"lease", b"else", kind.prefix, 60_000, b"")
        reading = asyncio.create_task(reader.repository(User).get(user.id))
        await until(lambda: kind.figures.misses == 1)
        entry, _ = kind.entry(kind.prefix, await kind.load((await make_user(reader, name="old")).id), 0.001)
        cache._bypass_until, cache.good_until = monotonic() + 3600, 0.0  # as between a reconnect and the next guard
        await cache.wire.send(b"SET", name, entry)
        assert (await reading).name == "new"


@pytest.mark.parametrize("policy", ["noeviction", "allkeys-lru"])
async def test_full_reads_and_writes_go_on_and_marks_and_the_guard_find_room(
    settings: Settings, valkey: ValkeyPair, foreign: Any, policy: str
) -> None:
    async with two(settings, valkey, "strict") as (writer, reader):
        user, late = await make_user(writer, name="0"), await make_user(writer, name="0")
        assert await name_in(reader, user) == "0"
        await valkey.ask("CONFIG", "SET", "maxmemory-policy", policy)
        await valkey.ask("CONFIG", "SET", "maxmemory", 1)
        for number in range(1, 4):
            await writer.repository(User).update(writer.autocommit, user.id, name=str(number))
            assert (await name_in(reader, user), await name_in(writer, user)) == (str(number), str(number))
        assert await name_in(reader, late) == "0"
        await foreign.execute("update users set name = '9' where id = $1", late.id)
        if policy == "noeviction":
            await told(writer)  # the cursor moves on and the guard stands: what is there is believed
            await trusted(reader)
            assert await name_in(reader, late) == "9"
            name = kind_of(writer).name_of(user.id)
            await cache_of(writer).step(name, b"mark", b"one", 5000)
            assert (await cache_of(writer).wire.send_get(name))[:1] == b"D"
        await valkey.ask("CONFIG", "SET", "maxmemory", 0)
        await trusted(writer, reader)
        await told(writer)
        assert await name_in(reader, late) == "9"


async def test_a_relay_of_another_system_is_not_enough(settings: Settings, valkey: ValkeyPair) -> None:
    """It renews a guard, and knows nothing of the users: nobody would tell of their changes."""
    from headwater.kernel.module import System

    chosen = replace(settings, valkey_url=valkey.url)
    empty = System("empty", [])
    async with (
        Headwater.open(empty, chosen) as other,
        Headwater.open(system_of(), chosen) as headwater,
    ):
        async with relaying(empty, chosen):
            await trusted(other)
            await cache_of(headwater).look()
            assert not cache_of(headwater).believes()
        async with relaying(system_of(), chosen):
            await trusted(headwater, other)


async def test_a_guard_that_nobody_renews_ends_whatever_the_clock_of_valkey_does(
    settings: Settings, valkey: ValkeyPair
) -> None:
    chosen = replace(settings, valkey_url=valkey.url)
    async with Headwater.open(system_of(), chosen) as headwater:
        cache = cache_of(headwater)
        async with relaying(system_of(), chosen):
            await trusted(headwater)
        guard = await cache.wire.send_get(cache.guard_name)
        guard = guard or " ".join([cache.wire.run_id, "00000000", "0", "0", kind_of(headwater).served_as]).encode()
        await cache.wire.send(b"SET", cache.guard_name, guard, b"PX", 3_600_000)  # as if the clock went back by an hour
        await cache.look()
        cache._guard = (cache._guard[0], cache._guard[1] - 60)
        await cache.look()
        assert not cache.believes()


async def test_a_truncated_strict_table_is_empty_for_everyone_when_the_transaction_returns(
    settings: Settings, valkey: ValkeyPair
) -> None:
    async with two(settings, valkey, "strict") as (writer, reader):
        user = await make_user(writer, name="0")
        await name_in(reader, user)
        async with writer.transaction() as tx:
            await tx.connection.execute(TRUNCATE_USERS)
        assert await reader.repository(User).find(user.id) is None


async def test_what_was_read_past_the_cache_is_not_kept_older_nearby(settings: Settings, valkey: ValkeyPair) -> None:
    chosen = replace(settings, valkey_url=valkey.url)
    system = system_of(near=10)
    async with Headwater.open(system, chosen) as headwater, relaying(system, chosen):
        await trusted(headwater)
        user, kind = await make_user(headwater), kind_of(headwater)
        await name_in(headwater, user)
        await name_in(headwater, user)
        assert kind.near is not None and len(kind.near) == 1
        cache_of(headwater).floors.lift(kind.name_of(user.id), "9:9:")
        assert len(kind.near) == 0
        assert await headwater.repository(User).find(uuid4()) is None
