"""A hold whose time is over is released while nobody asks for it; the sweep finds it by its time, whatever the size."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta

from headwater.followers.follow import follow
from headwater.kernel.lifecycle import Headwater
from headwater.modules.ledger.models import TransferState
from headwater.modules.ledger.upkeep import release_overdue_holds

from .conftest import Purse


async def test_an_overdue_hold_is_shown_as_expired_without_any_caller(headwater: Headwater, purse: Purse) -> None:
    soon = datetime.now(UTC) + timedelta(seconds=0.2)
    held = await purse.ledger.hold(headwater.postgres, debit=purse.alice, credit=purse.bob, amount=400, expires_at=soon)
    kept = await purse.ledger.hold(headwater.postgres, debit=purse.alice, credit=purse.bob, amount=1)
    assert (await purse.ledger.get(purse.alice)).held == 401
    async with follow(headwater) as following, asyncio.timeout(30):
        while (await purse.ledger.get(purse.alice)).held != 1:  # noqa: ASYNC110  # another task does it
            await asyncio.sleep(0.01)
        assert following.upkeep["overdue holds"].last_error == ""
    newest, *_ = (await purse.ledger.statement(purse.alice, limit=1)).items
    assert (newest.state, newest.pending_id, newest.amount) == (TransferState.EXPIRED, held.id, 400)
    assert (await purse.ledger.get_transfer(kept.id)).state is TransferState.PENDING


async def test_the_sweep_finds_more_holds_than_it_releases_at_once(headwater: Headwater, purse: Purse) -> None:
    past = datetime.now(UTC) - timedelta(seconds=1)
    for _ in range(3):
        await purse.ledger.hold(headwater.postgres, debit=purse.alice, credit=purse.bob, amount=1, expires_at=past)
        await purse.ledger.hold(headwater.postgres, debit=purse.bob, credit=purse.bob + 1, amount=1, expires_at=past)
    released = await release_overdue_holds(headwater.postgres)
    assert released > 0
    assert await release_overdue_holds(headwater.postgres) == 0
    for one in (purse.alice, purse.bob):
        assert (await purse.ledger.get(one)).held == 0


async def test_the_sweep_reads_an_index_however_many_holds_there_are(headwater: Headwater) -> None:
    async with headwater.postgres.connection() as connection:
        await connection.execute("set enable_seqscan = off")
        plan = await connection.fetch(
            "explain select h.debit_account_id from ledger.holds h where h.state = 'pending'"
            " and h.expires_at <= statement_timestamp() order by h.expires_at limit 1000"
        )
        await connection.execute("reset enable_seqscan")
    assert "holds_due_idx" in plan[1][0]
