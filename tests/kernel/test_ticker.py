"""The ticker: elected, replaced when killed, partitions ahead, epochs, retention."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import asyncpg
import pytest
import pytest_asyncio
from tests.kernel import clusters
from tests.kernel.stream_checker import TABLES, start_ticker

from headwater.kernel.changes import Change, Position, Stream
from headwater.kernel.errors import EpochChanged, StreamGap
from headwater.kernel.followers import Follower
from headwater.kernel.migrations import migrate
from headwater.kernel.postgres import Postgres
from headwater.kernel.settings import Settings
from headwater.kernel.ticker import LOCK, PARTITION_IDS, PARTITIONS_AHEAD, Ticker, ticking
from headwater.systems.everything import EVERYTHING

if TYPE_CHECKING:
    from tests.conftest import PostgresServer


@pytest_asyncio.fixture
async def connection(database: str) -> AsyncIterator[Any]:
    """A writer's connection."""
    opened = await asyncpg.connect(database)
    yield opened
    await opened.close()


@pytest_asyncio.fixture
async def stream(database: str) -> AsyncIterator[Stream]:
    """The stream, with no ticker of its own."""
    postgres = await Postgres.open(Settings(database_url=database))
    yield Stream(postgres)
    await postgres.close()


async def _emit(connection: Any, *keys: int) -> None:
    for key in keys:
        await connection.execute("select headwater.emit('ticked', $1::jsonb, '{}')", str(key))


async def _keys(stream: Stream, after: Position, count: int) -> list[Any]:
    found: list[Any] = []
    async with asyncio.timeout(15):
        async for batch in stream.tail(after):
            found += [change.key for change in batch.changes]
            if len(found) >= count:
                return found
    raise AssertionError


async def _leader(connection: Any) -> int | None:
    """The server process that holds the lock."""
    found = await connection.fetchval(
        "select pid from pg_locks where locktype = 'advisory' and granted and objsubid = 1 "
        "and (classid::bigint << 32 | objid::bigint) = $1 and database = (select oid from pg_database "
        "where datname = current_database())",
        LOCK,
    )
    return None if found is None else int(found)


async def _until_led_by_none(connection: Any) -> None:
    async with asyncio.timeout(15):
        while await _leader(connection) is not None:  # noqa: ASYNC110
            await asyncio.sleep(0.01)


async def _until_led(connection: Any, *, but: int | None = None) -> int:
    async with asyncio.timeout(15):
        while (found := await _leader(connection)) in (None, but):  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    assert found is not None
    return found


async def test_only_one_of_several_leads(database: str, connection: Any) -> None:
    async with ticking(Settings(database_url=database)) as one, ticking(Settings(database_url=database)) as two:
        done, pending = await asyncio.wait(
            [asyncio.create_task(t.leads()) for t in (one, two)], return_when=asyncio.FIRST_COMPLETED, timeout=10
        )
        assert len(done) == 1
        for task in pending:
            task.cancel()
        assert one.figures.leading != two.figures.leading


async def test_a_killed_ticker_is_replaced_in_seconds_and_nothing_is_lost(
    database: str, connection: Any, stream: Stream
) -> None:
    tickers = [await start_ticker(database) for _ in range(2)]
    try:
        first = await _until_led(connection)
        async with asyncio.timeout(10):  # its epoch has begun once it tells the first change
            await _emit(connection, 0)
            while not await connection.fetchval("select count(*) from headwater.tick"):  # noqa: ASYNC110
                await asyncio.sleep(0.005)
        start = await stream.head()
        await _emit(connection, 1, 2)
        # Which process holds the lock is found by its port: the one whose death frees it.
        for ticker in tickers:
            await _emit(connection, 3)
            ticker.kill()
            await ticker.wait()
            if await _leader(connection) != first:
                break
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(1):
                    await _until_led(connection, but=first)
                    break
        tickers.append(await start_ticker(database))
        began = asyncio.get_running_loop().time()
        await _until_led(connection, but=first)
        assert asyncio.get_running_loop().time() - began < 5
        await _emit(connection, 4)
        told = await _keys(stream, start, 4)
        assert told[:2] == [1, 2]
        assert told[-1] == 4
        assert len(told) == await connection.fetchval("select count(*) - 1 from headwater.change")
    finally:
        for ticker in tickers:
            with contextlib.suppress(ProcessLookupError):
                ticker.kill()
            await ticker.wait()


async def test_a_ticker_whose_connection_is_ended_stands_again(database: str, connection: Any, stream: Stream) -> None:
    async with ticking(Settings(database_url=database)) as ticker:
        await ticker.leads()
        start = await stream.head()
        leader = await _until_led(connection)
        await connection.execute("select pg_terminate_backend($1)", leader)
        await _until_led(connection, but=leader)
        await _emit(connection, 1)
        assert await _keys(stream, start, 1) == [1]


async def test_what_was_written_while_no_ticker_was_there_is_told_in_pieces_of_whole_transactions(
    database: str, connection: Any, stream: Stream
) -> None:
    async with ticking(Settings(database_url=database)) as ticker:
        await ticker.leads()
    start = await stream.head()
    for number in range(40):
        async with connection.transaction():
            await _emit(connection, *(number * 10 + i for i in range(5)))
    ticker = Ticker(Settings(database_url=database), changes_max=30)
    task = asyncio.create_task(ticker.run())
    try:
        assert await _keys(stream, start, 200) == [number * 10 + i for number in range(40) for i in range(5)]
        sizes = [row["changes"] for row in await connection.fetch("select changes from headwater.tick")]
        assert len(sizes) > 5
        assert all(size % 5 == 0 and size <= 35 for size in sizes)
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def test_partitions_are_made_ahead_and_no_writer_waits(database: str, connection: Any) -> None:
    ahead = "select count(*) from headwater.partitions() where lower > (select last_value from headwater.change_id)"
    assert await connection.fetchval(ahead) == PARTITIONS_AHEAD
    await connection.fetchval("select setval('headwater.change_id', $1)", 2 * PARTITION_IDS + 1)
    assert await connection.fetchval(ahead) == PARTITIONS_AHEAD - 2
    async with connection.transaction():
        await _emit(connection, 1)
        async with ticking(Settings(database_url=database)):
            async with asyncio.timeout(10):
                other = await asyncpg.connect(database)
                while await other.fetchval(ahead) != PARTITIONS_AHEAD:  # noqa: ASYNC110
                    await asyncio.sleep(0.01)
                await other.close()


async def _in_partitions(connection: Any) -> list[int]:
    """How many changes each partition holds, oldest first, those without any left out."""
    rows = await connection.fetch(
        "select count(*) as n from headwater.change group by tableoid, id / $1 order by min(id)", PARTITION_IDS
    )
    return [row["n"] for row in rows]


async def test_writers_never_fail_for_want_of_a_ticker_and_the_next_one_turns_to_a_new_partition(
    database: str, connection: Any, stream: Stream
) -> None:
    """A transaction that stays open over the turn, and one that changed the same row before and after it, too."""
    settings = Settings(database_url=database)
    async with ticking(settings) as ticker:
        await ticker.leads()
    start = await stream.head()
    await _emit(connection, *range(60))  # six times what a partition is meant to hold, and nobody is there
    assert await _in_partitions(connection) == [60]
    open_over_it = await asyncpg.connect(database)
    await open_over_it.execute("begin; select headwater.emit('ticked', '60', '{}')")
    task = asyncio.create_task((turning := Ticker(settings, partition_size=10)).run())
    try:
        assert await _keys(stream, start, 60) == list(range(60))
        async with asyncio.timeout(10):
            while await connection.fetchval("select last_value from headwater.change_id") < PARTITION_IDS:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        await _emit(connection, 61)
        assert await _keys(stream, Position(start.epoch, start.number + 60), 1) == [61]
        await open_over_it.execute("select headwater.emit('ticked', '62', '{}'); commit")
        assert await _keys(stream, Position(start.epoch, start.number + 61), 2) == [60, 62], "none lost, none doubled"
        assert await _in_partitions(connection) == [61, 2]
        # As many turns at once as there are processes that believe they lead: ids never go back.
        await _emit(connection, *range(63, 75))
        others = [await asyncpg.connect(database) for _ in range(4)]
        turned = await asyncio.gather(*(one.fetchval("select headwater.turn_partition(10)") for one in others))
        assert sorted(turned) == [False, False, False, True]
        for one in others:
            await one.close()
        await _emit(connection, 75)
        assert await _keys(stream, Position(start.epoch, start.number + 63), 13) == list(range(63, 76))
        assert await _in_partitions(connection) == [61, 14, 1]
        assert turning.figures.last_error == ""
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        await open_over_it.close()


async def test_partitions_of_the_stream_are_no_drift(settings: Settings, connection: Any) -> None:
    from headwater.kernel.migrations import status
    from headwater.systems.everything import EVERYTHING

    await connection.execute("select headwater.make_partitions(20, 1000000)")
    assert (await status(EVERYTHING, settings)).drift == ()


async def _small_partitions(connection: Any) -> None:
    """Partitions of 10 changes, so that they can fill."""
    names = await connection.fetch(
        "select inhrelid::regclass::text as name from pg_inherits where inhparent = 'headwater.change'::regclass"
    )
    for row in names:
        await connection.execute(f"drop table {row['name']}")
    await connection.execute("select headwater.make_partitions(16, 10)")


async def test_a_partition_goes_when_every_required_follower_has_passed_and_it_is_old(
    database: str, connection: Any, stream: Stream
) -> None:
    await _small_partitions(connection)
    settings = Settings(database_url=database)
    count = "select count(*) from headwater.change"
    async with ticking(settings) as leader:  # its own housekeeping finds everything too young
        await leader.leads()
        start = await stream.head()
        for batch in range(4):
            await _emit(connection, *range(batch * 10, batch * 10 + 10))
            await _keys(stream, start, batch * 10 + 10)
        await _emit(connection, 99)
        await _keys(stream, start, 41)
        await connection.execute(
            "insert into headwater.follower (name, state, epoch, position) values ('slow', 'following', $1, $2)",
            start.epoch,
            start.number + 15,
        )
        # What is below the oldest open transaction is known only after a thousand ids: here nothing is open.
        leader._after_id = 40
        await leader.keep_house(connection)
        assert await connection.fetchval(count) == 41, "it is younger than the audit wants"
        ticker = Ticker(replace(settings, change_retention_days=0))
        ticker._after_id = 40
        await ticker.keep_house(connection)
        left = await connection.fetchval("select min(id) from headwater.change")
        assert 1 < left <= 16, "the follower holds what it has not applied"
        assert [c.key for c in (await stream.read(Position(start.epoch, start.number + 15))).changes][:1] == [15]
        with pytest.raises(StreamGap):
            await stream.read(start)
        await connection.execute("update headwater.follower set required = false")
        await ticker.keep_house(connection)
        assert await connection.fetchval("select min(id) from headwater.change") > 30


async def test_an_optional_follower_too_far_behind_is_detached(database: str, connection: Any, stream: Stream) -> None:
    async with ticking(Settings(database_url=database)) as ticker:
        await ticker.leads()
        start = await stream.head()
        await _emit(connection, 1)
        await _keys(stream, start, 1)
        for name, patience in (("quick", 0.0), ("patient", 3600.0)):
            await connection.execute(
                "insert into headwater.follower (name, required, lag_seconds_max, state, epoch, position) "
                "values ($1, false, $2, 'following', $3, $4)",
                name,
                patience,
                start.epoch,
                start.number,
            )
        await ticker.keep_house(connection)
        rows = await connection.fetch("select name, state from headwater.follower")
        assert {row["name"]: row["state"] for row in rows} == {"quick": "detached", "patient": "following"}


async def test_a_copied_database_begins_a_new_epoch_and_tells_what_was_pending_first(
    database: str, connection: Any, stream: Stream
) -> None:
    """The database of this test is a copy of the template."""
    old = await stream.head()
    await _emit(connection, 1, 2, 3)
    async with ticking(Settings(database_url=database)) as ticker:
        await ticker.leads()
        head = await stream.head()
        assert head.epoch == old.epoch + 1
        with pytest.raises(EpochChanged):
            await stream.read(old)
        await _emit(connection, 4)
        assert await _keys(stream, Position(head.epoch, old.number), 4) == [1, 2, 3, 4]


async def test_a_restored_dump_tells_what_was_pending_and_what_was_written_since(
    database: str, connection: Any, stream: Stream, postgres_server: PostgresServer
) -> None:
    """Numbers of transactions of another server mean nothing here: too high they would hide a change for ever, and too
    low they would make it look told.
    """
    async with ticking(Settings(database_url=database)) as ticker:
        await ticker.leads()
        start = await stream.head()
        await _emit(connection, 1, 2)
        await _keys(stream, start, 2)
    open_then = await asyncpg.connect(database)
    await open_then.execute("begin; select headwater.emit('ticked', '3', '{}')")
    await _emit(connection, 4)
    async with ticking(Settings(database_url=database)):
        await _keys(stream, start, 3)
    await _until_led_by_none(connection)  # a tick that was under way when its client went would tell what follows
    await open_then.execute("commit")  # committed after the last tick, with an id below what that tick told
    await open_then.close()
    await _emit(connection, 5)
    # As a restore on another server leaves it: the table is another, and its numbers are far ahead of the server's.
    await connection.execute(
        "update headwater.epoch set identity = 'elsewhere';"
        "update headwater.change set xid = (xid::text::bigint + 1000000)::text::xid8;"
        "update headwater.tick set snapshot = (select format('%s:%s:%s',"
        "  pg_snapshot_xmin(snapshot)::text::bigint + 1000000,"
        "  pg_snapshot_xmax(snapshot)::text::bigint + 1000000,"
        "  (select string_agg((x::text::bigint + 1000000)::text, ',') from pg_snapshot_xip(snapshot) x))::pg_snapshot)"
    )
    await _emit(connection, 6)
    async with ticking(Settings(database_url=database)) as ticker:
        await ticker.leads()
        head = await stream.head()
        assert head.epoch == start.epoch + 1
        await _emit(connection, 7)
        assert await _keys(stream, Position(head.epoch, start.number + 3), 4) == [3, 5, 6, 7]


async def test_a_database_known_to_be_restored_begins_a_new_epoch(
    database: str, connection: Any, stream: Stream
) -> None:
    async with ticking(Settings(database_url=database)) as ticker:
        await ticker.leads()
        epoch = (await stream.head()).epoch
    async with ticking(Settings(database_url=database)) as ticker:
        await ticker.leads()
        assert (await stream.head()).epoch == epoch, "the same database goes on"
    await connection.execute("select headwater.restored()")
    async with ticking(Settings(database_url=database)) as ticker:
        await ticker.leads()
        assert (await stream.head()).epoch == epoch + 1


class _Elsewhere:
    """A sink outside of PostgreSQL: it survives whatever happens to the database, and may be ahead of it."""

    def __init__(self) -> None:
        self.at: Position | None = None
        self.rows: dict[int, int] = {}

    async def position(self) -> Position | None:
        return self.at

    async def apply(self, after: Position, to: Position, changes: Sequence[Change]) -> bool:
        if self.at != after:
            return False
        for change in changes:
            self.rows[change.key["id"]] = change.new["n"]
        self.at = to
        return True

    async def begin(self, at: Position, rows: AsyncIterator[Sequence[Change]]) -> None:
        self.rows = {change.key["id"]: change.new["n"] async for part in rows for change in part}
        self.at = at


async def _follow_until(dsn: str, sink: _Elsewhere, n: int, *, tick: bool = True) -> int:
    """Follow the server until the first row of the sink has this value; the epoch."""
    async with contextlib.AsyncExitStack() as stack:
        if tick:
            ticker = await stack.enter_async_context(ticking(Settings(database_url=dsn)))
            await ticker.leads()
        postgres = await Postgres.open(Settings(database_url=dsn))
        stack.push_async_callback(postgres.close)
        follower = Follower(postgres, "elsewhere", sink, tables=["checked.row"])
        async with asyncio.timeout(20):
            while await follower.step() or sink.rows[1] != n:  # noqa: ASYNC110
                await asyncio.sleep(0.005)
        assert sink.at is not None
        head = await follower.stream.head()
        assert sink.at.epoch == head.epoch
        return head.epoch


async def test_a_promoted_standby_and_an_earlier_point_each_begin_an_epoch_and_followers_begin_again() -> None:
    """Real servers: one is killed and its standby promoted; a backup of it goes back to a point before its last change.

    The follower keeps its rows elsewhere and was ahead of both.
    """
    async with contextlib.AsyncExitStack() as stack:
        folder = stack.enter_context(clusters.folder())
        first = await clusters.started(folder / "first")
        stack.push_async_callback(first.stop)
        await migrate(EVERYTHING, Settings(database_url=first.socket_dsn))
        writer = await asyncpg.connect(first.socket_dsn)
        await writer.execute(TABLES)
        sink = _Elsewhere()
        await writer.execute("update checked.row set n = 1")
        epoch = await _follow_until(first.socket_dsn, sink, 1)

        earlier = await clusters.backed_up(first, folder / "earlier")
        standby = await clusters.backed_up(first, folder / "standby", "-R")
        await standby.start()
        stack.push_async_callback(standby.stop)
        await writer.execute("update checked.row set n = 2")
        await writer.execute("select pg_create_restore_point('before')")
        assert await _follow_until(first.socket_dsn, sink, 2) == epoch
        replayed = await writer.fetchval("select pg_current_wal_insert_lsn()::text")
        await clusters.until(standby.socket_dsn, "select pg_last_wal_replay_lsn() >= $1::text::pg_lsn", replayed)
        # The standby is cut off: what is written now it will never know.
        await writer.execute("select pg_terminate_backend(pid, 1000) from pg_stat_replication")
        cut = await asyncpg.connect(standby.socket_dsn)
        await cut.execute("alter system set primary_conninfo = ''")
        await cut.execute("select pg_reload_conf()")
        await cut.close()
        await clusters.until(first.socket_dsn, "select not exists (select from pg_stat_replication)")
        await writer.execute("update checked.row set n = 3; select pg_switch_wal()")
        assert await _follow_until(first.socket_dsn, sink, 3) == epoch
        await writer.close()
        await clusters.killed(first)

        await clusters.until(standby.socket_dsn, "select pg_promote()")
        promoted = await asyncpg.connect(standby.socket_dsn)
        before = await promoted.fetchval("select n from checked.row where id = 1")
        assert before == 2
        ahead = sink.at
        assert await _follow_until(standby.socket_dsn, sink, 2) == epoch + 1
        await promoted.execute("update checked.row set n = 7")
        assert await _follow_until(standby.socket_dsn, sink, 7) == epoch + 1
        assert sink.rows == {row["id"]: row["n"] for row in await promoted.fetch("select id, n from checked.row")}
        await promoted.close()

        sink.at, sink.rows = ahead, dict.fromkeys(sink.rows, 3)
        clusters.goes_back_to(earlier, "before", first.data / "pg_wal")
        await earlier.start()
        stack.push_async_callback(earlier.stop)
        await clusters.until(earlier.socket_dsn, "select not pg_is_in_recovery()")
        assert await _follow_until(earlier.socket_dsn, sink, 2) == epoch + 1
        assert set(sink.rows.values()) == {2}
