"""The money of milestones: held, paid, refunded. Milestones of orders that started before have nothing held."""

from __future__ import annotations

from alembic import op

revision = "manufacturing_0003"
down_revision = "manufacturing_0002"
branch_labels = None
depends_on = ("ledger_0001",)


def upgrade() -> None:
    op.execute("create type manufacturing.payment as enum ('due', 'held', 'paid', 'refunded')")
    op.execute("alter table manufacturing.orders add column currency text default 'USD' not null")
    op.execute(
        """
        alter table manufacturing.milestones
            add column payment manufacturing.payment default 'due' not null,
            add column settled_at timestamptz,
            add constraint milestones_settled_at_check check (
                (payment in ('paid', 'refunded')) = (settled_at is not null)
            ),
            add constraint milestones_payment_check check (
                case payment when 'paid' then status = 'passed' when 'refunded' then status = 'cancelled' else true end
            )
        """
    )
    # The tracked columns are written into the capturing function.
    op.execute("select headwater.track('manufacturing.orders', 'full', '{asset_id,user_id}')")
    op.execute("select headwater.track('manufacturing.milestones', 'full', '{order_id}')")
