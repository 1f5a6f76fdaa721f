"""Assets, accounts, transfers, holds, refusals, seals, and the functions that alone write them."""

from __future__ import annotations

from pathlib import Path

from alembic import op
from sqlalchemy import text

revision = "ledger_0001"
down_revision = None
branch_labels = ("ledger",)
depends_on = ("kernel_0002",)


def upgrade() -> None:
    for name in ("0001_tables.sql", "0001_transfer.sql", "0001_post.sql", "0001_history.sql", "0001_proof.sql"):
        for block in Path(__file__).with_name(name).read_text(encoding="utf-8").split("\n-- next\n"):
            op.get_bind().execute(text(block.replace(":", "\\:")))
