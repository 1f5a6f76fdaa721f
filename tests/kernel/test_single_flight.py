"""One load of a name at a time, and nobody gets what was read before they asked."""

from __future__ import annotations

import asyncio

import pytest

from headwater.kernel.single_flight import SingleFlight


class _Store:
    """Says how often it was read, when it is told to."""

    def __init__(self) -> None:
        self.reads = 0
        self.at_once = 0
        self.begun: asyncio.Queue[int] = asyncio.Queue()
        self.gate = asyncio.Event()

    async def read(self) -> int:
        self.reads += 1
        self.at_once += 1
        number = self.reads
        self.begun.put_nowait(number)
        await self.gate.wait()
        self.at_once -= 1
        if number == 13:
            raise LookupError("not today")
        return number


async def test_those_who_ask_together_share_a_load_and_those_who_ask_during_it_share_the_next() -> None:
    store, flights = _Store(), SingleFlight(asyncio.create_task)
    early = [asyncio.create_task(flights.load("a", store.read)) for _ in range(5)]
    assert await store.begun.get() == 1
    late = [asyncio.create_task(flights.load("a", store.read)) for _ in range(5)]
    other = asyncio.create_task(flights.load("b", store.read))
    assert await store.begun.get() == 2  # asked last, so that the others have asked by now
    assert (store.reads, store.at_once) == (2, 2), "another name waits for nobody"
    store.gate.set()
    assert await asyncio.gather(*early) == [1] * 5
    assert await other == 2
    assert await asyncio.gather(*late) == [3] * 5


async def test_an_error_is_for_those_who_shared_the_load_and_the_next_begins_anew() -> None:
    store, flights = _Store(), SingleFlight(asyncio.create_task)
    store.gate.set()
    store.reads = 12
    told = await asyncio.gather(*(flights.load("a", store.read) for _ in range(3)), return_exceptions=True)
    assert [str(one) for one in told] == ["not today"] * 3
    assert await flights.load("a", store.read) == 14


async def test_whoever_gives_up_takes_nothing_from_the_others() -> None:
    store, flights = _Store(), SingleFlight(asyncio.create_task)
    first, second = [asyncio.create_task(flights.load("a", store.read)) for _ in range(2)]
    assert await store.begun.get() == 1
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    store.gate.set()
    assert await second == 1
