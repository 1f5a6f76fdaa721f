"""Waiting: one call that ends as soon as something was committed, and says what.

The SQL is in the file of the same number.
"""

from __future__ import annotations

from pathlib import Path

from alembic import op
from sqlalchemy import text

revision = "kernel_0004"
down_revision = "kernel_0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    for block in Path(__file__).with_suffix(".sql").read_text(encoding="utf-8").split("\n-- next\n"):
        op.get_bind().execute(text(block.replace(":", "\\:")))
