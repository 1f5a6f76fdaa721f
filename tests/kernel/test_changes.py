"""The stream as it is read: gapless, whole, in order, verified; and readers that do it wrong are caught."""

from __future__ import annotations

import asyncio
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
