"""ledger.settle moves as ledger.post does, and what cannot be done raises and leaves nothing."""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID, uuid4

import asyncpg
import pytest

from headwater.kernel.errors import AlreadyExists, ProgrammingError
from headwater.kernel.lifecycle import Headwater
from headwater.modules.ledger.repository import AnyCommand, Hold, Move, PostHold, VoidHold

from .conftest import Purse, open_purse

_SETTLE = "select ledger.settle($1, $2, $3, $4, $5, $6, $7)"
_KINDS = {Move: 1, Hold: 2, PostHold: 3, VoidHold: 4}


async def settle(headwater: Headwater, holds: dict[UUID, Hold], commands: Sequence[AnyCommand]) -> None:
    """The commands through the lean door. Parts and voids say what is left of their hold."""
    rows = []
    for command in commands:
        hold_id = command.hold if isinstance(command, PostHold | VoidHold) else None
        way = holds[hold_id] if hold_id is not None else command
        assert isinstance(way, Move | Hold)
        amount = command.amount if isinstance(command, Move | Hold | PostHold) else way.amount
        rows.append((command.id, _KINDS[type(command)], way.debit, way.credit, amount, hold_id))
    accounts = sorted({row[2] for row in rows} | {row[3] for row in rows})
    place = {account: n for n, account in enumerate(accounts, 1)}
    async with headwater.postgres.connection() as connection:
        await connection.execute(
            _SETTLE,
            accounts,
            [row[0] for row in rows],
            [row[1] for row in rows],
            [place[row[2]] for row in rows],
            [place[row[3]] for row in rows],
            [row[4] for row in rows],
            [row[5] for row in rows],
        )


async def shape_of(headwater: Headwater, purse: Purse) -> list[tuple[object, ...]]:
    """What the ledger says of the people of a purse: what they have, and the transfers, without names."""
    names = {purse.alice: "alice", purse.bob: "bob", purse.carol: "carol"}
    async with headwater.postgres.connection() as connection:
        accounts = await connection.fetch(
            "select id, balance, held, version from ledger.accounts where id = any ($1) order by id", list(names)
        )
        transfers = await connection.fetch(
            "select t.debit_account_id, t.credit_account_id, debit_version, credit_version, t.state::text, amount,"
            " debit_balance_after, credit_balance_after, released, pending_id is null, h.remaining,"
            " h.state::text as hold"
            " from ledger.transfers t left join ledger.holds h on h.transfer_id = t.id"
            " where t.debit_account_id = any ($1) order by t.debit_account_id, debit_version",
            list(names),
        )
    return [(names[a["id"]], *list(a)[1:]) for a in accounts] + [
        (names[t["debit_account_id"]], names[t["credit_account_id"]], *list(t)[2:]) for t in transfers
    ]


async def test_both_doors_leave_the_same_ledger(headwater, purse: Purse) -> None:
    other = await open_purse(purse.ledger, headwater.postgres)

    def steps(here: Purse) -> list[list[AnyCommand]]:
        kept, gone = [Hold(debit=here.alice, credit=here.carol, amount=100) for _ in range(2)]
        return [
            [kept, gone, Move(debit=here.bob, credit=here.alice, amount=7)],
            [
                PostHold(hold=kept.id, amount=30, keep_rest=True),
                Move(debit=here.carol, credit=here.bob, amount=12),
                VoidHold(hold=gone.id),
                PostHold(hold=kept.id, amount=20, keep_rest=True),
            ],
            [PostHold(hold=kept.id, amount=50, keep_rest=True), Move(debit=here.alice, credit=here.bob, amount=907)],
        ]

    for batch in steps(purse):
        async with headwater.transaction() as tx:
            for receipt in await purse.ledger.post(tx, batch):
                receipt.or_raise()
    holds: dict[UUID, Hold] = {}
    for batch in steps(other):
        holds |= {command.id: command for command in batch if isinstance(command, Hold)}
        await settle(headwater, holds, batch)
    assert await shape_of(headwater, other) == await shape_of(headwater, purse)


async def test_what_cannot_be_done_raises_and_nothing_of_the_call_stays(headwater, purse: Purse) -> None:
    hold = Hold(debit=purse.alice, credit=purse.bob, amount=400)
    await settle(headwater, {}, [hold])
    before = await shape_of(headwater, purse)
    fine = Move(debit=purse.alice, credit=purse.bob, amount=1)
    wrong: list[AnyCommand] = [
        Move(debit=purse.alice, credit=purse.bob, amount=601),  # 400 of the 1,000 are held
        Hold(debit=purse.alice, credit=purse.bob, amount=601),
        PostHold(hold=hold.id, amount=401, keep_rest=True),
        Move(id=hold.id, debit=purse.bob, credit=purse.alice, amount=1),  # an id that is taken
    ]
    for command in wrong:
        with pytest.raises((ProgrammingError, AlreadyExists)):
            await settle(headwater, {hold.id: hold}, [fine, command])
    elsewhere = Hold(id=hold.id, debit=purse.alice, credit=purse.carol, amount=400)
    half = Hold(id=hold.id, debit=purse.alice, credit=purse.bob, amount=200)
    for told in (elsewhere, half):  # a hold between others, or with less left than it has
        with pytest.raises(ProgrammingError, match="a hold is not what the commands say"):
            await settle(headwater, {hold.id: told}, [VoidHold(hold=hold.id)])
    missing = uuid4()
    with pytest.raises(ProgrammingError, match="a hold is not what the commands say"):
        await settle(headwater, {missing: hold}, [VoidHold(hold=missing)])
    assert await shape_of(headwater, purse) == before


async def test_malformed_commands_are_named(headwater, purse: Purse) -> None:
    pair = sorted([purse.alice, purse.bob])
    for accounts, kind, amount, credit in (
        (pair[::-1], 1, 5, 2),
        ([pair[0], pair[0]], 1, 5, 2),
        ([*pair, 2**40], 1, 5, 2),
        (pair, 5, 5, 2),
        (pair, 3, 5, 2),
        (pair, 1, 0, 2),
        (pair, 1, 5, 1),
        (pair, 1, 5, 3),
    ):
        async with headwater.postgres.connection() as connection:
            with pytest.raises(asyncpg.InvalidParameterValueError, match=r"ledger\.settle"):
                await connection.execute(_SETTLE, accounts, [uuid4()], [kind], [1], [credit], [amount], [None])
