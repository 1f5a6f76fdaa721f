"""What a proposal spends from the treasury when it is executed: all three are given, or none."""

from __future__ import annotations

from alembic import op

revision = "governance_0003"
down_revision = "governance_0002"
branch_labels = None
depends_on = ("ledger_0001",)


def upgrade() -> None:
    op.execute(
        """
        alter table governance.proposals
            add column spend_recipient_id uuid,
            add column spend_amount numeric(39, 0),
            add column spend_currency text,
            add constraint proposals_spend_recipient_id_fkey
                foreign key (spend_recipient_id) references public.users (id),
            add constraint proposals_spend_check check (
                num_nonnulls(spend_recipient_id, spend_amount, spend_currency) in (0, 3)
                and (spend_amount is null or spend_amount > 0)
            )
        """
    )
    op.execute("create index proposals_spend_recipient_id_idx on governance.proposals (spend_recipient_id)")
    # The tracked columns are written into the capturing function.
    op.execute("select headwater.track('governance.proposals', 'full')")
