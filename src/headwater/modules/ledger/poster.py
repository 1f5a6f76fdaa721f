"""Poster: concurrent callers of `post_one` travel together: one call of ledger.post carries what is waiting.

While calls are under way others gather; the more callers there are, the larger the calls, and nobody waits for a timer.
Two calls that touch one account would run one after the other, the second waiting in PostgreSQL with others locked. So
a command whose account is under way stays behind, and what is asked of an account keeps its order.
(Of which account a command is that refers to a hold or a transfer, nobody here knows: it passes nobody, but what is
asked while it is under way may pass it.)
What may have been committed or not (the connection broke) is sent again with the same ids: the answer is the same.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence

from headwater.kernel.errors import InputError, ProgrammingError, TransientError, Unreachable
from headwater.modules.ledger.commands import AnyCommand, Hold, Move, Receipt

BATCH_MAX = 1_000
"""Commands one call carries at most; a chain is never divided."""
FLIGHTS_MAX = 2
"""Calls under way at once: while one waits for the disk, the other decides."""
FAIR_PART_MIN = 16
"""A call as such costs as much as some ten commands: fewer are not divided among calls."""
ATTEMPTS_MAX = 8

_Post = Callable[[Sequence[AnyCommand]], Awaitable[list[Receipt]]]
_Group = tuple[Sequence[AnyCommand], "asyncio.Future[list[Receipt]]"]


class Poster:
    """Belongs to one Postgres and one event loop."""

    def __init__(self, post: _Post) -> None:
        self._post = post
        self._waiting: deque[_Group] = deque()
        self._flights = 0
        self._busy: set[int] = set()
        """The accounts of the calls under way."""
        self._enough = 0
        """How many must wait before it is worth while to look again who can depart beside the calls under way."""
        self._scheduled = False
        self._tasks: set[asyncio.Task[None]] = set()

    def submit(self, commands: Sequence[AnyCommand]) -> asyncio.Future[list[Receipt]]:
        """A future of the receipts of these commands, which travel in one call."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[list[Receipt]] = loop.create_future()
        self._waiting.append((commands, future))
        if not self._scheduled and self._flights < FLIGHTS_MAX and len(self._waiting) >= self._enough:
            self._scheduled = True
            loop.call_soon(self._depart)
        return future

    def _depart(self) -> None:
        self._scheduled = False
        last: tuple[list[_Group], set[int]] | None = None
        while self._waiting and self._flights < FLIGHTS_MAX:
            fair = -(-len(self._waiting) // (FLIGHTS_MAX - self._flights))
            groups, accounts = self._board(min(BATCH_MAX, max(FAIR_PART_MIN, fair)), self._busy)
            if not groups:
                if last is not None:  # nobody can go beside it: then with it
                    groups, accounts = self._board(BATCH_MAX - _size(last[0]), self._busy - last[1], joining=True)
                    last[0].extend(groups)
                    last[1].update(accounts)
                    self._busy |= accounts
                self._enough = 2 * len(self._waiting)
                return
            self._flights += 1
            self._busy |= accounts
            last = (groups, accounts)
            task = asyncio.get_running_loop().create_task(self._travel(groups, accounts))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    def _board(self, most: int, busy: set[int], *, joining: bool = False) -> tuple[list[_Group], set[int]]:
        """Who departs now, and with which accounts: at most so many commands, none whose account is busy.

        A chain that is longer travels alone, unless it would join others.
        """
        waiting = self._waiting
        groups: list[_Group] = []
        accounts: set[int] = set()
        size = 0
        behind: list[_Group] = []
        held_back: set[int] = set()
        while waiting and (size + len(waiting[0][0]) <= most or not (groups or joining)):
            group = waiting.popleft()
            if group[1].done():  # its caller has given up before it departed
                continue
            touched = _accounts(group[0])
            if touched is None:
                # It refers to a hold or a transfer: nobody here knows of which account. It passes nobody.
                if behind:
                    behind.append(group)
                    break
            elif busy and not (busy.isdisjoint(touched) and held_back.isdisjoint(touched)):
                behind.append(group)
                held_back.update(touched)
                continue
            else:
                accounts.update(touched)
            groups.append(group)
            size += len(group[0])
        if len(groups) < len(behind):  # a few alone are not worth a call: all go with the next one
            behind, groups = [*groups, *behind], []
            accounts.clear()
        waiting.extendleft(reversed(behind))
        return groups, accounts

    async def _travel(self, groups: list[_Group], accounts: set[int]) -> None:
        try:
            await self._together(groups)
        except BaseException as error:
            _fail(groups, error)
            if not isinstance(error, Exception):
                raise
        finally:
            self._flights -= 1
            self._busy -= accounts
            self._enough = 0
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


def _size(groups: Sequence[_Group]) -> int:
    return sum(len(commands) for commands, _ in groups)


def _accounts(commands: Sequence[AnyCommand]) -> list[int] | None:
    """The accounts that commands name; None when one of them refers to a hold or a transfer instead."""
    touched: list[int] = []
    for one in commands:
        if not isinstance(one, Move | Hold):
            return None
        touched.append(one.debit)
        touched.append(one.credit)
    return touched


def _fail(groups: Sequence[_Group], error: BaseException) -> None:
    for _, future in groups:
        if not future.done():
            future.set_exception(error)
            future.exception()  # seen: a caller cancelled in this very turn must not leave a warning behind
