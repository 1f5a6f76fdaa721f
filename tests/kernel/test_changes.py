"""The stream as it is read: gapless, whole, in order, verified; and readers that do it wrong are caught."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import pytest
import pytest_asyncio
from tests.kernel.stream_checker import (
    TABLES,
    WRONG_READERS,
    AfterLastId,
    BelowXmin,
    Delivered,
    Oracle,
    WrongReader,
    judge,
    run,
)

from headwater.kernel.changes import Bell, Position, Stream, emit, topic
from headwater.kernel.errors import EpochChanged, InvalidValue, StreamGap
from headwater.kernel.lifecycle import Headwater
from headwater.kernel.postgres import Postgres
from headwater.kernel.settings import Settings
from headwater.kernel.ticker import Ticker, ticking
from headwater.modules.identity.models import User
from headwater.modules.identity.repository import UserRepository


@pytest_asyncio.fixture
async def ticker(headwater: Headwater) -> AsyncIterator[Ticker]:
    async with ticking(headwater.settings) as running:
        await running.leads()
        yield running


async def _until(stream: Stream, after: Position, count: int, **options: Any) -> list[Any]:
    """The next `count` changes after a position."""
    found: list[Any] = []
    async with asyncio.timeout(10):
        async for batch in stream.tail(after, **options):
            found += batch.changes
            if len(found) >= count:
                break
    return found


async def test_what_was_committed_is_told_in_order_without_gaps(headwater: Headwater, ticker: Ticker) -> None:
    stream, users = Stream(headwater.postgres), headwater.repository(UserRepository)
    start = await stream.head()
    for number in range(3):
        async with headwater.transaction() as tx:
            user = await users.create(tx, email=f"{number}@example.org")
            await users.update(tx, user.id, name="somebody")
    told = await _until(stream, start, 6)
    assert [change.op for change in told] == ["i", "u"] * 3
    assert [change.position.number for change in told] == list(range(start.number + 1, start.number + 7))
    assert told[1].new["name"] == "somebody"
    assert told[1].old["name"] is None


async def test_a_transaction_is_never_divided_however_small_the_limit(headwater: Headwater, ticker: Ticker) -> None:
    stream = Stream(headwater.postgres)
    start = await stream.head()
    async with headwater.transaction() as tx:
        for number in range(50):
            await emit(tx, "many", number, {})
    await _until(stream, start, 50)
    batch = await stream.read(start, limit=1)
    assert len(batch.changes) == 50


async def test_tables_and_topics_are_chosen_and_positions_still_count_everything(
    headwater: Headwater, ticker: Ticker
) -> None:
    stream, users = Stream(headwater.postgres), headwater.repository(UserRepository)
    start = await stream.head()
    async with headwater.transaction() as tx:
        await emit(tx, "asked", "a", {"n": 1})
        await users.create(tx, email="x@example.org")
        await emit(tx, "other", "b", None)
    told = await _until(stream, start, 2, tables=[User, topic("asked")])
    assert [change.table for change in told] == ["topic:asked", "public.users"]
    assert (await stream.read(start, tables=["public.nothing"])).to.number == start.number + 3


async def test_an_event_of_a_transaction_that_fails_is_never_told(headwater: Headwater, ticker: Ticker) -> None:
    stream = Stream(headwater.postgres)
    start = await stream.head()
    with pytest.raises(ZeroDivisionError):
        async with headwater.transaction() as tx:
            await emit(tx, "orders", 1, {})
            raise ZeroDivisionError
    async with headwater.transaction() as tx:
        await emit(tx, "orders", 2, {})
    assert [change.key for change in await _until(stream, start, 1)] == [2]


async def test_a_position_in_the_middle_of_a_tick_is_gone_on_from(headwater: Headwater, ticker: Ticker) -> None:
    stream = Stream(headwater.postgres)
    start = await stream.head()
    async with headwater.transaction() as tx:
        for number in range(4):
            await emit(tx, "many", number, {})
    told = await _until(stream, start, 4)
    batch = await stream.read(told[1].position)
    assert [change.key for change in batch.changes] == [2, 3]


async def test_a_long_open_transaction_holds_nobody_up_and_is_told_when_it_ends(
    headwater: Headwater, ticker: Ticker
) -> None:
    stream = Stream(headwater.postgres)
    start = await stream.head()
    async with headwater.transaction() as slow:
        await emit(slow, "slow", 1, {})
        for number in range(5):
            async with headwater.transaction() as tx:
                await emit(tx, "quick", number, {})
        assert [c.table for c in await _until(stream, start, 5)] == ["topic:quick"] * 5
        await emit(slow, "slow", 2, {})
    told = await _until(stream, start, 7)
    assert [change.key for change in told if change.table == "topic:slow"] == [1, 2]


async def test_a_prepared_transaction_is_told_when_another_session_commits_it(
    headwater: Headwater, ticker: Ticker, database: str
) -> None:
    """Not while it is only prepared, though others with higher ids were told meanwhile; and never when it is undone."""
    stream = Stream(headwater.postgres)
    start = await stream.head()
    name = f"later {database[-12:]}"
    writer = await asyncpg.connect(database)
    await writer.execute(
        "begin; select headwater.emit('slow', '1', '{}'); select headwater.emit('slow', '2', '{}');"
        f"prepare transaction '{name}'"
    )
    await writer.execute(f"begin; select headwater.emit('undone', '0', '{{}}'); prepare transaction '{name} undone'")
    await writer.close()
    async with headwater.transaction() as tx:
        await emit(tx, "quick", 3, {})
    assert [c.key for c in await _until(stream, start, 1)] == [3]
    other = await asyncpg.connect(database)
    await other.execute(f"rollback prepared '{name} undone'")
    await other.execute(f"commit prepared '{name}'")
    await other.close()
    async with headwater.transaction() as tx:
        await emit(tx, "quick", 4, {})
    told = await _until(stream, start, 4)
    assert told[0].key == 3
    assert sorted(c.key for c in told) == [1, 2, 3, 4]
    assert [c.key for c in told if c.table == "topic:slow"] == [1, 2]


async def test_many_small_ticks_read_at_once_are_in_order_and_whole(headwater: Headwater, ticker: Ticker) -> None:
    """Transactions that stay open over several ticks, read in one span: each belongs to the tick that it ended in."""
    stream = Stream(headwater.postgres)
    start = await stream.head()
    async with contextlib.AsyncExitStack() as stack:
        slow = [await stack.enter_async_context(headwater.transaction()) for _ in range(3)]
        for round_ in range(3):
            for number, tx in enumerate(slow[round_:]):
                await emit(tx, "slow", [round_, number + round_], {})
            async with headwater.transaction() as tx:
                await emit(tx, "quick", round_, {})
            await _until(stream, start, round_ + 1)
    one_by_one, at = [], start
    while (batch := await stream.read(at, limit=1)).to != at:
        one_by_one += batch.changes
        at = batch.to
    while at.number < start.number + 9:
        batch = await stream.read(at, limit=1)
        one_by_one += batch.changes
        at = batch.to
    together = await stream.read(start, limit=1000)
    assert list(together.changes) == one_by_one
    assert [c.position.number for c in one_by_one] == [start.number + n for n in range(1, 10)]
    latest = await stream.read(start, limit=1000, latest=True)
    assert list(latest.changes) == one_by_one, "each key has one change only"
    assert latest.to == together.to


async def test_the_latest_alone_is_delivered_and_everything_still_counted(headwater: Headwater, ticker: Ticker) -> None:
    stream = Stream(headwater.postgres)
    start = await stream.head()
    for number in range(6):
        async with headwater.transaction() as tx:
            await emit(tx, "counted", number % 2, {"n": number})
    await _until(stream, start, 6)
    batch = await stream.read(start, latest=True)
    assert [(c.position.number - start.number, c.key, c.new) for c in batch.changes] == [
        (5, 0, {"n": 4}),
        (6, 1, {"n": 5}),
    ]
    assert batch.to.number == start.number + 6
    async with headwater.postgres.connection() as connection:
        await connection.execute("delete from headwater.change where new = '{\"n\": 1}'")
    with pytest.raises(StreamGap):
        await stream.read(start, latest=True)


async def test_behind_a_pooler_without_a_direct_way_polling_alone_tells_everything(
    headwater: Headwater, ticker: Ticker, database: str
) -> None:
    """No LISTEN, no setting of a session and no prepared statement is needed to follow."""
    settings = Settings(database_url=database, pooled=True)
    postgres = await Postgres.open(settings)
    try:
        stream = Stream(postgres)
        start = await stream.head()
        async with Bell.listen(settings) as bell:
            told: list[Any] = []

            async def follow() -> None:
                async for batch in stream.tail(start, bell=bell):
                    told.extend(change.key for change in batch.changes)

            following = asyncio.create_task(follow())
            for number in range(5):
                async with headwater.transaction() as tx:
                    await emit(tx, "polled", number, {})
            async with asyncio.timeout(10):
                while len(told) < 5:  # noqa: ASYNC110
                    await asyncio.sleep(0.005)
            assert not bell.listening
            following.cancel()
            assert told == [0, 1, 2, 3, 4]
    finally:
        await postgres.close()


async def test_a_lost_change_is_noticed_by_whoever_reads(headwater: Headwater, ticker: Ticker) -> None:
    """Proof that reading proves completeness."""
    stream = Stream(headwater.postgres)
    start = await stream.head()
    async with headwater.transaction() as tx:
        for number in range(4):
            await emit(tx, "many", number, {})
    await _until(stream, start, 4)
    async with headwater.postgres.connection() as connection:
        await connection.execute("delete from headwater.change where key = '2'")
    with pytest.raises(StreamGap):
        await stream.read(start)


async def test_a_lost_tick_is_noticed_by_whoever_reads(headwater: Headwater, ticker: Ticker) -> None:
    stream = Stream(headwater.postgres)
    start = await stream.head()
    for number in range(3):
        async with headwater.transaction() as tx:
            await emit(tx, "many", number, {})
        await _until(stream, start, number + 1)
    async with headwater.postgres.connection() as connection:
        await connection.execute("delete from headwater.tick where first_position = $1", start.number + 2)
    with pytest.raises(StreamGap):
        await stream.read(start)
    async with headwater.postgres.connection() as connection:
        await connection.execute("delete from headwater.tick where first_position < $1", start.number + 3)
    with pytest.raises(StreamGap):
        await stream.read(start)


async def test_a_place_that_was_told_anew_is_noticed_by_whoever_goes_on_from_it(
    headwater: Headwater, ticker: Ticker
) -> None:
    """As a crash of the server leaves it: another tick where the one was that the reader has seen."""
    stream = Stream(headwater.postgres)
    start = await stream.head()
    async with headwater.transaction() as tx:
        await emit(tx, "t", 1, {"n": 1})
    await _until(stream, start, 1)
    seen = await stream.read(start)
    assert await stream.settle(seen)
    assert not (await stream.read(seen.to, told_at=seen.told_at)).retold
    async with headwater.transaction() as tx:
        await tx.connection.execute("update headwater.tick set at = at + interval '1 ms'")
    assert not await stream.settle(seen)
    assert (await stream.read(seen.to, told_at=seen.told_at)).retold, "while nothing follows it"
    async with headwater.transaction() as tx:
        await emit(tx, "t", 2, {"n": 2})
    await _until(stream, seen.to, 1)
    again = await stream.read(seen.to, told_at=seen.told_at)
    assert again.retold, "and when something does"
    assert (again.changes, again.to) == ((), seen.to)


async def test_positions_of_another_life_of_the_database_are_refused(headwater: Headwater, ticker: Ticker) -> None:
    stream = Stream(headwater.postgres)
    head = await stream.head()
    for wrong in (Position(head.epoch + 1, 0), Position(head.epoch, head.number + 5)):
        with pytest.raises(EpochChanged):
            await stream.read(wrong)


async def test_the_bell_rings_when_something_was_told(headwater: Headwater, ticker: Ticker) -> None:
    stream = Stream(headwater.postgres)
    start = await stream.head()
    async with Bell.listen(headwater.settings) as bell:
        async with asyncio.timeout(10):
            while not bell.listening:  # noqa: ASYNC110
                await asyncio.sleep(0.001)
        tailing = asyncio.create_task(_until(stream, start, 1, bell=bell))
        async with headwater.transaction() as tx:
            await emit(tx, "rung", 1, {})
        assert len(await tailing) == 1


def test_a_position_is_written_and_read_as_text() -> None:
    assert str(Position(2, 17)) == "2.17"
    assert Position.parse("2.17") == Position(2, 17)
    for wrong in ("", "2", "2.", ".17", "a.b", "2.17.3", "-1.2"):
        with pytest.raises(InvalidValue):
            Position.parse(wrong)


# -- the checker ------------------------------------------------------------------------------------------------------


async def _checked(database: str) -> None:
    connection = await asyncpg.connect(database)
    await connection.execute(TABLES)
    await connection.close()


async def test_random_transactions_are_told_once_whole_and_in_order_while_tickers_are_killed(database: str) -> None:
    """A few seconds of what `make soak` does for as long as it is told."""
    await _checked(database)
    found = await run(database, 2.5, seed=3, kill_every=0.8)
    assert found["ours"].clean, found["ours"]
    assert found["ours"].told > 200
    assert not found["AfterLastId"].clean, "the checker did not catch a reader that loses changes"
    assert not found["BelowXmin"].clean, "the checker did not catch a reader that loses changes"


async def _script(kind: type[WrongReader], dsn: str) -> tuple[Oracle, WrongReader]:
    """The interleaving that the reader cannot survive, step by step. `first` has the lower number, `second` commits."""
    connections = [await asyncpg.connect(dsn) for _ in range(3)]
    first, second, reading = connections
    reader, oracle = kind(reading), Oracle()
    await reader.poll()
    reader.delivered.clear()

    async def write(connection: Any, name: str, key: int) -> None:
        await connection.execute("select set_config('headwater.context', $1, true)", f'{{"writer": "{name}"}}')
        await connection.execute("insert into checked.row values ($1, 0)", key)
        oracle.committed.setdefault(name, []).append(("checked.row", {"id": key}, "i", 0))

    try:
        for connection in (first, second):
            await connection.execute("begin; select pg_current_xact_id()")
        if kind is AfterLastId:
            await write(first, "first", 101)
            await write(second, "second", 102)
            await second.execute("commit")
            await reader.poll()
            await first.execute("commit")
        elif kind is BelowXmin:
            await write(second, "second", 102)
            await write(first, "first", 101)
            await first.execute("commit")
            await reader.poll()
            await second.execute("commit")
        else:
            await write(second, "second", 102)
            await reader.poll()
            await first.execute("commit")
            await reader.poll()
            await second.execute("commit")
        await reader.poll()
        await reader.poll()
    finally:
        for connection in connections:
            await connection.close()
    return oracle, reader


@pytest.mark.parametrize("kind", WRONG_READERS)
async def test_the_checker_catches_each_wrong_reader(database: str, kind: type[WrongReader]) -> None:
    await _checked(database)
    oracle, reader = await _script(kind, database)
    assert judge(oracle, reader.delivered).lost == 1


def test_the_judge_sees_every_kind_of_wrong() -> None:
    oracle = Oracle({"a": [("t", 1, "u", 1), ("t", 1, "u", 2)], "b": [("t", 1, "u", 3)]}, {"c"})

    def judged(*told: tuple[str, int]) -> Any:
        return judge(oracle, [Delivered(w, ("t", 1, "u", n), 1, at) for at, (w, n) in enumerate(told)])

    assert judged(("a", 1), ("a", 2), ("b", 3)).clean
    assert judged(("a", 1), ("a", 2)).lost == 1
    assert judged(("a", 1), ("a", 2), ("a", 2), ("b", 3)).duplicated == 1
    assert judged(("b", 3), ("a", 1), ("a", 2)).inverted == 1
    assert judged(("a", 1), ("b", 3), ("a", 2)).split == 1
    assert judged(("a", 1), ("a", 2), ("b", 3), ("c", 4)).phantom == 1
    gapped = [Delivered("a", ("t", 1, "u", 1), 1, 1), Delivered("a", ("t", 1, "u", 2), 1, 3)]
    assert judge(oracle, gapped).gapped == 1
    apart = [Delivered("a", ("t", 1, "u", 1), 1, 1), Delivered("a", ("t", 1, "u", 2), 2, 2)]
    assert judge(oracle, apart).split == 1
