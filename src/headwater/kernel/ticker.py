"""The ticker: the one process that tells the stream what has been committed since it told last.

Any number may run; an advisory lock on the direct DSN elects one, and another takes over when its connection goes. A
tick names the transactions that ended between two snapshots. It is taken by the very session that holds the lock, so
that two can never tell at once; and it is the only place that issues NOTIFY.

It asks often while something happens and seldom while nothing does: an unchanged snapshot is proof that no transaction
has ended, and asking for it costs next to nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections import deque
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import asyncpg

from headwater.kernel.postgres import Postgres
from headwater.kernel.queries import NamedQuery, Queries
from headwater.kernel.settings import Settings

QUERIES = Queries.load("headwater.kernel", "ticker.sql")

LOCK = 0x74_69_63_6B_68_77_31_00
"""The key of the advisory lock, one for each database."""

PERIOD_SECONDS_MIN = 0.0015
PERIOD_SECONDS_MAX = 0.04
ELECTION_SECONDS = 0.5
HOUSEKEEPING_SECONDS = 10.0
WATCHING_SECONDS = 1.0
"""How soon a partition attached to a tracked table is watched: until then TRUNCATE of it alone is not told."""
CHANGES_MAX = 20_000
"""Changes of one tick. One transaction is never divided, however many it has."""
PARTITIONS_AHEAD = 3
PARTITION_SIZE = 1_000_000
"""Ids after which the next partition is begun."""
PARTITION_IDS = 100_000_000_000
"""Ids a partition has room for, and so what writers may use without a ticker: half a year of 5,000 a second."""
_MARK_EVERY = 1_000


@dataclass(slots=True)
class TickerFigures:
    """What a ticker has done. `leading`: it is the elected one."""

    leading: bool = False
    epoch: int = 0
    position: int = 0
    ticks_total: int = 0
    elections_total: int = 0
    partitions_dropped_total: int = 0
    last_error: str = ""


class Ticker:
    """One candidate. `run` never returns by itself."""

    def __init__(
        self,
        settings: Settings,
        *,
        period_seconds_min: float = PERIOD_SECONDS_MIN,
        period_seconds_max: float = PERIOD_SECONDS_MAX,
        changes_max: int = CHANGES_MAX,
        partition_size: int = PARTITION_SIZE,
        housekeeping_seconds: float = HOUSEKEEPING_SECONDS,
    ) -> None:
        self.settings = settings
        self.figures = TickerFigures()
        self._period_min = period_seconds_min
        self._period_max = period_seconds_max
        self._changes_max = changes_max
        self._partition_size = partition_size
        self._housekeeping_seconds = housekeeping_seconds
        self._after_id = 0
        self._leads = asyncio.Event()

    async def leads(self) -> None:
        """Until it is elected."""
        await self._leads.wait()

    async def run(self) -> None:
        """Stand for election, tick while elected, and begin again when the connection breaks."""
        while True:
            try:
                connection = await self._connect("headwater ticker")
                try:
                    # The election is asked for again and again: PostgreSQL tells nobody when a lock becomes free.
                    while not await connection.fetchval("select pg_try_advisory_lock($1)", LOCK):  # noqa: ASYNC110
                        await asyncio.sleep(ELECTION_SECONDS * random.uniform(0.5, 1.0))  # noqa: S311  # jitter
                    await self._lead(connection)
                finally:
                    self.figures.leading = False
                    self._leads.clear()
                    connection.terminate()
            except Exception as error:  # whatever it was: nobody else would tell the stream; the figures say it
                self.figures.last_error = f"{type(error).__name__}: {error}"
                await asyncio.sleep(ELECTION_SECONDS * random.uniform(0.5, 1.0))  # noqa: S311  # jitter

    async def _connect(self, name: str) -> Any:
        """A connection of its own whose death the server notices soon."""
        connection = await asyncpg.connect(
            self.settings.direct,
            timeout=self.settings.connect_timeout_seconds,
            command_timeout=60,
            server_settings={
                "application_name": name,
                "statement_timeout": "0",
                "jit": "off",
                "enable_seqscan": "off",
                "plan_cache_mode": "force_generic_plan",  # to plan a tick anew costs more than to take it
                # A tick that a crash of the server takes along is taken again. See `Stream.settle`.
                "synchronous_commit": "off",
                "search_path": "pg_catalog",
                "tcp_keepalives_idle": "2",
                "tcp_keepalives_interval": "1",
                "tcp_keepalives_count": "2",
            },
        )
        # When this process is killed in the middle of a statement, the lock is free within a second.
        try:
            with contextlib.suppress(asyncpg.InvalidParameterValueError):
                await connection.execute("set client_connection_check_interval = '1s'")
        except BaseException:
            connection.terminate()
            raise
        return connection

    async def _lead(self, connection: Any) -> None:
        if await _value(connection, "identity_changed"):
            async with connection.transaction(isolation="repeatable_read"):
                await _value(connection, "begin_epoch")
        state = await connection.fetchrow(QUERIES["state"].sql)
        self._after_id = state["after_id"]
        self.figures.epoch = state["epoch"]
        self.figures.position = state["next_position"] - 1
        self.figures.elections_total += 1
        self.figures.leading = True
        self._leads.set()
        keeping = asyncio.create_task(self._keep_house())
        try:
            await self._tick(connection, state["epoch"], state["snapshot"], state["next_position"])
        finally:
            keeping.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await keeping

    async def _tick(self, connection: Any, epoch: int, previous: str, next_position: int) -> None:
        statement = await connection.prepare(QUERIES["take_tick"].sql)
        # (number of a transaction, id): whoever drew an id up to that one has a lower number.
        marks: deque[tuple[int, int]] = deque()
        period = self._period_min
        figures = self.figures
        while True:
            began = time.monotonic()
            row = await statement.fetchrow(epoch, previous, self._after_id, next_position, self._changes_max)
            if row["snapshot"] != previous:
                previous = row["snapshot"]
                while marks and marks[0][0] <= row["xmin"]:
                    self._after_id = max(self._after_id, marks.popleft()[1])
            if row["changes"]:
                next_position += row["changes"]
                figures.position = next_position - 1
                figures.ticks_total += 1
                if not marks or row["mark_id"] - marks[-1][1] >= _MARK_EVERY:
                    marks.append((row["mark_xid"], row["mark_id"]))
                period = self._period_min
            else:
                period = min(period * 1.3, self._period_max)
            await asyncio.sleep(max(period - (time.monotonic() - began), self._period_min / 2))

    # -- what is made ahead, and what may go -------------------------------------------------------------------------

    async def _keep_house(self) -> None:
        while True:
            try:
                connection = await self._connect("headwater housekeeping")
                try:
                    await connection.execute("set lock_timeout = '200ms'")
                    while True:
                        await self.keep_house(connection)
                        until = time.monotonic() + self._housekeeping_seconds
                        while (left := until - time.monotonic()) > 0:
                            await asyncio.sleep(min(left, WATCHING_SECONDS))
                            await _value(connection, "watch_partitions")
                finally:
                    connection.terminate()
            except Exception as error:  # a lock was not free, a connection broke: the next round tries again
                self.figures.last_error = f"{type(error).__name__}: {error}"
                await asyncio.sleep(1.0)

    async def keep_house(self, connection: Any) -> None:
        """Make partitions ahead, turn to the next, let laggards go, drop what all have passed and nobody audits."""
        await _value(connection, "make_partitions", ahead=PARTITIONS_AHEAD, ids=PARTITION_IDS)
        await _value(connection, "turn_partition", used=self._partition_size)
        await _value(connection, "watch_partitions")
        await connection.fetch(QUERIES["detach_laggards"].sql)
        passed = await _value(connection, "passed", after_id=self._after_id)
        age = self.settings.change_retention_days * 86_400
        lower = 0
        for name, pending, upper in await connection.fetch(QUERIES["partitions"].sql):
            if pending:  # an interrupted drop
                await connection.execute(_detach(name, "finalize"))
                await connection.execute(_drop(name))
                continue
            if upper - 1 > passed:
                break
            old = await _value(connection, "youngest", age_seconds=age, lower=lower, upper=upper)
            if old is False:
                break
            await connection.execute(_detach(name, "concurrently"))
            await connection.execute(_drop(name))
            query = QUERIES["forget_ticks"]
            await connection.execute(query.sql, *query.arguments({"below": upper}))
            self.figures.partitions_dropped_total += 1
            lower = upper


def _detach(partition: str, how: str) -> str:
    """`partition` was quoted by PostgreSQL. CONCURRENTLY waits for readers and makes no writer wait."""
    return f"alter table headwater.change detach partition {partition} {how}"


def _drop(partition: str) -> str:
    return f"drop table {partition}"


async def _value(connection: Any, name: str, **values: Any) -> Any:
    query: NamedQuery = QUERIES[name]
    return await connection.fetchval(query.sql, *query.arguments(values))


async def is_led(postgres: Postgres) -> bool:
    """Whether some process ticks for this database."""
    return bool(await postgres.fetch_value(QUERIES["is_led"], lock=LOCK))


@contextlib.asynccontextmanager
async def ticking(settings: Settings) -> AsyncIterator[Ticker]:
    """A ticker in this process, for as long as the block lasts."""
    ticker = Ticker(settings)
    task = asyncio.create_task(ticker.run())
    try:
        yield ticker
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
