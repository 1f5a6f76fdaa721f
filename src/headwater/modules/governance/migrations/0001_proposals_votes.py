"""Proposals, votes and the tally."""

from __future__ import annotations

from pathlib import Path

from alembic import op

revision = "governance_0001"
down_revision = None
branch_labels = ("governance",)
depends_on = ("kernel_0001", "identity_0001")


def upgrade() -> None:
    op.execute("create schema governance")
    op.execute(
        """
        create type governance.proposal_status as enum (
            'draft', 'active', 'passed', 'rejected', 'executed', 'cancelled'
        )
        """
    )
    op.execute("create type governance.vote_choice as enum ('for', 'against', 'abstain')")
    op.execute(
        """
        create table governance.proposals (
            id uuid default uuidv7() not null,
            proposer_id uuid not null,
            title text not null,
            description text default '' not null,
            status governance.proposal_status default 'draft' not null,
            voting_starts_at timestamptz not null,
            voting_ends_at timestamptz not null,
            quorum numeric(39, 0) not null,
            closed_at timestamptz,
            executed_at timestamptz,
            created_at timestamptz default now() not null,
            updated_at timestamptz default now() not null,
            version bigint default 1 not null,
            constraint proposals_pkey primary key (id),
            constraint proposals_proposer_id_fkey foreign key (proposer_id) references public.users (id),
            constraint proposals_title_check check (length(title) between 1 and 200),
            constraint proposals_voting_period_check check (voting_starts_at < voting_ends_at),
            constraint proposals_quorum_check check (quorum >= 0),
            constraint proposals_closed_at_check check (
                (status in ('passed', 'rejected', 'executed')) = (closed_at is not null)
            ),
            constraint proposals_executed_at_check check ((status = 'executed') = (executed_at is not null))
        )
        """
    )
    op.execute("create index proposals_active_idx on governance.proposals (voting_ends_at, id) where status = 'active'")
    op.execute("create index proposals_created_at_id_idx on governance.proposals (created_at, id)")
    op.execute("create index proposals_proposer_id_idx on governance.proposals (proposer_id)")
    op.execute(
        """
        create table governance.votes (
            id uuid default uuidv7() not null,
            proposal_id uuid not null,
            user_id uuid not null,
            choice governance.vote_choice not null,
            weight numeric(39, 0) not null,
            created_at timestamptz default now() not null,
            constraint votes_pkey primary key (id),
            constraint votes_proposal_id_user_id_key unique (proposal_id, user_id) include (choice, weight),
            constraint votes_proposal_id_fkey foreign key (proposal_id) references governance.proposals (id),
            constraint votes_user_id_fkey foreign key (user_id) references public.users (id),
            constraint votes_weight_check check (weight > 0)
        )
        """
    )
    op.execute("create index votes_user_id_created_at_id_idx on governance.votes (user_id, created_at, id)")
    op.execute(Path(__file__).with_name("0001_tally.sql").read_text())
