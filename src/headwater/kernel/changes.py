"""Changes: the stream read from a position on: every committed change once, in order, and proof that none is missing.

Positions have no gaps. `Stream.read` counts what it reads against what each tick says it holds, and raises StreamGap
when the two differ: a loss is found by whoever reads, not assumed away. A position carries its epoch; one of another
life of the database is refused with EpochChanged, and its holder begins again from a snapshot.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple

import asyncpg

from headwater.kernel.errors import EpochChanged, InvalidValue, StreamGap
from headwater.kernel.models import Model
from headwater.kernel.postgres import Postgres, Runner
from headwater.kernel.queries import Queries
from headwater.kernel.settings import Settings

QUERIES = Queries.load("headwater.kernel", "changes.sql")

CHANNEL = "headwater_tick"
"""On which the ticker tells that there is something new."""

POLL_SECONDS_MIN = 0.005
POLL_SECONDS_MAX = 0.05
LISTENING_POLL_SECONDS = 0.5


class Position(NamedTuple):
    """A place in the stream: everything up to the change `number` of `epoch`. As text: `epoch.number`."""

    epoch: int
    number: int

    def __str__(self) -> str:
        return f"{self.epoch}.{self.number}"

    @classmethod
    def parse(cls, text: str) -> Position:
        """From its text. Raises InvalidValue."""
        epoch, dot, number = text.partition(".")
        if not (dot and epoch.isascii() and epoch.isdecimal() and number.isascii() and number.isdecimal()):
            raise InvalidValue(f"'{text}' is not a position of the stream.", remedy="Write epoch.number, as in 1.4711.")
        return cls(int(epoch), int(number))


class Change(NamedTuple):
    """One change, or one event. `op` is i, u, d, t (the table was emptied) or e (an event; `table` is "topic:name").

    `key` names the row; `new` and `old` are the row after and before, as the table's policy tells it.
    """

    position: Position
    table: str
    op: str
    key: Any
    new: Any
    old: Any
    at: datetime
    xid: int
    context: Any


@dataclass(frozen=True, slots=True)
class Batch:
    """What follows `after`, up to `to`: whole transactions. `changes` are those that were asked for."""

    after: Position
    to: Position
    changes: tuple[Change, ...]
    told_at: datetime | None = None


async def emit(tx: Runner, topic: str, key: Any, data: Any) -> None:
    """Write an event into the stream, in the transaction: it is told if and only if that commits."""
    await tx.execute(QUERIES["emit"], topic=topic, key=key, data=data)


def topic(name: str) -> str:
    """How the events of a topic are called among the tables."""
    return f"topic:{name}"


def table_name(table: str | type[Model]) -> str:
    """The name of a table as the stream tells it: with its schema."""
    if isinstance(table, str):
        return table
    known: Any = table.__table__
    return f"{known.schema or 'public'}.{known.name}"


class Stream:
    """The change stream of a database, to be read by anybody at their own pace. Reading changes nothing."""

    def __init__(self, postgres: Postgres) -> None:
        self.postgres = postgres

    async def head(self) -> Position:
        """The last position that was told."""
        row = await self.postgres.fetch_one(QUERIES["head"])
        return Position(row["epoch"], row["number"])

    async def read(
        self,
        after: Position,
        *,
        tables: Iterable[str | type[Model]] | None = None,
        limit: int = 1000,
    ) -> Batch:
        """What follows `after`: whole transactions, until there are `limit` changes or no more.

        `tables` (and topics, as "topic:name") choose what is delivered; positions count everything. Raises StreamGap
        when something is missing, and EpochChanged when the database is not the one the position was of.
        """
        asked = None if tables is None else [table_name(table) for table in tables]
        for _ in range(2):
            rows = await self.postgres.fetch(
                QUERIES["read"], epoch=after.epoch, after=after.number, limit=limit, tables=asked
            )
            if rows:
                return _checked(after, rows)
            head = await self.head()
            if head.epoch != after.epoch or head.number < after.number:
                raise _epoch_changed(after, head.epoch)
            if head == after:
                break
        else:
            raise StreamGap(
                f"Nothing is told after {after}, but the stream is at {head}.",
                remedy="Begin again from a snapshot.",
                position=str(after),
            )
        return Batch(after, after, ())

    async def tail(
        self,
        after: Position | None = None,
        *,
        tables: Iterable[str | type[Model]] | None = None,
        limit: int = 1000,
        bell: Bell | None = None,
    ) -> AsyncIterator[Batch]:
        """Batch after batch, for ever; each has changes that were asked for. Without `after`: from now on."""
        asked = None if tables is None else [table_name(table) for table in tables]
        at = await self.head() if after is None else after
        pause = POLL_SECONDS_MIN
        while True:
            batch = await self.read(at, tables=asked, limit=limit)
            if batch.to != at:
                at, pause = batch.to, POLL_SECONDS_MIN
                if batch.changes:
                    yield batch
                continue
            if bell is not None:
                await bell.wait(pause)
            else:
                await asyncio.sleep(pause)
            pause = min(pause * 1.5, POLL_SECONDS_MAX)


def _checked(after: Position, rows: Sequence[Any]) -> Batch:
    """The rows as a batch, once every tick was found to hold what it says and to follow the one before."""
    if rows[0]["epoch_now"] != after.epoch:
        raise _epoch_changed(after, rows[0]["epoch_now"])
    epoch, seen = after
    changes: list[Change] = []
    first, expected, number = -1, -1, -1
    next_first = None
    for row in rows:
        begins = row["first_position"]
        if begins != first:
            if (next_first is None and begins > seen + 1) or (next_first is not None and begins != next_first):
                raise _gap(after, next_first or seen + 1, begins)
            if number != expected:
                raise _gap(after, number, expected)
            first, number, expected = begins, begins, begins + row["changes"]
            next_first = expected
        if row["id"] is None:
            continue
        if row["asked"] and number > seen:
            changes.append(
                Change(
                    Position(epoch, number),
                    row["table"],
                    row["op"],
                    row["key"],
                    row["new"],
                    row["old"],
                    row["at"],
                    row["xid"],
                    row["context"],
                )
            )
        number += 1
    if number != expected:
        raise _gap(after, number, expected)
    return Batch(after, Position(epoch, expected - 1), tuple(changes), rows[-1]["told_at"])


def _gap(after: Position, found: int, expected: int) -> StreamGap:
    return StreamGap(
        f"The stream after {after} is not whole: {expected} was expected where {found} is.",
        remedy="Begin again from a snapshot; if no partition was dropped, report this.",
        position=str(after),
    )


def _epoch_changed(after: Position, epoch: int) -> EpochChanged:
    return EpochChanged(
        f"The position {after} is not of this life of the database, whose epoch is {epoch}.",
        remedy="Begin again from a snapshot: the database was restored, promoted or copied.",
        position=str(after),
        epoch=epoch,
    )


class Bell:
    """Rings when the ticker has told something. Where LISTEN is not possible it never rings, and polling is enough."""

    def __init__(self) -> None:
        self.listening = False
        self._rung = asyncio.Event()

    async def wait(self, pause_seconds: float) -> None:
        """Until it rings, or for the pause (longer while somebody listens: it is a net then)."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LISTENING_POLL_SECONDS if self.listening else pause_seconds):
                await self._rung.wait()
        self._rung.clear()

    def ring(self, *_: object) -> None:
        """Wake who waits."""
        self._rung.set()

    @classmethod
    @contextlib.asynccontextmanager
    async def listen(cls, settings: Settings) -> AsyncIterator[Bell]:
        """A bell on a connection of its own, made again when it breaks; a pooler without a direct DSN has none."""
        bell = cls()
        if settings.pooled and not settings.direct_url:
            yield bell
            return
        task = asyncio.create_task(bell._keep(settings))
        try:
            yield bell
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

    async def _keep(self, settings: Settings) -> None:
        while True:
            with contextlib.suppress(Exception):  # polling goes on meanwhile, and the next round tries again
                connection = await asyncpg.connect(
                    settings.direct,
                    timeout=settings.connect_timeout_seconds,
                    server_settings={"application_name": "headwater bell"},
                )
                try:
                    gone = asyncio.Event()
                    connection.add_termination_listener(lambda _, gone=gone: gone.set())
                    await connection.add_listener(CHANNEL, self.ring)
                    self.listening = True
                    self.ring()
                    await gone.wait()
                finally:
                    self.listening = False
                    connection.terminate()
            await asyncio.sleep(0.5)
