"""Change stream: how soon a follower holds what was committed, how fast it catches up, what an idle ticker costs."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import itertools
import json
import os
import sys
import tempfile
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from time import perf_counter
from typing import Any

import asyncpg

from benchmarks.command import run_as_program
from benchmarks.reporting import Findings
from benchmarks.stores import durable_postgres
from headwater import Settings, System
from headwater.embedded.postgres import EmbeddedPostgres
from headwater.kernel.changes import Bell, Change, Position, Stream
from headwater.kernel.followers import CallingSink, Delivery, Follower
from headwater.kernel.migrations import migrate
from headwater.kernel.postgres import Postgres

ROWS = 5_000
RATES = (200, 1_000)
WRITERS = 8
_TABLES = """
create schema told;
create table told.row (
    id bigint primary key, n bigint not null, name text not null, at timestamptz not null default now()
);
insert into told.row select i, 0, 'row ' || i from generate_series(1, {rows}) i;
select headwater.track('told.row', 'full');
"""
# Every `commit` is a transaction of its own, so that the backlog is as many small transactions as real writers make.
_BACKLOG = """
do $$ begin
    perform set_config('synchronous_commit', 'off', false);
    for i in 1..{transactions} loop
        update told.row set n = n + 1 where id between (i * 7) % {rows} and (i * 7) % {rows} + 4;
        commit;
    end loop;
end $$
"""
_TICKER = (
    "import asyncio, sys; from headwater.kernel.settings import Settings; from headwater.kernel.ticker import Ticker; "
    "asyncio.run(Ticker(Settings(database_url=sys.argv[1])).run())"
)


_NUMBERS = itertools.count(1)


class _Hands:
    """The hands of a follower: what they were given, and when."""

    def __init__(self, *, note: bool = True) -> None:
        self.times: dict[int, float] = {}
        self.count = 0
        self._note = note

    async def take(self, changes: Sequence[Change]) -> None:
        if self._note:
            now = perf_counter()
            for change in changes:
                self.times[change.new["n"]] = now
        self.count += len(changes)


async def benchmark(short: bool) -> Findings:
    findings = Findings(
        "change_stream",
        "A committed change is in a follower's hands within milliseconds, and a follower that stood still catches up.",
        "Writers, ticker, server and follower are four processes on the same cores. Lag runs from the moment a writer "
        "holds the answer to its COMMIT to the moment the follower's sink is called with the decoded change.",
    )
    async with durable_postgres() as server:
        dsn = server.socket_dsn
        await migrate(System("benchmark", []), Settings(database_url=dsn))
        await _execute(dsn, _TABLES.format(rows=ROWS))
        async with _ticker(dsn) as ticker:
            await _lag(findings, dsn, 1.0 if short else 5.0, RATES[-1:] if short else RATES)
            await _idle(findings, server, ticker, 0.5 if short else 4.0)
            await _catch_up(findings, dsn, 2_000 if short else 20_000)
    return findings


async def _lag(findings: Findings, dsn: str, seconds: float, rates: Sequence[int]) -> None:
    table = findings.table(
        "lag of a follower, ms", "", "p50", "p99", "max", "transactions/s", "writer's own p99", "missing"
    )
    for how in ("LISTEN", "polling alone"):
        for rate in rates:
            hands = _Hands()
            async with _followed(dsn, hands, listen=how == "LISTEN"):
                answered = await _write(dsn, rate, seconds)
                await _until(lambda h=hands, a=answered: all(n in h.times for n, _, _ in a))  # type: ignore[misc]
            warm = answered[len(answered) // 10 :]
            lags = sorted(max(hands.times[n] - ended, 0.0) * 1e3 for n, _, ended in warm if n in hands.times)
            own = sorted((ended - began) * 1e3 for _, began, ended in warm)
            per_second = len(warm) / max(warm[-1][2] - warm[0][2], 1e-9)
            p50, p99 = _percentile(lags, 50), _percentile(lags, 99)
            missing = len(warm) - len(lags)
            table.add(
                f"{rate:,} transactions/s, {how}",
                f"{p50:.2f}",
                f"{p99:.2f}",
                f"{lags[-1]:.1f}",
                f"{per_second:,.0f}",
                f"{_percentile(own, 99):.1f}",
                missing,
            )
            findings.figures[f"lag {rate} {how}"] = {"p50_ms": p50, "p99_ms": p99, "per_second": per_second}
            if how == "LISTEN" and rate == RATES[-1]:
                findings.goal("p99 of the lag at 1,000 transactions/s", 6, p99, at_least=False, unit=" ms")


async def _idle(findings: Findings, server: EmbeddedPostgres, ticker: asyncio.subprocess.Process, wait: float) -> None:
    """CPU seconds of the ticker and of the server while nobody writes."""
    hands = _Hands()
    pids = [int(line) for line in (server.data / "postmaster.pid").read_text().splitlines()[:1]]
    async with _followed(server.socket_dsn, hands, listen=True):
        await asyncio.sleep(wait / 2)
        before, own = _cpu([ticker.pid]), _cpu(_children(pids[0]))
        await asyncio.sleep(wait)
        client, backends = _cpu([ticker.pid]) - before, _cpu(_children(pids[0])) - own
    table = findings.table("cost of idling, % of one core", "", "%")
    table.add("the ticker's process", f"{100 * client / wait:.1f}")
    table.add("the server, with a listening follower", f"{100 * backends / wait:.1f}")
    findings.figures["idle"] = {"ticker_percent": 100 * client / wait, "server_percent": 100 * backends / wait}


async def _catch_up(findings: Findings, dsn: str, transactions: int) -> None:
    table = findings.table("catching up", "", "changes/s", "changes", "handed over", "seconds")
    start = await _position(dsn)
    await _execute(dsn, _BACKLOG.format(transactions=transactions, rows=ROWS))
    changes = await _all_told(dsn, start)
    deliveries: tuple[Delivery, ...] = ("each", "latest")
    for delivery in deliveries:
        rates = []
        for _ in range(3):
            hands = _Hands(note=False)
            postgres = await Postgres.open(Settings(database_url=dsn))
            try:
                name = f"catching up, {delivery}"
                sink = CallingSink(postgres, name, hands.take)
                follower = Follower(postgres, name, sink, delivery=delivery, required=False)
                end = await follower.stream.head()
                gc.collect()
                gc.freeze()
                await _execute(dsn, _PLACED, name, start.epoch, start.number)
                began = perf_counter()
                while await sink.position() != end:
                    await follower.step()
                rates.append((changes / (perf_counter() - began), hands.count, perf_counter() - began))
            finally:
                gc.unfreeze()
                await postgres.close()
        rate, handed, taken = sorted(rates)[1]
        table.add(
            {"each": "every change", "latest": "the latest of each key"}[delivery],
            f"{rate:,.0f}",
            f"{changes:,}",
            f"{handed:,}",
            f"{taken:.2f}",
        )
        findings.figures[f"catch up {delivery}"] = {"per_second": rate, "handed": handed, "changes": changes}
        findings.goal(f"catching up with {delivery}", 100_000, rate, unit=" changes/s")


_PLACED = """
insert into headwater.follower (name, required, state, epoch, position) values ($1, false, 'following', $2, $3)
on conflict (name) do update set state = 'following', epoch = excluded.epoch, position = excluded.position, skip = null
"""


@contextlib.asynccontextmanager
async def _followed(dsn: str, hands: _Hands, *, listen: bool) -> AsyncIterator[None]:
    settings = Settings(database_url=dsn)
    postgres = await Postgres.open(settings)
    try:
        name = f"hands {next(_NUMBERS)}"  # a new one begins with the rows that are there, and shows that it follows
        follower = Follower(postgres, name, CallingSink(postgres, name, hands.take), required=False)
        async with Bell.listen(settings) as bell:
            task = asyncio.create_task(follower.run(bell if listen else None))
            try:
                await _until(lambda: hands.count)  # the rows of the bootstrap
                hands.times.clear()
                yield
            finally:
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await task
    finally:
        await postgres.close()


@contextlib.asynccontextmanager
async def _ticker(dsn: str) -> AsyncIterator[asyncio.subprocess.Process]:
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", _TICKER, dsn)
    try:
        yield process
    finally:
        process.terminate()
        await process.wait()


async def _write(dsn: str, rate: int, seconds: float) -> list[tuple[int, float, float]]:
    """Writers in a process of their own: of each transaction its number, when it began and when it was answered."""
    with tempfile.TemporaryDirectory(prefix="headwater-benchmark-") as folder:
        path = Path(folder) / "answered.json"
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "benchmarks.change_stream", "--write", dsn, str(rate), str(seconds), str(path)
        )
        if await process.wait():
            raise RuntimeError("The writers ended with an error.")
        return [(n, began, ended) for n, began, ended in json.loads(path.read_text())]


async def _writers(dsn: str, rate: int, seconds: float) -> list[tuple[int, float, float]]:
    """An open loop: transaction number i is due at its instant, whatever became of those before."""
    connections = [await asyncpg.connect(dsn) for _ in range(WRITERS)]
    first = await connections[0].fetchval("select coalesce(max(n), 0) + 1 from told.row")
    answered: list[tuple[int, float, float]] = []
    total = int(rate * seconds)
    started = perf_counter() + 0.05

    async def one(number: int) -> None:
        statement = await connections[number].prepare("update told.row set n = $2 where id = $1")
        for i in range(number, total, WRITERS):
            pause = started + i / rate - perf_counter()
            if pause > 0:
                await asyncio.sleep(pause)
            began = perf_counter()
            await statement.fetch((i * 7919) % ROWS + 1, first + i)
            answered.append((first + i, began, perf_counter()))

    await asyncio.gather(*(one(number) for number in range(WRITERS)))
    for connection in connections:
        await connection.close()
    return sorted(answered)


async def _execute(dsn: str, statement: str, *arguments: Any) -> None:
    connection = await asyncpg.connect(dsn)
    try:
        await connection.execute(statement, *arguments)
    finally:
        await connection.close()


async def _position(dsn: str) -> Position:
    postgres = await Postgres.open(Settings(database_url=dsn))
    try:
        return await Stream(postgres).head()
    finally:
        await postgres.close()


async def _all_told(dsn: str, start: Position) -> int:
    """Wait until the ticker has told everything; how many changes that are."""
    connection = await asyncpg.connect(dsn)
    try:
        deadline = perf_counter() + 60
        while True:
            told, written = await connection.fetchrow(
                "select (select sum(changes) from headwater.tick), (select count(*) from headwater.change)"
            )
            if told == written:
                return int(told) - start.number
            if perf_counter() > deadline:
                raise RuntimeError(f"Of {written} changes {told} were told.")
            await asyncio.sleep(0.05)
    finally:
        await connection.close()


async def _until(reached: Any) -> None:
    async with asyncio.timeout(30):
        while not reached():  # what is waited for happens in another process
            await asyncio.sleep(0.01)


def _percentile(ordered: Sequence[float], percent: float) -> float:
    return ordered[min(len(ordered) - 1, int(len(ordered) * percent / 100))]


def _children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def _cpu(pids: Sequence[int]) -> float:
    """CPU seconds these processes have used so far."""
    ticks = 0
    for pid in pids:
        with contextlib.suppress(OSError):
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


if __name__ == "__main__":
    if "--write" in sys.argv:
        _, _, _dsn, _rate, _seconds, _path = sys.argv
        Path(_path).write_text(json.dumps(asyncio.run(_writers(_dsn, int(_rate), float(_seconds)))))
    else:
        run_as_program(benchmark)
