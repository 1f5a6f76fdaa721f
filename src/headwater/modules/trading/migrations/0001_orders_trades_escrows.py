"""Orders with their book, trades and escrows."""

from __future__ import annotations

from alembic import op

revision = "trading_0001"
down_revision = None
branch_labels = ("trading",)
depends_on = ("kernel_0001", "identity_0001", "blockchain_0001")


def upgrade() -> None:
    op.execute("create schema trading")
    op.execute("create type trading.order_side as enum ('buy', 'sell')")
    op.execute("create type trading.order_status as enum ('open', 'partially_filled', 'filled', 'cancelled')")
    op.execute("create type trading.escrow_state as enum ('held', 'released', 'refunded', 'disputed')")
    # What is not enforced here, the matcher keeps by itself, and triggers against everybody else: 0003_constraints.sql.
    op.execute(
        """
        create table trading.orders (
            id uuid default uuidv7() not null,
            user_id uuid not null,
            asset_id uuid not null,
            side trading.order_side not null,
            price numeric(39, 0) not null,
            quantity numeric(39, 0) not null,
            filled_quantity numeric(39, 0) default 0 not null,
            status trading.order_status default 'open' not null,
            cancelled_at timestamptz,
            created_at timestamptz default now() not null,
            updated_at timestamptz default now() not null,
            version bigint default 1 not null,
            constraint orders_pkey primary key (id),
            constraint orders_user_id_fkey foreign key (user_id) references public.users (id),
            constraint orders_asset_id_fkey foreign key (asset_id) references blockchain.assets (id) not enforced,
            constraint orders_price_check check (price > 0) not enforced,
            constraint orders_quantity_check check (quantity > 0) not enforced,
            constraint orders_filled_quantity_check check (filled_quantity between 0 and quantity) not enforced,
            constraint orders_value_check check (price * quantity < 1e38) not enforced,
            constraint orders_status_check check (
                case status
                    when 'open' then filled_quantity = 0
                    when 'partially_filled' then filled_quantity > 0 and filled_quantity < quantity
                    when 'filled' then filled_quantity = quantity
                    else filled_quantity < quantity
                end
            ) not enforced,
            constraint orders_cancelled_at_check check ((status = 'cancelled') = (cancelled_at is not null))
                not enforced
        )
        """
    )
    op.execute(
        """
        create index orders_book_idx on trading.orders (asset_id, side, price, created_at, id)
        where status in ('open', 'partially_filled')
        """
    )
    op.execute("create index orders_user_id_created_at_id_idx on trading.orders (user_id, created_at, id)")
    op.execute("create index orders_asset_id_created_at_id_idx on trading.orders (asset_id, created_at, id)")
    op.execute("create index orders_created_at_id_idx on trading.orders (created_at, id)")
    op.execute(
        """
        create table trading.trades (
            id uuid default uuidv7() not null,
            asset_id uuid not null,
            buy_order_id uuid not null,
            sell_order_id uuid not null,
            taker_side trading.order_side not null,
            price numeric(39, 0) not null,
            quantity numeric(39, 0) not null,
            executed_at timestamptz default now() not null,
            constraint trades_pkey primary key (id),
            constraint trades_asset_id_fkey foreign key (asset_id) references blockchain.assets (id) not enforced,
            constraint trades_buy_order_id_fkey foreign key (buy_order_id) references trading.orders (id) not enforced,
            constraint trades_sell_order_id_fkey foreign key (sell_order_id) references trading.orders (id)
                not enforced,
            constraint trades_price_check check (price > 0) not enforced,
            constraint trades_quantity_check check (quantity > 0) not enforced,
            constraint trades_orders_check check (buy_order_id <> sell_order_id) not enforced
        )
        """
    )
    op.execute("create index trades_asset_id_executed_at_id_idx on trading.trades (asset_id, executed_at, id)")
    op.execute("create index trades_buy_order_id_idx on trading.trades (buy_order_id)")
    op.execute("create index trades_sell_order_id_idx on trading.trades (sell_order_id)")
    op.execute(
        """
        create table trading.escrows (
            id uuid default uuidv7() not null,
            trade_id uuid,
            buyer_id uuid not null,
            seller_id uuid not null,
            amount numeric(39, 0) not null,
            state trading.escrow_state default 'held' not null,
            settled_at timestamptz,
            created_at timestamptz default now() not null,
            updated_at timestamptz default now() not null,
            version bigint default 1 not null,
            constraint escrows_pkey primary key (id),
            constraint escrows_trade_id_key unique (trade_id),
            constraint escrows_trade_id_fkey foreign key (trade_id) references trading.trades (id) not enforced,
            constraint escrows_buyer_id_fkey foreign key (buyer_id) references public.users (id) not enforced,
            constraint escrows_seller_id_fkey foreign key (seller_id) references public.users (id) not enforced,
            constraint escrows_amount_check check (amount > 0) not enforced,
            constraint escrows_parties_check check (buyer_id <> seller_id) not enforced,
            constraint escrows_settled_at_check check ((state in ('released', 'refunded')) = (settled_at is not null))
                not enforced
        )
        """
    )
    op.execute("create index escrows_buyer_id_idx on trading.escrows (buyer_id)")
    op.execute("create index escrows_seller_id_idx on trading.escrows (seller_id)")
