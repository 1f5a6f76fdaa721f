"""Wallets, FODI transactions, NFTs and rewards, and the triggers that settle them in the ledger."""

from __future__ import annotations

from pathlib import Path

from alembic import op
from sqlalchemy import text

revision = "blockchain_0003"
down_revision = "blockchain_0002"
branch_labels = None
depends_on = ("kernel_0002", "ledger_0001")


def upgrade() -> None:
    for name in ("0003_tables.sql", "0003_tokens.sql"):
        for block in Path(__file__).with_name(name).read_text(encoding="utf-8").split("\n-- next\n"):
            op.get_bind().execute(text(block.replace(":", "\\:")))
