"""Seeded proposals are in every status, and their votes explain the outcome."""

from __future__ import annotations

from uuid import UUID

from sqlalchemy import select

from headwater.kernel.rows import as_dict
from headwater.kernel.seeds import seed
from headwater.modules.governance.models import Choice, Proposal, ProposalStatus, Vote
from headwater.modules.governance.repository import GovernanceRepository
from headwater.modules.governance.routes import ROUTES
from headwater.modules.identity.models import User


async def test_proposals_are_in_every_status_and_decided_as_their_votes_say(headwater) -> None:
    governance = headwater.repository(GovernanceRepository)
    for profile in ("demo", "load:20000"):
        await seed(headwater, profile)
        proposals = {proposal.id: proposal for proposal in await headwater.postgres.fetch(select(Proposal))}
        assert {proposal.status for proposal in proposals.values()} == set(ProposalStatus)
        for proposal in proposals.values():
            tally = await governance.tally(proposal.id)
            if proposal.status in (ProposalStatus.PASSED, ProposalStatus.EXECUTED):
                assert tally.quorum_reached
                assert tally.majority
            if proposal.status is ProposalStatus.REJECTED:
                assert not (tally.quorum_reached and tally.majority)
            if proposal.status is ProposalStatus.DRAFT:
                assert tally.voters == 0
        for vote in await headwater.postgres.fetch(select(Vote)):
            proposal = proposals[vote.proposal_id]
            assert proposal.voting_starts_at <= vote.created_at < proposal.voting_ends_at


async def test_somebody_can_still_vote_on_an_active_proposal_for_years(headwater) -> None:
    await seed(headwater)
    governance = headwater.repository(GovernanceRepository)
    page = await governance.active()
    assert len(page.items) == 3
    for proposal in page.items:
        assert proposal.voting_ends_at.year >= 2035
        assert proposal.votes_for and proposal.votes_against and proposal.votes_abstain
        voted = {vote.user_id for vote in (await governance.votes(proposal.id, limit=1_000)).items}
        free = [user.id for user in await headwater.postgres.fetch(select(User)) if user.id not in voted]
        await governance.vote(headwater.autocommit, proposal.id, user_id=free[0], choice=Choice.FOR, weight=1)


async def test_seeding_again_adds_nothing_and_changes_nothing(headwater) -> None:
    for profile in ("demo", "load:3000"):
        first = await seed(headwater, profile)
        assert first.added["governance.proposals"] > 0
        assert first.added["governance.votes"] > 0
        before = [as_dict(row) async for row in headwater.repository(Vote).stream()]
        again = await seed(headwater, profile)
        assert (again.added["governance.proposals"], again.added["governance.votes"]) == (0, 0)
        assert [as_dict(row) async for row in headwater.repository(Vote).stream()] == before


async def test_the_examples_of_the_routes_are_seeded(headwater) -> None:
    await seed(headwater)
    for route in ROUTES:
        for value in route.path_examples.values():
            proposal = await headwater.repository(GovernanceRepository).get(UUID(value))
            assert proposal.status is ProposalStatus.ACTIVE
