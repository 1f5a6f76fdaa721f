"""Admission: so many at work, so many waiting, and the rest are told at once."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import pytest
from tests.service.conftest import Gates, authenticate, client_of

from headwater.service.admission import Admission
from headwater.service.app import create_app
from headwater.service.problems import Refusal


async def test_the_overflow_is_refused_at_once_and_those_who_wait_get_their_turn_in_order() -> None:
    door = Admission(at_work_max=1, waiting_max=2, wait_seconds_max=60)
    await door.enter()
    order: list[int] = []

    async def come(number: int) -> None:
        await door.enter()
        order.append(number)
        door.leave()

    waiting = [asyncio.create_task(come(number)) for number in range(2)]
    await asyncio.sleep(0)
    assert door.waiting == 2
    with pytest.raises(Refusal) as refused:
        await door.enter()
    assert refused.value.kind.slug == "overloaded"
    door.leave()
    await asyncio.gather(*waiting)
    assert order == [0, 1]
    assert (door.at_work, door.waiting, door.shed_total) == (0, 0, 1)


async def test_who_waited_too_long_is_refused() -> None:
    door = Admission(at_work_max=1, waiting_max=10, wait_seconds_max=0.01)
    await door.enter()
    answers = await asyncio.gather(*(door.enter() for _ in range(3)), return_exceptions=True)
    assert [type(answer) for answer in answers] == [Refusal] * 3
    door.leave()
    await door.enter()
    assert (door.at_work, door.waiting, door.shed_total) == (1, 0, 3)


async def test_who_goes_away_leaves_no_slot_taken() -> None:
    door = Admission(at_work_max=1, waiting_max=10, wait_seconds_max=60)
    await door.enter()
    gone = [asyncio.create_task(door.enter()) for _ in range(3)]
    await asyncio.sleep(0)
    gone[0].cancel()
    door.leave()  # the slot goes to the second, who goes away in the same turn of the loop
    gone[1].cancel()
    await asyncio.gather(*gone[:2], return_exceptions=True)
    await gone[2]
    assert door.at_work == 1
    door.leave()
    assert (door.at_work, door.waiting) == (0, 0)


async def test_a_full_service_sheds_with_retry_after_and_still_tells_how_it_is(shop: Any, gates: Gates) -> None:
    door = Admission(at_work_max=2, waiting_max=1, wait_seconds_max=60)
    async with client_of(create_app(shop, authenticate=authenticate, admission=door)) as client:
        held = [asyncio.create_task(client.get("/v1/shop/hold")) for _ in range(2)]
        await gates.wait_for(2)
        waiting = asyncio.create_task(client.get("/v1/shop/hold"))
        while door.waiting == 0:  # noqa: ASYNC110  # the queue has no event; the turn of the loop is the signal
            await asyncio.sleep(0)
        shed = await client.get("/v1/shop/products")
        assert shed.status_code == 503
        assert shed.json()["type"] == "/problems/overloaded"
        assert shed.headers["retry-after"] == "1"
        assert (await client.get("/health")).status_code == 200
        metrics = (await client.get("/metrics")).text
        assert "headwater_http_shed_total 1.0" in metrics
        assert "headwater_http_at_work 2.0" in metrics
        gates.open.set()
        assert {answer.status_code for answer in await asyncio.gather(*held, waiting)} == {204}
        assert (await client.get("/v1/shop/products")).status_code == 200
        assert (door.at_work, door.waiting) == (0, 0)


async def test_a_client_that_disconnects_gives_its_slot_back(shop: Any, gates: Gates) -> None:
    from tests.service.conftest import serve

    door = Admission(at_work_max=1)
    async with (
        serve(create_app(shop, authenticate=authenticate, admission=door)) as address,
        httpx.AsyncClient(base_url=address) as client,
    ):
        held = asyncio.create_task(client.get("/v1/shop/hold"))
        await gates.wait_for(1)
        held.cancel()
        await asyncio.gather(held, return_exceptions=True)
        gates.open.set()
        assert (await client.get("/v1/shop/products")).status_code == 200
        assert door.at_work == 0
