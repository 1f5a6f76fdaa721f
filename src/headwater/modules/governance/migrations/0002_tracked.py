"""The change stream tracks the tables of governance."""

from __future__ import annotations

from alembic import op

revision = "governance_0002"
down_revision = "governance_0001"
branch_labels = None
depends_on = ("kernel_0003",)


def upgrade() -> None:
    op.execute("select headwater.track('governance.proposals', 'full')")
    op.execute("select headwater.track('governance.votes', 'full', '{proposal_id}')")
    op.execute("select headwater.keep_version('governance.proposals')")
