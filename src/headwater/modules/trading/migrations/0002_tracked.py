"""The change stream tracks the tables of trading."""

from __future__ import annotations

from alembic import op

revision = "trading_0002"
down_revision = "trading_0001"
branch_labels = None
depends_on = ("kernel_0003",)


def upgrade() -> None:
    op.execute("select headwater.track('trading.orders', 'full', '{asset_id,user_id}')")
    op.execute("select headwater.track('trading.trades', 'full', '{asset_id}')")
    op.execute("select headwater.track('trading.escrows', 'full', '{buyer_id,seller_id}')")
    op.execute("select headwater.keep_version('trading.orders')")
    op.execute("select headwater.keep_version('trading.escrows')")
