"""Desk: concurrent callers of `submit` travel together: one batch carries what is waiting, in the order it came.

While a batch is under way others gather; the more callers there are, the larger the batches. Nobody waits for a timer.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence

from headwater.modules.trading.commands import Cancel, Outcome, Place

BATCH_MAX = 1_000
"""Commands one batch carries at most."""

_Run = Callable[[Sequence[Place | Cancel]], Awaitable[list[Outcome]]]


class Desk:
    """Belongs to one Postgres and one event loop. One batch is under way at a time: a market has one lock."""

    def __init__(self, run: _Run) -> None:
        self._run = run
        self._waiting: deque[tuple[Place | Cancel, asyncio.Future[Outcome]]] = deque()
        self._working: asyncio.Task[None] | None = None

    def submit(self, command: Place | Cancel) -> asyncio.Future[Outcome]:
        """A future of the outcome of this command, committed when it is there."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Outcome] = loop.create_future()
        self._waiting.append((command, future))
        if self._working is None:
            self._working = loop.create_task(self._work())
        return future

    async def _work(self) -> None:
        try:
            while self._waiting:
                batch = [self._waiting.popleft() for _ in range(min(len(self._waiting), BATCH_MAX))]
                batch = [(command, future) for command, future in batch if not future.done()]  # else given up
                try:
                    outcomes = await self._run([command for command, _ in batch])
                except BaseException as error:
                    for _, future in batch:
                        if not future.done():
                            future.set_exception(error)
                            future.exception()  # seen: a caller cancelled just now must not leave a warning
                    if not isinstance(error, Exception):
                        raise
                    continue
                for (_, future), outcome in zip(batch, outcomes, strict=True):
                    if not future.done():
                        future.set_result(outcome)
                await asyncio.sleep(0)  # those who have just got their answer: what they ask next goes along
        finally:
            self._working = None
