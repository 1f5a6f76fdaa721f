"""The change stream: changes, ticks, epochs, followers, and the functions that capture.

The SQL is in the file of the same number. `SELECT headwater.track('trading.orders', 'full', '{asset_id}')` in a later
revision of a module makes its table a tracked one.
"""

from __future__ import annotations

import re
from pathlib import Path

from alembic import op
from sqlalchemy import text

revision = "kernel_0002"
down_revision = "kernel_0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    blocks = Path(__file__).with_suffix(".sql").read_text(encoding="utf-8")
    for block in blocks.split("\n-- next\n"):
        for statement in [block] if "$function$" in block else block.split(";\n"):
            if re.sub(r"--[^\n]*", "", statement).strip(" \n;"):
                op.get_bind().execute(text(statement.replace(":", "\\:")))
