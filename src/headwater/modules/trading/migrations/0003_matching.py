"""Markets, the book, and the matcher that settles in the ledger."""

from __future__ import annotations

from pathlib import Path

from alembic import op
from sqlalchemy import text

revision = "trading_0003"
down_revision = "trading_0002"
branch_labels = None
depends_on = ("ledger_0001",)


def upgrade() -> None:
    op.execute("create type trading.settlement as enum ('immediate', 'on_release')")
    op.execute(
        """
        create table trading.markets (
            asset_id uuid not null,
            currency text not null,
            settlement trading.settlement default 'immediate' not null,
            money_id integer not null,
            token_id integer not null,
            money_escrow bigint not null,
            token_escrow bigint not null,
            batches bigint default 0 not null,
            opened_at timestamptz default now() not null,
            constraint markets_pkey primary key (asset_id),
            constraint markets_asset_id_fkey foreign key (asset_id) references blockchain.assets (id)
        )
        """
    )
    op.execute("create sequence trading.order_number as bigint")
    # Rows come and go with every fill. Room in each page lets them change in place, and dead ones at the best price
    # are what the next match would have to step over.
    op.execute(
        """
        create table trading.resting (
            order_id uuid not null,
            asset_id uuid not null,
            side trading.order_side not null,
            rank numeric(39, 0) not null,
            number bigint not null,
            user_id uuid not null,
            remaining numeric(39, 0) not null,
            hold_id uuid not null,
            pays bigint not null,
            receives bigint not null,
            constraint resting_pkey primary key (order_id),
            constraint resting_remaining_check check (remaining > 0)
        ) with (fillfactor = 70, autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_cost_delay = 0)
        """
    )
    op.execute(
        """
        create table trading.latch (
            id smallint not null,
            turns bigint default 0 not null,
            constraint latch_pkey primary key (id)
        )
        """
    )
    op.execute("create unique index resting_priority_idx on trading.resting (asset_id, side, rank, number)")
    # The book is read from `resting`. Without this index a fill changes nothing that is indexed, and finds room beside.
    op.execute("drop index trading.orders_book_idx")
    op.execute("alter table trading.orders set (fillfactor = 80)")
    for name in ("0003_matching.sql", "0003_one.sql", "0003_plain_writes.sql", "0003_constraints.sql"):
        for block in Path(__file__).with_name(name).read_text(encoding="utf-8").split("\n-- next\n"):
            op.get_bind().execute(text(block.replace(":", "\\:")))
