"""The cache: what a read gives whatever happens to the row, to Valkey, to the relay and to other readers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import asyncpg
import pytest_asyncio
from sqlalchemy import update

from headwater.followers.invalidation import relaying
from headwater.kernel.lifecycle import Headwater
from headwater.kernel.settings import Settings
from headwater.modules.identity.models import User
from headwater.systems.everything import EVERYTHING

if TYPE_CHECKING:
    from headwater.kernel.cache import Cache, Entity


async def until(condition: Any, seconds: float = 5.0) -> None:
    """Wait for what must come; fail when it does not."""
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110  # another process makes it so
            await asyncio.sleep(0.005)


def cache_of(headwater: Headwater) -> Cache:
    assert headwater.postgres.cache is not None
    return headwater.postgres.cache


def kind_of(headwater: Headwater) -> Entity:
    return cache_of(headwater).entities[User]


async def trusted(headwater: Headwater) -> None:
    """Wait until the relay has caught up and this process knows."""
    cache = cache_of(headwater)
    await until(lambda: cache.good_until > asyncio.get_running_loop().time())


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


async def make_user(headwater: Headwater, **values: Any) -> User:
    return await headwater.repository(User).create(headwater.autocommit, email=f"{uuid4()}@b.example", **values)


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
    await foreign.execute("truncate users cascade")
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
