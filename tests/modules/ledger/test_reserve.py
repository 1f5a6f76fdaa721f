"""ledger.reserve and ledger.release hold and let go as ledger.post does, one hold at a time."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

import pytest

from headwater.kernel.errors import AlreadyExists, InvalidValue, ProgrammingError
from headwater.kernel.lifecycle import Headwater
from headwater.modules.ledger.proof import verify
from headwater.modules.ledger.repository import Hold, VoidHold

from .conftest import Purse, open_purse
from .test_settle import shape_of


async def reserve(headwater: Headwater, id: UUID, debit: int, credit: int, amount: object) -> bool:
    async with headwater.postgres.connection() as connection:
        done: bool = await connection.fetchval("select ledger.reserve($1, $2, $3, $4)", id, debit, credit, amount)
        return done


async def release(headwater: Headwater, hold: UUID, debit: int, credit: int, amount: int) -> None:
    async with headwater.postgres.connection() as connection:
        await connection.execute(
            "select ledger.release($1, $2, $3, $4, $5)", uuid4(), hold, debit, credit, amount
        )  # fmt: skip


async def told(headwater: Headwater, purse: Purse) -> list[object]:
    """What the stream tells of the transfers of alice, without ids."""
    async with headwater.postgres.connection() as connection:
        rows = await connection.fetch(
            "select op::text, key = jsonb_build_object('id', new -> 'id') as keyed,"
            " new ->> 'credit_account_id' = $2::bigint::text as paid, old, context from headwater.change"
            " where \"table\" = 'ledger.transfers' and (new ->> 'debit_account_id')::bigint = $1 order by id",
            purse.alice,
            purse.bob,
        )
    return [tuple(row) for row in rows]


async def test_both_doors_leave_the_same_ledger(headwater, purse: Purse) -> None:
    other = await open_purse(purse.ledger, headwater.postgres)
    amounts = (100, 250, 1, 649)
    holds = [Hold(debit=purse.alice, credit=purse.bob, amount=amount) for amount in amounts]
    for command in (*holds, *(VoidHold(hold=hold.id) for hold in (holds[2], holds[0]))):
        async with headwater.transaction() as tx:
            [receipt] = await purse.ledger.post(tx, [command])
            receipt.or_raise()
    ids = [uuid4() for _ in amounts]
    for id, amount in zip(ids, amounts, strict=True):
        assert await reserve(headwater, id, other.alice, other.bob, amount)
    for n in (2, 0):
        await release(headwater, ids[n], other.alice, other.bob, amounts[n])
    assert await shape_of(headwater, other) == await shape_of(headwater, purse)
    assert await told(headwater, other) == await told(headwater, purse) != []
    assert not (await verify(headwater.postgres)).faults


async def test_what_an_account_cannot_bear_is_answered_and_leaves_nothing(headwater, purse: Purse) -> None:
    before = await shape_of(headwater, purse)
    assert not await reserve(headwater, uuid4(), purse.alice, purse.bob, 1_001)
    assert await shape_of(headwater, purse) == before
    first = uuid4()
    assert await reserve(headwater, first, purse.alice, purse.bob, 1_000)
    assert not await reserve(headwater, uuid4(), purse.alice, purse.bob, 1)
    with pytest.raises(AlreadyExists):
        await reserve(headwater, first, purse.bob, purse.alice, 1)


async def test_a_hold_that_is_over_makes_room(headwater, purse: Purse) -> None:
    async with headwater.transaction() as tx:
        over = Hold(
            debit=purse.alice, credit=purse.bob, amount=900, expires_at=datetime.now(UTC) + timedelta(milliseconds=1)
        )
        [receipt] = await purse.ledger.post(tx, [over])
        receipt.or_raise()
        await tx.connection.execute("select pg_sleep(0.01)")
    assert await reserve(headwater, uuid4(), purse.alice, purse.bob, 950)
    assert not (await verify(headwater.postgres)).faults


async def test_what_is_malformed_raises(
    headwater,
    purse: Purse,
) -> None:
    before = await shape_of(headwater, purse)
    for debit, credit, amount in (
        (purse.alice, purse.alice, 1),
        (purse.alice, 2**40, 1),
        (2**40, purse.alice, 1),
        (purse.alice, purse.bob, 0),
        (purse.alice, purse.bob, -1),
        (purse.alice, purse.bob, 1.5),
        (purse.alice, purse.bob, None),
    ):
        with pytest.raises(InvalidValue, match=r"ledger\.reserve"):
            await reserve(headwater, uuid4(), debit, credit, amount)
    hold = uuid4()
    assert await reserve(headwater, hold, purse.alice, purse.bob, 400)
    for wrong in (
        (hold, purse.alice, purse.carol, 400),
        (hold, purse.bob, purse.alice, 400),
        (hold, purse.alice, purse.bob, 200),
        (uuid4(), purse.alice, purse.bob, 400),
    ):
        with pytest.raises(ProgrammingError, match="is not what the caller says"):
            await release(headwater, *wrong)
    await release(headwater, hold, purse.alice, purse.bob, 400)
    with pytest.raises(ProgrammingError, match="is not what the caller says"):
        await release(headwater, hold, purse.alice, purse.bob, 400)
    assert [row[:3] for row in (await shape_of(headwater, purse))[:3]] == [row[:3] for row in before[:3]]
