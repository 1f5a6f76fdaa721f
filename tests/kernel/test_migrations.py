"""Migrations on a real server: many at once, killed half-way, behind a lock, edited, missing, drifted."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import asyncpg
import pytest
import pytest_asyncio
from alembic.script import ScriptDirectory

from headwater.kernel import revision_files
from headwater.kernel.errors import (
    ChecksumMismatch,
    LockNotAvailable,
    MigrationError,
    ProgrammingError,
    Unreachable,
)
from headwater.kernel.migrations import LOCK, accept, migrate, plan, status, validate
from headwater.kernel.module import System
from headwater.kernel.settings import Settings
from headwater.systems.construct import CONSTRUCT
from headwater.systems.everything import EVERYTHING

from .workshop import Workshop


@pytest.fixture
def workshop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workshop:
    monkeypatch.syspath_prepend(str(tmp_path))
    return Workshop(tmp_path)


@pytest.fixture
def empty(empty_database: str) -> Settings:
    return Settings(database_url=empty_database)


@pytest_asyncio.fixture
async def raw(empty_database: str) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(empty_database)
    yield connection
    if not connection.is_closed():
        await connection.close()


async def until(condition: Callable[[], Any]) -> Any:
    """Ask again and again until the answer is not empty; the test's own limit is the suite's."""
    async with asyncio.timeout(60):
        while not (answer := await condition()):  # noqa: ASYNC110  # PostgreSQL tells nobody
            await asyncio.sleep(0.02)
        return answer


# One after the other -------------------------------------------------------------------------------------------------


async def test_an_empty_database_gets_every_revision_once_and_the_second_run_nothing(empty: Settings) -> None:
    heard: list[str] = []
    waiting = await plan(EVERYTHING, empty)
    report = await migrate(EVERYTHING, empty, progress=heard.append)
    assert [a.revision for a in report.applied] == [p.revision for p in waiting]
    assert report.applied[0].revision == "kernel_0001"
    assert len(heard) == len(report.applied)
    assert (await migrate(EVERYTHING, empty)).applied == ()
    assert (await validate(EVERYTHING, empty)).valid


async def test_each_revision_leaves_a_row_with_its_checksum_and_its_author(empty: Settings, raw: Any) -> None:
    await migrate(EVERYTHING, empty)
    rows = {r["revision"]: r for r in await raw.fetch("select * from headwater.migration")}
    files = revision_files.read(EVERYTHING)
    assert rows.keys() == {r.revision for r in files.order}
    for revision in files.order:
        row = rows[revision.revision]
        assert (row["module"], row["sha256"], row["state"]) == (revision.module, revision.sha256, "applied")
        assert row["applied_by"] == await raw.fetchval("select session_user")
        assert row["duration_ms"] is not None


async def test_the_version_table_is_what_alembic_itself_would_keep(empty: Settings, raw: Any) -> None:
    await migrate(EVERYTHING, empty)
    folders = [str(folder) for folder in revision_files.branches(EVERYTHING).values()]
    script = ScriptDirectory(folders[0], version_locations=folders)
    heads = {r["version_num"] for r in await raw.fetch("select version_num from headwater.alembic_version")}
    assert heads == set(script.get_heads(consider_depends_on=True))
    assert "kernel_0001" not in heads


async def test_a_module_is_at_its_own_revision_even_when_alembic_has_forgotten_it(empty: Settings) -> None:
    await migrate(EVERYTHING, empty)
    now = await status(EVERYTHING, empty)
    at = {m.module: m.current for m in now.modules}
    assert at["kernel"] == "kernel_0004"
    assert all(m.current == m.head and not m.pending for m in now.modules)


@pytest.mark.parametrize("form", ["postgresql+asyncpg", "postgres", "postgresql"])
async def test_every_form_of_dsn_works_also_with_a_socket(form: str, empty_database: str, workshop: Workshop) -> None:
    dsn = form + empty_database[empty_database.index("://") :]
    report = await migrate(
        System("bare", []), Settings(database_url="postgresql://nobody@127.0.0.1:1/x", direct_url=dsn)
    )
    assert [a.revision for a in report.applied] == ["kernel_0001", "kernel_0002", "kernel_0003", "kernel_0004"]


async def test_a_database_that_does_not_answer_is_unreachable(empty_database: str) -> None:
    for wrong in ("postgresql://nobody@127.0.0.1:1/x", f"{empty_database}".replace("/test_", "/gone_"), ""):
        for ask in (migrate, status):
            with pytest.raises(Unreachable):
                await ask(EVERYTHING, Settings(database_url=wrong))


async def test_plan_and_status_of_an_unmigrated_database_change_nothing(empty: Settings, raw: Any) -> None:
    assert len(await plan(EVERYTHING, empty)) == len(revision_files.read(EVERYTHING).order)
    now = await status(EVERYTHING, empty)
    assert now.pending
    assert not now.drifted
    assert not (await validate(EVERYTHING, empty)).valid
    assert await raw.fetchval("select to_regnamespace('headwater')") is None


async def test_a_failing_revision_leaves_what_came_before_and_nothing_of_itself(
    empty: Settings, raw: Any, workshop: Workshop
) -> None:
    shop = workshop.module("shop")
    workshop.revision(shop, 1, "create schema shop", "create table shop.a ()")
    workshop.revision(shop, 2, "create table shop.b ()", "select 1 / 0")
    with pytest.raises(MigrationError, match=r"'shop_0002' \(0002_step\.py\) failed: division by zero") as caught:
        await migrate(workshop.system(), empty)
    assert caught.value.detail["sqlstate"] == "22012"
    assert await raw.fetchval("select to_regclass('shop.b')") is None
    assert [p.revision for p in await plan(workshop.system(), empty)] == ["shop_0002"]
    workshop.revision(shop, 2, "create table shop.b ()")
    assert [a.revision for a in (await migrate(workshop.system(), empty)).applied] == ["shop_0002"]
    assert (await validate(workshop.system(), empty)).valid


async def test_a_revision_that_would_leave_its_transaction_is_refused(
    empty: Settings, raw: Any, workshop: Workshop
) -> None:
    shop = workshop.module("shop")
    body = """
    op.execute("create schema shop")
    with op.get_context().autocommit_block():
        op.execute("create table shop.a ()")
    """
    workshop.revision(shop, 1, body=body)
    with pytest.raises(ProgrammingError, match="autocommit_block"):
        await migrate(workshop.system(), empty)
    assert await raw.fetchval("select to_regnamespace('shop')") is None


async def test_a_database_can_serve_two_systems_one_after_the_other(empty: Settings, workshop: Workshop) -> None:
    await migrate(CONSTRUCT, empty)
    shop = workshop.module("shop")
    workshop.revision(shop, 1, "create schema shop", "create table shop.a (id int primary key)")
    assert [a.revision for a in (await migrate(workshop.system(), empty)).applied] == ["shop_0001"]
    mine, theirs = await status(workshop.system(), empty), await status(CONSTRUCT, empty)
    assert set(mine.others) == {m.name for m in CONSTRUCT.modules}
    assert theirs.others == ("shop",)
    assert not mine.drifted
    assert not theirs.drifted


# Many at once --------------------------------------------------------------------------------------------------------


async def test_sixteen_at_once_all_succeed_and_apply_each_revision_once(
    empty: Settings, raw: Any, workshop: Workshop
) -> None:
    """Four of them are processes of their own, the rest tasks with connections of their own."""
    shop = workshop.module("shop")
    for number in range(1, 6):
        made = ["create schema shop"] if number == 1 else []
        workshop.revision(shop, number, *made, f"create table shop.t{number} (id int primary key)")
    processes = [await workshop.process(empty) for _ in range(4)]
    system = workshop.system()
    reports = await asyncio.gather(*(migrate(system, empty, lock_wait_seconds=120) for _ in range(12)))
    ends = [await process.communicate() for process in processes]
    assert [process.returncode for process in processes] == [0] * 4, ends
    applied = [len(report.applied) for report in reports] + [int(out) for out, _ in ends]
    assert sum(applied) == 9
    assert await raw.fetchval("select count(*) from headwater.migration where state = 'applied'") == 9
    assert (await validate(system, empty)).valid


async def test_two_databases_are_migrated_side_by_side_in_one_process(
    empty: Settings, raw: Any, database: str, workshop: Workshop
) -> None:
    """`alembic.op` is one for the process: the first is held in the middle of a revision while the second comes by."""
    shop = workshop.module("shop")
    statements = ("create table public.a ()", "select pg_advisory_xact_lock(77)", "create table public.b ()")
    workshop.revision(shop, 1, *statements, options="lock_timeout_ms = 0")
    second = Settings(database_url=database)
    await raw.execute("select pg_advisory_lock(77)")  # advisory locks belong to one database: the second does not wait
    migrations = [asyncio.create_task(migrate(workshop.system(), empty))]
    await until(lambda: raw.fetchval("select pid from pg_locks where objid = 77 and not granted"))
    migrations.append(asyncio.create_task(migrate(workshop.system(), second)))
    await asyncio.wait(migrations[1:], timeout=0.5)  # without turns it would be through by now
    await raw.execute("select pg_advisory_unlock(77)")
    await asyncio.gather(*migrations)
    for settings in (empty, second):
        assert (await validate(workshop.system(), settings)).valid


async def test_waiting_for_the_lock_ends_with_the_name_of_its_holder(empty: Settings, raw: Any) -> None:
    await raw.execute("select pg_advisory_lock($1)", LOCK)
    await raw.execute("set application_name = 'the other one'")
    with pytest.raises(LockNotAvailable, match=rf"process {raw.get_server_pid()} \(the other one\)"):
        await migrate(EVERYTHING, empty, lock_wait_seconds=0.1)
    assert await raw.fetchval("select to_regnamespace('headwater')") is None


# Killed half-way -----------------------------------------------------------------------------------------------------


async def test_a_migration_killed_in_its_transaction_is_finished_by_the_next(
    empty: Settings, raw: Any, workshop: Workshop
) -> None:
    shop = workshop.module("shop")
    workshop.revision(shop, 1, "create schema shop")
    workshop.revision(
        shop, 2, "create table shop.half ()", "select pg_advisory_xact_lock(99)", "create table shop.b ()"
    )
    workshop.revision(shop, 3, "create table shop.c ()")
    await raw.execute("select pg_advisory_lock(99)")
    process = await workshop.process(empty)
    await until(
        lambda: raw.fetchval("select pid from pg_locks where locktype = 'advisory' and objid = 99 and not granted")
    )
    process.send_signal(signal.SIGKILL)
    await process.wait()
    await raw.execute("select pg_advisory_unlock(99)")
    report = await migrate(workshop.system(), empty)
    assert [a.revision for a in report.applied] == ["shop_0002", "shop_0003"]
    assert (await validate(workshop.system(), empty)).valid


async def test_an_index_built_concurrently_when_killed_is_built_by_the_next(
    empty: Settings, empty_database: str, raw: Any, workshop: Workshop
) -> None:
    shop = workshop.module("shop")
    workshop.revision(shop, 1, "create schema shop", "create table shop.goods (id int, name text)")
    await migrate(workshop.system(), empty)
    await raw.execute(
        "create index goods_hand_idx on shop.goods (id)"
    )  # drift from before: must be neither kept nor lost
    workshop.revision(
        shop,
        2,
        "create index concurrently if not exists goods_id_idx on shop.goods (id)",
        "create index concurrently if not exists goods_name_idx on shop.goods (name)",
        options="transactional = False",
    )
    blocker = await asyncpg.connect(empty_database)
    transaction = blocker.transaction()
    await transaction.start()
    await blocker.execute("lock table shop.goods in row exclusive mode")  # a writer that does not end
    process = await workshop.process(empty)
    unfinished = "select count(*) from pg_index where indexrelid = to_regclass('shop.goods_id_idx') and not indisvalid"
    await until(lambda: raw.fetchval(unfinished))
    process.send_signal(signal.SIGKILL)
    await process.wait()
    assert await raw.fetchval("select state from headwater.migration where revision = 'shop_0002'") == "running"
    (planned,) = await plan(workshop.system(), empty)
    assert (planned.revision, planned.begun, planned.transactional) == ("shop_0002", True, False)
    # The server ends the orphaned statement by itself, while the writer still stands in its way.
    await until(lambda: raw.fetchval("select pg_try_advisory_lock($1)", LOCK))
    await raw.execute("select pg_advisory_unlock($1)", LOCK)
    assert await raw.fetchval(unfinished) == 1
    await transaction.rollback()
    await blocker.close()
    report = await migrate(workshop.system(), empty)
    assert [a.revision for a in report.applied] == ["shop_0002"]
    assert [str(d) for d in report.drift] == ["index shop.goods_hand_idx"]
    assert await raw.fetchval("select count(*) from pg_index where not indisvalid") == 0
    assert await raw.fetchval("select before is null from headwater.migration where revision = 'shop_0002'")


# Behind a lock -------------------------------------------------------------------------------------------------------


async def test_a_revision_behind_an_open_transaction_tries_again_and_readers_go_on(
    empty: Settings, empty_database: str, raw: Any, workshop: Workshop
) -> None:
    shop = workshop.module("shop")
    workshop.revision(shop, 1, "create schema shop", "create table shop.goods (id int)")
    await migrate(workshop.system(), empty)
    workshop.revision(shop, 2, "alter table shop.goods add column note text")
    blocker = await asyncpg.connect(empty_database)
    transaction = blocker.transaction()
    await transaction.start()
    await blocker.execute("select * from shop.goods")
    heard: asyncio.Queue[str] = asyncio.Queue()
    migrating = asyncio.create_task(migrate(workshop.system(), empty, progress=heard.put_nowait))
    async with asyncio.timeout(30):
        while "waits for a table lock" not in await heard.get():
            pass
        for _ in range(20):  # each of them returns although the ALTER has not had its turn
            await raw.fetch("select * from shop.goods")
            assert not migrating.done()
            await asyncio.sleep(0.01)
    await transaction.rollback()
    await blocker.close()
    (applied,) = (await migrating).applied
    assert applied.lock_retries >= 1
    assert await raw.fetchval("select lock_retries from headwater.migration where revision = 'shop_0002'") >= 1


async def test_a_lock_that_never_comes_free_ends_with_who_is_in_the_way(
    empty: Settings, raw: Any, workshop: Workshop
) -> None:
    shop = workshop.module("shop")
    workshop.revision(shop, 1, "create schema shop", "create table shop.goods (id int)")
    await migrate(workshop.system(), empty)
    workshop.revision(shop, 2, "alter table shop.goods add column note text")
    await raw.execute("set application_name = 'the old report'")
    async with raw.transaction():
        await raw.execute("select * from shop.goods")
        async with asyncio.timeout(60):
            with pytest.raises(LockNotAvailable, match=r"'shop_0002'.*the old report, idle in transaction") as caught:
                await migrate(workshop.system(), empty, lock_wait_seconds=0.3)
    assert raw.get_server_pid() in caught.value.detail["pids"]
    assert [a.revision for a in (await migrate(workshop.system(), empty)).applied] == ["shop_0002"]


# Edited, missing, unapplied, drifted ---------------------------------------------------------------------------------


async def test_an_edited_revision_is_named_and_stops_every_further_migration(
    empty: Settings, workshop: Workshop
) -> None:
    shop = workshop.module("shop")
    path = workshop.revision(shop, 1, "create schema shop")
    await migrate(workshop.system(), empty)
    path.write_text(path.read_text() + "\n# changed\n")
    workshop.revision(shop, 2, "create table shop.a ()")
    report = await validate(workshop.system(), empty)
    assert [e.revision for e in report.edited] == ["shop_0001"]
    assert [p.revision for p in report.unapplied] == ["shop_0002"]
    assert report.drift == ()
    with pytest.raises(ChecksumMismatch, match="shop_0001"):
        await migrate(workshop.system(), empty)
    assert len(await plan(workshop.system(), empty)) == 1
    assert [e.revision for e in (await accept(workshop.system(), empty)).edited] == ["shop_0001"]
    assert len((await migrate(workshop.system(), empty)).applied) == 1


async def test_other_line_ends_are_no_edit_but_an_sql_file_beside_counts(empty: Settings, workshop: Workshop) -> None:
    shop = workshop.module("shop")
    path = workshop.revision(shop, 1, "create schema shop")
    beside = path.parent / "0001_beside.sql"
    beside.write_text("select 1;\n")
    await migrate(workshop.system(), empty)
    path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))
    assert (await validate(workshop.system(), empty)).valid
    beside.write_text("select 2;\n")
    assert [e.revision for e in (await validate(workshop.system(), empty)).edited] == ["shop_0001"]


async def test_an_applied_revision_without_its_file_is_named_and_stops_nothing(
    empty: Settings, workshop: Workshop
) -> None:
    shop = workshop.module("shop")
    workshop.revision(shop, 1, "create schema shop")
    path = workshop.revision(shop, 2, "create table shop.a ()")
    await migrate(workshop.system(), empty)
    path.unlink()
    assert [m.revision for m in (await validate(workshop.system(), empty)).missing] == ["shop_0002"]
    assert [m.revision for m in (await migrate(workshop.system(), empty)).missing] == ["shop_0002"]


async def test_drift_stays_reported_whatever_is_migrated_after_it(
    empty: Settings, raw: Any, workshop: Workshop
) -> None:
    shop = workshop.module("shop")
    workshop.revision(
        shop, 1, "create schema shop", "create table shop.a (id int, n int)", "create table shop.b (id int)"
    )
    await migrate(workshop.system(), empty)
    await raw.execute("alter table shop.a alter n set default 7")
    await raw.execute("create index by_hand on shop.a (n)")
    await raw.execute("drop table shop.b")
    # The next revision changes the very column that drifted, and makes something new beside it.
    workshop.revision(shop, 2, "alter table shop.a alter n type bigint", "create index a_id_idx on shop.a (id)")
    expected = ["column shop.a.n", "index shop.by_hand", "table shop.b"]
    assert [str(d) for d in (await migrate(workshop.system(), empty)).drift] == expected
    assert [str(d) for d in (await validate(workshop.system(), empty)).drift] == expected
    workshop.revision(shop, 3, "create table shop.b (id int)", "drop index shop.by_hand")
    # What a revision makes or drops as a whole is right again.
    assert [str(d) for d in (await migrate(workshop.system(), empty)).drift] == ["column shop.a.n"]
    assert [str(d) for d in (await accept(workshop.system(), empty)).drift] == ["column shop.a.n"]
    assert (await validate(workshop.system(), empty)).valid


async def test_what_was_in_a_schema_before_is_no_drift_but_what_comes_later_is(
    empty: Settings, raw: Any, workshop: Workshop
) -> None:
    await raw.execute("create table public.of_somebody_else (id int)")
    await raw.execute("create schema elsewhere")
    shop = workshop.module("shop")
    workshop.revision(shop, 1, "create table public.goods (id int)")
    await migrate(workshop.system(), empty)
    assert (await validate(workshop.system(), empty)).valid
    await raw.execute("create table elsewhere.ignored (id int)")
    assert (await validate(workshop.system(), empty)).valid
    await raw.execute("create table public.later (id int)")
    await raw.execute("alter table public.of_somebody_else add column more int")
    report = await validate(workshop.system(), empty)
    assert [str(d) for d in report.drift] == ["column public.of_somebody_else.more", "table public.later"]


async def test_a_copy_of_a_migrated_database_is_valid(database: str) -> None:
    assert (await validate(EVERYTHING, Settings(database_url=database))).valid


async def test_a_difference_says_which_revision_made_the_object(database: str) -> None:
    connection = await asyncpg.connect(database)
    await connection.execute("alter table public.users alter phone set default '1'")
    await connection.close()
    (difference,) = (await validate(EVERYTHING, Settings(database_url=database))).drift
    assert (str(difference), difference.change) == ("column public.users.phone", "changed")
    assert (difference.revision or "").startswith("identity_")
    assert "default '1'" in (difference.actual or "")
