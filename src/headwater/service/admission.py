"""Admission: how many requests are at work at once, how many may wait, and who is turned away at once.

A service that takes in more than it can do serves nobody. At most `at_work_max` requests run; the next `waiting_max`
queue in order of arrival for at most `wait_seconds_max`; every other one is refused while it is still cheap.
"""

from __future__ import annotations

import asyncio
from collections import deque

from headwater.service.problems import Refusal


class Admission:
    """The door of one process. `enter` before work, `leave` after it, whatever happened."""

    def __init__(self, *, at_work_max: int = 64, waiting_max: int = 1_000, wait_seconds_max: float = 0.5) -> None:
        self.at_work_max = at_work_max
        self.waiting_max = waiting_max
        self.wait_seconds_max = wait_seconds_max
        self.at_work = 0
        self.shed_total = 0
        self._waiting: deque[tuple[float, asyncio.Future[bool]]] = deque()
        self._sweep: asyncio.TimerHandle | None = None

    @property
    def waiting(self) -> int:
        """Requests that queue now."""
        return len(self._waiting)

    async def enter(self) -> None:
        """Take a slot, or wait for one. Raises Refusal when the queue is full or the wait was too long."""
        if self.at_work < self.at_work_max and not self._waiting:
            self.at_work += 1
            return
        if len(self._waiting) >= self.waiting_max:
            raise self._shed()
        loop = asyncio.get_running_loop()
        turn: asyncio.Future[bool] = loop.create_future()
        self._waiting.append((loop.time() + self.wait_seconds_max, turn))
        if self._sweep is None:
            self._sweep = loop.call_later(self.wait_seconds_max, self._turn_away)
        try:
            admitted = await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled() and turn.result():
                self.leave()  # the slot came and the caller went in the same turn of the loop
            raise
        if not admitted:
            raise self._shed()

    def leave(self) -> None:
        """Give the slot to the longest waiting request, or free it."""
        while self._waiting:
            _, turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(True)
                return
        self.at_work -= 1

    def _turn_away(self) -> None:
        """Those whose time is over leave the queue; the timer is set for the next of them."""
        loop = asyncio.get_running_loop()
        self._sweep = None
        now = loop.time()
        while self._waiting and (self._waiting[0][0] <= now or self._waiting[0][1].done()):
            _, turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(False)
        if self._waiting:
            self._sweep = loop.call_at(self._waiting[0][0], self._turn_away)

    def _shed(self) -> Refusal:
        self.shed_total += 1
        return Refusal("overloaded", "The service is at its limit; the request was not begun.")
