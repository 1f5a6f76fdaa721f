"""Loader: single reads by key, direct when alone and gathered into one `= any($1)` when many tasks ask at once.

The first read of an idle loader goes straight to the server. Reads that arrive while one is under way, or in the same
turn of the loop after a batch of several, wait for the end of the turn and travel together. Measured on one connection:
no cost at one task, 1.4 to 2.1 times the raw driver at 16, 2.9 at 64 (docs: benchmarks/RESULTS.md).
A batch is one READ COMMITTED statement, like any single read; inside a transaction nothing is gathered.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from headwater.kernel.errors import InvalidValue
from headwater.kernel.postgres import Postgres, run_on
from headwater.kernel.statements import Prepared
from headwater.kernel.translation import BROKEN, translate

BATCH_MAX = 1_000
"""Keys one statement carries at most."""


class Loader:
    """Reads the rows of one entity by its key. Belongs to one Postgres and one event loop."""

    def __init__(
        self, postgres: Postgres, one: str, many: str, make: Callable[[Any], Any], key_of: Callable[[Any], Any]
    ) -> None:
        self._postgres = postgres
        self._one = one
        self._many = many
        self._make = make
        self._key_of = key_of
        self._under_way = 0
        self._gathering = False
        self._waiting: dict[Any, asyncio.Future[Any]] = {}
        self._scheduled = False
        self._tasks: set[asyncio.Task[None]] = set()

    async def load(self, key: Any) -> Any:
        """The value of the row, or None."""
        if self._under_way or self._gathering:
            return await self._gather(key)
        self._under_way += 1
        try:
            return await self._direct(key)
        finally:
            self._under_way -= 1

    async def load_many(self, keys: list[Any]) -> list[Any]:
        """The values of the rows that exist, in no order."""
        found: list[Any] = []
        for start in range(0, len(keys), BATCH_MAX):
            part = keys[start : start + BATCH_MAX]
            records, _ = await self._postgres._run(Prepared(self._many, [part], self._make, True))
            found += map(self._make, records)
        return found

    async def _direct(self, key: Any) -> Any:
        postgres, sql = self._postgres, self._one
        link = postgres.take_now() or await postgres.take()
        try:
            statement = link.statements.get(sql) or await link.prepare(sql)
            record = await statement.fetchrow(key)
            return None if record is None else self._make(record)
        except BROKEN:
            pass
        except Exception as error:
            ours = translate(error)
            if ours is None or isinstance(ours, InvalidValue):
                raise (ours or error) from error
            link.statements.pop(sql, None)
        finally:
            postgres.give(link)
        records, _ = await postgres._run(Prepared(sql, [key], self._make, True))
        return self._make(records[0]) if records else None

    def _gather(self, key: Any) -> asyncio.Future[Any]:
        future = self._waiting.get(key)
        if future is None:
            loop = asyncio.get_running_loop()
            future = self._waiting[key] = loop.create_future()
            if not self._scheduled:
                self._scheduled = True
                loop.call_soon(self._depart)
        # Shielded: one reader who gives up must not take the row from the others who wait for the same key.
        return asyncio.shield(future)

    def _depart(self) -> None:
        waiting, self._waiting = self._waiting, {}
        self._scheduled = False
        self._gathering = len(waiting) > 1
        if not waiting:
            return
        self._under_way += 1
        task = asyncio.get_running_loop().create_task(self._travel(waiting))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _travel(self, waiting: dict[Any, asyncio.Future[Any]]) -> None:
        try:
            if len(waiting) == 1:
                ((key, future),) = waiting.items()
                value = await self._direct(key)
                if not future.done():
                    future.set_result(value)
                return
            await self._together(list(waiting), waiting)
        except InvalidValue:
            await self._each(waiting)  # one key that cannot be bound must not fail the others
        except BaseException as error:
            for future in waiting.values():
                if not future.done():
                    future.set_exception(error)
                    future.exception()  # seen: a reader that has gone must not leave a warning behind
            if not isinstance(error, Exception):
                raise
        finally:
            self._under_way -= 1

    async def _together(self, keys: list[Any], waiting: dict[Any, asyncio.Future[Any]]) -> None:
        make, key_of, postgres = self._make, self._key_of, self._postgres
        for start in range(0, len(keys), BATCH_MAX):
            part = keys[start : start + BATCH_MAX]
            prepared = Prepared(self._many, [part], make, True)
            link = postgres.take_now() or await postgres.take()
            try:
                records, _ = await run_on(link, prepared)
            except BROKEN:
                records = None
            finally:
                postgres.give(link)
            if records is None:
                records, _ = await postgres._run(prepared)
            for record in records:
                value = make(record)
                future = waiting.get(key_of(value))
                if future is not None and not future.done():
                    future.set_result(value)
            for key in part:
                future = waiting[key]
                if not future.done():
                    future.set_result(None)

    async def _each(self, waiting: dict[Any, asyncio.Future[Any]]) -> None:
        for key, future in waiting.items():
            if future.done():
                continue
            try:
                future.set_result(await self._direct(key))
            except Exception as error:
                future.set_exception(error)
                future.exception()
