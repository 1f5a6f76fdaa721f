"""The relay: what it carries, where it goes on, and what it does when it cannot know."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import pytest_asyncio
from sqlalchemy import text
from tests.kernel.caching import TRUNCATE_USERS, cache_of, told, trusted

from headwater.embedded.valkey import EmbeddedValkey
from headwater.followers.invalidation import Cursor, Invalidation, relay_standing, relaying
from headwater.kernel.cache import names_of
from headwater.kernel.lifecycle import Headwater
from headwater.kernel.settings import Settings
from headwater.kernel.wire import Wire
from headwater.modules.identity.models import User
from headwater.systems.everything import EVERYTHING


@asynccontextmanager
async def trusting(headwater: Headwater, settings: Settings) -> AsyncIterator[Invalidation]:
    async with relaying(EVERYTHING, settings) as relay:
        assert relay is not None
        await trusted(headwater)
        yield relay


@pytest_asyncio.fixture
async def foreign(database: str) -> AsyncIterator[Any]:
    connection = await asyncpg.connect(database)
    yield connection
    await connection.close()


async def cursor_of(headwater: Headwater) -> Cursor | None:
    cache = cache_of(headwater)
    return Cursor.read(await cache.wire.send_get(cache.cursor_name))


async def entry_of(headwater: Headwater, key: UUID) -> bytes | None:
    found: bytes | None = await cache_of(headwater).wire.send_get(f"user:{key}".encode())
    return found


async def test_without_a_relay_nothing_is_believed(headwater: Headwater) -> None:
    user = await headwater.repository(User).create(headwater.autocommit, email=f"{uuid4()}@b.example")
    assert await headwater.repository(User).get(user.id) == user
    assert cache_of(headwater).figures["user"].bypasses == 1
    assert await entry_of(headwater, user.id) is None


async def test_changes_made_while_no_relay_ran_are_carried_before_anything_is_believed(
    headwater: Headwater, settings: Settings, foreign: Any
) -> None:
    users = headwater.repository(User)
    async with trusting(headwater, settings):
        user = await users.create(headwater.autocommit, email=f"{uuid4()}@b.example", name="old")
        await users.get(user.id)
        entry = await entry_of(headwater, user.id)
        assert entry is not None and entry[:1] == b"V"
        before = await cursor_of(headwater)
    await foreign.execute("update users set name = 'new' where id = $1", user.id)
    cache_of(headwater).bypass()
    assert (await users.get(user.id)).name == "new"
    async with trusting(headwater, settings):
        after = await cursor_of(headwater)
        assert before is not None and after is not None and before.generation == after.generation
        entry = await entry_of(headwater, user.id)
        assert entry is None or entry[:1] == b"T"
        assert (await users.get(user.id)).name == "new"


async def test_what_a_long_transaction_wrote_is_carried_when_it_ends(
    headwater: Headwater, settings: Settings, foreign: Any
) -> None:
    users = headwater.repository(User)
    async with trusting(headwater, settings):
        user = await users.create(headwater.autocommit, email=f"{uuid4()}@b.example", name="0")
        late = foreign.transaction()
        await late.start()
        await foreign.execute("update users set name = 'late' where id = $1", user.id)
        for number in range(50):  # the relay's cursor and its bound move on meanwhile
            await users.create(headwater.autocommit, email=f"{number}{uuid4()}@b.example")
            await asyncio.sleep(0.005)
        assert (await users.get(user.id)).name == "0"
        await late.commit()

        async def seen() -> None:
            while (await users.get(user.id)).name != "late":  # noqa: ASYNC110
                await asyncio.sleep(0.002)

        await asyncio.wait_for(seen(), 1)


async def test_the_ids_may_jump_into_another_partition(headwater: Headwater, settings: Settings, foreign: Any) -> None:
    users = headwater.repository(User)
    async with trusting(headwater, settings):
        user = await users.create(headwater.autocommit, email=f"{uuid4()}@b.example", name="0")
        for number in range(1, 4):
            await users.get(user.id)
            open_over_the_turn = foreign.transaction()
            await open_over_the_turn.start()
            await foreign.execute("update users set name = $2 where id = $1", user.id, str(number))
            async with headwater.postgres.connection() as connection:
                await connection.fetchval(
                    "select headwater.turn_partition(1), headwater.make_partitions(3, 100000000000)"
                )
            await open_over_the_turn.commit()
            await told(headwater)
            assert (await users.get(user.id)).name == str(number)
            await users.update(headwater.autocommit, user.id, name=f"by us {number}")
            assert (await users.get(user.id)).name == f"by us {number}"


async def test_the_floor_rises_so_that_old_changes_are_not_read_again(headwater: Headwater, settings: Settings) -> None:
    async with trusting(headwater, settings):
        async with asyncio.timeout(5):
            while True:
                made = await headwater.repository(User).create(headwater.autocommit, email=f"{uuid4()}@b.example")
                cursor = await cursor_of(headwater)
                if cursor is not None and cursor.floor > 0:
                    break
                await asyncio.sleep(0.01)
        assert made.id


async def test_an_emptied_valkey_begins_a_new_generation(headwater: Headwater, settings: Settings) -> None:
    async with trusting(headwater, settings):
        before = await cursor_of(headwater)
        cache = cache_of(headwater)
        await cache.wire.send("DEL", cache.cursor_name, cache.guard_name)
        async with asyncio.timeout(5):
            while (after := await cursor_of(headwater)) is None:  # noqa: ASYNC110
                await asyncio.sleep(0.005)
        assert before is not None and after.generation != before.generation


async def test_a_truncated_table_begins_a_new_generation(
    headwater: Headwater, settings: Settings, foreign: Any
) -> None:
    users = headwater.repository(User)
    async with trusting(headwater, settings):
        user = await users.create(headwater.autocommit, email=f"{uuid4()}@b.example")
        assert await users.find(user.id) == user
        await foreign.execute(TRUNCATE_USERS)

        async def gone() -> None:
            while await users.find(user.id) is not None:  # noqa: ASYNC110
                await asyncio.sleep(0.002)

        await asyncio.wait_for(gone(), 1)


async def test_one_relay_leads_and_another_takes_over(headwater: Headwater, settings: Settings) -> None:
    async with trusting(headwater, settings) as first, relaying(EVERYTHING, settings) as second:
        assert second is not None
        await asyncio.sleep(0.1)
        assert (first.figures.leading, second.figures.leading) == (True, False)
        async with asyncio.timeout(10):
            await headwater.postgres.fetch(_TERMINATE)
            while not second.figures.leading and first.figures.elections < 2:  # noqa: ASYNC110
                await asyncio.sleep(0.01)


async def test_two_databases_in_one_valkey_have_cursors_of_their_own() -> None:
    assert not {*names_of("1:2")} & {*names_of("1:3")}


async def test_a_cursor_is_read_as_it_was_written() -> None:
    cursor = Cursor("00ff00ff", "1", 17, "5:9:6,7")
    assert Cursor.read(cursor.write()) == cursor
    assert Cursor.read(None) is None
    assert Cursor.read(b"what another program wrote") is None


async def test_a_cursor_is_not_gone_on_from_in_a_database_that_is_not_where_it_was() -> None:
    cursor = Cursor("00ff00ff", "1", 17, "5:9:6,7")
    assert cursor.is_of("1", "5:9:6,7", 17)
    assert cursor.is_of("1", "20:20:", 18)
    assert not cursor.is_of("2", "20:20:", 18)  # another epoch of the stream
    assert not cursor.is_of("1", "5:8:6,7", 18)  # put back to before it
    assert not cursor.is_of("1", "20:20:", 16)  # its sequence too


async def test_a_database_that_says_it_was_put_back_begins_a_new_generation(
    headwater: Headwater, settings: Settings, foreign: Any
) -> None:
    async with trusting(headwater, settings):
        before = await cursor_of(headwater)
    await foreign.execute("select headwater.restored()")
    async with trusting(headwater, settings), asyncio.timeout(10):
        while await cursor_of(headwater) == before:  # noqa: ASYNC110
            await asyncio.sleep(0.005)
        after = await cursor_of(headwater)
    assert before is not None and after is not None and after.generation != before.generation


async def test_a_full_valkey_costs_no_error(headwater: Headwater, settings: Settings, tmp_path: Any) -> None:
    async with EmbeddedValkey(tmp_path / "home") as small:
        own = replace(settings, valkey_url=small.dsn)
        async with Headwater.open(EVERYTHING, own) as hw, trusting(hw, own):
            users = hw.repository(User)
            user = await users.create(hw.autocommit, email=f"{uuid4()}@b.example", name="a")
            await users.get(user.id)
            wire = Wire(small.dsn)
            await wire.open()
            await wire.send("CONFIG", "SET", "maxmemory", "1")
            for number in range(20):
                await users.update(hw.autocommit, user.id, name=str(number))
                assert (await users.get(user.id)).name == str(number)
            await wire.close()


_TERMINATE = text(
    "select pg_terminate_backend(pid) from pg_locks where locktype = 'advisory' and objid = 1752629251 "
    "and database = (select oid from pg_database where datname = current_database())"
)


async def test_the_standing_says_how_far_behind_the_cache_is(headwater: Headwater, settings: Settings) -> None:
    assert await relay_standing(cache_of(headwater)) is None
    users = headwater.repository(User)
    async with trusting(headwater, settings):
        standing = await relay_standing(cache_of(headwater))
        assert standing is not None
        assert standing.trusted
    for _ in range(3):  # nobody carries them
        await users.create(headwater.autocommit, email=f"{uuid4()}@b.example")
    standing = await relay_standing(cache_of(headwater))
    assert standing is not None
    assert standing.lag_changes == 3
    assert standing.lag_seconds > 0
