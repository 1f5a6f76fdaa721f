"""Votes on a proposal about a token weigh what their users had of it when voting started: no token votes twice."""

from __future__ import annotations

import asyncio
import random
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import asyncpg
import pytest

from headwater.kernel.errors import InvalidValue, MissingReference, StateConflict
from headwater.kernel.lifecycle import Headwater
from headwater.modules.governance.models import Choice, Proposal, Vote
from headwater.modules.governance.repository import GovernanceRepository
from headwater.modules.ledger.repository import LedgerRepository

TOKEN = "PART"
FAR_AWAY = datetime(2100, 1, 1, tzinfo=UTC)


@pytest.fixture
def governance(headwater: Headwater) -> GovernanceRepository:
    return headwater.repository(GovernanceRepository)


async def now(headwater: Headwater) -> datetime:
    async with headwater.postgres.connection() as connection:
        told: datetime = await connection.fetchval("select clock_timestamp()")
        return told


async def about(headwater: Headwater, proposer_id: UUID, **given: Any) -> Proposal:
    """An active proposal about the token, on which one can vote from now on."""
    governance = headwater.repository(GovernanceRepository)
    values = {
        "proposer_id": proposer_id,
        "title": "Make more",
        "voting_starts_at": await now(headwater),
        "voting_ends_at": FAR_AWAY,
        "quorum": 0,
        "voting_token": TOKEN,
    } | given
    proposal = await governance.create_proposal(headwater.autocommit, **values)
    return await governance.activate(headwater.autocommit, proposal.id)


async def vote(headwater: Headwater, proposal: Proposal, user_id: UUID, weight: int | None = None) -> Vote:
    return await headwater.repository(GovernanceRepository).vote(
        headwater.autocommit, proposal.id, user_id=user_id, choice=Choice.FOR, weight=weight
    )


async def move(headwater: Headwater, source: UUID, target: UUID, amount: int, tx: Any = None) -> None:
    ledger = headwater.repository(LedgerRepository)
    runner = tx or headwater.postgres
    debit, credit = [await ledger.account(runner, "user", user, TOKEN) for user in (source, target)]
    (await ledger.transfer(runner, debit=debit.id, credit=credit.id, amount=amount)).or_raise()


async def test_a_vote_weighs_what_its_user_had_or_less_and_never_more(headwater, governance, people, give) -> None:
    for user_id, amount in zip(people, (100, 40, 30), strict=False):
        await give(user_id, amount, TOKEN)
    proposal = await about(headwater, people[0])
    assert proposal.voting_token == TOKEN
    assert (await vote(headwater, proposal, people[0])).weight == 100
    assert (await vote(headwater, proposal, people[1], 15)).weight == 15
    with pytest.raises(StateConflict, match="had 30 of PART when voting started, and cannot vote with 31"):
        await vote(headwater, proposal, people[2], 31)
    with pytest.raises(StateConflict, match="had 0 of PART"):
        await vote(headwater, proposal, people[3])
    with pytest.raises(InvalidValue):
        await vote(headwater, proposal, people[2], 0)
    told = await governance.with_tally(proposal.id)
    assert (told.votes_for, told.voters, told.voting_token) == (115, 2, TOKEN)


async def test_tokens_that_move_after_the_start_do_not_vote_twice(headwater, governance, people, give) -> None:
    """Everything changes hands all the time while everybody votes: all weight together is the supply."""
    chance, voters = random.Random(8), people[:6]
    for user_id in voters:
        await give(user_id, 100, TOKEN)
    proposal = await about(headwater, people[0])
    for voter in chance.sample(voters, 6):
        assert (await vote(headwater, proposal, voter)).weight == 100
        ledger = headwater.repository(LedgerRepository)
        for _ in range(3):
            source, target = chance.sample(voters, 2)
            account = await ledger.find_account("user", source, TOKEN)
            if account is not None and account.balance > 0:
                await move(headwater, source, target, account.balance)
    await move_all(headwater, voters, people[7])
    with pytest.raises(StateConflict, match="had 0 of PART"):
        await vote(headwater, proposal, people[7])
    assert (await governance.tally(proposal.id)).votes_for == 600  # the supply


async def move_all(headwater: Headwater, sources: list[UUID], target: UUID) -> None:
    ledger = headwater.repository(LedgerRepository)
    for source in sources:
        account = await ledger.find_account("user", source, TOKEN)
        if account is not None and account.balance > 0:
            await move(headwater, source, target, account.balance)


async def test_a_transfer_that_began_before_the_start_and_commits_after_it_is_waited_for(
    headwater, governance, people, give
) -> None:
    await give(people[0], 100, TOKEN)
    await give(people[1], 1, TOKEN)
    async with headwater.postgres.connection() as watcher:
        async with headwater.transaction() as tx:
            await move(headwater, people[0], people[1], 100, tx)
            proposal = await about(headwater, people[2])
            voting = asyncio.create_task(vote(headwater, proposal, people[0]))
            waiting = (
                "select count(*) from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'"
            )
            async with asyncio.timeout(10):
                while not await watcher.fetchval(waiting):  # noqa: ASYNC110  # nobody tells us
                    await asyncio.sleep(0)
        with pytest.raises(StateConflict, match="had 0 of PART"):
            await voting
    assert (await vote(headwater, proposal, people[1])).weight == 101


async def test_plain_votes_weigh_no_more_and_what_they_weigh_by_stays(headwater, people, give) -> None:
    await give(people[0], 100, TOKEN)
    insert = "insert into governance.votes (proposal_id, user_id, choice, weight) values ($1, $2, 'for', $3)"
    proposal = await about(headwater, people[0])
    later = await about(headwater, people[0], voting_starts_at=FAR_AWAY - timedelta(days=1))
    async with headwater.postgres.connection() as connection:
        with pytest.raises(asyncpg.ObjectNotInPrerequisiteStateError, match="cannot vote with 101"):
            await connection.execute(insert, proposal.id, people[0], 101)
        with pytest.raises(asyncpg.ObjectNotInPrerequisiteStateError, match="is not known before"):
            await connection.execute(insert, later.id, people[0], 1)
        await connection.execute(insert, proposal.id, people[0], 100)
        with pytest.raises(asyncpg.ObjectNotInPrerequisiteStateError, match="cannot vote with 200"):
            await connection.execute("update governance.votes set weight = 200")
        for change in ("voting_token = null", "voting_starts_at = voting_starts_at - interval '1 day'"):
            with pytest.raises(asyncpg.ObjectNotInPrerequisiteStateError, match="keeps its voting token"):
                await connection.execute(f"update governance.proposals set {change} where id = $1", proposal.id)


async def test_a_token_that_the_ledger_does_not_know_is_refused(headwater, people) -> None:
    with pytest.raises(MissingReference, match="knows no such token"):
        await about(headwater, people[0], voting_token="NOTHING")
