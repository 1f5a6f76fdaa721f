"""Changes: the stream read from a position on: every committed change once, in order, and proof that none is missing.

Positions have no gaps. `Stream.read` counts what it reads against what each tick says it holds, and raises StreamGap
when the two differ: a loss is found by whoever reads, not assumed away. A position carries its epoch; one of another
life of the database is refused with EpochChanged, and its holder begins again from a snapshot.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
from bisect import bisect_right
from collections.abc import AsyncIterator, Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from operator import itemgetter
from typing import Any, NamedTuple

import asyncpg
import msgspec

from headwater.kernel.errors import EpochChanged, InvalidValue, StreamGap
from headwater.kernel.models import Model
from headwater.kernel.postgres import Postgres, Runner
from headwater.kernel.queries import Queries
from headwater.kernel.settings import Settings
from headwater.kernel.tracking import table_name

QUERIES = Queries.load("headwater.kernel", "changes.sql")

CHANNEL = "headwater_tick"
"""On which the ticker tells that there is something new."""

POLL_SECONDS_MIN = 0.005
POLL_SECONDS_MAX = 0.05
LISTENING_POLL_SECONDS = 0.5

_LITTLE = 200
"""Changes that come together with their ticks, in one round trip. More are worth a plan of their own."""
_TICK = (
    "first_position",
    "changes",
    "snapshot",
    "xid_from",
    "xid_to",
    "finished",
    "after_id",
    "upto_id",
    "epoch_now",
    "goes_on",
)
_encode = msgspec.json.Encoder().encode


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
    """What follows `after`, up to `to`: whole transactions. `changes` are those that were asked for.

    `told_at` is when the last of it was told. `retold`: what was read up to `after` has been told anew since, and
    perhaps otherwise, because a crash of the server took a tick along: go back to the last position that was settled.
    """

    after: Position
    to: Position
    changes: tuple[Change, ...]
    told_at: datetime | None = None
    retold: bool = False


async def emit(tx: Runner, topic: str, key: Any, data: Any) -> None:
    """Write an event into the stream, in the transaction: it is told if and only if that commits."""
    await tx.execute(QUERIES["emit"], topic=topic, key=key, data=data)


def topic(name: str) -> str:
    """How the events of a topic are called among the tables."""
    return f"topic:{name}"


class Stream:
    """The change stream of a database, to be read by anybody at their own pace. Reading changes nothing."""

    def __init__(self, postgres: Postgres) -> None:
        self.postgres = postgres

    async def head(self) -> Position:
        """The last position that was told. Whoever keeps it elsewhere calls `settle` after."""
        row = await self.postgres.fetch_one(QUERIES["head"])
        return Position(row["epoch"], row["number"])

    async def read(
        self,
        after: Position,
        *,
        tables: Iterable[str | type[Model]] | None = None,
        limit: int = 1000,
        latest: bool = False,
        told_at: datetime | None = None,
    ) -> Batch:
        """What follows `after`: whole transactions, until there are `limit` changes or no more.

        `tables` (and topics, as "topic:name") choose what is delivered; positions count everything. With `latest` only
        the last change of each key comes with its content, and no other is delivered. Whoever comes with a
        position that was not settled says with `told_at` which batch it was the end of, and looks at `retold`. Raises
        StreamGap when something is missing, and EpochChanged when the database is not the one the position was of.
        """
        asked = None if tables is None else [table_name(table) for table in tables]
        for _ in range(2):
            rows = await self.postgres.fetch(
                QUERIES["read"],
                epoch=after.epoch,
                after=after.number,
                limit=limit,
                little=_LITTLE,
                tables=asked,
                told_at=told_at,
            )
            ticks = sorted((_tick(row) for row in rows if row["id"] is None), key=_FIRST)
            if ticks:
                if not ticks[0]["goes_on"]:
                    return Batch(after, after, (), retold=True)
                span = _Span(after, ticks)
                if span.told <= _LITTLE:
                    batch = span.batch([row for row in rows if row["id"] is not None])
                    return replace(batch, changes=_last_of_each(batch.changes)) if latest else batch
                query = QUERIES["latest_changes" if latest else "changes"]
                return span.batch(await self.postgres.fetch(query, tables=asked, **span.bounds))
            last = await self.postgres.fetch_one(QUERIES["head"])
            head = Position(last["epoch"], last["number"])
            if head.epoch == after.epoch and told_at is not None and head <= after and last["at"] != told_at:
                return Batch(after, after, (), retold=True)
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

    async def settle(self, batch: Batch | None = None) -> bool:
        """Wait until everything that was told so far would survive a crash of the server.

        Ticks are committed without waiting for the disk; only the changes themselves are always there. What stands
        in PostgreSQL comes after the ticks it was made of, and needs no such wait. Whoever keeps a position elsewhere
        must call this before: else, after a crash, the same position could be told again of other changes. False when
        that has happened to the end of the batch already, since it was read.
        """
        told_at = None if batch is None else batch.told_at
        to = Position(0, 0) if batch is None else batch.to
        return bool(
            await self.postgres.fetch_value(QUERIES["settle"], epoch=to.epoch, number=to.number, told_at=told_at)
        )

    async def tail(
        self,
        after: Position | None = None,
        *,
        tables: Iterable[str | type[Model]] | None = None,
        limit: int = 1000,
        bell: Bell | None = None,
    ) -> AsyncIterator[Batch]:
        """Batch after batch, for ever; each has changes that were asked for. Without `after`: from now on.

        Positions that come from here may be kept anywhere: they were settled.
        """
        asked = None if tables is None else [table_name(table) for table in tables]
        at = after
        if at is None:
            at = await self.head()
            await self.settle()
        settled, told_at = at, None
        pause = POLL_SECONDS_MIN
        while True:
            batch = await self.read(at, tables=asked, limit=limit, told_at=told_at)
            if batch.retold:
                at, told_at = settled, None
                continue
            if batch.to != at:
                at, told_at, pause = batch.to, batch.told_at, POLL_SECONDS_MIN
                if batch.changes:
                    if not await self.settle(batch):
                        at, told_at = settled, None
                        continue
                    settled = at
                    yield batch
                continue
            if bell is not None:
                await bell.wait(pause)
            else:
                await asyncio.sleep(pause)
            pause = min(pause * 1.5, POLL_SECONDS_MAX)


def _tick(row: Any) -> dict[str, Any]:
    return dict(zip(_TICK, row["content"], strict=True)) | {"at": row["at"]}


def _last_of_each(changes: Sequence[Change]) -> tuple[Change, ...]:
    """The last change of each key, in order: what a large batch is asked for, of a small one that came whole."""
    last = {(change.table, _encode(change.key)): change for change in changes}
    return tuple(sorted(last.values(), key=_POSITION))


class _Span:
    """Consecutive ticks: what to ask for, which change is of which tick, and whether all are there."""

    def __init__(self, after: Position, ticks: Sequence[Any]) -> None:
        if ticks[0]["epoch_now"] != after.epoch:
            raise _epoch_changed(after, ticks[0]["epoch_now"])
        following = after.number + 1
        for number, tick in enumerate(ticks):
            first = tick["first_position"]
            if first != following and (number or first > following):
                raise _gap(after, following, first)
            following = first + tick["changes"]
        self.after = after
        self.told = following - ticks[0]["first_position"]
        self._ticks = ticks
        # Which tick a transaction is of: those that had been open are named, the others lie between two snapshots.
        # A tick of a backlog has named all of its transactions and has nothing between.
        self._named = {xid: number for number, tick in enumerate(ticks) for xid in tick["finished"]}
        ranged = [number for number, tick in enumerate(ticks) if tick["xid_from"] != tick["xid_to"]]
        self._ranged = ranged
        self._ends = [ticks[number]["xid_to"] for number in ranged]
        last = ticks[ranged[-1]] if ranged else ticks[-1]
        self.bounds = {
            "after_id": min(tick["after_id"] for tick in ticks),
            "upto_id": max(tick["upto_id"] for tick in ticks),
            "xid_from": ticks[ranged[0]]["xid_from"] if ranged else 0,
            "xid_to": last["xid_to"] if ranged else 0,
            "snapshot": last["snapshot"],
            "finished": list(self._named),
        }

    def batch(self, rows: Sequence[Any]) -> Batch:
        """The changes in order, once every tick was found to hold what it says. Raises StreamGap."""
        collecting = gc.isenabled()
        gc.disable()  # nothing of what is made here is garbage, and to look for some would cost a tenth
        try:
            return self._in_order(rows)
        finally:
            if collecting:
                gc.enable()

    def _in_order(self, rows: Sequence[Any]) -> Batch:
        transactions: dict[int, list[Any]] = {}
        for row in sorted(rows, key=_ID):
            of = transactions.get(row[1])
            if of is None:
                transactions[row[1]] = [row]
            else:
                of.append(row)
        together: list[list[list[Any]]] = [[] for _ in self._ticks]
        for xid, of in transactions.items():
            number = self._named.get(xid)
            if number is None:
                place = bisect_right(self._ends, xid)
                number = self._ranged[place] if place < len(self._ranged) else -1
            together[number].append(of)
        epoch, seen = self.after
        changes: list[Change] = []
        add, new = changes.append, tuple.__new__
        for tick, transactions_of in zip(self._ticks, together, strict=True):
            number = tick["first_position"]
            expected = number + tick["changes"]
            if len(transactions_of) > 1:
                transactions_of.sort(key=_last_id)
            for of in transactions_of:
                for _, xid, table, op, at, content in of:
                    if content is not None and number > seen:
                        key, after, before, context = content
                        position = new(Position, (epoch, number))
                        add(new(Change, (position, table, op, key, after, before, at, xid, context)))
                    number += 1
            if number != expected:
                raise _gap(self.after, number, expected)
        return Batch(self.after, Position(epoch, expected - 1), tuple(changes), self._ticks[-1]["at"])


_ID = _POSITION = itemgetter(0)
_FIRST = itemgetter("first_position")


def _last_id(rows: list[Any]) -> Any:
    return rows[-1][0]


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
