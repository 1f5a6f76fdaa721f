"""Measuring: variants in interleaved slices, so that whatever else the machine does meets all of them alike.

A slice is one variant at work for some 70 ms with so many tasks. A round is one slice of each variant in a new random
order. What is compared is the median over the rounds of (this variant's rate / the baseline's rate) in the same round.
"""

from __future__ import annotations

import asyncio
import gc
import random
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median
from time import perf_counter

Operation = Callable[[], Awaitable[object]]
"""Does one operation: called again and again by one task."""


@dataclass(slots=True)
class Slices:
    """What one variant did: operations per second in each round, and the seconds of each operation."""

    rates: list[float] = field(default_factory=list)
    latencies: list[float] = field(default_factory=list)

    @property
    def rate(self) -> float:
        return median(self.rates)

    def percentile_us(self, percent: float) -> float:
        ordered = sorted(self.latencies)
        return ordered[min(len(ordered) - 1, int(len(ordered) * percent / 100))] * 1e6


async def interleaved(
    variants: Mapping[str, Sequence[Operation]], *, rounds: int, slice_seconds: float, seed: int = 7
) -> dict[str, Slices]:
    """Run the variants; each has one operation per task. The first round warms up and is not counted."""
    chance = random.Random(seed)
    figures = {name: Slices() for name in variants}
    order = list(variants)
    gc.collect()
    gc.freeze()  # what is there now is no garbage of anyone's slice
    try:
        for number in range(rounds + 1):
            chance.shuffle(order)
            for name in order:
                rate, latencies = await _slice(variants[name], slice_seconds)
                gc.collect()  # each variant cleans up after itself, and not in its neighbour's slice
                if number:
                    figures[name].rates.append(rate)
                    figures[name].latencies += latencies
    finally:
        gc.unfreeze()
    return figures


def ratio(of: Slices, to: Slices) -> float:
    """The median of the per-round ratios of rates."""
    return median(a / b for a, b in zip(of.rates, to.rates, strict=True))


async def _slice(operations: Sequence[Operation], seconds: float) -> tuple[float, list[float]]:
    latencies: list[float] = []
    started = perf_counter()
    deadline = started + seconds
    if len(operations) == 1:
        await _task(operations[0], deadline, latencies)
    else:
        await asyncio.gather(*[_task(operation, deadline, latencies) for operation in operations])
    return len(latencies) / (perf_counter() - started), latencies


async def _task(operation: Operation, deadline: float, latencies: list[float]) -> None:
    note, clock = latencies.append, perf_counter
    while True:
        began = clock()
        await operation()
        ended = clock()
        note(ended - began)
        if ended >= deadline:
            return


async def timed(work: Callable[[], Awaitable[object]]) -> float:
    """The seconds one piece of work takes, with the garbage of the work before it collected."""
    gc.collect()
    began = perf_counter()
    await work()
    return perf_counter() - began
