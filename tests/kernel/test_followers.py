"""Followers: exactly once in PostgreSQL, bootstrap without gap or overlap, fencing, parked keys, compaction."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime
from typing import Any

import asyncpg
import pytest
import pytest_asyncio
from tests.kernel import clusters
from tests.kernel.stream_checker import TABLES, Oracle, write_for

from headwater.kernel.changes import Change, Position, Stream
from headwater.kernel.errors import NotFound, TransientError, UnavailableError, Unreachable
from headwater.kernel.followers import (
    CallingSink,
    Follower,
    PostgresSink,
    drop_parked,
    following,
    latest,
    parked,
    replay,
    retry_parked,
    standings,
)
from headwater.kernel.migrations import migrate
from headwater.kernel.module import System
from headwater.kernel.postgres import Postgres
from headwater.kernel.queries import Queries
from headwater.kernel.settings import Settings
from headwater.kernel.ticker import Ticker, ticking
from headwater.kernel.transaction import Transaction
from headwater.systems.everything import EVERYTHING

_MIRROR = """
create table checked.mirror (id bigint primary key, n bigint not null);
create table checked.effect (position bigint primary key);
"""


@pytest_asyncio.fixture
async def connection(database: str) -> AsyncIterator[Any]:
    """A writer's connection; the tables of the checker and a mirror of one of them are there."""
    opened = await asyncpg.connect(database)
    await opened.execute(TABLES + _MIRROR)
    yield opened
    await opened.close()


@pytest_asyncio.fixture
async def postgres(database: str, connection: Any) -> AsyncIterator[Postgres]:
    opened = await Postgres.open(Settings(database_url=database))
    yield opened
    await opened.close()


@pytest_asyncio.fixture
async def ticker(database: str, connection: Any) -> AsyncIterator[Ticker]:
    async with ticking(Settings(database_url=database)) as running:
        await running.leads()
        yield running


async def mirror(tx: Transaction, changes: Sequence[Change]) -> None:
    """What a mirror does. A change that is applied twice breaks the key of `effect`, so that it cannot be missed."""
    for change in changes:
        if change.xid:
            await tx.connection.execute("insert into checked.effect values ($1)", change.position.number)
        if change.op in "iu":
            if change.new["n"] < 0:
                raise ValueError(f"{change.key} is poison")
            await tx.connection.execute(
                "insert into checked.mirror values ($1, $2) on conflict (id) do update set n = excluded.n",
                change.key["id"],
                change.new["n"],
            )
        elif change.op == "d":
            await tx.connection.execute("delete from checked.mirror where id = $1", change.key["id"])


async def clear(tx: Transaction) -> None:
    await tx.connection.execute("truncate checked.mirror")


def _follower(postgres: Postgres, **options: Any) -> Follower:
    sink = PostgresSink(postgres, "mirror", mirror, clear)
    return Follower(postgres, "mirror", sink, tables=["checked.row"], retry_seconds=0.001, **options)


async def _until_equal(connection: Any) -> None:
    """Until the mirror is what the table is."""
    different = (
        "select exists ((select id, n from checked.row except select id, n from checked.mirror) "
        "union all (select id, n from checked.mirror except select id, n from checked.row))"
    )
    async with asyncio.timeout(20):
        while await connection.fetchval(different):  # noqa: ASYNC110
            await asyncio.sleep(0.01)


async def _caught_up(postgres: Postgres, follower: Follower) -> None:
    stream = Stream(postgres)
    async with asyncio.timeout(20):
        while True:
            await follower.step()
            told = await postgres.fetch_value(_PENDING)
            if follower._at == await stream.head() and not told:
                return
            await asyncio.sleep(0.002)


_PENDING = Queries.parse(
    "-- name: pending\n-- What was written and not told.\n"
    "select (select count(*) from headwater.change) > (select coalesce(sum(changes), 0) from headwater.tick)"
)["pending"]


async def test_a_bootstrap_under_load_leaves_no_gap_and_no_overlap(
    postgres: Postgres, ticker: Ticker, connection: Any, database: str
) -> None:
    writing = asyncio.create_task(write_for(database, 1.5, Oracle(), writers=4))
    follower = _follower(postgres)
    for _ in range(5):  # again and again, as one that was detached would
        await follower.bootstrap()
        await follower.step()
    async with following(follower):
        await writing
        await _until_equal(connection)
    assert (await standings(postgres))[0].error is None


async def test_two_that_follow_at_once_take_each_change_once(
    postgres: Postgres, ticker: Ticker, connection: Any, database: str
) -> None:
    one, two = _follower(postgres, batch=5), _follower(postgres, batch=5)
    await one.step()
    async with following(one), following(two):
        await write_for(database, 1.0, Oracle(), writers=4)
        await _until_equal(connection)


_VICTIM = """
import asyncio, os, sys
from headwater.kernel.followers import following
from headwater.kernel.postgres import Postgres
from headwater.kernel.settings import Settings
from tests.kernel import test_followers as t
from headwater.kernel.followers import Follower, PostgresSink

async def mirror_and_die(tx, changes):
    await t.mirror(tx, changes)
    if changes and changes[0].xid:
        os.kill(os.getpid(), 9)

async def main():
    postgres = await Postgres.open(Settings(database_url=sys.argv[1]))
    sink = PostgresSink(postgres, "mirror", mirror_and_die, t.clear)
    follower = Follower(postgres, "mirror", sink, tables=["checked.row"])
    await follower.run()

asyncio.run(main())
"""


async def test_one_killed_between_applying_and_its_checkpoint_has_applied_nothing(
    postgres: Postgres, ticker: Ticker, connection: Any, database: str
) -> None:
    follower = _follower(postgres)
    await follower.step()
    await connection.execute("update checked.row set n = n + 1")
    victim = await asyncio.create_subprocess_exec(sys.executable, "-c", _VICTIM, database)
    assert await victim.wait() == -9
    assert await connection.fetchval("select count(*) from checked.effect") == 0
    await _caught_up(postgres, follower)
    assert await connection.fetchval("select count(*) from checked.effect") == 30
    await _until_equal(connection)


async def test_a_poison_change_parks_its_key_and_no_other(postgres: Postgres, ticker: Ticker, connection: Any) -> None:
    follower = _follower(postgres)
    await follower.step()
    await connection.execute("update checked.row set n = 1; update checked.row set n = -1 where id = 7")
    await connection.execute("update checked.row set n = 2")
    await _caught_up(postgres, follower)
    rows = dict(await connection.fetch("select id, n from checked.mirror"))
    assert {n for key, n in rows.items() if key != 7} == {2}
    assert rows[7] == 1
    held = await parked(postgres)
    assert [(one.key, one.name) for one in held] == [({"id": 7}, "checked.row")] * 2
    assert "poison" in held[0].error
    assert held[0].attempts >= 1
    standing = (await standings(postgres))[0]
    assert (standing.parked_keys, standing.parked_changes) == (1, 2)


async def test_parked_changes_are_tried_again_when_somebody_asks(
    postgres: Postgres, ticker: Ticker, connection: Any
) -> None:
    broken = True

    async def fragile(tx: Transaction, changes: Sequence[Change]) -> None:
        if broken and any(change.key == {"id": 3} for change in changes if change.xid):
            raise ValueError("not now")
        await mirror(tx, changes)

    sink = PostgresSink(postgres, "mirror", fragile, clear)
    follower = Follower(postgres, "mirror", sink, tables=["checked.row"], retry_seconds=0.001)
    await follower.step()
    for n in (1, 2):
        await connection.execute("update checked.row set n = $1", n)
        await _caught_up(postgres, follower)
    assert await retry_parked(postgres, "mirror") == 2
    await follower.step()
    held = await parked(postgres)
    assert len(held) == 2
    assert "not now" in held[0].error
    broken = False
    assert await retry_parked(postgres, "mirror") == 2
    await follower.step()
    assert await parked(postgres) == []
    await _until_equal(connection)


async def test_parked_changes_can_be_given_up(postgres: Postgres, ticker: Ticker, connection: Any) -> None:
    follower = _follower(postgres)
    await follower.step()
    await connection.execute("update checked.row set n = -1 where id = 7")
    await _caught_up(postgres, follower)
    assert await drop_parked(postgres, "mirror") == 1
    await connection.execute("update checked.row set n = 5 where id = 7")
    await _caught_up(postgres, follower)
    await _until_equal(connection)


async def test_stores_that_are_away_park_nothing(postgres: Postgres, ticker: Ticker, connection: Any) -> None:
    away = True

    async def call(changes: Sequence[Change]) -> None:
        if away and changes[0].xid:
            raise Unreachable("The sink is away.")

    follower = Follower(postgres, "caller", CallingSink(postgres, "caller", call), tables=["checked.row"])
    await follower.step()
    await connection.execute("update checked.row set n = 1 where id = 1")
    running = asyncio.create_task(follower.run())
    try:
        async with asyncio.timeout(10):
            while not (await standings(postgres))[0].error:  # noqa: ASYNC110
                await asyncio.sleep(0.005)
        assert (await standings(postgres))[0].lag_changes == 1
        assert await parked(postgres) == []
        away = False
        async with asyncio.timeout(10):
            while (await standings(postgres))[0].lag_changes:  # noqa: ASYNC110
                await asyncio.sleep(0.005)
    finally:
        running.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await running


async def test_a_foreign_sink_keeps_its_own_checkpoint_and_is_reported(
    postgres: Postgres, ticker: Ticker, connection: Any
) -> None:
    class Memory:
        """A sink elsewhere, with compare and set of its own."""

        def __init__(self) -> None:
            self.at: Position | None = None
            self.rows: dict[int, int] = {}

        async def position(self) -> Position | None:
            return self.at

        async def apply(self, after: Position, to: Position, changes: Sequence[Change]) -> bool:
            if self.at != after:
                return False
            self.rows |= {change.key["id"]: change.new["n"] for change in changes}
            self.at = to
            return True

        async def begin(self, at: Position, rows: AsyncIterator[Sequence[Change]]) -> None:
            self.rows = {change.key["id"]: change.new["n"] async for part in rows for change in part}
            self.at = at

    memory = Memory()
    follower = Follower(postgres, "memory", memory, tables=["checked.row"], delivery="latest")
    await follower.step()
    await connection.execute("update checked.row set n = 4")
    await _caught_up(postgres, follower)
    assert set(memory.rows.values()) == {4}
    memory.at = Position(memory.at.epoch, memory.at.number - 30) if memory.at else None  # another has moved it
    await connection.execute("update checked.row set n = 5 where id = 1")
    await _caught_up(postgres, follower)
    assert memory.rows[1] == 5
    await asyncio.sleep(0.11)
    await follower.step()
    standing = (await standings(postgres))[0]
    assert (standing.name, standing.lag_changes, standing.state) == ("memory", 0, "following")


async def test_a_server_killed_under_followers_makes_them_repeat_and_miss_nothing() -> None:
    """Ticks wait for no disk: some are lost with the server. No follower may have kept a position that was counted by
    them, neither in the database nor elsewhere.
    """

    class Elsewhere:
        """A sink that survives the server, and remembers what it was given."""

        def __init__(self) -> None:
            self.at: Position | None = None
            self.rows: dict[int, int] = {}
            self.positions: list[int] = []
            self.begun = 0

        async def position(self) -> Position | None:
            return self.at

        async def apply(self, after: Position, to: Position, changes: Sequence[Change]) -> bool:
            if self.at != after:
                return False
            for change in changes:
                self.positions.append(change.position.number)
                self.rows[change.key["id"]] = change.new["n"]
            self.at = to
            return True

        async def begin(self, at: Position, rows: AsyncIterator[Sequence[Change]]) -> None:
            self.rows = {change.key["id"]: change.new["n"] async for part in rows for change in part}
            self.at = at
            self.begun += 1

    with clusters.folder() as folder:
        server = await clusters.started(folder / "killed")
        try:
            settings = Settings(database_url=server.socket_dsn)
            await migrate(EVERYTHING, settings)
            connection = await asyncpg.connect(server.socket_dsn)
            await connection.execute(TABLES + _MIRROR)
            await connection.close()
            postgres = await Postgres.open(settings)
            here, elsewhere = _follower(postgres), Elsewhere()
            there = Follower(postgres, "elsewhere", elsewhere, tables=["checked.row"])
            async with ticking(settings) as ticker, following(here, there):
                await ticker.leads()
                epoch = (await Stream(postgres).head()).epoch
                for round_ in range(3):
                    connection = await asyncpg.connect(server.socket_dsn)
                    for n in range(60):
                        await connection.execute("update checked.row set n = $1 where id % 7 = $2", n, n % 7)
                    while elsewhere.rows.get(3) != 59:  # noqa: ASYNC110  # told by a tick that is not flushed yet
                        await asyncio.sleep(0)
                    await clusters.killed(server)
                    await server.start()
                    connection = await asyncpg.connect(server.socket_dsn)
                    await connection.execute("update checked.row set n = $1", 1000 + round_)
                    await _until_equal(connection)
                    rows = {row["id"]: row["n"] for row in await connection.fetch("select id, n from checked.row")}
                    async with asyncio.timeout(20):
                        while elsewhere.rows != rows:  # noqa: ASYNC110
                            await asyncio.sleep(0.01)
                    await connection.close()
            assert (await Stream(postgres).head()).epoch == epoch
            assert await parked(postgres) == []
            assert elsewhere.begun == 1, "it never was ahead of the database"
            assert len(set(elsewhere.positions)) == len(elsewhere.positions)
            assert sorted(elsewhere.positions) == elsewhere.positions
            await postgres.close()
        finally:
            await server.stop()


_TICKS = Queries.parse("-- name: ticks\n-- How many there are.\nselect count(*) from headwater.tick")["ticks"]
_PREPARED = "begin; select headwater.emit('mine', '1', '{}'); prepare transaction 'mine'"


@pytest.mark.parametrize("lost", ["before it reads on", "between reading and applying"])
async def test_a_follower_does_not_go_on_from_a_tick_that_a_crash_took_along(lost: str) -> None:
    """Its pool connects again without a word. A change that was prepared before the crash, and committed after it, is
    told at the position at which the follower has seen another one: it would be passed over.
    """
    with clusters.folder() as folder:
        server = await clusters.started(folder / "retold")
        try:
            # The tick of this test stays in memory: nobody flushes it for its own sake.
            connection = await asyncpg.connect(server.socket_dsn)
            await connection.execute("alter system set wal_writer_delay = '10s'")
            await connection.execute("alter system set max_prepared_transactions = 5")
            await connection.close()
            await server.stop()
            await server.start()
            settings = Settings(database_url=server.socket_dsn, pool_size_max=4)
            await migrate(System("nothing", []), settings)
            postgres = await Postgres.open(settings)
            told: list[Any] = []
            crash_while_applying = False

            async def crash() -> None:
                assert await postgres.fetch_value(_TICKS) == before + 1
                await clusters.killed(server)
                await server.start()
                again = await asyncpg.connect(server.socket_dsn)
                assert await again.fetchval(_TICKS.sql) == before, "the crash took it along"
                await again.execute("commit prepared 'mine'")
                await again.close()

            async def take(changes: Sequence[Change]) -> None:
                nonlocal crash_while_applying
                if crash_while_applying:
                    crash_while_applying = False
                    await crash()
                told.extend((change.key, change.position.number) for change in changes)

            asked = ["topic:mine"] if lost == "before it reads on" else ["topic:mine", "topic:noise"]
            follower = Follower(postgres, "follower", CallingSink(postgres, "follower", take), tables=asked)
            async with ticking(settings):
                async with asyncio.timeout(10):
                    while await postgres.fetch_value(_PENDING):  # what the revisions have planted  # noqa: ASYNC110
                        await asyncio.sleep(0)
            await follower.step()
            start = (await follower.stream.head()).number
            before = await postgres.fetch_value(_TICKS)
            connection = await asyncpg.connect(server.socket_dsn)
            await connection.execute(_PREPARED)
            await connection.execute("select headwater.emit('noise', '2', '{}')")
            await connection.close()
            async with ticking(settings) as ticker:
                async with asyncio.timeout(10):
                    while (await follower.stream.head()).number != start + 1:  # noqa: ASYNC110
                        await asyncio.sleep(0)
                await ticker.leads()
            if lost == "before it reads on":
                follower._reported = asyncio.get_running_loop().time()  # so that it keeps its place in memory
                assert await follower.step()
                assert (follower._read.number, told) == (start + 1, [])
                await crash()
            else:
                crash_while_applying = True
            async with ticking(settings):
                async with asyncio.timeout(20):
                    while (1, start + 1) not in told:
                        with contextlib.suppress(UnavailableError, TransientError, OSError):
                            await follower.step()
                        await asyncio.sleep(0)
            await postgres.close()
        finally:
            await server.stop()


async def test_a_detached_follower_begins_again_from_a_snapshot(
    postgres: Postgres, ticker: Ticker, connection: Any
) -> None:
    follower = _follower(postgres)
    await follower.step()
    await connection.execute("update checked.row set n = 3; delete from checked.row where id = 1")
    await replay(postgres, "mirror")
    await connection.execute("delete from headwater.tick; delete from headwater.change")
    follower._at = None
    await follower.step()
    await _until_equal(connection)


async def test_a_new_epoch_makes_followers_begin_again(postgres: Postgres, connection: Any, database: str) -> None:
    follower = _follower(postgres)
    async with ticking(Settings(database_url=database)) as ticker:
        await ticker.leads()
        await follower.step()
    await connection.execute("select headwater.restored(); delete from checked.row where id = 5")
    async with ticking(Settings(database_url=database)) as ticker:
        await ticker.leads()
        await _caught_up(postgres, follower)
        await _until_equal(connection)


async def test_replay_goes_back_and_never_ahead(postgres: Postgres, ticker: Ticker, connection: Any) -> None:
    seen: list[int] = []

    async def call(changes: Sequence[Change]) -> None:
        seen.extend(change.position.number for change in changes if change.xid)

    follower = Follower(postgres, "caller", CallingSink(postgres, "caller", call), tables=["checked.row"])
    await follower.step()
    start = follower._at
    assert start is not None
    await connection.execute("update checked.row set n = 1 where id < 4")
    await _caught_up(postgres, follower)
    await replay(postgres, "caller", start)
    follower._at = None
    await _caught_up(postgres, follower)
    assert seen == [start.number + n for n in (1, 2, 3)] * 2
    with pytest.raises(NotFound):
        await replay(postgres, "caller", Position(start.epoch, start.number + 1000))
    with pytest.raises(NotFound):
        await replay(postgres, "nobody")


def test_only_the_last_change_of_a_key_is_left() -> None:
    def change(number: int, op: str, key: Any, table: str = "t") -> Change:
        return Change(Position(1, number), table, op, key, {"n": number}, None, datetime.now(UTC), 1, None)

    one, two = {"id": 1}, {"id": 2}
    told = [change(1, "i", one), change(2, "i", two), change(3, "u", one), change(4, "i", one, "other")]
    assert [c.position.number for c in latest(told)] == [2, 3, 4]
    emptied = [*told, change(5, "t", None), change(6, "i", two)]
    assert [(c.position.number, c.op) for c in latest(emptied)] == [(4, "i"), (5, "t"), (6, "i")]
