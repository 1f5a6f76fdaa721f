"""The stream checker: random transactions on one side, what the stream told on the other, and whether the two agree.

The oracle is what the writers know of their own transactions: each writes its name into the context, keeps what it did,
and hands it over when its commit is done. Rows carry a counter, so that the order of the changes of a row is known.

    python -m tests.kernel.stream_checker SECONDS [SEED]

runs it long, on a server of its own, with tickers in processes of their own that are killed all the time.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import random
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import asyncpg

TABLES = """
create schema checked;
create table checked.row (id bigint primary key, n bigint not null);
create table checked.part (place int, id bigint, n bigint not null, primary key (place, id)) partition by list (place);
create table checked.part_1 partition of checked.part for values in (1);
create table checked.part_2 partition of checked.part for values in (2);
create table checked.bin (id bigint primary key, n bigint not null);
select headwater.track('checked.row', 'full'), headwater.track('checked.part', 'full'),
       headwater.track('checked.bin', 'full');
insert into checked.row select i, 0 from generate_series(1, 30) i;
"""

Told = tuple[str, Any, str, Any]
"""Table, key, op and counter of one change."""


@dataclass
class Oracle:
    """What the writers did: the changes of each committed transaction, and the names of those that were not."""

    committed: dict[str, list[Told]] = field(default_factory=dict)
    aborted: set[str] = field(default_factory=set)


@dataclass
class Findings:
    """What a reader did wrong. All 0: it told every committed change once, whole and in order."""

    told: int = 0
    lost: int = 0
    duplicated: int = 0
    inverted: int = 0
    split: int = 0
    gapped: int = 0
    phantom: int = 0

    @property
    def clean(self) -> bool:
        return not (self.lost or self.duplicated or self.inverted or self.split or self.gapped or self.phantom)


@dataclass(frozen=True)
class Delivered:
    """One change as a reader delivered it; `batch` and `number` are None where a reader has none."""

    writer: str
    told: Told
    batch: int | None = None
    number: int | None = None


def judge(oracle: Oracle, delivered: Iterable[Delivered]) -> Findings:
    """Compare what was delivered with what was done."""
    found = Findings()
    seen: dict[str, Counter[str]] = defaultdict(Counter)
    batches: dict[str, set[int | None]] = defaultdict(set)
    last_of_row: dict[str, int] = {}
    finished: set[str] = set()
    last_number: int | None = None
    current = ""
    for one in delivered:
        found.told += 1
        if one.writer in oracle.aborted:
            found.phantom += 1
        seen[one.writer][repr(one.told)] += 1
        if one.number is not None:
            if last_number is not None and one.number != last_number + 1:
                found.gapped += 1
            last_number = one.number
            batches[one.writer].add(one.batch)
            if one.writer != current:
                finished.add(current)
                if one.writer in finished:
                    found.split += 1
                current = one.writer
        table, key, op, counter = one.told
        if counter is not None and op != "e":
            row = f"{table} {key}"
            if counter < last_of_row.get(row, -1):
                found.inverted += 1
            last_of_row[row] = counter
    found.split += sum(len(of) > 1 for of in batches.values())
    for writer, done in oracle.committed.items():
        expected = Counter(map(repr, done))
        found.lost += sum((expected - seen[writer]).values())
        found.duplicated += sum((seen[writer] - expected).values())
    return found


class Writer:
    """Random transactions on one connection: sleeps, aborts, savepoints, partitions, deletes, TRUNCATE, COPY, 2PC."""

    _serial = itertools.count(1)
    _ids = itertools.count(1000)

    def __init__(self, connection: Any, oracle: Oracle, seed: int, *, prepared: bool = False) -> None:
        self._connection = connection
        self._oracle = oracle
        self._random = random.Random(seed)
        self._prepared = prepared

    async def write(self) -> None:
        """One transaction."""
        name = f"w{next(self._serial)}"
        done: list[Told] = []
        connection, chance = self._connection, self._random.random
        await connection.execute("begin")
        try:
            await connection.execute("select set_config('headwater.context', $1, true)", json.dumps({"writer": name}))
            if chance() < 0.3:  # a number drawn early, long before what it orders
                await connection.execute("select pg_current_xact_id()")
                await asyncio.sleep(chance() * 0.02)
            for _ in range(self._random.randint(1, 4)):
                if chance() < 0.2:
                    await connection.execute("savepoint s")
                    undone: list[Told] = []
                    await self._change(undone)
                    if chance() < 0.5:
                        await connection.execute("rollback to savepoint s")
                    else:
                        await connection.execute("release savepoint s")
                        done += undone
                else:
                    await self._change(done)
                if chance() < 0.5:
                    await asyncio.sleep(chance() * 0.01)
            if chance() < 0.1:
                await connection.execute("rollback")
                self._oracle.aborted.add(name)
            elif self._prepared and chance() < 0.1:
                await connection.execute(f"prepare transaction '{name}'")
                await asyncio.sleep(chance() * 0.02)
                good = chance() < 0.7
                await connection.execute(f"{'commit' if good else 'rollback'} prepared '{name}'")
                if good:
                    self._oracle.committed[name] = done
                else:
                    self._oracle.aborted.add(name)
            else:
                await connection.execute("commit")
                self._oracle.committed[name] = done
        except (asyncpg.DeadlockDetectedError, asyncpg.SerializationError):
            await connection.execute("rollback")
            self._oracle.aborted.add(name)

    async def _change(self, done: list[Told]) -> None:
        connection, pick = self._connection, self._random.random()
        if pick < 0.5:
            key = self._random.randint(1, 30)
            n = await connection.fetchval("update checked.row set n = n + 1 where id = $1 returning n", key)
            if n is not None:
                done.append(("checked.row", {"id": key}, "u", n))
        elif pick < 0.6:
            key = next(self._ids)
            await connection.execute("insert into checked.row values ($1, 0)", key)
            done.append(("checked.row", {"id": key}, "i", 0))
            if self._random.random() < 0.5:
                await connection.execute("delete from checked.row where id = $1", key)
                done.append(("checked.row", {"id": key}, "d", 0))
        elif pick < 0.7:
            place, key = self._random.randint(1, 2), next(self._ids)
            await connection.execute(f"insert into checked.part_{place} values ($1, $2, 0)", place, key)
            done.append(("checked.part", {"id": key, "place": place}, "i", 0))
        elif pick < 0.8:
            keys = [next(self._ids) for _ in range(5)]
            await connection.copy_records_to_table("row", schema_name="checked", records=[(key, 0) for key in keys])
            done += [("checked.row", {"id": key}, "i", 0) for key in keys]
        elif pick < 0.95:
            key = next(self._ids)
            await connection.execute("select headwater.emit('checked', $1::jsonb, '{}')", str(key))
            done.append(("topic:checked", key, "e", None))
        else:
            key = next(self._ids)
            await connection.execute("insert into checked.bin values ($1, 0)", key)
            done.append(("checked.bin", {"id": key}, "i", 0))
            if self._random.random() < 0.3:
                await connection.execute("truncate checked.bin")
                done.append(("checked.bin", None, "t", None))


async def write_for(dsn: str, seconds: float, oracle: Oracle, *, writers: int = 8, seed: int = 1) -> None:
    """Many writers at once."""
    until = time.monotonic() + seconds

    async def one(number: int) -> None:
        connection = await asyncpg.connect(dsn)
        try:
            prepared = int(await connection.fetchval("show max_prepared_transactions")) > writers
            writer = Writer(connection, oracle, seed * 1000 + number, prepared=prepared)
            while time.monotonic() < until:
                await writer.write()
        finally:
            await connection.close()

    await asyncio.gather(*(one(number) for number in range(writers)))


def delivered(changes: Iterable[Any], batch: int | None) -> list[Delivered]:
    """What `Stream.read` returned, as the judge reads it."""
    return [
        Delivered(
            (c.context or {}).get("writer", ""),
            (c.table, c.key, c.op, _counter(c.new or c.old)),
            batch,
            c.position.number,
        )
        for c in changes
    ]


def _counter(row: Any) -> Any:
    return row.get("n") if isinstance(row, dict) else None


# -- readers that are wrong, each in the way that somebody's outbox is ----------------------------------------------


class WrongReader:
    """A reader with a cursor of its own. `poll` reads what it takes for new."""

    columns = """id, xid::text::bigint as xid, "table", op::text as op, key, coalesce(new, old) as "row", context"""

    def __init__(self, connection: Any) -> None:
        self._connection = connection
        self.delivered: list[Delivered] = []

    async def poll(self) -> None:
        for r in await self._rows():
            told = (
                r["table"],
                json.loads(r["key"]) if r["key"] else None,
                r["op"],
                _counter(json.loads(r["row"] or "0")),
            )
            self.delivered.append(Delivered(json.loads(r["context"] or "{}").get("writer", ""), told))

    async def _rows(self) -> list[Any]:
        raise NotImplementedError


class AfterLastId(WrongReader):
    """`id > last`: loses whoever commits after a higher id was read."""

    _last = 0

    async def _rows(self) -> list[Any]:
        rows = await self._connection.fetch(
            f"select {self.columns} from headwater.change where id > $1 order by id", self._last
        )
        self._last = rows[-1]["id"] if rows else self._last
        return list(rows)


class BelowXmin(WrongReader):
    """`id > last and xid < xmin`: waits for older transactions, but ids and transactions are not in one order."""

    _last = 0

    async def _rows(self) -> list[Any]:
        rows = await self._connection.fetch(
            f"select {self.columns} from headwater.change "
            "where id > $1 and xid < pg_snapshot_xmin(pg_current_snapshot()) order by id",
            self._last,
        )
        self._last = rows[-1]["id"] if rows else self._last
        return list(rows)


class BoundByXmax(WrongReader):
    """Snapshots, but bounded below by a snapshot's xmax, as if that were the next transaction's number."""

    _previous = "1:1:"
    _low = 0

    def __init__(self, connection: Any) -> None:
        super().__init__(connection)
        self._marks: list[tuple[int, int]] = []

    async def _rows(self) -> list[Any]:
        now = await self._connection.fetchrow(
            "select s::text as snapshot, pg_snapshot_xmax(s)::text::bigint as xmax, pg_snapshot_xmin(s)::text::bigint "
            "as xmin, (select last_value from headwater.change_id) as last from pg_current_snapshot() s"
        )
        rows = await self._connection.fetch(
            f"select {self.columns} from headwater.change where id > $1 "
            "and pg_visible_in_snapshot(xid, $2::text::pg_snapshot) "
            "and not pg_visible_in_snapshot(xid, $3::text::pg_snapshot) order by id",
            self._low,
            now["snapshot"],
            self._previous,
        )
        self._previous = now["snapshot"]
        self._marks.append((now["xmax"], now["last"]))
        while self._marks and self._marks[0][0] <= now["xmin"]:
            self._low = self._marks.pop(0)[1]
        return list(rows)


WRONG_READERS: tuple[type[WrongReader], ...] = (AfterLastId, BelowXmin, BoundByXmax)


async def poll_until(reader: WrongReader, stop: asyncio.Event) -> None:
    """Every 5 ms, as such readers do."""
    while not stop.is_set():
        await reader.poll()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(stop.wait(), 0.005)
    await reader.poll()


# -- the whole run ---------------------------------------------------------------------------------------------------

TICKER = (
    "import asyncio, sys; from headwater.kernel.settings import Settings; from headwater.kernel.ticker import Ticker; "
    "asyncio.run(Ticker(Settings(database_url=sys.argv[1])).run())"
)


async def start_ticker(dsn: str) -> asyncio.subprocess.Process:
    """A ticker in a process of its own, to be killed."""
    return await asyncio.create_subprocess_exec(sys.executable, "-c", TICKER, dsn)


async def read_all(stream: Any, start: Any, done: Callable[[], Awaitable[bool]], into: list[Delivered]) -> Any:
    """Follow the stream until everything was told; every read is verified by the stream itself."""
    at, batch = start, 0
    while True:
        finished = await done()
        read = await stream.read(at, limit=200)
        if read.to == at:
            if finished:
                return at
            await asyncio.sleep(0.003)
            continue
        batch += 1
        into += delivered(read.changes, batch)
        at = read.to


async def run(dsn: str, seconds: float, *, seed: int = 1, kill_every: float | None = None) -> dict[str, Findings]:
    """Writers, two tickers, our reader and the wrong ones, for so many seconds; what each did wrong."""
    from headwater.kernel.changes import Stream
    from headwater.kernel.postgres import Postgres
    from headwater.kernel.settings import Settings
    from headwater.kernel.ticker import ticking

    async with ticking(Settings(database_url=dsn)) as first:  # a copied database begins a new epoch
        await first.leads()
    postgres = await Postgres.open(Settings(database_url=dsn))
    oracle = Oracle()
    ours: list[Delivered] = []
    stop = asyncio.Event()
    connections = [await asyncpg.connect(dsn) for _ in WRONG_READERS]
    wrong = [kind(c) for kind, c in zip(WRONG_READERS, connections, strict=True)]
    for reader in wrong:
        await reader.poll()
        reader.delivered.clear()
    tickers = [await start_ticker(dsn) for _ in range(2)]
    stream = Stream(postgres)
    start = await stream.head()
    count = await asyncpg.connect(dsn)

    async def kill() -> None:
        chance = random.Random(seed)
        while kill_every is not None:
            await asyncio.sleep(kill_every * chance.uniform(0.5, 1.5))
            victim = chance.randrange(2)
            tickers[victim].kill()
            await tickers[victim].wait()
            tickers[victim] = await start_ticker(dsn)

    async def everything_told() -> bool:
        if not stop.is_set():
            return False
        told = await count.fetchval("select coalesce(sum(changes), 0) from headwater.tick")
        return bool(told == await count.fetchval("select count(*) from headwater.change"))

    killing = asyncio.create_task(kill())
    polling = [asyncio.create_task(poll_until(reader, stop)) for reader in wrong]
    reading = asyncio.create_task(read_all(stream, start, everything_told, ours))
    try:
        await write_for(dsn, seconds, oracle, seed=seed)
        killing.cancel()
        stop.set()
        await asyncio.gather(*polling)
        async with asyncio.timeout(30):
            await reading
    finally:
        for task in (killing, reading, *polling):
            task.cancel()
        for ticker in tickers:
            with contextlib.suppress(ProcessLookupError):
                ticker.kill()
            await ticker.wait()
        for connection in (*connections, count):
            await connection.close()
        await postgres.close()
    ours = [one for one in ours if one.writer]  # what was there before the writers began has no name
    return {"ours": judge(oracle, ours)} | {type(r).__name__: judge(oracle, r.delivered) for r in wrong}


async def _soak(seconds: float, seed: int) -> int:
    import tempfile
    from pathlib import Path

    from headwater.embedded.postgres import EmbeddedPostgres
    from headwater.kernel.migrations import migrate
    from headwater.kernel.settings import Settings
    from headwater.systems.everything import EVERYTHING

    with tempfile.TemporaryDirectory(prefix="headwater-soak-") as folder:
        async with EmbeddedPostgres(Path(folder) / "home", durable=False) as server:
            await migrate(EVERYTHING, Settings(database_url=server.socket_dsn))
            connection = await asyncpg.connect(server.socket_dsn)
            await connection.execute(TABLES)
            await connection.close()
            found = await run(server.socket_dsn, seconds, seed=seed, kill_every=2.0)
    for name, findings in found.items():
        sys.stdout.write(f"{name:12} {findings}\n")
    good = found.pop("ours").clean and not any(findings.clean for findings in found.values())
    sys.stdout.write("good\n" if good else "NOT GOOD: ours must be clean, and each wrong reader must be caught\n")
    return 0 if good else 1


if __name__ == "__main__":
    wanted = float(sys.argv[1]) if len(sys.argv) > 1 else 60.0
    sys.exit(asyncio.run(_soak(wanted, int(sys.argv[2]) if len(sys.argv) > 2 else 1)))
