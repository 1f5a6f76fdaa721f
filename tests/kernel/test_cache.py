"""The cache: what a read gives whatever happens to the row, to Valkey, to the relay and to other readers."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import uuid4

import asyncpg
import pytest
import pytest_asyncio
from sqlalchemy import update
from tests.kernel.caching import (
    TRUNCATE_USERS,
    believing,
    cache_of,
    kind_of,
    make_user,
    name_in,
    system_of,
    trusted,
    until,
)

from headwater.embedded.valkey import EmbeddedValkey
from headwater.followers.invalidation import relaying
from headwater.kernel.cache_policy import CachePolicy
from headwater.kernel.errors import ProgrammingError
from headwater.kernel.lifecycle import Headwater
from headwater.kernel.module import Module, System
from headwater.kernel.settings import Settings
from headwater.modules.identity.models import Role, User
from headwater.systems.everything import EVERYTHING


@pytest_asyncio.fixture
async def relay(settings: Settings) -> AsyncIterator[Any]:
    async with relaying(EVERYTHING, settings) as running:
        yield running


@pytest_asyncio.fixture
async def hw(relay: Any, headwater: Headwater) -> Headwater:
    await trusted(headwater)
    return headwater


@pytest_asyncio.fixture
async def other(hw: Headwater, settings: Settings) -> AsyncIterator[Headwater]:
    """Another process, as far as the cache can tell."""
    async with Headwater.open(EVERYTHING, settings) as opened:
        await trusted(opened)
        yield opened


async def test_a_second_read_comes_from_valkey_and_is_equal(hw: Headwater, other: Headwater) -> None:
    user = await make_user(hw, metadata_={"a": [1, None]}, name="Ä")
    first = await hw.repository(User).get(user.id)
    second = await other.repository(User).get(user.id)
    assert first == second == user
    assert (kind_of(hw).figures.misses, kind_of(other).figures.hits) == (1, 1)


async def test_what_does_not_exist_is_remembered_until_it_does(hw: Headwater, other: Headwater) -> None:
    missing = uuid4()
    assert await hw.repository(User).find(missing) is None
    assert await other.repository(User).find(missing) is None
    assert kind_of(other).figures.hits == 1
    await hw.repository(User).create(hw.autocommit, id=missing, email=f"{missing}@b.example")
    assert await hw.repository(User).find(missing) is not None


async def test_a_writer_reads_what_it_wrote_by_a_verb_by_a_statement_and_by_a_cascade(hw: Headwater) -> None:
    users = hw.repository(User)
    user = await make_user(hw, name="a")
    await users.get(user.id)
    async with hw.transaction() as tx:
        await users.update(tx, user.id, name="b")
    assert (await users.get(user.id)).name == "b"
    async with hw.transaction() as tx:
        await tx.execute(update(User).where(User.id == user.id).values(name="c"))
    assert (await users.get(user.id)).name == "c"
    await users.update(hw.autocommit, user.id, name="d")
    assert (await users.get(user.id)).name == "d"


async def test_a_foreign_writer_is_heard_of(hw: Headwater, database: str) -> None:
    users = hw.repository(User)
    user = await make_user(hw, name="a")
    await users.get(user.id)
    foreign = await asyncpg.connect(database)
    await foreign.execute("update users set name = 'psql' where id = $1", user.id)

    async def seen() -> None:
        while (await users.get(user.id)).name != "psql":  # noqa: ASYNC110  # the relay makes it so
            await asyncio.sleep(0.001)

    await asyncio.wait_for(seen(), 1)
    await foreign.execute(TRUNCATE_USERS)
    await foreign.close()

    async def gone() -> None:
        while await users.find(user.id) is not None:  # noqa: ASYNC110  # the relay makes it so
            await asyncio.sleep(0.001)

    await asyncio.wait_for(gone(), 1)


async def test_reads_in_a_transaction_see_the_transaction(hw: Headwater) -> None:
    users = hw.repository(User)
    user = await make_user(hw, name="a")
    await users.get(user.id)
    async with hw.transaction() as tx:
        await users.update(tx, user.id, name="b")
        assert (await users.get(user.id, tx=tx)).name == "b"
        assert (await users.get(user.id)).name == "a"


async def test_rows_of_one_moment_are_never_of_two(hw: Headwater, other: Headwater) -> None:
    first, second = await make_user(hw, name="0"), await make_user(hw, name="0")
    done = False

    async def write() -> None:
        nonlocal done
        for number in range(60):
            async with hw.transaction() as tx:
                await hw.repository(User).update(tx, first.id, name=str(number))
                await hw.repository(User).update(tx, second.id, name=str(number))
        done = True

    async def read() -> None:
        while not done:
            found = await other.repository(User).get_many([first.id, second.id], consistency="snapshot")
            assert len({user.name for user in found.values()}) == 1

    await asyncio.gather(write(), read(), read())


async def test_a_lease_that_an_invalidation_took_fills_nothing(hw: Headwater) -> None:
    cache, kind, user = cache_of(hw), kind_of(hw), await make_user(hw)
    name = kind.name_of(user.id)
    assert await cache.step(name, b"lease", b"mine", kind.prefix, 500, b"") is None
    await cache.step(name, b"invalidate", b"")
    entry, ms = kind.entry(kind.prefix, await kind.load(user.id), 0.001)
    assert await cache.step(name, b"fill", b"mine", b"1:1:", entry, ms) == 0
    assert (await cache.wire.send_get(name) or b"T")[:1] == b"T"


async def test_a_known_change_leaves_what_has_seen_it_and_refuses_what_has_not(hw: Headwater) -> None:
    cache, kind, name = cache_of(hw), kind_of(hw), kind_of(hw).name_of(uuid4())

    async def filled(snapshot: bytes, token: bytes) -> int:
        await cache.step(name, b"lease", token, kind.prefix, 500, b"")
        loaded = (await kind.load(uuid4()))._replace(snapshot=snapshot.decode())
        entry, ms = kind.entry(kind.prefix, loaded, 0.001)
        return int(await cache.step(name, b"fill", token, snapshot, entry, ms))

    assert await filled(b"10:20:12", b"a") == 1
    await cache.step(name, b"invalidate", b"11")
    assert (await cache.wire.send_get(name))[:1] == b"V"
    await cache.step(name, b"invalidate", b"12")
    assert (await cache.wire.send_get(name))[:1] == b"T"
    assert await filled(b"10:20:12", b"b") == 0
    assert await filled(b"13:20:", b"c") == 1
    await cache.step(name, b"invalidate", b"30")
    for xid in range(31, 45):  # more than are listed one by one
        await cache.step(name, b"invalidate", str(xid).encode())
    assert await filled(b"38:50:", b"d") == 0
    assert await filled(b"45:50:", b"e") == 1


async def test_a_holder_that_died_keeps_others_waiting_for_no_longer_than_its_lease(hw: Headwater) -> None:
    cache, kind, user = cache_of(hw), kind_of(hw), await make_user(hw)
    await cache.step(kind.name_of(user.id), b"lease", b"dead", kind.prefix, 300, b"")
    assert await asyncio.wait_for(hw.repository(User).get(user.id), 2) == user
    assert (await cache.wire.send_get(kind.name_of(user.id)))[:1] == b"V"


async def test_a_marked_row_is_read_from_postgresql(hw: Headwater) -> None:
    cache, kind, user = cache_of(hw), kind_of(hw), await make_user(hw)
    name = kind.name_of(user.id)
    await cache.step(name, b"mark", b"one", 5000)
    await cache.step(name, b"mark", b"two", 5000)
    assert await hw.repository(User).get(user.id) == user
    await cache.step(name, b"unmark", b"one")
    assert (await cache.wire.send_get(name))[:1] == b"D"
    await cache.step(name, b"unmark", b"two")
    assert (await cache.wire.send_get(name) or b"T")[:1] == b"T"


async def test_a_process_does_not_read_back_in_time(hw: Headwater) -> None:
    cache, kind, user = cache_of(hw), kind_of(hw), await make_user(hw, name="a")
    await hw.repository(User).get(user.id)
    raw = await cache.wire.send_get(kind.name_of(user.id))
    newer = (await kind.load(user.id)).snapshot
    xmin, xmax, _ = newer.split(":")
    cache.floors.lift(kind.name_of(user.id), f"{int(xmin) + 1}:{int(xmax) + 1}:")
    kind.near.clear()  # type: ignore[union-attr]
    assert await hw.repository(User).get(user.id) == user
    assert await cache.wire.send_get(kind.name_of(user.id)) != raw


async def test_a_relaxed_value_whose_time_is_over_is_served_while_one_loads(settings: Settings) -> None:
    relaxed = system_of("relaxed", ttl_seconds=0.05, stale_seconds=60)
    async with believing(settings, system=relaxed) as hw:  # no relay: nothing but the time ends a value
        user, cache, kind = await make_user(hw, name="old"), cache_of(hw), kind_of(hw)
        assert await name_in(hw, user) == "old"
        async with hw.postgres.connection() as connection:
            await connection.execute("update users set name = 'new' where id = $1", user.id)
        raw = await cache.wire.send_get(kind.name_of(user.id))
        expiry, _, _ = kind.head_of(raw, len(kind.prefix))
        await until(lambda: time.time() > expiry)
        async with AsyncExitStack() as busy:  # the loads are at their cap: whoever waited for one would wait here
            while not cache.loads.locked():
                await busy.enter_async_context(cache.loads)
            assert [await name_in(hw, user) for _ in range(20)] == ["old"] * 20
            assert kind.figures.refreshes == 0
        await until(lambda: kind.figures.refreshes)
        assert await name_in(hw, user) == "new"
        assert kind.figures.misses == 1


async def test_a_valkey_that_freezes_costs_a_moment_and_no_error(settings: Settings, tmp_path: Path) -> None:
    async with EmbeddedValkey(tmp_path / "home") as own:
        chosen = replace(settings, valkey_url=own.dsn)
        async with Headwater.open(EVERYTHING, chosen) as hw, relaying(EVERYTHING, chosen):
            await trusted(hw)
            user = await make_user(hw, name="0")
            await hw.repository(User).get(user.id)
            assert own.server.identity is not None
            os.kill(own.server.identity.pid, signal.SIGSTOP)
            try:
                for number in range(5):
                    await hw.repository(User).update(hw.autocommit, user.id, name=str(number))
                    found = await asyncio.gather(*(hw.repository(User).get(user.id) for _ in range(16)))
                    assert {one.name for one in found} == {str(number)}
                assert kind_of(hw).figures.bypasses > 0
            finally:
                os.kill(own.server.identity.pid, signal.SIGCONT)
            await until(lambda: cache_of(hw).wire.up)
            await trusted(hw)
            assert (await hw.repository(User).get(user.id)).name == "4"


async def test_what_is_not_tracked_cannot_be_cached(settings: Settings) -> None:
    module = Module(name="other", package="headwater.modules.identity", summary="")
    vars(module)["cache"] = (CachePolicy(kind="role", model=Role),)
    with pytest.raises(ProgrammingError, match="not tracked"):
        async with Headwater.open(System("other", [module]), settings):
            pass
