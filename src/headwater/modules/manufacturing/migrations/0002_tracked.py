"""The change stream tracks the tables of manufacturing."""

from __future__ import annotations

from alembic import op

revision = "manufacturing_0002"
down_revision = "manufacturing_0001"
branch_labels = None
depends_on = ("kernel_0003",)


def upgrade() -> None:
    op.execute("select headwater.track('manufacturing.orders', 'full', '{asset_id,user_id}')")
    op.execute("select headwater.track('manufacturing.milestones', 'full', '{order_id}')")
    op.execute("select headwater.track('manufacturing.quality_assurance', 'full', '{milestone_id}')")
    op.execute("select headwater.keep_version('manufacturing.orders')")
    op.execute("select headwater.keep_version('manufacturing.milestones')")
