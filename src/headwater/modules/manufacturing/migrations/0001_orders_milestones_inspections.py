"""Orders, milestones and quality assurance."""

from __future__ import annotations

from alembic import op

revision = "manufacturing_0001"
down_revision = None
branch_labels = ("manufacturing",)
depends_on = ("kernel_0001", "identity_0001", "blockchain_0001")


def upgrade() -> None:
    op.execute("create schema manufacturing")
    op.execute(
        """
        create type manufacturing.order_status as enum (
            'pending', 'in_production', 'quality_check', 'completed', 'cancelled'
        )
        """
    )
    op.execute(
        """
        create type manufacturing.milestone_status as enum (
            'pending', 'in_progress', 'completed', 'passed', 'failed', 'cancelled'
        )
        """
    )
    op.execute("create type manufacturing.inspection_result as enum ('passed', 'failed')")
    op.execute(
        """
        create table manufacturing.orders (
            id uuid default uuidv7() not null,
            user_id uuid not null,
            asset_id uuid not null,
            quantity bigint not null,
            specifications jsonb default '{}' not null,
            status manufacturing.order_status default 'pending' not null,
            due_at timestamptz,
            started_at timestamptz,
            completed_at timestamptz,
            cancelled_at timestamptz,
            created_at timestamptz default now() not null,
            updated_at timestamptz default now() not null,
            version bigint default 1 not null,
            constraint orders_pkey primary key (id),
            constraint orders_user_id_fkey foreign key (user_id) references public.users (id),
            constraint orders_asset_id_fkey foreign key (asset_id) references blockchain.assets (id),
            constraint orders_quantity_check check (quantity > 0),
            constraint orders_specifications_check check (jsonb_typeof(specifications) = 'object'),
            constraint orders_completed_at_check check ((status = 'completed') = (completed_at is not null)),
            constraint orders_cancelled_at_check check ((status = 'cancelled') = (cancelled_at is not null)),
            constraint orders_started_at_check check (
                case status
                    when 'pending' then started_at is null
                    when 'cancelled' then true
                    else started_at is not null
                end
            )
        )
        """
    )
    op.execute("create index orders_user_id_created_at_id_idx on manufacturing.orders (user_id, created_at, id)")
    op.execute("create index orders_asset_id_created_at_id_idx on manufacturing.orders (asset_id, created_at, id)")
    op.execute("create index orders_created_at_id_idx on manufacturing.orders (created_at, id)")
    op.execute(
        """
        create table manufacturing.milestones (
            id uuid default uuidv7() not null,
            order_id uuid not null,
            position bigint not null,
            title text not null,
            amount numeric(39, 0) not null,
            status manufacturing.milestone_status default 'pending' not null,
            due_at timestamptz,
            completed_at timestamptz,
            created_at timestamptz default now() not null,
            updated_at timestamptz default now() not null,
            version bigint default 1 not null,
            constraint milestones_pkey primary key (id),
            constraint milestones_order_id_position_key unique (order_id, position),
            constraint milestones_order_id_fkey foreign key (order_id) references manufacturing.orders (id),
            constraint milestones_position_check check (position > 0),
            constraint milestones_title_check check (length(title) between 1 and 200),
            constraint milestones_amount_check check (amount > 0),
            constraint milestones_completed_at_check check (
                case status
                    when 'cancelled' then true
                    else (status in ('completed', 'passed', 'failed')) = (completed_at is not null)
                end
            )
        )
        """
    )
    op.execute(
        """
        create index milestones_due_at_idx on manufacturing.milestones (due_at)
        where status in ('pending', 'in_progress', 'failed')
        """
    )
    op.execute(
        """
        create table manufacturing.quality_assurance (
            id uuid default uuidv7() not null,
            milestone_id uuid not null,
            inspector_id uuid not null,
            result manufacturing.inspection_result not null,
            findings jsonb default '{}' not null,
            inspected_at timestamptz default now() not null,
            constraint quality_assurance_pkey primary key (id),
            constraint quality_assurance_milestone_id_fkey
                foreign key (milestone_id) references manufacturing.milestones (id),
            constraint quality_assurance_inspector_id_fkey foreign key (inspector_id) references public.users (id),
            constraint quality_assurance_findings_check check (jsonb_typeof(findings) = 'object')
        )
        """
    )
    op.execute(
        """
        create index quality_assurance_milestone_id_inspected_at_idx
        on manufacturing.quality_assurance (milestone_id, inspected_at)
        """
    )
    op.execute("create index quality_assurance_inspector_id_idx on manufacturing.quality_assurance (inspector_id)")
