"""Callers who wait for one command each travel together, in the order they came, and each gets its own outcome."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from uuid import UUID, uuid4

import pytest

from headwater.kernel.errors import InvalidValue, Unreachable
from headwater.modules.trading.commands import Answer, Cancel, Outcome, Place
from headwater.modules.trading.desk import BATCH_MAX, Desk
from headwater.modules.trading.models import Side


def place(user_id: UUID, asset_id: UUID, side: Side = Side.BUY, price: int = 100, quantity: int = 1) -> Place:
    return Place(user_id=user_id, asset_id=asset_id, side=side, price=price, quantity=quantity)


async def test_concurrent_callers_share_batches_and_each_gets_its_own_outcome(marketplace, people, parts) -> None:
    await marketplace.fund()
    sizes: list[int] = []

    async def counted(commands: Sequence[Place | Cancel]) -> list[Outcome]:
        sizes.append(len(commands))
        return await marketplace.run(*commands)

    desk = Desk(counted)
    commands = [place(people[n % 3], parts[n % 2], price=n + 1) for n in range(200)]
    outcomes = await asyncio.gather(*(desk.submit(command) for command in commands))
    assert [(o.user_id, o.asset_id, o.price) for o in outcomes] == [(c.user_id, c.asset_id, c.price) for c in commands]
    assert sum(sizes) == 200
    assert len(sizes) < 20
    assert max(sizes) <= BATCH_MAX
    await marketplace.audit()


async def test_what_is_submitted_is_committed_and_runs_in_the_order_it_came(marketplace, people, parts) -> None:
    await marketplace.fund()
    submit = marketplace.trading.submit
    first, second, third = await asyncio.gather(
        submit(place(people[0], parts[0], Side.SELL)),
        submit(place(people[1], parts[0], Side.SELL)),
        submit(place(people[2], parts[0], Side.BUY)),
    )
    assert [o.outcome for o in (first, second, third)] == [Answer.FILLED, Answer.OPEN, Answer.FILLED]
    assert (await submit(Cancel(order_id=second.id))).outcome is Answer.CANCELLED
    assert (await submit(Cancel(order_id=uuid4()))).outcome is Answer.NO_ORDER
    await marketplace.audit()


async def test_a_malformed_command_fails_alone_and_a_refused_one_is_told(marketplace, people, parts) -> None:
    await marketplace.fund(money=100)
    submit = marketplace.trading.submit
    good, bad, poor = await asyncio.gather(
        submit(place(people[0], parts[0])),
        submit(place(people[0], parts[0], price=0)),
        submit(place(people[0], parts[0], price=101)),
        return_exceptions=True,
    )
    assert good.outcome is Answer.OPEN
    assert isinstance(bad, InvalidValue)
    assert poor.outcome is Answer.INSUFFICIENT_FUNDS


async def test_an_error_reaches_those_who_travelled_and_the_next_go_on(marketplace, people, parts) -> None:
    await marketplace.fund()
    broken = iter([True, False])

    async def breaking(commands: Sequence[Place | Cancel]) -> list[Outcome]:
        if next(broken):
            raise Unreachable("The connection broke.")
        return await marketplace.run(*commands)

    desk = Desk(breaking)
    lost = await asyncio.gather(*(desk.submit(place(people[0], parts[0])) for _ in range(3)), return_exceptions=True)
    assert all(isinstance(error, Unreachable) for error in lost)
    assert (await desk.submit(place(people[0], parts[0]))).outcome is Answer.OPEN


async def test_a_caller_who_gives_up_before_the_start_asks_for_nothing(marketplace, people, parts) -> None:
    await marketplace.fund()
    desk = Desk(lambda commands: marketplace.run(*commands))
    gone = desk.submit(place(people[0], parts[0]))
    gone.cancel()
    await desk.submit(place(people[1], parts[0]))
    assert await marketplace.trading.count() == 1
    with pytest.raises(asyncio.CancelledError):
        await gone
