"""Followers: whoever keeps something equal to the truth, by applying the stream at their own pace.

A follower reads the stream and hands it to its sink. The sink holds the checkpoint and moves it together with what it
applies, comparing it first: of two that follow at once, or one that was thought dead, the slower is refused (fenced),
so that each change takes effect once. A new or lost follower begins from a snapshot while writes go on; a change that
cannot be applied is tried again, and then laid aside with everything of its key, while all other keys go on.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal, Protocol

import msgspec

from headwater.kernel.changes import POLL_SECONDS_MAX, POLL_SECONDS_MIN, Batch, Bell, Change, Position, Stream
from headwater.kernel.errors import (
    EpochChanged,
    HeadwaterError,
    NotFound,
    StreamGap,
    TransientError,
    UnavailableError,
)
from headwater.kernel.models import Model
from headwater.kernel.postgres import Postgres
from headwater.kernel.queries import Queries
from headwater.kernel.snapshots import Snapshot, parse, seen
from headwater.kernel.tracking import table_name
from headwater.kernel.transaction import Transaction, transaction

QUERIES = Queries.load("headwater.kernel", "followers.sql")

REPORT_SECONDS = 0.1
"""How often a checkpoint is shown, or moved past what did not concern the follower."""
_ROWS_OF_A_PART = 1000
_encode = msgspec.json.Encoder().encode

Apply = Callable[[Transaction, Sequence[Change]], Awaitable[None]]
Delivery = Literal["each", "latest"]

_BEHIND: dict[Delivery, int] = {"each": 10, "latest": 100}
"""How many times its batch a follower takes at once while it is behind: more where most of it is passed over."""

_PASSING = (TransientError, UnavailableError, OSError, TimeoutError)
"""What says nothing against the change itself: it is tried again until it goes."""


class Sink(Protocol):
    """Where a follower keeps what it makes of the stream, and its checkpoint beside it."""

    async def position(self) -> Position | None:
        """The checkpoint; None when there is nothing yet."""

    async def apply(self, after: Position, to: Position, changes: Sequence[Change]) -> bool:
        """Apply the changes and move the checkpoint from `after` to `to`, both or neither.

        False when the checkpoint is not at `after`: somebody else has moved it, and nothing was applied.
        """

    async def begin(self, at: Position, rows: AsyncIterator[Sequence[Change]]) -> None:
        """Replace everything by these rows (each as an insert), and set the checkpoint."""


class PostgresSink:
    """A sink in the database itself: what is applied and the checkpoint commit together. Each change once."""

    def __init__(self, postgres: Postgres, name: str, apply: Apply, clear: Callable[[Transaction], Awaitable[None]]):
        self.postgres = postgres
        self.name = name
        self._apply = apply
        self._clear = clear

    async def position(self) -> Position | None:
        """The checkpoint in `headwater.follower`."""
        row = await self.postgres.fetch_one(QUERIES["checkpoint"], name=self.name)
        return None if row is None or row["state"] != "following" else Position(row["epoch"], row["position"])

    async def apply(self, after: Position, to: Position, changes: Sequence[Change], batch: Batch | None = None) -> bool:
        """In one transaction, the checkpoint first: who comes second waits there, and is refused.

        So is a `batch` whose end has been told anew, after a crash of the server.
        """
        async with transaction(self.postgres) as tx:
            moved = await tx.execute(QUERIES["move"], name=self.name, **_moving(after, to, batch))
            if moved and changes:
                await self._apply(tx, changes)
        return bool(moved)

    async def begin(self, at: Position, rows: AsyncIterator[Sequence[Change]]) -> None:
        """All rows in one transaction: who reads meanwhile sees what was there before."""
        async with transaction(self.postgres) as tx:
            await self._clear(tx)
            async for part in rows:
                await self._apply(tx, part)
            await tx.execute(QUERIES["end_bootstrap"], name=self.name)


class CallingSink:
    """A sink that is a function: called with the changes, then the checkpoint moves. Each change at least once."""

    def __init__(self, postgres: Postgres, name: str, call: Callable[[Sequence[Change]], Awaitable[None]]) -> None:
        self._checkpoint = PostgresSink(postgres, name, _nothing, _nothing_to_clear)
        self._call = call

    async def position(self) -> Position | None:
        """The checkpoint in `headwater.follower`."""
        return await self._checkpoint.position()

    async def apply(self, after: Position, to: Position, changes: Sequence[Change], batch: Batch | None = None) -> bool:
        """Call, then move the checkpoint: a crash in between calls again, and so does one of the server right after."""
        if changes:
            await self._call(changes)
        sink = self._checkpoint
        moved = await sink.postgres.execute(QUERIES["move_lightly"], name=sink.name, **_moving(after, to, batch))
        return bool(moved)

    async def begin(self, at: Position, rows: AsyncIterator[Sequence[Change]]) -> None:
        """Call with every row."""
        async for part in rows:
            await self._call(part)


def _moving(after: Position, to: Position, batch: Batch | None) -> dict[str, Any]:
    told_at = None if batch is None else batch.told_at
    told = 0 if batch is None else batch.to.number
    return {"epoch": after.epoch, "after": after.number, "to": to.number, "told": told, "told_at": told_at}


async def _nothing(_tx: Transaction, _changes: Sequence[Change]) -> None:
    """A checkpoint alone applies nothing."""


async def _nothing_to_clear(_tx: Transaction) -> None:
    """A function holds nothing that could be cleared."""


@dataclass(frozen=True, slots=True)
class Standing:
    """How a follower stands. Lag is what was told and not applied yet."""

    name: str
    state: str
    required: bool
    epoch: int
    position: int
    error: str | None
    lag_seconds_max: float | None
    lag_changes: int
    lag_seconds: float
    parked_changes: int
    parked_keys: int


@dataclass(frozen=True, slots=True)
class Parked:
    """A change that a follower has laid aside."""

    follower: str
    epoch: int
    position: int
    name: str
    key: Any
    attempts: int
    error: str
    parked_at: datetime


async def standings(postgres: Postgres) -> list[Standing]:
    """Every follower the database knows, by name."""
    return await postgres.fetch(QUERIES["standing"], into=Standing)


async def parked(postgres: Postgres, *, limit: int = 1000) -> list[Parked]:
    """What followers have laid aside, oldest first."""
    return await postgres.fetch(QUERIES["parked"], into=Parked, limit=limit)


async def retry_parked(postgres: Postgres, follower: str, key: str | None = None) -> int:
    """Ask a follower to try its parked changes again (of one key, as text); how many."""
    return await postgres.execute(QUERIES["ask_to_retry"], follower=follower, key=key)


async def drop_parked(postgres: Postgres, follower: str, key: str | None = None) -> int:
    """Give up parked changes (of one key, as text); how many."""
    return await postgres.execute(QUERIES["drop_parked"], follower=follower, key=key)


async def replay(postgres: Postgres, follower: str, after: Position | None = None) -> None:
    """Let a follower begin again: from a snapshot, or after an earlier position that its checkpoint here has passed.

    Raises NotFound when there is no such follower, or it is not past that position.
    """
    moved = await postgres.execute(
        QUERIES["replay"],
        name=follower,
        epoch=None if after is None else after.epoch,
        position=None if after is None else after.number,
    )
    if not moved:
        raise NotFound(
            f"There is no follower '{follower}'" + (f" past {after}." if after else "."),
            remedy="`headwater stream status` lists them.",
        )


class Follower:
    """One follower: a name, a sink, and the loop between the stream and it.

    `tables`: what it follows (default: everything). `delivery="latest"` gives only the last change of each key in a
    batch: `i` and `u` then both mean "this is the row now". A follower that is not `required` holds no history back;
    with `lag_seconds_max` it is detached when it falls further behind. Both begin again from a snapshot.
    `batch`: about so many changes are read and applied at once, and ten times as many while it is behind.
    """

    def __init__(
        self,
        postgres: Postgres,
        name: str,
        sink: Sink,
        *,
        tables: Iterable[str | type[Model]] | None = None,
        delivery: Delivery = "each",
        required: bool = True,
        lag_seconds_max: float | None = None,
        batch: int = 500,
        attempts_max: int = 4,
        retry_seconds: float = 0.05,
    ) -> None:
        self.postgres = postgres
        self.stream = Stream(postgres)
        self.name = name
        self.sink = sink
        self.tables = None if tables is None else [table_name(table) for table in tables]
        self._delivery = delivery
        self._required = required
        self._lag_seconds_max = lag_seconds_max
        self._batch = batch
        self._attempts_max = attempts_max
        self._retry_seconds = retry_seconds
        self._foreign = not isinstance(sink, (PostgresSink, CallingSink))
        self._at: Position | None = None  # the checkpoint
        self._read = Position(0, 0)  # what was read; between the two is nothing that concerns this follower
        self._told_at: datetime | None = None  # of the tick that it ends with: a crash may take that along
        self._skip: Snapshot | None = None  # what a bootstrap has brought already
        self._held: set[tuple[str, bytes]] = set()  # keys that are parked
        self._behind = False
        self._reported = 0.0

    async def run(self, bell: Bell | None = None) -> None:
        """Follow for ever. Stores that are away are waited for; what went wrong stands in the status."""
        pause = POLL_SECONDS_MIN
        trouble = 0.1
        while True:
            try:
                moved = await self.step()
                trouble = 0.1
            except Exception as error:  # told in the status, and tried again: a follower has nobody to raise to
                self._at = None
                await self._tell_trouble(error)
                await asyncio.sleep(trouble)
                trouble = min(trouble * 2, 5.0)
                continue
            if moved:
                pause = POLL_SECONDS_MIN
                continue
            if bell is not None:
                await bell.wait(pause)
            else:
                await asyncio.sleep(pause)
            pause = min(pause * 1.5, POLL_SECONDS_MAX)

    async def step(self) -> bool:
        """One batch, a bootstrap, or what was asked to be tried again. False when there was nothing to do."""
        at = self._at or await self._start()
        if self._held and await self._retry_asked(at):
            return True
        try:
            batch = await self.stream.read(
                self._read,
                tables=self.tables,
                limit=self._batch * (_BEHIND[self._delivery] if self._behind else 1),
                latest=self._delivery == "latest",
                told_at=self._told_at,
            )
        except (StreamGap, EpochChanged):
            await self.bootstrap()
            return True
        if batch.retold:  # what was passed over since the checkpoint may be something else now
            self._at = None
            return True
        if batch.to == self._read:
            if at != self._read:
                await self._apply(at, self._read, (), Batch(at, self._read, (), self._told_at))
            else:
                await self._report(at)
            return False
        self._behind = batch.to.number - batch.after.number >= self._batch
        changes: Sequence[Change] = batch.changes
        if self._skip is not None:
            changes = [change for change in changes if not seen(change.xid, self._skip)]
        if self._delivery == "latest":
            changes = latest(changes)
        changes = await self._without_parked(changes)
        if changes or asyncio.get_running_loop().time() - self._reported >= REPORT_SECONDS:
            await self._apply(at, batch.to, changes, batch)
            if self._at is None:
                return True
            await self._report(self._at)
        self._read, self._told_at = batch.to, batch.told_at
        return True

    async def _register(self) -> None:
        await self.postgres.execute(
            QUERIES["register"], name=self.name, required=self._required, lag_seconds_max=self._lag_seconds_max
        )

    async def _start(self) -> Position:
        await self._register()
        row = await self.postgres.fetch_one(QUERIES["checkpoint"], name=self.name)
        at = await self.sink.position() if row["state"] == "following" else None
        if at is None:
            return await self.bootstrap()
        await self._read_parked()
        self._skip = parse(row["skip"]) if row["skip"] else None
        self._at = self._read = at
        self._told_at = None
        return at

    # -- applying, and what cannot be applied ------------------------------------------------------------------------

    async def _apply(self, after: Position, to: Position, changes: Sequence[Change], batch: Batch) -> None:
        """Apply, again after a pause, then in halves until what fails stands alone: that one is parked."""
        attempts = self._attempts_max if len(changes) else 1
        if self._foreign and not await self.stream.settle(batch):  # a checkpoint must not outlive what it counts
            self._at = None
            return
        for attempt in range(1, attempts + 1):
            try:
                sink = self.sink
                if isinstance(sink, (PostgresSink, CallingSink)):
                    moved = await sink.apply(after, to, changes, batch)
                else:
                    moved = await sink.apply(after, to, changes)
                if not moved:
                    self._at = None  # fenced: the checkpoint is asked for again
                    return
                self._at = to
                return
            except _PASSING:
                raise
            except Exception as error:
                if not changes:
                    raise
                reason = error
                if attempt < attempts:
                    await asyncio.sleep(self._retry_seconds * 2**attempt)
        if len(changes) == 1:
            await self._park(changes[0], attempts, f"{type(reason).__name__}: {reason}")
            await self._apply(after, to, (), batch)
            return
        half = len(changes) // 2
        first, rest = changes[:half], changes[half:]
        middle = first[-1].position
        await self._apply(after, middle, first, batch)
        if self._at == middle:
            await self._apply(middle, to, await self._without_parked(rest), batch)

    async def _park(self, change: Change, attempts: int, error: str) -> None:
        await self.postgres.execute(
            QUERIES["park"],
            follower=self.name,
            epoch=change.position.epoch,
            position=change.position.number,
            name=change.table,
            key=change.key,
            change=_stored(change),
            attempts=attempts,
            error=error[:2000],
        )
        self._held.add((change.table, _encode(change.key)))

    async def _read_parked(self) -> None:
        rows = await self.postgres.fetch(QUERIES["parked_keys"], follower=self.name)
        self._held = {(row["name"], _encode(row["key"])) for row in rows}

    async def _without_parked(self, changes: Sequence[Change]) -> Sequence[Change]:
        """The changes of keys that go on; those of parked keys are laid with them.

        Whoever else follows under this name and parks a key has moved the checkpoint: this one is refused then, and
        learns of it when it starts again.
        """
        if not changes or not self._held:
            return changes
        await self._read_parked()  # somebody may have given some up
        going: list[Change] = []
        for change in changes:
            if (change.table, _encode(change.key)) in self._held:
                await self._park(change, 0, "It waits for an earlier change of its key.")
            else:
                going.append(change)
        return going

    async def _retry_asked(self, at: Position) -> bool:
        rows = await self.postgres.fetch(QUERIES["to_retry"], follower=self.name)
        keys: dict[tuple[str, bytes], list[Any]] = {}
        for row in rows:
            keys.setdefault((row["name"], _encode(row["key"])), []).append(row)
        for of_key in keys.values():
            name, key, last = of_key[0]["name"], of_key[0]["key"], of_key[-1]
            changes = [_restored(row) for row in of_key]
            try:
                if not await self.sink.apply(at, at, latest(changes) if self._delivery == "latest" else changes):
                    self._at = None
                    return True
            except _PASSING:
                raise
            except Exception as error:  # it stays parked, and says why
                await self.postgres.execute(
                    QUERIES["still_failing"],
                    follower=self.name,
                    name=name,
                    key=key,
                    error=f"{type(error).__name__}: {error}"[:2000],
                )
                continue
            await self.postgres.execute(
                QUERIES["unpark"],
                follower=self.name,
                name=name,
                key=key,
                epoch=last["epoch"],
                position=last["position"],
            )
        return bool(keys)

    # -- the beginning -----------------------------------------------------------------------------------------------

    async def bootstrap(self) -> Position:
        """Begin from a snapshot, while writes go on: its rows, then the changes that it does not see."""
        await self._register()
        async with transaction(self.postgres, isolation="repeatable read", read_only=True) as snapshot:
            await snapshot.execute(QUERIES["alone"], name=self.name)
            start = await snapshot.fetch_one(QUERIES["snapshot"])
            at = Position(start["epoch"], start["position"])
            await self.postgres.execute(
                QUERIES["begin_bootstrap"], name=self.name, epoch=at.epoch, position=at.number, skip=start["snapshot"]
            )
            if self._foreign:
                await self.stream.settle()
            await self.sink.begin(at, self._rows(snapshot, at))
            await self.postgres.execute(QUERIES["forget_parked"], follower=self.name)
            await self.postgres.execute(QUERIES["end_bootstrap"], name=self.name)
        self._held = set()
        self._at = self._read = at
        self._told_at = None
        self._skip = parse(start["snapshot"])
        return at

    async def _rows(self, snapshot: Transaction, at: Position) -> AsyncIterator[Sequence[Change]]:
        tracked = {row["name"] for row in await snapshot.fetch(QUERIES["tracked_tables"])}
        wanted = sorted(tracked) if self.tables is None else [name for name in self.tables if name in tracked]
        now = await snapshot.connection.fetchval("select now()")
        query = QUERIES["rows_of"]
        for name in wanted:
            part: list[Change] = []
            async for row in snapshot.connection.cursor(query.sql, *query.arguments({"name": name}), prefetch=1000):
                part.append(Change(at, name, "i", row["key"], row["row"], None, now, 0, None))
                if len(part) >= _ROWS_OF_A_PART:
                    yield part
                    part = []
            if part:
                yield part

    # -- telling -----------------------------------------------------------------------------------------------------

    async def _report(self, at: Position) -> None:
        """What `headwater.follower` shows; a sink in PostgreSQL has written it already."""
        now = asyncio.get_running_loop().time()
        if now - self._reported >= REPORT_SECONDS:
            self._reported = now
            if self._foreign:
                await self.postgres.execute(QUERIES["report"], name=self.name, epoch=at.epoch, position=at.number)

    async def _tell_trouble(self, error: Exception) -> None:
        words = str(error) if isinstance(error, HeadwaterError) else f"{type(error).__name__}: {error}"
        with contextlib.suppress(HeadwaterError):  # the database itself may be what is away
            await self.postgres.execute(QUERIES["trouble"], name=self.name, error=words[:2000])


@contextlib.asynccontextmanager
async def following(*followers: Follower) -> AsyncIterator[None]:
    """Run followers for as long as the block lasts, on one bell."""
    async with Bell.listen(followers[0].postgres.settings) as bell:
        bells = [Bell() for _ in followers]
        tasks = [asyncio.create_task(f.run(b)) for f, b in zip(followers, bells, strict=True)]

        async def spread() -> None:
            while True:
                for one in bells:
                    one.listening = bell.listening
                await bell.wait(POLL_SECONDS_MAX)
                for one in bells:
                    one.ring()

        tasks.append(asyncio.create_task(spread()))
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


def latest(changes: Sequence[Change]) -> list[Change]:
    """Only the last change of each key; a table that was emptied takes everything before it along."""
    last: dict[tuple[str, bytes], Change] = {}
    for change in changes:
        if change.op == "t":
            for known in [k for k in last if k[0] == change.table]:
                del last[known]
        key = (change.table, _encode(change.key))
        last.pop(key, None)  # so that the order is that of the last changes
        last[key] = change
    return list(last.values())


def _stored(change: Change) -> dict[str, Any]:
    return {
        "op": change.op,
        "new": change.new,
        "old": change.old,
        "at": change.at.isoformat(),
        "xid": change.xid,
        "context": change.context,
    }


def _restored(row: Any) -> Change:
    kept = row["change"]
    return Change(
        Position(row["epoch"], row["position"]),
        row["name"],
        kept["op"],
        row["key"],
        kept["new"],
        kept["old"],
        datetime.fromisoformat(kept["at"]),
        kept["xid"],
        kept["context"],
    )
