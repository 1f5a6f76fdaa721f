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
    for name in ("tables", "transfer", "post", "settle", "reserve", "history", "proof"):
        for block in Path(__file__).with_name(f"0001_{name}.sql").read_text(encoding="utf-8").split("\n-- next\n"):
            op.get_bind().execute(text(block.replace(":", "\\:")))
