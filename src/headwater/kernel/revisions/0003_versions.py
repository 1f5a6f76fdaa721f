"""Versions: raised also by writers that know nothing of them.

The SQL is in the file of the same number. `SELECT headwater.keep_version('trading.orders')` in a later revision of a
module does it for a table whose model is Versioned.
"""

from __future__ import annotations

from pathlib import Path

from alembic import op
from sqlalchemy import text

revision = "kernel_0003"
down_revision = "kernel_0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    for block in Path(__file__).with_suffix(".sql").read_text(encoding="utf-8").split("\n-- next\n"):
        op.get_bind().execute(text(block.replace(":", "\\:")))
