"""Poster: concurrent callers of `post_one` travel together: one call of ledger.post carries what is waiting.

While a call is under way others gather; the more callers there are, the larger the calls, and nobody waits for a timer.
What may have been committed or not (the connection broke) is sent again with the same ids: the answer is the same.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence

from headwater.kernel.errors import InputError, ProgrammingError, TransientError, Unreachable
from headwater.modules.ledger.commands import AnyCommand, Receipt

BATCH_MAX = 1_000
"""Commands one call carries at most; a chain is never divided."""
FLIGHTS_MAX = 2
"""Calls under way at once: while one waits for the disk, the other decides."""
ATTEMPTS_MAX = 8

_Post = Callable[[Sequence[AnyCommand]], Awaitable[list[Receipt]]]
_Group = tuple[Sequence[AnyCommand], "asyncio.Future[list[Receipt]]"]


class Poster:
    """Belongs to one Postgres and one event loop."""

    def __init__(self, post: _Post) -> None:
        self._post = post
        self._waiting: deque[_Group] = deque()
        self._flights = 0
        self._scheduled = False
        self._tasks: set[asyncio.Task[None]] = set()

    def submit(self, commands: Sequence[AnyCommand]) -> asyncio.Future[list[Receipt]]:
        """A future of the receipts of these commands, which travel in one call."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[list[Receipt]] = loop.create_future()
        self._waiting.append((commands, future))
        if not self._scheduled and self._flights < FLIGHTS_MAX:
            self._scheduled = True
            loop.call_soon(self._depart)
        return future

    def _depart(self) -> None:
        self._scheduled = False
        waiting = self._waiting
        while waiting and self._flights < FLIGHTS_MAX:
            groups: list[_Group] = []
            size = 0
            while waiting and (not groups or size + len(waiting[0][0]) <= BATCH_MAX):
                group = waiting.popleft()
                if not group[1].done():  # else its caller has given up before it departed
                    groups.append(group)
                    size += len(group[0])
            if not groups:
                return
            self._flights += 1
            task = asyncio.get_running_loop().create_task(self._travel(groups))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _travel(self, groups: list[_Group]) -> None:
        try:
            await self._together(groups)
        except BaseException as error:
            _fail(groups, error)
            if not isinstance(error, Exception):
                raise
        finally:
            self._flights -= 1
            if self._waiting or not self._scheduled:
                self._scheduled = True
                # After those who have just got their answer: what they ask next goes along.
                asyncio.get_running_loop().call_soon(self._depart)

    async def _together(self, groups: list[_Group]) -> None:
        commands = groups[0][0] if len(groups) == 1 else [one for group in groups for one in group[0]]
        for attempt in range(1, ATTEMPTS_MAX + 1):
            try:
                receipts = await self._post(commands)
                break
            except (TransientError, Unreachable):
                if attempt == ATTEMPTS_MAX:
                    raise
                await asyncio.sleep(0.002 * 2**attempt)
            except (InputError, ProgrammingError) as wrong:  # one of them cannot be sent: it fails alone
                if len(groups) == 1:
                    _fail(groups, wrong)
                    return
                half = len(groups) // 2
                await self._together(groups[:half])
                await self._together(groups[half:])
                return
        at = 0
        for asked, future in groups:
            if not future.done():
                future.set_result(receipts[at : at + len(asked)])
            at += len(asked)


def _fail(groups: Sequence[_Group], error: BaseException) -> None:
    for _, future in groups:
        if not future.done():
            future.set_exception(error)
            future.exception()  # seen: a caller cancelled in this very turn must not leave a warning behind
