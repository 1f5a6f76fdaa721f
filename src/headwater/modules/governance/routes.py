"""What governance serves: proposals with their tally, votes, and the steps of a proposal."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any
from uuid import UUID

import msgspec
from msgspec import Meta

from headwater.kernel.amounts import Amount, PositiveAmount
from headwater.kernel.errors import (
    AlreadyExists,
    InvalidCursor,
    InvalidValue,
    MissingReference,
    NotFound,
    StateConflict,
)
from headwater.kernel.pages import JsonPage, Page
from headwater.kernel.rendering import Json
from headwater.kernel.routes import PageQuery, Route
from headwater.kernel.transaction import Transaction
from headwater.modules.governance.models import Choice, Proposal, ProposalStatus, Vote
from headwater.modules.governance.repository import GovernanceRepository, ProposalWithTally, Spending

Currency = Annotated[str, Meta(min_length=1, max_length=100, pattern="^[A-Za-z0-9:_-]+$")]
"""The code of an asset of the ledger."""


class SpendingBody(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """What is paid from the treasury when the proposal is executed, in minor units of the currency."""

    recipient_id: UUID
    amount: PositiveAmount
    currency: Currency = "USD"

    def meant(self) -> Spending:
        """What the repository is asked for."""
        return Spending(recipient_id=self.recipient_id, amount=self.amount, currency=self.currency)


class NewDeposit(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """Money of a user that goes into the treasury."""

    user_id: UUID
    amount: PositiveAmount
    currency: Currency = "USD"


class TreasuryQuery(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """Which currency."""

    currency: Currency = "USD"


class TreasuryBalance(msgspec.Struct, frozen=True):
    """What the treasury has of a currency, in its smallest unit."""

    currency: str
    balance: int


class NewProposal(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """A draft. `quorum` is the weight that must vote at all for a decision. With a `voting_token`, an asset of the
    ledger, votes weigh what their users had of it when voting started.
    """

    proposer_id: UUID
    title: Annotated[str, Meta(min_length=1, max_length=200)]
    description: Annotated[str, Meta(max_length=20_000)] = ""
    voting_starts_at: datetime
    voting_ends_at: datetime
    quorum: Amount
    spending: SpendingBody | None = None
    voting_token: str | None = None


class NewVote(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """A user's one vote. On a proposal with a voting token it weighs all that the user had of it when voting started,
    or less, if `weight` says so; on others, the caller vouches for the weight (1).
    """

    user_id: UUID
    choice: Choice
    weight: PositiveAmount | None = None


class ProposalQuery(PageQuery):
    """Which proposals, and where in the listing."""

    status: ProposalStatus | None = None
    proposer_id: UUID | None = None


async def active_proposals(query: PageQuery, governance: GovernanceRepository) -> Page[ProposalWithTally]:
    return await governance.active(limit=query.limit, cursor=query.cursor)


async def list_proposals(query: ProposalQuery, governance: GovernanceRepository) -> JsonPage[Proposal]:
    return await governance.proposals_json(
        status=query.status, proposer_id=query.proposer_id, limit=query.limit, cursor=query.cursor
    )


async def get_proposal(proposal_id: UUID, governance: GovernanceRepository) -> Json[ProposalWithTally]:
    return await governance.with_tally_json(proposal_id)


async def create_proposal(body: NewProposal, tx: Transaction, governance: GovernanceRepository) -> Proposal:
    return await governance.create_proposal(
        tx,
        proposer_id=body.proposer_id,
        title=body.title,
        description=body.description,
        voting_starts_at=body.voting_starts_at,
        voting_ends_at=body.voting_ends_at,
        quorum=body.quorum,
        spending=None if body.spending is None else body.spending.meant(),
        voting_token=body.voting_token,
    )


async def get_treasury(query: TreasuryQuery, governance: GovernanceRepository) -> TreasuryBalance:
    return TreasuryBalance(query.currency, await governance.treasury.balance(query.currency))


async def deposit(body: NewDeposit, tx: Transaction, governance: GovernanceRepository) -> TreasuryBalance:
    await governance.treasury.deposit(tx, user_id=body.user_id, amount=body.amount, currency=body.currency)
    return TreasuryBalance(body.currency, await governance.treasury.balance(body.currency, tx=tx))


async def activate_proposal(proposal_id: UUID, tx: Transaction, governance: GovernanceRepository) -> Proposal:
    return await governance.activate(tx, proposal_id)


async def close_proposal(proposal_id: UUID, tx: Transaction, governance: GovernanceRepository) -> Proposal:
    return await governance.close(tx, proposal_id)


async def execute_proposal(proposal_id: UUID, tx: Transaction, governance: GovernanceRepository) -> Proposal:
    return await governance.execute(tx, proposal_id)


async def cancel_proposal(proposal_id: UUID, tx: Transaction, governance: GovernanceRepository) -> Proposal:
    return await governance.cancel(tx, proposal_id)


async def cast_vote(proposal_id: UUID, body: NewVote, tx: Transaction, governance: GovernanceRepository) -> Vote:
    return await governance.vote(tx, proposal_id, user_id=body.user_id, choice=body.choice, weight=body.weight)


async def list_votes(proposal_id: UUID, query: PageQuery, governance: GovernanceRepository) -> Page[Vote]:
    return await governance.votes(proposal_id, limit=query.limit, cursor=query.cursor)


# Seeded rows: seeds.py plants them, and a test reads them.
_USER_ID = "5eeda0bb-1738-8000-8000-000000000001"
_PROPOSAL_ID = "5eed8d9d-818c-8000-8000-000000000001"
_PATH = {"proposal_id": _PROPOSAL_ID}

_PROPOSAL: dict[str, Any] = {
    "id": _PROPOSAL_ID,
    "proposer_id": _USER_ID,
    "title": "Lower the listing fee to 0.5 %",
    "description": "New parts pay half of today's fee for a year.",
    "status": "active",
    "voting_starts_at": "2025-12-02T00:00:00Z",
    "voting_ends_at": "2035-12-30T00:00:00Z",
    "quorum": 5_000,
    "closed_at": None,
    "executed_at": None,
    "spend_recipient_id": None,
    "spend_amount": None,
    "spend_currency": None,
    "voting_token": None,
    "created_at": "2025-11-25T00:00:00Z",
    "updated_at": "2025-11-25T00:00:00Z",
    "version": 1,
}
_COUNTED = _PROPOSAL | {
    "votes_for": 6_420,
    "votes_against": 1_890,
    "votes_abstain": 300,
    "voters": 14,
    "quorum_reached": True,
}
_CLOSED = {"voting_ends_at": "2025-12-22T00:00:00Z", "closed_at": "2025-12-22T01:00:00Z"}
_VOTE: dict[str, Any] = {
    "id": "019bb1a0-0000-7000-8000-000000000001",
    "proposal_id": _PROPOSAL_ID,
    "user_id": _USER_ID,
    "choice": "for",
    "weight": 640,
    "created_at": "2026-01-02T00:00:00Z",
}
_STEP_RAISES = (NotFound, StateConflict)

ROUTES: tuple[Route, ...] = (
    Route(
        method="GET",
        path="/api/governance/proposals/active",
        handler=active_proposals,
        summary="List the proposals one can vote on now",
        description="The one that ends first at the top, each with its tally.",
        raises=(InvalidValue, InvalidCursor),
        query_example={"limit": 20},
        answer_example={"items": [_COUNTED], "next": None},
        tag="governance",
    ),
    Route(
        method="GET",
        path="/api/governance/proposals",
        handler=list_proposals,
        summary="List proposals, the newest first",
        description="Narrowed by status and proposer.",
        raises=(InvalidValue, InvalidCursor),
        query_example={"status": "passed", "limit": 20},
        answer_example={"items": [_PROPOSAL], "next": None},
        tag="governance",
    ),
    Route(
        method="GET",
        path="/api/governance/proposals/{proposal_id}",
        handler=get_proposal,
        summary="Read a proposal and its tally",
        description="The tally is counted from the votes when it is read.",
        raises=(NotFound,),
        path_examples=_PATH,
        answer_example=_COUNTED,
        tag="governance",
    ),
    Route(
        method="POST",
        path="/api/governance/proposals",
        handler=create_proposal,
        summary="Write a proposal",
        description="It is a draft until it is activated. With a spending, a user is paid from the treasury when it is "
        "executed.",
        status=201,
        scope="governance:proposal:write",
        raises=(MissingReference, InvalidValue),
        body_example={
            "proposer_id": _USER_ID,
            "title": "Lower the listing fee to 0.5 %",
            "description": "New parts pay half of today's fee for a year.",
            "voting_starts_at": "2025-12-02T00:00:00Z",
            "voting_ends_at": "2035-12-30T00:00:00Z",
            "quorum": 5_000,
            "spending": {"recipient_id": _USER_ID, "amount": 2_000_000, "currency": "USD"},
        },
        answer_example=_PROPOSAL
        | {"status": "draft", "spend_recipient_id": _USER_ID, "spend_amount": 2_000_000, "spend_currency": "USD"},
        tag="governance",
        location="/api/governance/proposals/{id}",
    ),
    Route(
        method="POST",
        path="/api/governance/proposals/{proposal_id}/activate",
        handler=activate_proposal,
        summary="Open a draft for votes",
        description="Votes count from the start of its voting period on. Refused once that period has ended.",
        scope="governance:proposal:write",
        raises=_STEP_RAISES,
        path_examples=_PATH,
        answer_example=_PROPOSAL | {"version": 2},
        tag="governance",
    ),
    Route(
        method="POST",
        path="/api/governance/proposals/{proposal_id}/close",
        handler=close_proposal,
        summary="Decide a proposal after its voting period",
        description="Passed when the weight of all votes reaches the quorum and more is for it than against it, "
        "else rejected.",
        scope="governance:proposal:write",
        raises=_STEP_RAISES,
        path_examples=_PATH,
        answer_example=_PROPOSAL | _CLOSED | {"status": "passed", "version": 3},
        tag="governance",
    ),
    Route(
        method="POST",
        path="/api/governance/proposals/{proposal_id}/execute",
        handler=execute_proposal,
        summary="Execute a passed proposal",
        description="Once. What it spends moves from the treasury to its recipient in the same transaction; refused "
        "when the treasury lacks it.",
        scope="governance:proposal:write",
        raises=(*_STEP_RAISES, MissingReference),
        path_examples=_PATH,
        answer_example=_PROPOSAL
        | _CLOSED
        | {"status": "executed", "executed_at": "2025-12-24T00:00:00Z", "version": 4},
        tag="governance",
    ),
    Route(
        method="POST",
        path="/api/governance/proposals/{proposal_id}/cancel",
        handler=cancel_proposal,
        summary="Withdraw a draft or active proposal",
        scope="governance:proposal:write",
        raises=_STEP_RAISES,
        path_examples=_PATH,
        answer_example=_PROPOSAL | {"status": "cancelled", "version": 3},
        tag="governance",
    ),
    Route(
        method="GET",
        path="/api/governance/proposals/{proposal_id}/votes",
        handler=list_votes,
        summary="List the votes on a proposal, by user",
        raises=(NotFound, InvalidValue, InvalidCursor),
        path_examples=_PATH,
        query_example={"limit": 20},
        answer_example={"items": [_VOTE], "next": None},
        tag="governance",
    ),
    Route(
        method="POST",
        path="/api/governance/proposals/{proposal_id}/votes",
        handler=cast_vote,
        summary="Vote on a proposal",
        description="Each user votes once, inside the voting period by the database's clock.",
        status=201,
        scope="governance:vote:write",
        raises=(NotFound, StateConflict, AlreadyExists, MissingReference, InvalidValue),
        path_examples=_PATH,
        body_example={"user_id": _USER_ID, "choice": "for", "weight": 640},
        answer_example=_VOTE,
        tag="governance",
    ),
    Route(
        method="GET",
        path="/api/governance/treasury",
        handler=get_treasury,
        summary="What the treasury has of a currency",
        description="In the smallest unit of the currency. Only executed proposals spend it.",
        raises=(InvalidValue,),
        query_example={"currency": "USD"},
        answer_example={"currency": "USD", "balance": 25_000_000},
        tag="governance",
    ),
    Route(
        method="POST",
        path="/api/governance/treasury/deposits",
        handler=deposit,
        summary="Move money of a user into the treasury",
        description="Refused when the user lacks it. The answer is what the treasury then has.",
        scope="governance:treasury:write",
        raises=(StateConflict, MissingReference, InvalidValue),
        body_example={"user_id": _USER_ID, "amount": 100_000, "currency": "USD"},
        answer_example={"currency": "USD", "balance": 25_100_000},
        tag="governance",
    ),
)
