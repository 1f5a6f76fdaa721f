"""What the peers' writers do before they invalidate: two rows in one transaction, committed or rolled back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from benchmarks.coherence_board import key_of

LOAD = "select name from users where id = $1"
LOAD_MANY = "select id, name from users where id = any($1)"
UPDATE = "update users set name = $2 where id = $1"


class Rollback(Exception):
    """The transaction was not to be committed."""


async def write_pair(pool: Any, rows: Sequence[int], name: str, *, fail: bool) -> None:
    """Write `name` into these rows. Raises Rollback when it is to fail."""
    async with pool.acquire() as connection, connection.transaction():
        for row in rows:
            await connection.execute(UPDATE, key_of(row), name)
        if fail:
            raise Rollback
