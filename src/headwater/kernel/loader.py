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

import asyncpg

from headwater.kernel.errors import InvalidValue
from headwater.kernel.postgres import Postgres
from headwater.kernel.statements import Prepared
from headwater.kernel.translation import BROKEN, raise_translated

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
        self._waiting: _Waiting = {}
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

    async def _direct(self, key: Any) -> Any:
        postgres, sql = self._postgres, self._one
        link = postgres.take_now() or await postgres.take()
        try:
            statement = link.statements.get(sql) or await link.prepare(sql)
            record = await statement.fetchrow(key)
            return None if record is None else self._make(record)
        except asyncio.CancelledError:
            link.unsettled = True
            raise
        except BROKEN:
            link.connection.terminate()
            postgres.distrust_idle()
        except (asyncpg.InvalidCachedStatementError, asyncpg.OutdatedSchemaCacheError):
            link.statements.clear()
        except Exception as error:
            raise_translated(error)
        finally:
            postgres.give(link)
        records, _ = await postgres._run(Prepared(sql, [key], None, True))
        return self._make(records[0]) if records else None

    def _gather(self, key: Any) -> asyncio.Future[Any]:
        """A future of its own for each reader, so that one who gives up takes nothing from the others."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Any] = loop.create_future()
        readers = self._waiting.get(key)
        if readers is not None:
            readers.append(future)
            return future
        self._waiting[key] = [future]
        if not self._scheduled:
            self._scheduled = True
            loop.call_soon(self._depart)
        return future

    def _depart(self) -> None:
        waiting, self._waiting = self._waiting, {}
        self._scheduled = False
        self._gathering = len(waiting) > 1
        self._under_way += 1
        task = asyncio.get_running_loop().create_task(self._travel(waiting))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _travel(self, waiting: _Waiting) -> None:
        try:
            keys = list(waiting)
            for start in range(0, len(keys), BATCH_MAX):
                await self._together(keys[start : start + BATCH_MAX], waiting)
        except BaseException as error:
            for readers in waiting.values():
                _fail(readers, error)
            if not isinstance(error, Exception):
                raise
        finally:
            self._under_way -= 1

    async def _together(self, keys: list[Any], waiting: _Waiting) -> None:
        """One statement for these keys. A key that cannot be bound fails its own readers only: the keys are halved."""
        try:
            if len(keys) == 1:
                _deliver(waiting[keys[0]], await self._direct(keys[0]))
                return
            records, _ = await self._postgres._run(Prepared(self._many, [keys], None, True))
        except InvalidValue as wrong:
            if len(keys) == 1:
                _fail(waiting[keys[0]], wrong)
                return
            half = len(keys) // 2
            await self._together(keys[:half], waiting)
            await self._together(keys[half:], waiting)
            return
        make, key_of = self._make, self._key_of
        for record in records:
            value = make(record)
            readers = waiting.get(key_of(value))
            if readers is not None:
                _deliver(readers, value)
        for key in keys:
            _deliver(waiting[key], None)


_Waiting = dict[Any, list[asyncio.Future[Any]]]


def _deliver(readers: list[asyncio.Future[Any]], value: Any) -> None:
    for reader in readers:
        if not reader.done():
            reader.set_result(value)


def _fail(readers: list[asyncio.Future[Any]], error: BaseException) -> None:
    for reader in readers:
        if not reader.done():
            reader.set_exception(error)
            reader.exception()  # seen: a reader cancelled in this very turn must not leave a warning behind
