"""Holders, transactions, distributions, the trail and its seals, and the functions that move money."""

from __future__ import annotations

from pathlib import Path

from alembic import op
from sqlalchemy import text

revision = "finance_0001"
down_revision = None
branch_labels = ("finance",)
depends_on = ("kernel_0002", "identity_0001", "ledger_0001")


def upgrade() -> None:
    for part in ("tables", "trail", "moving", "balances", "yield", "roles"):
        name = f"0001_{part}.sql"
        for block in Path(__file__).with_name(name).read_text(encoding="utf-8").split("\n-- next\n"):
            op.get_bind().execute(text(block.replace(":", "\\:")))
