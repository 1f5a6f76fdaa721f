"""Capture: whoever writes to a tracked table, in whatever way, the change stands in the stream of that transaction."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import pytest
import pytest_asyncio

from headwater.kernel.errors import ProgrammingError, VersionConflict
from headwater.kernel.lifecycle import Headwater
from headwater.kernel.models import Versioned
from headwater.kernel.settings import Settings
from headwater.kernel.ticker import ticking
from headwater.kernel.tracking import Context, Tracked, call_to_track, table_name, tracked_table
from headwater.modules.blockchain.models import Asset
from headwater.modules.identity.models import ApiKey, Role, User
from headwater.modules.identity.repository import UserRepository
from headwater.systems.everything import EVERYTHING

_CHANGES = 'select "table", op::text, key, new, old, context from headwater.change order by id'
_TABLES = """
create schema park;
create table park.tree (id int primary key, kind text, height int, secret text);
create table park.leaf (tree_id int references park.tree on delete cascade, number int, primary key (tree_id, number));
create table park.day (at date, place text, visitors int, primary key (at, place)) partition by range (at);
create table park.day_1 partition of park.day for values from ('2026-01-01') to ('2026-02-01');
create table park.day_2 partition of park.day for values from ('2026-02-01') to ('2026-03-01');
select headwater.track('park.tree', 'full', '{kind}', '{secret}');
select headwater.track('park.leaf', 'keys');
select headwater.track('park.day', 'full');
"""


@pytest_asyncio.fixture
async def park(database: str) -> AsyncIterator[Any]:
    """A connection as any other program has it, and three tracked tables."""
    connection = await asyncpg.connect(database)
    await connection.set_type_codec("jsonb", schema="pg_catalog", encoder=json.dumps, decoder=json.loads)
    await connection.execute(_TABLES)
    await connection.execute("delete from headwater.change")  # what revisions have planted
    yield connection
    await connection.close()


async def _told(connection: Any) -> list[tuple[Any, ...]]:
    """What the stream holds: table, op, key, new, old."""
    return [tuple(row)[:5] for row in await connection.fetch(_CHANGES)]


async def test_an_insert_an_update_and_a_delete_are_told_with_the_row_before_and_after(park: Any) -> None:
    await park.execute("insert into park.tree values (1, 'oak', 3, 'x')")
    await park.execute("update park.tree set height = 4, secret = 'y'")
    await park.execute("delete from park.tree")
    small, tall = ({"id": 1, "kind": "oak", "height": height} for height in (3, 4))
    assert await _told(park) == [
        ("park.tree", "i", {"id": 1}, small, None),
        ("park.tree", "u", {"id": 1}, tall, small),
        ("park.tree", "d", {"id": 1}, None, tall),
    ]


async def test_a_private_column_never_enters_the_stream(park: Any) -> None:
    await park.execute("insert into park.tree values (1, 'oak', 3, 'hidden'); update park.tree set height = 1")
    await park.execute("delete from park.tree")
    assert "hidden" not in str(await _told(park))


async def test_the_policy_keys_tells_the_key_and_the_tags_alone(park: Any) -> None:
    await park.execute("select headwater.track('park.tree', 'keys', '{kind}', '{secret}')")
    await park.execute("insert into park.tree values (1, 'oak', 3, 'x'); update park.tree set kind = 'elm'")
    assert await _told(park) == [
        ("park.tree", "i", {"id": 1}, {"id": 1, "kind": "oak"}, None),
        ("park.tree", "u", {"id": 1}, {"id": 1, "kind": "elm"}, {"id": 1, "kind": "oak"}),
    ]


async def test_a_changed_key_is_the_end_of_one_row_and_the_beginning_of_another(park: Any) -> None:
    await park.execute("insert into park.tree values (1, 'oak', 3, 'x'); update park.tree set id = 2")
    assert [(op, key) for _, op, key, _, _ in await _told(park)] == [
        ("i", {"id": 1}),
        ("d", {"id": 1}),
        ("i", {"id": 2}),
    ]


async def test_bulk_updates_cascades_and_copy_are_told_row_by_row(park: Any) -> None:
    await park.copy_records_to_table("tree", schema_name="park", records=[(n, "oak", n, "") for n in range(5)])
    await park.execute("insert into park.leaf select id, 1 from park.tree")
    await park.execute("update park.tree set height = 0 where id < 3")
    await park.execute("delete from park.tree where id = 4")
    told = [(table, op, key.get("id", key.get("tree_id"))) for table, op, key, _, _ in await _told(park)]
    assert told[:5] == [("park.tree", "i", n) for n in range(5)]
    assert told[5:10] == [("park.leaf", "i", n) for n in range(5)]
    assert told[10:13] == [("park.tree", "u", n) for n in range(3)]
    assert sorted(told[13:]) == [("park.leaf", "d", 4), ("park.tree", "d", 4)]


async def test_what_is_rolled_back_to_a_savepoint_or_wholly_is_not_told(park: Any) -> None:
    async with park.transaction():
        await park.execute("insert into park.tree values (1, 'oak', 3, 'x')")
        inner = park.transaction()
        await inner.start()
        await park.execute("insert into park.tree values (2, 'elm', 3, 'x')")
        await inner.rollback()
        await park.execute("insert into park.tree values (3, 'ash', 3, 'x')")
    whole = park.transaction()
    await whole.start()
    await park.execute("delete from park.tree")
    await whole.rollback()
    assert [key["id"] for _, _, key, _, _ in await _told(park)] == [1, 3]


async def test_changes_of_one_transaction_carry_its_number_also_from_inside_savepoints(park: Any) -> None:
    async with park.transaction():
        await park.execute("insert into park.tree values (1, 'oak', 3, 'x')")
        async with park.transaction():
            await park.execute("insert into park.tree values (2, 'elm', 3, 'x')")
    assert await park.fetchval("select count(distinct xid) from headwater.change") == 1


async def test_a_partition_written_to_directly_is_told_as_its_table(park: Any) -> None:
    await park.execute("insert into park.day_1 values ('2026-01-05', 'north', 7)")
    await park.execute("insert into park.day values ('2026-02-05', 'north', 8)")
    await park.execute("update park.day set at = '2026-02-07' where visitors = 7")
    await park.execute("create table park.day_3 partition of park.day for values from ('2026-03-01') to ('2026-04-01')")
    await park.execute("insert into park.day_3 values ('2026-03-05', 'south', 9)")
    told = [(table, op, key["at"]) for table, op, key, _, _ in await _told(park)]
    assert told == [
        ("park.day", "i", "2026-01-05"),
        ("park.day", "i", "2026-02-05"),
        ("park.day", "d", "2026-01-05"),
        ("park.day", "i", "2026-02-07"),
        ("park.day", "i", "2026-03-05"),
    ]


async def test_truncate_is_told_of_a_table_and_as_deletes_of_one_partition(park: Any) -> None:
    await park.execute("insert into park.tree values (1, 'oak', 3, 'x'); truncate park.tree cascade")
    await park.execute("insert into park.day values ('2026-01-05', 'north', 7), ('2026-02-05', 'north', 8)")
    await park.execute("truncate park.day_1")
    await park.execute("truncate park.day")
    await park.execute("insert into park.day values ('2026-01-06', 'north', 7); truncate park.day_1")
    told = [(table, op, (key or {}).get("at")) for table, op, key, _, _ in await _told(park)]
    assert told[1:3] == [("park.tree", "t", None), ("park.leaf", "t", None)]
    assert told[5:] == [
        ("park.day", "d", "2026-01-05"),
        ("park.day", "t", None),
        ("park.day", "i", "2026-01-06"),
        ("park.day", "d", "2026-01-06"),
    ]


async def test_on_conflict_and_merge_are_told_as_what_they_did(park: Any) -> None:
    await park.execute("insert into park.tree values (1, 'oak', 3, 'x')")
    await park.execute(
        "insert into park.tree values (1, 'oak', 4, 'x'), (2, 'elm', 1, 'x') "
        "on conflict (id) do update set height = excluded.height"
    )
    await park.execute("insert into park.tree values (1, 'oak', 9, 'x') on conflict do nothing")
    await park.execute(
        "merge into park.tree t using (values (1, 5), (2, null), (3, 7)) as v (id, height) on t.id = v.id "
        "when matched and v.height is null then delete when matched then update set height = v.height "
        "when not matched then insert values (v.id, 'ash', v.height, 'x')"
    )
    told = [(op, key["id"], (new or old)["height"]) for _, op, key, new, old in await _told(park)]
    assert told[:3] == [("i", 1, 3), ("u", 1, 4), ("i", 2, 1)]
    assert sorted(told[3:]) == [("d", 2, 1), ("i", 3, 7), ("u", 1, 5)]


async def test_truncate_reaches_the_partitions_of_a_table_that_refers(park: Any) -> None:
    await park.execute(
        "alter table park.day add column tree_id int references park.tree;"
        "insert into park.tree values (1, 'oak', 3, 'x');"
        "insert into park.day values ('2026-01-05', 'north', 7, 1); truncate park.tree cascade"
    )
    told = [(table, op) for table, op, *_ in await _told(park)]
    assert sorted(told[2:]) == [("park.day", "t"), ("park.leaf", "t"), ("park.tree", "t")]


async def test_a_partition_that_came_later_is_told_when_it_is_emptied_alone(park: Any) -> None:
    await park.execute("create table park.day_3 partition of park.day for values from ('2026-03-01') to ('2026-04-01')")
    await park.execute(
        "create table park.day_4 (like park.day including all);"
        "alter table park.day attach partition park.day_4 for values from ('2026-04-01') to ('2026-05-01')"
    )
    assert await park.fetchval("select headwater.watch_partitions()") == 2, "what the ticker calls every few seconds"
    assert await park.fetchval("select headwater.watch_partitions()") == 0
    await park.execute("insert into park.day values ('2026-03-05', 'south', 1), ('2026-04-05', 'south', 2)")
    await park.execute("truncate park.day_3")
    await park.execute("truncate park.day_4")
    told = [(op, key["at"]) for _, op, key, _, _ in await _told(park)]
    assert told[2:] == [("d", "2026-03-05"), ("d", "2026-04-05")]


async def test_until_a_ticker_has_looked_the_emptying_of_a_new_partition_alone_is_the_one_thing_not_told(
    park: Any, database: str
) -> None:
    await park.execute("create table park.day_3 partition of park.day for values from ('2026-03-01') to ('2026-04-01')")
    filled = "insert into park.day values ('2026-03-05', 'south', 1)"
    await park.execute(filled)
    await park.execute("update park.day_3 set visitors = 2; truncate park.day")
    await park.execute(filled)
    await park.execute("truncate park.day_3")
    assert [op for _, op, *_ in await _told(park)] == ["i", "u", "t", "i"]
    watched = "select exists (select from pg_trigger where tgrelid = 'park.day_3'::regclass and tgname = $1)"
    async with ticking(Settings(database_url=database)), asyncio.timeout(10):
        while not await park.fetchval(watched, "headwater_truncating"):  # noqa: ASYNC110  # by another connection
            await asyncio.sleep(0.01)
    await park.execute(filled)
    await park.execute("truncate park.day_3")
    assert [op for _, op, *_ in await _told(park)][4:] == ["i", "d"]


async def test_writers_with_triggers_switched_to_replica_are_told_too(park: Any) -> None:
    await park.execute("set session_replication_role = replica")
    await park.execute("insert into park.tree values (1, 'oak', 3, 'x')")
    assert len(await _told(park)) == 1


async def test_a_role_that_may_only_write_the_table_writes_it_and_is_told(park: Any) -> None:
    role = f"writer_{os.urandom(4).hex()}"
    await park.execute(f"create role {role}; grant usage on schema park to {role}; grant insert on park.tree to {role}")
    try:
        await park.execute(f"set role {role}; insert into park.tree values (1, 'oak', 3, 'x'); reset role")
        assert len(await _told(park)) == 1
    finally:
        await park.execute(f"reset role; drop owned by {role}; drop role {role}")


@pytest.mark.parametrize("words", ["", "no json", '{"actor": "\\u0000"}', "null", "[1]"])
async def test_a_context_of_whatever_words_fails_no_write(park: Any, words: str) -> None:
    async with park.transaction():
        await park.execute("select set_config('headwater.context', $1, true)", words)
        await park.execute("insert into park.tree values (1, 'oak', 3, 'x')")
    assert len(await _told(park)) == 1


async def test_an_event_stands_in_the_stream_of_its_transaction(park: Any) -> None:
    async with park.transaction():
        await park.execute("insert into park.tree values (1, 'oak', 3, 'x')")
        await park.execute("select headwater.emit('felled', '7', '{\"why\": \"storm\"}')")
    assert (await _told(park))[1] == ("topic:felled", "e", 7, {"why": "storm"}, None)


async def test_untracked_again_a_table_is_told_no_more(park: Any) -> None:
    await park.execute("select headwater.untrack('park.day'), headwater.untrack('park.tree')")
    await park.execute("insert into park.day values ('2026-01-05', 'north', 7); truncate park.day, park.tree cascade")
    assert [table for table, *_ in await _told(park)] == ["park.leaf"]
    assert await park.fetchval('select array_agg("table") from headwater.tracked where "table" like \'park%\'') == [
        "park.leaf"
    ]


async def test_nothing_in_a_business_transaction_notifies_or_takes_a_lock_that_others_wait_for(park: Any) -> None:
    async with park.transaction():
        await park.execute("insert into park.tree values (1, 'oak', 3, 'x')")
        await park.execute("select headwater.emit('felled', '7', '{}')")
        locks = await park.fetch(
            "select locktype, mode from pg_locks where pid = pg_backend_pid() and granted "
            "and not (locktype in ('relation', 'virtualxid', 'transactionid') "
            "and mode in ('AccessShareLock', 'RowShareLock', 'RowExclusiveLock', 'ExclusiveLock'))"
        )
        sources = await park.fetch(
            "select prosrc from pg_proc where pronamespace = 'headwater'::regnamespace and proname like 'capture %'"
        )
    assert [tuple(row) for row in locks] == []
    assert not [row["prosrc"] for row in sources if "notify" in row["prosrc"] or "advisory" in row["prosrc"]]


async def test_a_table_without_a_key_or_with_unknown_columns_is_refused(park: Any) -> None:
    await park.execute("create table park.keyless (a int)")
    for call, said in (
        ("headwater.track('park.keyless', 'full')", "primary key"),
        ("headwater.track('park.tree', 'full', '{colour}')", "colour"),
        ("headwater.track('park.tree', 'some')", "policy"),
    ):
        with pytest.raises(asyncpg.PostgresError, match=said):
            await park.execute(f"select {call}")


async def test_the_context_of_a_transaction_stands_on_its_changes_and_on_no_others(headwater: Headwater) -> None:
    users = headwater.repository(UserRepository)
    async with headwater.transaction(context=Context(actor="ada", request="r-1", reason="correction")) as tx:
        await users.create(tx, email="one@example.org")
    async with headwater.transaction() as tx:
        await users.create(tx, email="two@example.org")
    async with headwater.postgres.connection() as connection:
        rows = await connection.fetch(
            "select context, new from headwater.change where \"table\" = 'public.users' order by id"
        )
    assert rows[0]["context"] == {"actor": "ada", "request": "r-1", "reason": "correction"}
    assert rows[1]["context"] is None
    assert "password_hash" not in rows[0]["new"]


async def test_a_writer_that_knows_nothing_of_versions_raises_them_all_the_same(
    headwater: Headwater, database: str
) -> None:
    users = headwater.repository(UserRepository)
    user = await users.create(headwater.autocommit, email="one@example.org")
    connection = await asyncpg.connect(database)
    try:
        await connection.execute("update users set name = 'by psql' where id = $1", user.id)
        moved = await users.get(user.id)
        assert (moved.version, moved.updated_at > user.updated_at) == (2, True)
        own = "update users set name = 'again', updated_at = $2 where id = $1"
        await connection.execute(own, user.id, user.updated_at)
        assert (await users.get(user.id)).updated_at == user.updated_at  # its own word counts
        with pytest.raises(VersionConflict):
            await users.update(headwater.autocommit, user.id, version=2, name="too late")
        assert (await users.update(headwater.autocommit, user.id, version=3, name="in time")).new.version == 4
    finally:
        await connection.close()


def test_a_model_declares_what_is_tracked_of_it() -> None:
    assert tracked_table(Role) is None
    keys = tracked_table(ApiKey)
    assert keys is not None
    assert (keys.name, keys.policy, keys.tags) == ("public.api_keys", "keys", ("user_id",))
    users = tracked_table(User)
    assert users is not None
    assert users.private == ("password_hash",)


def test_the_call_in_a_revision_names_tags_and_private_columns() -> None:
    assets = tracked_table(Asset)
    assert assets is not None
    assert call_to_track(assets) == "select headwater.track('blockchain.assets', 'full', '{issuer_id}', '{search}')"


def test_an_unknown_policy_or_tag_is_refused() -> None:
    with pytest.raises(ProgrammingError, match="policy"):
        Tracked("all")  # type: ignore[arg-type]

    class Wrong:
        __tracked__ = Tracked("full", tags=("colour",))
        __table__ = User.__table__

    with pytest.raises(ProgrammingError, match="colour"):
        tracked_table(Wrong)  # type: ignore[arg-type]


async def test_the_database_tracks_what_the_models_declare(database: str) -> None:
    """Proof that the revisions carry every declaration."""
    declared = {t.name: t for module in EVERYTHING.modules for model in module.models if (t := tracked_table(model))}
    connection = await asyncpg.connect(database)
    try:
        rows = await connection.fetch("select * from headwater.tracked")
        with_triggers = await connection.fetch(
            "select n.nspname || '.' || c.relname as name from pg_trigger g join pg_class c on c.oid = g.tgrelid "
            "join pg_namespace n on n.oid = c.relnamespace where g.tgname = 'headwater_change' and g.tgenabled = 'A'"
        )
        kept = await connection.fetch(
            "select n.nspname || '.' || c.relname as name from pg_trigger g join pg_class c on c.oid = g.tgrelid "
            "join pg_namespace n on n.oid = c.relnamespace where g.tgname = 'headwater_version'"
        )
    finally:
        await connection.close()
    versioned = {table_name(m) for module in EVERYTHING.modules for m in module.models if issubclass(m, Versioned)}
    assert {row["name"] for row in kept} == versioned
    assert {row["table"] for row in rows} == set(declared) == {row["name"] for row in with_triggers}
    for row in rows:
        known = declared[row["table"]]
        assert (row["policy"], tuple(row["keys"])) == (known.policy, known.keys)
        assert (tuple(row["tags"]), tuple(row["private"])) == (known.tags, known.private)
