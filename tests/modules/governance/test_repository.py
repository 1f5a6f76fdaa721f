"""Votes are counted exactly, each user votes once and in time, and what is refused changes nothing."""

from __future__ import annotations

import asyncio
import random
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import delete, insert, update

from headwater.kernel.errors import (
    AlreadyExists,
    HeadwaterError,
    InvalidValue,
    MissingReference,
    NotFound,
    ProgrammingError,
    StateConflict,
    VersionConflict,
)
from headwater.kernel.lifecycle import Headwater
from headwater.modules.governance.models import Choice, Proposal, ProposalStatus, Vote
from headwater.modules.governance.repository import GovernanceRepository

LONG_AGO = datetime(2020, 1, 1, tzinfo=UTC)
FAR_AWAY = datetime(2500, 1, 1, tzinfo=UTC)


@pytest.fixture
def governance(headwater: Headwater) -> GovernanceRepository:
    return headwater.repository(GovernanceRepository)


async def draft(headwater: Headwater, proposer_id: UUID, **given: Any) -> Proposal:
    values = {
        "title": "Lower the fee",
        "voting_starts_at": LONG_AGO,
        "voting_ends_at": FAR_AWAY,
        "quorum": 100,
        "proposer_id": proposer_id,
    } | given
    return await headwater.repository(GovernanceRepository).create_proposal(headwater.autocommit, **values)


async def active(headwater: Headwater, proposer_id: UUID, **given: Any) -> Proposal:
    proposal = await draft(headwater, proposer_id, **given)
    return await headwater.repository(GovernanceRepository).activate(headwater.autocommit, proposal.id)


async def end(headwater: Headwater, proposal: Proposal) -> None:
    """Let the voting period be over: the clock is PostgreSQL's, so the period is moved instead."""
    await headwater.postgres.execute(
        update(Proposal).where(Proposal.id == proposal.id).values(voting_ends_at=LONG_AGO + timedelta(days=1))
    )


async def vote(headwater: Headwater, proposal: Proposal, user_id: UUID, choice: Choice, weight: int = 1) -> Vote:
    return await headwater.repository(GovernanceRepository).vote(
        headwater.autocommit, proposal.id, user_id=user_id, choice=choice, weight=weight
    )


async def close(headwater: Headwater, proposal: Proposal, **options: Any) -> Proposal:
    async with headwater.transaction() as tx:
        return await headwater.repository(GovernanceRepository).close(tx, proposal.id, **options)


async def execute(headwater: Headwater, proposal_id: UUID) -> Proposal:
    async with headwater.transaction() as tx:
        return await headwater.repository(GovernanceRepository).execute(tx, proposal_id)


async def refused(headwater: Headwater, error: type[HeadwaterError], match: str, call: Any) -> None:
    before = await everything(headwater)
    with pytest.raises(error, match=match):
        await call
    assert await everything(headwater) == before


async def everything(headwater: Headwater) -> list[Any]:
    return [row for model in (Proposal, Vote) async for row in headwater.repository(model).stream()]


async def test_a_proposal_is_written_as_a_draft(headwater, governance, people) -> None:
    proposal = await draft(headwater, people[0], quorum=10**37, description="Half of it.")
    assert (proposal.status, proposal.quorum, proposal.version) == (ProposalStatus.DRAFT, 10**37, 1)
    assert await governance.get(proposal.id) == proposal


async def test_a_wrong_proposal_is_refused_and_changes_nothing(headwater, people) -> None:
    await refused(headwater, MissingReference, "no such proposer", draft(headwater, uuid4()))
    await refused(headwater, InvalidValue, "title", draft(headwater, people[0], title=""))
    await refused(headwater, InvalidValue, "quorum", draft(headwater, people[0], quorum=-1))
    await refused(
        headwater, InvalidValue, "ends before it starts",
        draft(headwater, people[0], voting_starts_at=FAR_AWAY, voting_ends_at=LONG_AGO),
    )  # fmt: skip


async def test_only_a_draft_whose_period_has_not_ended_is_activated(headwater, governance, people) -> None:
    proposal = await active(headwater, people[0])
    assert proposal.status is ProposalStatus.ACTIVE
    await refused(
        headwater, StateConflict, "is active and cannot be activated",
        governance.activate(headwater.autocommit, proposal.id),
    )  # fmt: skip
    late = await draft(headwater, people[0], voting_ends_at=LONG_AGO + timedelta(days=1))
    await refused(
        headwater, StateConflict, "its voting period ended", governance.activate(headwater.autocommit, late.id)
    )
    await refused(headwater, NotFound, ".", governance.activate(headwater.autocommit, uuid4()))


async def test_a_vote_counts_with_its_weight(headwater, governance, people) -> None:
    proposal = await active(headwater, people[0])
    cast = await vote(headwater, proposal, people[0], Choice.FOR, 10**37)
    assert (cast.choice, cast.weight, cast.user_id) == (Choice.FOR, 10**37, people[0])
    await vote(headwater, proposal, people[1], Choice.AGAINST, 10**37 + 1)
    await vote(headwater, proposal, people[2], Choice.ABSTAIN, 3)
    tally = await governance.tally(proposal.id)
    assert (tally.votes_for, tally.votes_against, tally.votes_abstain) == (10**37, 10**37 + 1, 3)
    assert (tally.voters, tally.quorum_reached, tally.majority) == (3, True, False)


async def test_nobody_votes_twice_whatever_they_choose(headwater, governance, people) -> None:
    proposal = await active(headwater, people[0])
    await vote(headwater, proposal, people[0], Choice.FOR, 5)
    for choice in Choice:
        await refused(headwater, AlreadyExists, "already voted", vote(headwater, proposal, people[0], choice, 7))
    other = await active(headwater, people[0])
    await vote(headwater, other, people[0], Choice.AGAINST)


async def test_of_many_votes_of_one_user_at_once_exactly_one_counts(headwater, governance, people, crowd) -> None:
    proposal = await active(headwater, people[0])
    outcomes = await asyncio.gather(
        *(vote(headwater, proposal, people[0], Choice.FOR, 5) for _ in range(8)), return_exceptions=True
    )
    assert sum(isinstance(outcome, Vote) for outcome in outcomes) == 1
    assert sum(isinstance(outcome, AlreadyExists) for outcome in outcomes) == 7
    assert (await governance.tally(proposal.id)).votes_for == 5


async def test_a_vote_outside_the_period_or_state_is_refused(headwater, governance, people) -> None:
    written = await draft(headwater, people[0])
    await refused(headwater, StateConflict, "it is draft", vote(headwater, written, people[1], Choice.FOR))
    early = await active(headwater, people[0], voting_starts_at=FAR_AWAY - timedelta(days=1))
    await refused(headwater, StateConflict, "voting starts at 2499", vote(headwater, early, people[1], Choice.FOR))
    over = await active(headwater, people[0])
    await vote(headwater, over, people[1], Choice.FOR)
    await end(headwater, over)
    await refused(headwater, StateConflict, "voting ended at 2020", vote(headwater, over, people[2], Choice.FOR))
    await close(headwater, over)
    await refused(headwater, StateConflict, "it is rejected", vote(headwater, over, people[2], Choice.FOR))


async def test_a_vote_on_or_by_nobody_or_without_weight_is_refused(headwater, people) -> None:
    proposal = await active(headwater, people[0])
    gone = Proposal(id=uuid4())
    await refused(headwater, NotFound, "There is no proposal", vote(headwater, gone, people[0], Choice.FOR))
    await refused(headwater, MissingReference, "no such user", vote(headwater, proposal, uuid4(), Choice.FOR))
    for weight in (0, -1, 10**40):
        await refused(headwater, InvalidValue, ".", vote(headwater, proposal, people[0], Choice.FOR, weight))
    for weight in (1.5, True):
        await refused(headwater, InvalidValue, "int", vote(headwater, proposal, people[0], Choice.FOR, weight))


async def test_32_voters_at_once_are_all_counted_exactly(headwater, governance, people, crowd) -> None:
    chance = random.Random(7)
    proposal = await active(headwater, people[0])
    ballots = [(user_id, chance.choice(list(Choice)), chance.randrange(1, 10**30)) for user_id in people[:32]]
    await asyncio.gather(*(vote(headwater, proposal, *ballot) for ballot in ballots))
    tally = await governance.tally(proposal.id)
    expected = {c: sum(weight for _, choice, weight in ballots if choice is c) for c in Choice}
    assert (tally.votes_for, tally.votes_against, tally.votes_abstain) == tuple(expected.values())
    assert tally.voters == 32


async def test_voters_do_not_wait_for_each_other(headwater, governance, people) -> None:
    proposal = await active(headwater, people[0])
    async with headwater.transaction() as one, headwater.transaction() as two, asyncio.timeout(10):
        await governance.vote(one, proposal.id, user_id=people[0], choice=Choice.FOR)
        await governance.vote(two, proposal.id, user_id=people[1], choice=Choice.FOR)
    assert (await governance.tally(proposal.id)).voters == 2


async def test_a_vote_that_is_rolled_back_was_never_counted(headwater, governance, people) -> None:
    proposal = await active(headwater, people[0])
    with pytest.raises(RuntimeError):
        async with headwater.transaction() as tx:
            await governance.vote(tx, proposal.id, user_id=people[0], choice=Choice.FOR)
            assert (await governance.tally(proposal.id, tx=tx)).voters == 1
            raise RuntimeError("the caller changed their mind")
    assert (await governance.tally(proposal.id)).voters == 0


async def test_a_vote_survives_serializable_callers(headwater, governance, people, crowd) -> None:
    proposal = await active(headwater, people[0])

    async def one(user_id: UUID) -> None:
        await headwater.run(
            lambda tx: governance.vote(tx, proposal.id, user_id=user_id, choice=Choice.FOR, weight=3),
            isolation="serializable",
        )

    await asyncio.gather(*(one(user_id) for user_id in people[:12]))
    assert (await governance.tally(proposal.id)).votes_for == 36


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    steps=st.lists(
        st.tuples(
            st.sampled_from(["vote", "write", "change", "remove"]),
            st.integers(0, 5),
            st.sampled_from(list(Choice)),
            st.integers(1, 10**38),
        ),
        max_size=25,
    )
)
async def test_the_tally_equals_the_votes_whoever_wrote_them(headwater, governance, people, steps) -> None:
    """Through the verb, and behind its back with plain SQL as from psql."""
    proposal = await active(headwater, people[0])
    expected: dict[UUID, tuple[Choice, int]] = {}
    for step, who, choice, weight in steps:
        user_id = people[who]
        mine = (Vote.proposal_id == proposal.id, Vote.user_id == user_id)
        if step == "vote":
            if user_id in expected:
                with pytest.raises(AlreadyExists):
                    await vote(headwater, proposal, user_id, choice, weight)
            else:
                await vote(headwater, proposal, user_id, choice, weight)
                expected[user_id] = (choice, weight)
        elif step == "write" and user_id not in expected:
            await headwater.postgres.execute(
                insert(Vote).values(proposal_id=proposal.id, user_id=user_id, choice=choice, weight=weight)
            )
            expected[user_id] = (choice, weight)
        elif step == "change" and user_id in expected:
            await headwater.postgres.execute(update(Vote).where(*mine).values(choice=choice, weight=weight))
            expected[user_id] = (choice, weight)
        elif step == "remove":
            await headwater.postgres.execute(delete(Vote).where(*mine))
            expected.pop(user_id, None)
        tally = await governance.tally(proposal.id)
        counted = [sum(w for c, w in expected.values() if c is choice) for choice in Choice]
        assert [tally.votes_for, tally.votes_against, tally.votes_abstain] == counted
        assert tally.voters == len(expected)


async def test_a_proposal_passes_with_its_quorum_and_more_for_than_against(headwater, people) -> None:
    for ballots, quorum, outcome in (
        ({Choice.FOR: 60, Choice.AGAINST: 40}, 100, ProposalStatus.PASSED),
        ({Choice.FOR: 60, Choice.AGAINST: 39}, 100, ProposalStatus.REJECTED),
        ({Choice.FOR: 60, Choice.AGAINST: 39, Choice.ABSTAIN: 1}, 100, ProposalStatus.PASSED),
        ({Choice.FOR: 50, Choice.AGAINST: 50}, 100, ProposalStatus.REJECTED),
        ({Choice.FOR: 1, Choice.ABSTAIN: 99}, 100, ProposalStatus.PASSED),
        ({Choice.AGAINST: 500}, 100, ProposalStatus.REJECTED),
        ({}, 0, ProposalStatus.REJECTED),
        ({Choice.FOR: 1}, 0, ProposalStatus.PASSED),
    ):
        proposal = await active(headwater, people[0], quorum=quorum)
        for user_id, (choice, weight) in zip(people, ballots.items(), strict=False):
            await vote(headwater, proposal, user_id, choice, weight)
        await refused(headwater, StateConflict, "before its voting ends", close(headwater, proposal))
        await end(headwater, proposal)
        closed = await close(headwater, proposal)
        assert (closed.status, closed.closed_at is None) == (outcome, False)
        await refused(headwater, StateConflict, f"is {outcome.value} and cannot be closed", close(headwater, proposal))


async def test_closing_waits_for_the_votes_being_cast_and_counts_them(headwater, governance, people) -> None:
    proposal = await active(headwater, people[0], quorum=1)
    async with headwater.transaction() as tx:
        await governance.vote(tx, proposal.id, user_id=people[0], choice=Choice.FOR)
        # The period ends while the vote is being cast. The vote locks the proposal, so the voter itself moves the end.
        await tx.execute(
            update(Proposal).where(Proposal.id == proposal.id).values(voting_ends_at=LONG_AGO + timedelta(days=1))
        )
        closing = asyncio.create_task(close(headwater, proposal))
        await until_somebody_waits(headwater)
    assert (await closing).status is ProposalStatus.PASSED


async def test_a_vote_that_waits_for_a_close_is_refused(headwater, governance, people) -> None:
    proposal = await active(headwater, people[0])
    async with headwater.transaction() as tx:
        await governance.lock(tx, proposal.id)
        late = asyncio.create_task(vote(headwater, proposal, people[0], Choice.FOR))
        await until_somebody_waits(headwater)
        await governance.cancel(tx, proposal.id)
    with pytest.raises(StateConflict, match="it is cancelled"):
        await late
    assert (await governance.tally(proposal.id)).voters == 0


async def until_somebody_waits(headwater: Headwater) -> None:
    """Until PostgreSQL says that a backend of this database waits for a lock."""
    waiting = "select count(*) from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'"
    async with headwater.postgres.connection() as connection, asyncio.timeout(10):
        while not await connection.fetchval(waiting):
            pass


async def test_closing_refuses_a_snapshot_that_could_miss_votes(headwater, governance, people) -> None:
    proposal = await active(headwater, people[0])
    await end(headwater, proposal)
    async with headwater.transaction(isolation="repeatable read") as tx:
        with pytest.raises(ProgrammingError, match="READ COMMITTED"):
            await governance.close(tx, proposal.id)
    assert (await governance.get(proposal.id)).status is ProposalStatus.ACTIVE


async def test_a_passed_proposal_is_executed_once(headwater, governance, people, crowd) -> None:
    proposal = await active(headwater, people[0], quorum=1)
    await vote(headwater, proposal, people[0], Choice.FOR)
    await refused(
        headwater, StateConflict, "is active and cannot be executed",
        execute(headwater, proposal.id),
    )  # fmt: skip
    await end(headwater, proposal)
    await close(headwater, proposal)
    outcomes = await asyncio.gather(*(execute(headwater, proposal.id) for _ in range(6)), return_exceptions=True)
    done = [outcome for outcome in outcomes if isinstance(outcome, Proposal)]
    assert len(done) == 1
    assert (done[0].status, done[0].executed_at is None) == (ProposalStatus.EXECUTED, False)
    assert sum(isinstance(outcome, StateConflict) for outcome in outcomes) == 5


async def test_a_draft_and_an_active_proposal_can_be_cancelled_but_no_decided_one(
    headwater, governance, people
) -> None:
    for proposal in (await draft(headwater, people[0]), await active(headwater, people[0])):
        cancelled = await governance.cancel(headwater.autocommit, proposal.id)
        assert cancelled.status is ProposalStatus.CANCELLED
    decided = await active(headwater, people[0])
    await end(headwater, decided)
    await close(headwater, decided)
    await refused(
        headwater, StateConflict, "is rejected and cannot be cancelled",
        governance.cancel(headwater.autocommit, decided.id),
    )  # fmt: skip


async def test_a_step_against_an_old_version_is_refused(headwater, governance, people) -> None:
    proposal = await draft(headwater, people[0])
    current = await governance.activate(headwater.autocommit, proposal.id, version=proposal.version)
    with pytest.raises(VersionConflict) as caught:
        await governance.cancel(headwater.autocommit, proposal.id, version=proposal.version)
    assert caught.value.current == current
    await end(headwater, proposal)
    await refused(headwater, VersionConflict, "version", close(headwater, proposal, version=current.version))


async def test_active_proposals_are_those_one_can_vote_on_now_with_their_tallies(headwater, governance, people) -> None:
    sooner, later = [await active(headwater, people[0], voting_ends_at=FAR_AWAY + timedelta(days=n)) for n in (1, 2)]
    await draft(headwater, people[0])
    await active(headwater, people[0], voting_starts_at=FAR_AWAY - timedelta(days=1))
    over = await active(headwater, people[0])
    await end(headwater, over)
    await vote(headwater, later, people[3], Choice.AGAINST, 8)
    first = await governance.active(limit=1)
    second = await governance.active(limit=1, cursor=first.next)
    assert [p.id for p in (*first.items, *second.items)] == [sooner.id, later.id]
    assert second.next is None
    assert (first.items[0].voters, second.items[0].votes_against, second.items[0].voters) == (0, 8, 1)
    assert second.items[0].status is ProposalStatus.ACTIVE


async def test_a_proposal_is_read_with_its_tally(headwater, governance, people) -> None:
    proposal = await active(headwater, people[0], quorum=9)
    await vote(headwater, proposal, people[0], Choice.FOR, 4)
    await vote(headwater, proposal, people[1], Choice.ABSTAIN, 5)
    read = await governance.with_tally(proposal.id)
    assert (read.id, read.title, read.quorum, read.status) == (proposal.id, "Lower the fee", 9, ProposalStatus.ACTIVE)
    assert (read.votes_for, read.votes_against, read.votes_abstain, read.quorum_reached) == (4, 0, 5, True)
    for call in (governance.with_tally(uuid4()), governance.tally(uuid4()), governance.votes(uuid4())):
        with pytest.raises(NotFound, match="proposal"):
            await call


async def test_votes_and_proposals_are_listed_page_by_page(headwater, governance, people) -> None:
    proposals = [await draft(headwater, people[n % 2]) for n in range(3)]
    page = await governance.proposals(limit=2)
    rest = await governance.proposals(limit=2, cursor=page.next)
    assert [p.id for p in (*page.items, *rest.items)] == [p.id for p in reversed(proposals)]
    mine = await governance.proposals(proposer_id=people[1], status=ProposalStatus.DRAFT)
    assert [p.id for p in mine.items] == [proposals[1].id]
    proposal = await active(headwater, people[0])
    for user_id in people[:5]:
        await vote(headwater, proposal, user_id, Choice.FOR)
    first = await governance.votes(proposal.id, limit=3)
    second = await governance.votes(proposal.id, limit=3, cursor=first.next)
    assert [v.user_id for v in (*first.items, *second.items)] == sorted(people[:5])


async def test_the_tally_is_read_from_one_index_alone(headwater, governance, people) -> None:
    proposals = [await active(headwater, people[0]) for _ in range(100)]
    rows = [
        {"proposal_id": proposal.id, "user_id": user_id, "choice": Choice.FOR, "weight": 2}
        for proposal in proposals
        for user_id in people
    ]
    await headwater.repository(Vote).bulk_insert(headwater.autocommit, rows)
    async with headwater.postgres.connection() as connection:
        await connection.execute("vacuum analyze governance.votes")
        plan = "\n".join(
            row[0] for row in await connection.fetch("explain select * from governance.tally($1)", proposals[0].id)
        )
    assert "Index Only Scan using votes_proposal_id_user_id_key" in plan
    assert (await governance.tally(proposals[0].id)).votes_for == 80
