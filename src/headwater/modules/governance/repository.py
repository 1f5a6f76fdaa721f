"""The verbs of governance: propose, vote once, count exactly, decide, execute.

Time is PostgreSQL's clock when the statement runs, not Python's and not the start of the transaction.
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any
from uuid import UUID

import msgspec
from sqlalchemy import ColumnElement, func, insert, literal, select, update

from headwater.kernel.cached import Tag, cached, json_of
from headwater.kernel.errors import NotFound, ProgrammingError, StateConflict, VersionConflict
from headwater.kernel.pages import JsonPage, Page
from headwater.kernel.postgres import Postgres, Runner
from headwater.kernel.queries import Queries
from headwater.kernel.repository import Repository
from headwater.kernel.transaction import Transaction
from headwater.modules.governance.models import Choice, Proposal, ProposalStatus, Vote
from headwater.modules.governance.treasury import Treasury
from headwater.modules.ledger.repository import LedgerRepository

QUERIES = Queries.load(__package__)

_Count = Annotated[int, msgspec.Meta(ge=0)]


class Tally(msgspec.Struct, frozen=True):
    """The votes on a proposal by weight, as they stand. `majority`: more is for it than against it."""

    proposal_id: UUID
    votes_for: int
    votes_against: int
    votes_abstain: int
    voters: _Count
    quorum: int
    quorum_reached: bool
    majority: bool


class ProposalWithTally(msgspec.Struct, frozen=True):
    """A proposal, and its votes by weight at the same moment."""

    id: UUID
    proposer_id: UUID
    title: str
    description: str
    status: ProposalStatus
    voting_starts_at: datetime
    voting_ends_at: datetime
    quorum: int
    closed_at: datetime | None
    executed_at: datetime | None
    spend_recipient_id: UUID | None
    spend_amount: int | None
    spend_currency: str | None
    voting_token: str | None
    created_at: datetime
    updated_at: datetime
    version: int
    votes_for: int
    votes_against: int
    votes_abstain: int
    voters: _Count
    quorum_reached: bool


class Spending(msgspec.Struct, frozen=True, kw_only=True):
    """What a proposal spends from the treasury when it is executed: a user gets an amount in minor units."""

    recipient_id: UUID
    amount: int
    currency: str = "USD"


class VoteRepository(Repository[Vote]):
    """The votes cast. Written by GovernanceRepository.vote alone."""


class GovernanceRepository(Repository[Proposal]):
    """Proposals and their votes. Weights and quorums are whole numbers of the voting token's smallest unit."""

    def __init__(self, postgres: Postgres) -> None:
        super().__init__(postgres)
        self._votes = VoteRepository(postgres)
        self.treasury = Treasury(LedgerRepository(postgres))

    # -- reads -------------------------------------------------------------------------------------------------------

    async def tally(self, proposal_id: UUID, *, tx: Runner | None = None) -> Tally:
        """The votes on a proposal, counted now. Raises NotFound."""
        counted: Tally | None = await (tx or self.postgres).fetch_one(
            QUERIES["tally"], into=Tally, proposal_id=proposal_id
        )
        if counted is None:
            raise _no_proposal(proposal_id)
        return counted

    @cached(
        "proposal_tally",
        tags=lambda proposal_id: (Tag(Proposal, id=proposal_id), Tag(Vote, proposal_id=proposal_id)),
        ttl_seconds=300,
    )
    async def with_tally(self, proposal_id: UUID, *, tx: Runner | None = None) -> ProposalWithTally:
        """A proposal and its tally, as of one moment. Raises NotFound."""
        found = await self._with_tallies([proposal_id], tx)
        if not found:
            raise _no_proposal(proposal_id)
        return found[proposal_id]

    with_tally_json = json_of(with_tally)

    async def active(
        self, *, limit: int = 50, cursor: str | None = None, tx: Runner | None = None
    ) -> Page[ProposalWithTally]:
        """A page of the proposals one can vote on now, the one that ends first at the top, each with its tally."""
        now = func.statement_timestamp()
        page = await self.list(
            Proposal.status == ProposalStatus.ACTIVE,
            Proposal.voting_starts_at <= now,
            Proposal.voting_ends_at > now,
            order=(Proposal.voting_ends_at,),
            limit=limit,
            cursor=cursor,
            tx=tx,
        )
        counted = await self._with_tallies([proposal.id for proposal in page.items], tx)
        return Page(tuple(counted[p.id] for p in page.items if p.id in counted), page.next)

    async def proposals(
        self,
        *,
        status: ProposalStatus | None = None,
        proposer_id: UUID | None = None,
        limit: int = 50,
        cursor: str | None = None,
        tx: Runner | None = None,
    ) -> Page[Proposal]:
        """A page of proposals, the newest first, narrowed by what is given."""
        where = _fitting(status, proposer_id)
        return await self.list(*where, order=(Proposal.created_at.desc(),), limit=limit, cursor=cursor, tx=tx)

    async def proposals_json(
        self,
        *,
        status: ProposalStatus | None = None,
        proposer_id: UUID | None = None,
        limit: int = 50,
        cursor: str | None = None,
        tx: Runner | None = None,
    ) -> JsonPage[Proposal]:
        """The page that `proposals` gives, as JSON."""
        where = _fitting(status, proposer_id)
        return await self.list_json(*where, order=(Proposal.created_at.desc(),), limit=limit, cursor=cursor, tx=tx)

    async def votes(
        self, proposal_id: UUID, *, limit: int = 50, cursor: str | None = None, tx: Runner | None = None
    ) -> Page[Vote]:
        """A page of the votes on a proposal, by user. Raises NotFound for no such proposal."""
        page = await self._votes.list(
            Vote.proposal_id == proposal_id, order=(Vote.user_id,), limit=limit, cursor=cursor, tx=tx
        )
        if not page.items and await self.find(proposal_id, tx=tx) is None:
            raise _no_proposal(proposal_id)
        return page

    # -- writes ------------------------------------------------------------------------------------------------------

    async def create_proposal(
        self,
        tx: Runner,
        *,
        proposer_id: UUID,
        title: str,
        voting_starts_at: datetime,
        voting_ends_at: datetime,
        quorum: int,
        description: str = "",
        spending: Spending | None = None,
        voting_token: str | None = None,
    ) -> Proposal:
        """Write a draft, with what it would spend from the treasury, and the token of the ledger that votes weigh by.
        One statement.

        Raises MissingReference for an unknown proposer, recipient or token, InvalidValue for a period that ends before
        it starts, or an amount below one.
        """
        spends: dict[str, Any] = {}
        if spending is not None:
            spends = {
                "spend_recipient_id": spending.recipient_id,
                "spend_amount": spending.amount,
                "spend_currency": spending.currency,
            }
        return await self.create(
            tx,
            proposer_id=proposer_id,
            title=title,
            description=description,
            voting_starts_at=voting_starts_at,
            voting_ends_at=voting_ends_at,
            quorum=quorum,
            voting_token=voting_token,
            **spends,
        )

    async def activate(self, tx: Runner, proposal_id: UUID, *, version: int | None = None) -> Proposal:
        """Open a draft for votes; they count from `voting_starts_at` on. One statement.

        Raises NotFound; StateConflict unless it is a draft whose voting period has not ended; VersionConflict.
        """
        return await self._step(
            tx,
            proposal_id,
            version,
            "activated",
            (ProposalStatus.DRAFT,),
            Proposal.voting_ends_at > func.clock_timestamp(),
            status=ProposalStatus.ACTIVE,
        )

    async def cancel(self, tx: Runner, proposal_id: UUID, *, version: int | None = None) -> Proposal:
        """Withdraw a draft or active proposal. One statement. Raises NotFound, StateConflict, VersionConflict."""
        return await self._step(
            tx,
            proposal_id,
            version,
            "cancelled",
            (ProposalStatus.DRAFT, ProposalStatus.ACTIVE),
            status=ProposalStatus.CANCELLED,
        )

    async def execute(self, tx: Transaction, proposal_id: UUID, *, version: int | None = None) -> Proposal:
        """Execute a passed proposal, once: what it spends moves from the treasury to its recipient.

        Raises NotFound; StateConflict unless it has passed and was not executed yet, or when the treasury lacks what it
        spends (it stays passed); VersionConflict; MissingReference for a currency that the ledger does not know.
        """
        tx.require_block("execute()")
        executed = await self._step(
            tx,
            proposal_id,
            version,
            "executed",
            (ProposalStatus.PASSED,),
            status=ProposalStatus.EXECUTED,
            executed_at=func.now(),
        )
        await self.treasury.spend(tx, executed)
        return executed

    async def vote(
        self, tx: Runner, proposal_id: UUID, *, user_id: UUID, choice: Choice, weight: int | None = None
    ) -> Vote:
        """Cast a user's one vote. One statement: the proposal is share-locked, so that it cannot be closed meanwhile,
        and voters do not wait for each other.

        On a proposal with a voting token, the vote weighs what the user had of it when voting started, as the ledger
        says (a `weight` can be less). On others the caller vouches for the `weight`; without one it is 1.

        Raises NotFound; StateConflict before the start, after the end, unless the proposal is active, or for a weight
        above what the user had; AlreadyExists when the user has voted; MissingReference for an unknown user;
        InvalidValue for a weight below one.
        """
        open_for_votes = (
            select(
                Proposal.id,
                literal(user_id, Vote.user_id.type),
                literal(choice, Vote.choice.type),
                literal(weight, Vote.weight.type),
            )
            .where(
                Proposal.id == proposal_id,
                Proposal.status == ProposalStatus.ACTIVE,
                Proposal.voting_starts_at <= func.clock_timestamp(),
                Proposal.voting_ends_at > func.clock_timestamp(),
            )
            .with_for_update(read=True)
        )
        cast_vote = (
            insert(Vote).from_select(["proposal_id", "user_id", "choice", "weight"], open_for_votes).returning(Vote)
        )
        vote: Vote | None = await tx.fetch_one(cast_vote)
        if vote is not None:
            return vote
        phase = await tx.fetch_one(QUERIES["voting_phase"], proposal_id=proposal_id)
        if phase is None:
            raise _no_proposal(proposal_id)
        if phase.status != ProposalStatus.ACTIVE.value:
            why = f"it is {phase.status}"
        elif phase.late:
            why = f"voting ended at {phase.voting_ends_at.isoformat()}"
        else:
            why = f"voting starts at {phase.voting_starts_at.isoformat()}"
        raise StateConflict(
            f"Nobody can vote on the proposal {proposal_id} now: {why}.",
            remedy="Vote on an active proposal, inside its voting period.",
            proposal_id=str(proposal_id),
            status=phase.status,
            voting_starts_at=phase.voting_starts_at.isoformat(),
            voting_ends_at=phase.voting_ends_at.isoformat(),
        )

    async def close(self, tx: Transaction, proposal_id: UUID, *, version: int | None = None) -> Proposal:
        """Decide an active proposal after its voting period: passed when the weight of all votes reaches the quorum and
        more is for it than against it, else rejected.

        Needs a READ COMMITTED transaction: it waits for the votes that are being cast and must then see them. Raises
        NotFound; StateConflict unless it is active and its period has ended; VersionConflict.
        """
        if tx.isolation != "read committed":
            raise ProgrammingError(
                f"A proposal cannot be closed in a {tx.isolation} transaction: votes that commit while it waits for "
                "them would not be counted.",
                remedy="Call close() in a READ COMMITTED transaction.",
            )
        proposal = await self.lock(tx, proposal_id)
        phase = await tx.fetch_one(QUERIES["voting_phase"], proposal_id=proposal_id)
        self._require_state(phase, proposal_id, "closed", (ProposalStatus.ACTIVE,))
        self._require_version(proposal, version)
        if not phase.late:
            raise StateConflict(
                f"The proposal {proposal_id} cannot be closed before its voting ends at "
                f"{proposal.voting_ends_at.isoformat()}.",
                remedy="Close it after that, or cancel it.",
                proposal_id=str(proposal_id),
                voting_ends_at=proposal.voting_ends_at.isoformat(),
            )
        tally = await self.tally(proposal_id, tx=tx)
        passed = tally.quorum_reached and tally.majority
        closed: Proposal = await tx.fetch_one(
            update(Proposal)
            .where(Proposal.id == proposal_id)
            .values(status=ProposalStatus.PASSED if passed else ProposalStatus.REJECTED, closed_at=func.now())
            .returning(Proposal)
        )
        return closed

    # -- inside ------------------------------------------------------------------------------------------------------

    async def _with_tallies(self, ids: list[UUID], tx: Runner | None) -> dict[UUID, ProposalWithTally]:
        if not ids:
            return {}
        found: list[ProposalWithTally] = await (tx or self.postgres).fetch(
            QUERIES["with_tally"], into=ProposalWithTally, proposal_ids=ids
        )
        return {proposal.id: proposal for proposal in found}

    async def _step(
        self,
        tx: Runner,
        proposal_id: UUID,
        version: int | None,
        step: str,
        allowed: tuple[ProposalStatus, ...],
        *only: Any,
        **changes: Any,
    ) -> Proposal:
        """One guarded UPDATE; only when it meets no row is the proposal read, to say why."""
        stepped = (
            update(Proposal)
            .where(Proposal.id == proposal_id, Proposal.status.in_(allowed), *only)
            .values(**changes)
            .returning(Proposal)
        )
        if version is not None:
            stepped = stepped.where(Proposal.version == version)
        proposal: Proposal | None = await tx.fetch_one(stepped)
        if proposal is not None:
            return proposal
        phase = await tx.fetch_one(QUERIES["voting_phase"], proposal_id=proposal_id)
        self._require_state(phase, proposal_id, step, allowed)
        if version is not None and phase.version != version:
            self._require_version(await self.get(proposal_id, tx=tx), version)
        ends_at = phase.voting_ends_at.isoformat()
        if not (only and phase.late):
            raise StateConflict(
                f"The proposal {proposal_id} was changed by someone else at the same moment and was not {step}.",
                remedy="Try again.",
                proposal_id=str(proposal_id),
            )
        raise StateConflict(
            f"The proposal {proposal_id} cannot be {step}: its voting period ended at {ends_at}.",
            remedy="Make a new proposal with a later voting period.",
            proposal_id=str(proposal_id),
            voting_ends_at=ends_at,
        )

    def _require_state(self, phase: Any, proposal_id: UUID, step: str, allowed: tuple[ProposalStatus, ...]) -> None:
        if phase is None:
            raise _no_proposal(proposal_id)
        names = [status.value for status in allowed]
        if phase.status not in names:
            raise StateConflict(
                f"The proposal {proposal_id} is {phase.status} and cannot be {step}.",
                remedy=f"Only one that is {' or '.join(names)} can be {step}.",
                proposal_id=str(proposal_id),
                status=phase.status,
            )

    def _require_version(self, proposal: Proposal, version: int | None) -> None:
        if version is not None and proposal.version != version:
            raise VersionConflict(
                f"The proposal {proposal.id} has version {proposal.version}, not {version}: "
                "it has changed since it was read.",
                current=proposal,
                remedy="Read it again and decide anew.",
                current_version=proposal.version,
            )


def _no_proposal(proposal_id: UUID) -> NotFound:
    return NotFound(f"There is no proposal {proposal_id}.", remedy="Check the id.", proposal_id=str(proposal_id))


def _fitting(status: ProposalStatus | None, proposer_id: UUID | None) -> list[ColumnElement[bool]]:
    return [
        column == wanted
        for column, wanted in ((Proposal.status, status), (Proposal.proposer_id, proposer_id))
        if wanted is not None
    ]
