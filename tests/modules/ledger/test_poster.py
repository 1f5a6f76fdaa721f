"""Callers who wait for one transfer each travel together, and none pays for another's mistake."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence
from uuid import uuid4

import pytest

from headwater.kernel.errors import InvalidValue, Unreachable
from headwater.kernel.lifecycle import Headwater
from headwater.modules.ledger.commands import AnyCommand, Hold, Move, PostHold, Receipt, Status
from headwater.modules.ledger.poster import BATCH_MAX, FLIGHTS_MAX, Poster
from headwater.modules.ledger.repository import LedgerRepository

from .conftest import Purse


async def test_concurrent_callers_share_calls_and_each_gets_its_own_receipt(purse: Purse, headwater: Headwater) -> None:
    sizes: list[int] = []

    async def counted(commands: Sequence[AnyCommand]) -> list[Receipt]:
        sizes.append(len(commands))
        return await purse.ledger.post(headwater.postgres, commands)

    poster = Poster(counted)
    moves = [Move(debit=purse.issuance, credit=purse.alice, amount=n + 1) for n in range(300)]
    told = await asyncio.gather(*(poster.submit((move,)) for move in moves))
    assert [(r.id, r.amount) for [r] in told] == [(m.id, m.amount) for m in moves]
    assert sum(sizes) == 300
    assert len(sizes) < 30
    assert max(sizes) <= BATCH_MAX


async def test_a_command_that_cannot_be_sent_fails_alone(purse: Purse) -> None:
    good = [purse.ledger.post_one(Move(debit=purse.alice, credit=purse.bob, amount=1)) for _ in range(20)]
    bad = purse.ledger.post_one(Move(debit=2**70, credit=purse.bob, amount=1))
    told = await asyncio.gather(*good[:10], bad, *good[10:], return_exceptions=True)
    assert isinstance(told.pop(10), InvalidValue)
    assert all(isinstance(r, Receipt) and r.done for r in told)


async def test_a_lost_reply_is_asked_for_again_with_the_same_ids(purse: Purse, headwater: Headwater) -> None:
    """Every first reply is lost after the commit: nothing is done twice, and every caller hears what happened."""
    asked: set[object] = set()

    async def losing(commands: Sequence[AnyCommand]) -> list[Receipt]:
        told = await purse.ledger.post(headwater.postgres, commands)
        if commands[0].id not in asked:
            asked.add(commands[0].id)
            raise Unreachable("The connection broke.")
        return told

    poster = Poster(losing)
    moves = [Move(debit=purse.alice, credit=purse.bob, amount=30) for _ in range(50)]
    told = [r for [r] in await asyncio.gather(*(poster.submit((move,)) for move in moves))]
    assert all(r.repeated for r in told)
    assert [r.status for r in told].count(Status.DONE) == 33
    assert (await purse.ledger.get(purse.alice)).balance == 10


async def test_a_caller_that_gives_up_takes_nothing_from_the_others(purse: Purse) -> None:
    tasks = [
        asyncio.create_task(purse.ledger.post_one(Move(debit=purse.alice, credit=purse.bob, amount=1)))
        for _ in range(20)
    ]
    await asyncio.sleep(0)
    tasks[3].cancel()
    told = await asyncio.gather(*tasks, return_exceptions=True)
    assert isinstance(told[3], asyncio.CancelledError)
    assert all(isinstance(r, Receipt) and r.done for at, r in enumerate(told) if at != 3)


async def test_a_store_that_stays_away_is_reported_to_every_caller() -> None:
    async def away(commands: Sequence[AnyCommand]) -> list[Receipt]:
        raise Unreachable("PostgreSQL does not answer.")

    poster = Poster(away)
    told = await asyncio.gather(
        *(poster.submit((Move(debit=1, credit=2, amount=1, id=uuid4()),)) for _ in range(3 * FLIGHTS_MAX)),
        return_exceptions=True,
    )
    assert all(isinstance(one, Unreachable) for one in told)


async def test_a_linked_command_does_not_travel_alone(purse: Purse) -> None:
    with pytest.raises(InvalidValue, match="not alone"):
        await purse.ledger.post_one(Move(debit=purse.alice, credit=purse.bob, amount=1, linked=True))
    assert isinstance(purse.ledger, LedgerRepository)


class _Gate:
    """Lets each call go to the real ledger only when it is told to."""

    def __init__(self, purse: Purse, headwater: Headwater) -> None:
        self._purse, self._headwater = purse, headwater
        self.calls: list[Sequence[AnyCommand]] = []
        self._arrived: asyncio.Queue[None] = asyncio.Queue()
        self._open: list[asyncio.Event] = []
        self._open_from: float = math.inf

    async def post(self, commands: Sequence[AnyCommand]) -> list[Receipt]:
        opened = asyncio.Event()
        if len(self.calls) >= self._open_from:
            opened.set()
        self.calls.append(commands)
        self._open.append(opened)
        self._arrived.put_nowait(None)
        await opened.wait()
        return await self._purse.ledger.post(self._headwater.postgres, commands)

    async def until(self, calls: int) -> None:
        async with asyncio.timeout(15):
            while len(self.calls) < calls:
                await self._arrived.get()

    async def rest(self, call: int, *told: asyncio.Future[list[Receipt]]) -> list[Receipt]:
        """Open every call from this one on; what these are answered."""
        self._open_from = call
        for opened in self._open[call:]:
            opened.set()
        return [(await one)[0] for one in told]


async def test_who_asks_of_an_account_under_way_waits_for_it_and_others_depart(
    purse: Purse, headwater: Headwater
) -> None:
    gate = _Gate(purse, headwater)
    poster = Poster(gate.post)
    first = poster.submit((Move(debit=purse.alice, credit=purse.bob, amount=1),))
    await gate.until(1)
    same = poster.submit((Move(debit=purse.bob, credit=purse.alice, amount=1),))
    other = poster.submit((Move(debit=purse.issuance, credit=purse.carol, amount=1),))
    await gate.until(2)
    assert [len(call) for call in gate.calls] == [1, 1], "the one that shares an account stayed behind"
    assert gate.calls[1][0].id == (await gate.rest(1, other))[0].id
    assert not same.done()
    assert all(one.done for one in await gate.rest(0, first, same))


async def test_what_is_asked_of_an_account_keeps_its_order_when_one_stays_behind(
    purse: Purse, headwater: Headwater
) -> None:
    """Bob pays what he is about to get: it would be refused if it went by the one that stays behind."""
    gate = _Gate(purse, headwater)
    poster = Poster(gate.post)
    first = poster.submit((Move(debit=purse.issuance, credit=purse.alice, amount=1),))
    await gate.until(1)
    hold = Hold(debit=purse.carol, credit=purse.issuance, amount=2_000)
    told = [
        poster.submit((Move(debit=purse.alice, credit=purse.bob, amount=1_000),)),  # alice is under way
        poster.submit((Move(debit=purse.bob, credit=purse.carol, amount=2_000),)),
        poster.submit((hold,)),
        poster.submit((PostHold(hold=hold.id),)),
    ]
    assert [one.status for one in await gate.rest(0, first, *told)] == [Status.DONE] * 5
    assert (await purse.ledger.get(purse.carol)).balance == 1_000


async def test_callers_of_one_account_go_in_one_call_and_those_of_many_in_two(
    purse: Purse, headwater: Headwater
) -> None:
    gate = _Gate(purse, headwater)
    poster = Poster(gate.post)
    hot = [poster.submit((Move(debit=purse.issuance, credit=purse.bob, amount=1),)) for _ in range(64)]
    await gate.until(1)
    assert all(one.done for one in await gate.rest(0, *hot))
    assert [len(call) for call in gate.calls] == [64]
    users = [uuid4() for _ in range(64)]
    opened = await purse.ledger.accounts(headwater.postgres, "user", users, "USD")
    many = [one.id for one in opened.values()]
    grants = [Move(debit=purse.issuance, credit=one, amount=1) for one in many]
    assert all(one.done for one in await purse.ledger.post(headwater.postgres, grants))
    apart = [
        poster.submit((Move(debit=debit, credit=credit, amount=1),))
        for debit, credit in zip(many[::2], many[1::2], strict=True)
    ]
    await gate.until(3)
    assert [len(call) for call in gate.calls[1:]] == [16, 16]
    assert all(one.done for one in await gate.rest(1, *apart))
