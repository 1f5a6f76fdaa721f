"""Votes that weigh what their users had of a token when voting started, as the ledger says."""

from __future__ import annotations

from pathlib import Path

from alembic import op
from sqlalchemy import text

revision = "governance_0004"
down_revision = "governance_0003"
branch_labels = None
depends_on = ("ledger_0001",)


def upgrade() -> None:
    op.execute(
        """
        alter table governance.proposals
            add column voting_token text,
            add constraint proposals_voting_token_fkey foreign key (voting_token) references ledger.assets (code)
        """
    )
    op.execute("create index proposals_voting_token_idx on governance.proposals (voting_token)")
    # The tracked columns are written into the capturing function.
    op.execute("select headwater.track('governance.proposals', 'full')")
    for block in Path(__file__).with_name("0004_weights.sql").read_text(encoding="utf-8").split("\n-- next\n"):
        op.get_bind().execute(text(block.replace(":", "\\:")))
