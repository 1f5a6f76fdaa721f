"""Proposals and votes."""

from __future__ import annotations

import enum
from datetime import datetime
from uuid import UUID

from sqlalchemy import CheckConstraint, ForeignKey, Index, UniqueConstraint, func, text
from sqlalchemy.orm import Mapped, mapped_column

from headwater.kernel.amounts import WholeNumber
from headwater.kernel.models import Keyed, Model, Timestamped, Versioned, native_enum
from headwater.kernel.tracking import Tracked


class ProposalStatus(enum.Enum):
    """Where a proposal stands. Rejected, executed and cancelled are final."""

    DRAFT = "draft"
    ACTIVE = "active"
    PASSED = "passed"
    REJECTED = "rejected"
    EXECUTED = "executed"
    CANCELLED = "cancelled"


class Choice(enum.Enum):
    """What a vote says."""

    FOR = "for"
    AGAINST = "against"
    ABSTAIN = "abstain"


_proposal_status = native_enum(ProposalStatus, name="proposal_status", schema="governance")
_choice = native_enum(Choice, name="vote_choice", schema="governance")


class Proposal(Keyed, Timestamped, Versioned, Model, schema="governance"):
    """Something the users decide on, from `voting_starts_at` until before `voting_ends_at`."""

    __tablename__ = "proposals"
    __tracked__ = Tracked("full")
    __table_args__ = (
        CheckConstraint("length(title) between 1 and 200", name="title"),
        CheckConstraint(
            "voting_starts_at < voting_ends_at",
            name="voting_period",
            info={"message": "governance.proposals: the voting period ends before it starts."},
        ),
        CheckConstraint("quorum >= 0", name="quorum"),
        CheckConstraint("(status in ('passed', 'rejected', 'executed')) = (closed_at is not null)", name="closed_at"),
        CheckConstraint("(status = 'executed') = (executed_at is not null)", name="executed_at"),
        Index("proposals_active_idx", "voting_ends_at", "id", postgresql_where=text("status = 'active'")),
        Index("proposals_created_at_id_idx", "created_at", "id"),
        CheckConstraint(
            "num_nonnulls(spend_recipient_id, spend_amount, spend_currency) in (0, 3)"
            " and (spend_amount is null or spend_amount > 0)",
            name="spend",
            info={"message": "governance.proposals: a spending has a recipient, an amount above zero and a currency."},
        ),
        Index("proposals_proposer_id_idx", "proposer_id"),
        Index("proposals_spend_recipient_id_idx", "spend_recipient_id"),
        Index("proposals_voting_token_idx", "voting_token"),
    )

    proposer_id: Mapped[UUID] = mapped_column(
        ForeignKey("users.id", info={"message": "governance.proposals: there is no such proposer."})
    )
    title: Mapped[str]
    description: Mapped[str] = mapped_column(server_default="")
    status: Mapped[ProposalStatus] = mapped_column(_proposal_status, server_default="draft")
    voting_starts_at: Mapped[datetime]
    voting_ends_at: Mapped[datetime]
    quorum: Mapped[int] = mapped_column(WholeNumber())
    closed_at: Mapped[datetime | None]
    executed_at: Mapped[datetime | None]
    spend_recipient_id: Mapped[UUID | None] = mapped_column(
        ForeignKey("users.id", info={"message": "governance.proposals: there is no such recipient."})
    )
    spend_amount: Mapped[int | None] = mapped_column(WholeNumber())
    spend_currency: Mapped[str | None]
    voting_token: Mapped[str | None] = mapped_column(
        ForeignKey("ledger.assets.code", info={"message": "governance.proposals: the ledger knows no such token."})
    )


class Vote(Keyed, Model, schema="governance"):
    """What one user said to one proposal, and with which weight. Never changed."""

    __tablename__ = "votes"
    __tracked__ = Tracked("full", tags=("proposal_id",))
    __table_args__ = (
        # One vote per user; the included columns let the tally be read from this index alone.
        UniqueConstraint(
            "proposal_id",
            "user_id",
            name="votes_proposal_id_user_id_key",
            info={"message": "governance.votes: this user has already voted on this proposal."},
            postgresql_include=["choice", "weight"],
        ),
        CheckConstraint("weight > 0", name="weight"),
        Index("votes_user_id_created_at_id_idx", "user_id", "created_at", "id"),
    )

    proposal_id: Mapped[UUID] = mapped_column(
        ForeignKey("governance.proposals.id", info={"message": "governance.votes: there is no such proposal."})
    )
    user_id: Mapped[UUID] = mapped_column(
        ForeignKey("users.id", info={"message": "governance.votes: there is no such user."})
    )
    choice: Mapped[Choice] = mapped_column(_choice)
    weight: Mapped[int] = mapped_column(WholeNumber())
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
