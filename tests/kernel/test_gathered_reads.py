"""Gathered reads: one command per turn, and each reader its own answer, error or end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid4

import pytest
import pytest_asyncio

from headwater.followers.invalidation import relaying
from headwater.kernel.cache_policy import CachePolicy
from headwater.kernel.errors import NotFound
from headwater.kernel.gathered_reads import TOGETHER_MAX
from headwater.kernel.lifecycle import Headwater
from headwater.kernel.module import Module, System
from headwater.kernel.settings import Settings
from headwater.modules.governance.models import Proposal
from headwater.modules.identity.models import User
from headwater.systems.everything import EVERYTHING


async def trusted(headwater: Headwater) -> Any:
    cache = headwater.postgres.cache
    assert cache is not None
    async with asyncio.timeout(10):
        while cache.near_until <= asyncio.get_running_loop().time():  # noqa: ASYNC110  # the relay makes it so
            await asyncio.sleep(0.005)
    return cache


@pytest_asyncio.fixture
async def hw(settings: Settings) -> AsyncIterator[Headwater]:
    async with Headwater.open(EVERYTHING, settings) as opened, relaying(EVERYTHING, settings):
        await trusted(opened)
        yield opened


async def make_user(hw: Headwater, **values: Any) -> User:
    return await hw.repository(User).create(hw.autocommit, email=f"{uuid4()}@b.example", **values)


def near_proposals(**policy: Any) -> System:
    """Proposals alone, kept nearby: values that nobody can change, so that each is given away as it is."""
    module = Module(name="governance", package="headwater.modules.governance", summary="")
    vars(module)["cache"] = (CachePolicy(kind="proposal", model=Proposal, near=10, **policy),)
    return System("near", [module])


async def make_proposal(settings: Settings) -> Proposal:
    async with Headwater.open(EVERYTHING, settings) as everything:
        user = await make_user(everything)
        return await everything.repository(Proposal).create(
            everything.autocommit,
            proposer_id=user.id,
            title="A title",
            quorum=1,
            voting_starts_at=datetime(2026, 1, 1, tzinfo=UTC),
            voting_ends_at=datetime(2026, 2, 1, tzinfo=UTC),
        )


async def commands(hw: Headwater) -> int:
    assert hw.valkey is not None
    said = await hw.valkey.info("commandstats")
    return int(said.get("cmdstat_mget", {"calls": 0})["calls"])


async def test_reads_of_one_turn_travel_together_and_come_apart_again(hw: Headwater) -> None:
    users = hw.repository(User)
    made = [await make_user(hw, name=str(i)) for i in range(TOGETHER_MAX + 3)]
    cache = hw.postgres.cache
    assert cache is not None
    near, figures, sent = cache.entities[User].near, cache.figures["user"], 0
    assert near is not None
    async with asyncio.timeout(20):  # on a machine so busy that the guard runs out, PostgreSQL answers some
        while sent != 2:
            near.clear()
            before, hits = await commands(hw), figures.hits
            assert await asyncio.gather(*(users.get(user.id) for user in made)) == made
            sent = await commands(hw) - before if figures.hits - hits == len(made) else 0


async def test_a_reader_that_gives_up_takes_nothing_from_the_others(hw: Headwater) -> None:
    users, user = hw.repository(User), await make_user(hw)
    tasks = [asyncio.create_task(users.get(user.id)) for _ in range(3)]
    await asyncio.sleep(0)
    tasks[1].cancel()
    outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    assert outcomes[0] == outcomes[2] == user
    assert isinstance(outcomes[1], asyncio.CancelledError)


async def test_a_read_may_be_awaited_gathered_or_given_to_a_task_whether_near_or_not(settings: Settings) -> None:
    system = near_proposals()
    async with Headwater.open(system, settings) as hw, relaying(system, settings):
        cache, proposal = await trusted(hw), await make_proposal(settings)
        proposals, near = hw.repository(Proposal), cache.entities[Proposal].near
        await proposals.get(proposal.id)
        async with asyncio.timeout(10):
            while proposal.id not in near.answers:
                assert await proposals.get(proposal.id) == proposal
                await asyncio.sleep(0.01)
        for _ in range(2):
            assert await proposals.get(proposal.id) == proposal
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(proposals.get(proposal.id)) for _ in range(2)]
            assert [task.result() for task in tasks] == [proposal, proposal]
            assert await asyncio.wait_for(proposals.get(proposal.id), 5) == proposal
            assert await asyncio.gather(proposals.find(proposal.id), proposals.get(proposal.id)) == [proposal] * 2
        cache.count()
        assert cache.figures["proposal"].near_hits > 0
        near.until = cache.near_until = asyncio.get_running_loop().time() + 60  # whatever the machine does meanwhile
        if proposal.id in near.answers:
            assert near.answers[proposal.id] is proposals.get(proposal.id)
            assert near.answers[proposal.id] is proposals.get(UUID(str(proposal.id)))

        missing = uuid4()
        for _ in range(3):  # not there, remembered in Valkey, remembered in the process
            assert await proposals.find(missing) is None
            with pytest.raises(NotFound):
                await proposals.get(missing)
        assert missing.int not in near.answers


async def test_a_starved_loop_ends_what_is_near_by_the_clock(settings: Settings) -> None:
    system = near_proposals()
    async with Headwater.open(system, settings) as hw, relaying(system, settings):
        cache = await trusted(hw)
        missing = uuid4()
        assert await hw.repository(Proposal).find(missing) is None
        near = cache.entities[Proposal].near
        assert near.until - asyncio.get_running_loop().time() <= 0.25
        near.until = cache.near_until = asyncio.get_running_loop().time() - 0.001
        before = cache.figures["proposal"].near_hits
        assert await hw.repository(Proposal).find(missing) is None  # it asks before the guard is looked at again
        assert cache.figures["proposal"].near_hits == before


async def test_a_value_kept_nearby_ends_with_its_entry(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    system = near_proposals(ttl_seconds=0.3)
    async with Headwater.open(system, settings) as hw, relaying(system, settings):
        cache, proposal = await trusted(hw), await make_proposal(settings)
        kind, pushed = cache.entities[Proposal], asyncio.Event()
        near, discard = kind.near, kind.discard_near
        assert near is not None
        async with asyncio.timeout(10):
            while proposal.id not in near.answers:  # a read may be a moment too early to be kept
                assert await hw.repository(Proposal).get(proposal.id) == proposal
            monkeypatch.setattr(kind, "discard_near", lambda name: (discard(name), pushed.set()))
            await pushed.wait()  # nobody changes it and nobody reads it: the server says so
        assert proposal.id not in near.answers
