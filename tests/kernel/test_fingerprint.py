"""The fingerprint names every kind of change made by hand, exactly, and nothing else."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import asyncpg
import pytest
import pytest_asyncio

from headwater.kernel import fingerprint, migration_ledger
from headwater.kernel.migrations import migrate, validate
from headwater.kernel.settings import Settings

from .workshop import Workshop

_SCHEMA = [
    "create schema shop",
    "create table shop.parts (id int primary key)",
    "create type shop.mood as enum ('sad', 'ok', 'glad')",
    "create domain shop.percent as int constraint percent_check check (value between 0 and 100)",
    "create type shop.pair as (a int, b int)",
    """create table shop.goods (
        id uuid default uuidv7() primary key, number int generated always as identity,
        part_id int references shop.parts,
        name text not null constraint goods_name_key unique, price numeric(10, 2) default 0 check (price >= 0),
        doubled numeric generated always as (price * 2) stored, mood shop.mood default 'ok', note text,
        since timestamptz default '2026-01-01 00:00+00')""",
    "create index goods_price_idx on shop.goods (price) where price > 0",
    "create sequence shop.counter",
    "create function shop.answer(a int) returns int language sql as $$ select a + 42 $$",
    "create function shop.touch() returns trigger language plpgsql as $$ begin return new; end $$",
    "create procedure shop.work() language sql as $$ select 1 $$",
    "create trigger goods_touch before update on shop.goods for each row execute function shop.touch()",
    "create view shop.cheap as select id, name from shop.goods where price < 10",
    "create materialized view shop.summary as select count(*) as n from shop.goods",
    "create index summary_idx on shop.summary (n)",
    "alter table shop.goods enable row level security",
    "create policy goods_all on shop.goods using (true)",
    "create rule quiet as on delete to shop.parts do instead nothing",
    "create statistics shop.goods_stats on name, price from shop.goods",
    "create table shop.log (at date not null, what text) partition by range (at)",
    "create table shop.log_2026 partition of shop.log for values from ('2026-01-01') to ('2027-01-01')",
    "create index log_at_idx on shop.log (at)",
    "create trigger log_touch before update on shop.log for each row execute function shop.touch()",
    "create table shop.remarks (goods_name text constraint remarks_fkey references shop.goods (name))",
    "create extension citext schema shop",
    "create publication shop_news for table shop.goods",
    "grant select on shop.goods to fingerprint_reader",
]


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def shop(postgres_server: Any, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[str]:
    """The DSN of a database in which a revision has made one of each kind."""
    name = await postgres_server.create()
    connection = await asyncpg.connect(postgres_server.dsn_of(name))
    await connection.execute(
        "create role fingerprint_reader; create role fingerprint_owner; create table public.of_others ()"
    )
    folder: Path = tmp_path_factory.mktemp("modules")
    sys.path.insert(0, str(folder))
    workshop = Workshop(folder)
    workshop.revision(workshop.module("shop"), 1, *_SCHEMA)
    await migrate(workshop.system(), Settings(database_url=postgres_server.dsn_of(name)))
    assert (await validate(workshop.system(), Settings(database_url=postgres_server.dsn_of(name)))).valid
    await connection.close()
    yield postgres_server.dsn_of(name)
    sys.path.remove(str(folder))
    await postgres_server.drop(name)
    connection = await asyncpg.connect(postgres_server.dsn_of("postgres"))
    await connection.execute("drop role fingerprint_reader; drop role fingerprint_owner")
    await connection.close()


async def seen(dsn: str, statements: str) -> list[str]:
    """What is told after these statements, which are rolled back."""
    connection = await asyncpg.connect(dsn)
    try:
        transaction = connection.transaction()
        await transaction.start()
        await connection.execute(statements)
        record = await migration_ledger.read_record(connection)
        found = fingerprint.differences(record, await fingerprint.take(connection))
        await transaction.rollback()
    finally:
        await connection.close()
    return [f"{d.change} {d}" for d in found]


INJECTED = [
    # tables
    ("create table shop.extra (id int primary key, n int); create index on shop.extra (n)", "added table shop.extra"),
    ("drop table shop.remarks", "removed table shop.remarks"),
    ("alter table shop.remarks set unlogged", "changed table shop.remarks"),
    ("alter table shop.goods set (fillfactor = 70)", "changed table shop.goods"),
    ("alter table shop.goods set (toast.autovacuum_enabled = off)", "changed table shop.goods"),
    ("alter table shop.goods owner to fingerprint_owner", "changed table shop.goods"),
    ("alter table shop.goods disable row level security", "changed table shop.goods"),
    ("alter table shop.goods force row level security", "changed table shop.goods"),
    ("alter table shop.goods replica identity full", "changed table shop.goods"),
    ("alter table shop.log detach partition shop.log_2026", "changed table shop.log_2026"),
    ("create table shop.log_2027 partition of shop.log for values from ('2027-01-01') to ('2028-01-01')",
     "added table shop.log_2027"),
    ("alter table shop.log detach partition shop.log_2026; alter table shop.log attach partition shop.log_2026 "
     "for values from ('2026-01-01') to ('2028-01-01')", "changed table shop.log_2026"),
    ("alter table shop.remarks rename to comments", "added table shop.comments, removed table shop.remarks"),
    # columns
    ("alter table shop.goods add column extra int", "added column shop.goods.extra"),
    ("alter table shop.goods drop column note", "removed column shop.goods.note"),
    ("alter table shop.goods alter note type varchar(20)", "changed column shop.goods.note"),
    ("alter table shop.goods alter note set default 'x'", "changed column shop.goods.note"),
    ("alter table shop.goods alter price drop default", "changed column shop.goods.price"),
    ("alter table shop.goods alter note set not null", "changed column shop.goods.note"),
    ("alter table shop.goods alter name drop not null", "changed column shop.goods.name"),
    ("alter table shop.goods add constraint n not null note not valid", "changed column shop.goods.note"),
    ("alter table shop.goods alter doubled drop expression", "changed column shop.goods.doubled"),
    ("alter table shop.goods alter doubled set expression as (price * 3)", "changed column shop.goods.doubled"),
    ("alter table shop.goods alter number set generated by default", "changed column shop.goods.number"),
    ("alter table shop.goods alter note set storage external", "changed column shop.goods.note"),
    ("alter table shop.goods alter note set statistics 500", "changed column shop.goods.note"),
    ("alter table shop.goods alter note set (n_distinct = 5)", "changed column shop.goods.note"),
    ("alter table shop.goods alter note set compression pglz", "changed column shop.goods.note"),
    ("alter table shop.goods alter note type text collate \"C\"", "changed column shop.goods.note"),
    ("alter table shop.goods rename note to remark", "removed column shop.goods.note, added column shop.goods.remark"),
    # constraints
    ("alter table shop.goods add constraint c check (price < 1000)", "added constraint shop.goods.c"),
    ("alter table shop.goods drop constraint goods_price_check", "removed constraint shop.goods.goods_price_check"),
    ("alter table shop.goods drop constraint goods_part_id_fkey", "removed constraint shop.goods.goods_part_id_fkey"),
    ("alter table shop.goods drop constraint goods_part_id_fkey; alter table shop.goods add constraint "
     "goods_part_id_fkey foreign key (part_id) references shop.parts on delete cascade",
     "changed constraint shop.goods.goods_part_id_fkey"),
    ("alter table shop.goods drop constraint goods_price_check; alter table shop.goods add constraint "
     "goods_price_check check (price >= 0) not valid", "changed constraint shop.goods.goods_price_check"),
    ("alter table shop.goods alter constraint goods_part_id_fkey not enforced",
     "changed constraint shop.goods.goods_part_id_fkey"),
    ("alter table shop.goods alter constraint goods_part_id_fkey deferrable initially deferred",
     "changed constraint shop.goods.goods_part_id_fkey"),
    ("alter table shop.goods rename constraint goods_price_check to p",
     "removed constraint shop.goods.goods_price_check, added constraint shop.goods.p"),
    ("alter table shop.remarks add primary key (goods_name)",
     "changed column shop.remarks.goods_name, added constraint shop.remarks.remarks_pkey"),
    # indexes
    ("create index extra_idx on shop.goods (note)", "added index shop.extra_idx"),
    ("drop index shop.goods_price_idx", "removed index shop.goods_price_idx"),
    ("drop index shop.goods_price_idx; create index goods_price_idx on shop.goods (price)",
     "changed index shop.goods_price_idx"),
    ("drop index shop.goods_price_idx; create index goods_price_idx on shop.goods (price desc) where price > 0",
     "changed index shop.goods_price_idx"),
    ("update pg_index set indisvalid = false where indexrelid = 'shop.goods_price_idx'::regclass",
     "changed index shop.goods_price_idx"),
    ("update pg_index set indisvalid = false where indexrelid = 'shop.goods_name_key'::regclass",
     "changed constraint shop.goods.goods_name_key"),
    ("alter index shop.goods_price_idx set (fillfactor = 50)", "changed index shop.goods_price_idx"),
    # types
    ("alter type shop.mood rename value 'ok' to 'fine'", "changed column shop.goods.mood, changed enum shop.mood"),
    ("alter type shop.mood add value 'elated' before 'glad'", "changed enum shop.mood"),
    ("create type shop.colour as enum ('red')", "added enum shop.colour"),
    ("alter domain shop.percent drop constraint percent_check", "changed domain shop.percent"),
    ("alter domain shop.percent set not null", "changed domain shop.percent"),
    ("alter domain shop.percent set default 5", "changed domain shop.percent"),
    ("alter type shop.pair add attribute c int", "changed type shop.pair"),
    # sequences
    ("alter sequence shop.counter increment 5 cycle", "changed sequence shop.counter"),
    ("alter table shop.goods alter number set increment 9", "changed sequence shop.goods_number_seq"),
    ("drop sequence shop.counter", "removed sequence shop.counter"),
    # functions
    ("create or replace function shop.answer(a int) returns int language sql as $$ select a + 43 $$",
     "changed function shop.answer(a integer)"),
    ("alter function shop.answer security definer", "changed function shop.answer(a integer)"),
    ("alter function shop.answer immutable", "changed function shop.answer(a integer)"),
    ("alter function shop.answer set search_path = shop", "changed function shop.answer(a integer)"),
    ("create function shop.answer() returns int language sql as 'select 1'", "added function shop.answer()"),
    ("drop procedure shop.work()", "removed procedure shop.work()"),
    ("create aggregate shop.total(int) (sfunc = int4pl, stype = int)", "added aggregate shop.total(integer)"),
    # triggers and rules
    ("alter table shop.goods disable trigger goods_touch", "changed trigger shop.goods.goods_touch"),
    ("alter table shop.goods enable always trigger goods_touch", "changed trigger shop.goods.goods_touch"),
    ("drop trigger goods_touch on shop.goods", "removed trigger shop.goods.goods_touch"),
    ("create or replace trigger goods_touch before insert on shop.goods for each row execute function shop.touch()",
     "changed trigger shop.goods.goods_touch"),
    ("alter table shop.log_2026 disable trigger log_touch", "added trigger shop.log_2026.log_touch"),
    ("alter table shop.goods disable trigger all",
     "changed constraint shop.goods.goods_part_id_fkey, changed constraint shop.remarks.remarks_fkey, "
     "changed trigger shop.goods.goods_touch"),
    ("drop rule quiet on shop.parts", "removed rule shop.parts.quiet"),
    ("alter table shop.parts disable rule quiet", "changed rule shop.parts.quiet"),
    # views
    ("create or replace view shop.cheap as select id, name from shop.goods where price < 9", "changed view shop.cheap"),
    ("alter view shop.cheap set (security_invoker = on)", "changed view shop.cheap"),
    ("drop view shop.cheap", "removed view shop.cheap"),
    ("drop materialized view shop.summary; create materialized view shop.summary as select 1::bigint as n; "
     "create index summary_idx on shop.summary (n)", "changed materialized view shop.summary"),
    # row level security, grants
    ("alter policy goods_all on shop.goods using (false)", "changed policy shop.goods.goods_all"),
    ("alter policy goods_all on shop.goods to fingerprint_reader", "changed policy shop.goods.goods_all"),
    ("create policy more on shop.goods for select using (true)", "added policy shop.goods.more"),
    ("drop policy goods_all on shop.goods", "removed policy shop.goods.goods_all"),
    ("grant insert on shop.goods to fingerprint_reader", "changed grants on table shop.goods"),
    ("revoke select on shop.goods from fingerprint_reader", "removed grants on table shop.goods"),
    ("grant select (note) on shop.goods to fingerprint_reader", "added grants on column shop.goods.note"),
    ("grant usage on schema shop to fingerprint_reader", "added grants on schema shop"),
    ("revoke execute on function shop.answer from public", "added grants on function shop.answer(a integer)"),
    ("grant usage on sequence shop.counter to fingerprint_reader", "added grants on sequence shop.counter"),
    ("alter default privileges in schema shop grant select on tables to fingerprint_reader",
     "added default privileges tables in shop"),
    # what else there is
    ("drop statistics shop.goods_stats", "removed statistics shop.goods_stats"),
    ("alter schema shop owner to fingerprint_owner", "changed schema shop"),
    ("drop extension citext", "removed extension citext"),
    ("update pg_extension set extversion = '1.5' where extname = 'citext'", "changed extension citext"),
    ("create extension hstore schema shop", "added extension hstore"),
    ("alter publication shop_news add table shop.parts", "changed publication shop_news"),
    ("alter publication shop_news set (publish = 'insert')", "changed publication shop_news"),
    ("create publication more for table shop.parts", "added publication more"),
    ("drop publication shop_news", "removed publication shop_news"),
    ("create function public.on_ddl() returns event_trigger language plpgsql as 'begin end'; "
     "create event trigger watch_ddl on ddl_command_end execute function public.on_ddl()",
     "added event trigger watch_ddl"),
    ("drop table headwater.idempotency_key", "removed table headwater.idempotency_key"),
    ("drop schema shop cascade", "removed extension citext, changed publication shop_news, removed schema shop"),
]  # fmt: skip


@pytest.mark.parametrize(("statements", "told"), INJECTED, ids=lambda value: value[:60])
async def test_a_change_by_hand_is_named(shop: str, statements: str, told: str) -> None:
    assert ", ".join(await seen(shop, statements)) == told


@pytest.mark.parametrize(
    "statements",
    [
        "insert into shop.parts values (1); select nextval('shop.counter')",
        "analyze shop.goods",
        "set search_path = shop; set timezone = 'Asia/Tokyo'; set datestyle = 'German'; set quote_all_identifiers = on",
        "set intervalstyle = 'iso_8601'; set bytea_output = 'escape'; set extra_float_digits = -3",
        "create table public.of_nobody_here (id int); create schema elsewhere; create table elsewhere.x ()",
        "create temporary table note (id int)",
        "comment on table shop.goods is 'words'",
        "refresh materialized view shop.summary",
        "grant select on shop.parts to current_user; reindex table shop.goods",
        "create publication of_others for table public.of_others",
    ],
)
async def test_what_is_no_change_of_the_schema_is_not_told(shop: str, statements: str) -> None:
    assert await seen(shop, statements) == []


async def test_reading_the_catalogue_leaves_the_session_as_it_was(shop: str) -> None:
    connection = await asyncpg.connect(shop)
    try:
        async with connection.transaction():
            await connection.execute("set local search_path = shop; set local timezone = 'Asia/Tokyo'")
            await fingerprint.take(connection)
            assert await connection.fetchval("show search_path") == "shop"
            assert await connection.fetchval("show timezone") == "Asia/Tokyo"
        await fingerprint.take(connection)
        assert not connection.is_in_transaction()
    finally:
        await connection.close()
