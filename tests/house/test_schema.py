"""The migrated database and the models say the same, and both keep the names that systems.md promises."""

from __future__ import annotations

from typing import Any

import asyncpg
import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import CheckConstraint, MetaData, create_engine
from sqlalchemy.engine import Engine, make_url

from headwater.kernel.models import Model
from headwater.kernel.rows import DIALECT
from headwater.systems.everything import EVERYTHING

# Foreign keys that need no index of their own, each with the reason.
UNINDEXED = {"api_keys.api_keys_role_fkey": "roles are a handful of rows made by migrations, and none is ever deleted"}

# The tables and columns that the mission promises of the modules built so far. Columns may be added; none of these is
# ever dropped or renamed.
PROMISED: dict[str, str] = {
    "public.users": "id email name phone language_code timezone is_active kyc_status metadata created_at updated_at",
    "blockchain.users": "user_id wallet_address reputation_score",
    "blockchain.assets": "asset_type issuer_id specifications metadata",
    "blockchain.transactions": "tx_hash",
    "blockchain.price_feeds": "symbol price",
    "blockchain.fodi_transactions": "tx_id from_address to_address amount tx_type status blockchain_tx created_at"
    " confirmed_at",
    "blockchain.wallets": "user_id public_key encrypted_private_key wallet_type balance created_at last_sync",
    "blockchain.nft_metadata": "mint_address name symbol uri owner_address metadata created_at",
    "blockchain.reward_history": "user_id order_id amount reason tx_id created_at",
    "trading.orders": "side asset_id price quantity filled_quantity status",
    "trading.escrows": "buyer_id seller_id amount state",
    "trading.trades": "price quantity",
    "manufacturing.orders": "specifications status",
    "manufacturing.milestones": "order_id",
    "manufacturing.quality_assurance": "milestone_id",
    "governance.proposals": "status quorum",
    "governance.votes": "proposal_id user_id weight",
    "finance.user_balances": "user_id balance shares yield_earned",
    "finance.transactions": "user_id type amount status tx_hash block_number network",
    "finance.transaction_history": "actor action before after",
}


def _ours() -> MetaData:
    """The product's tables alone: tests declare entities of their own in the same registry."""
    metadata = MetaData(naming_convention=Model.metadata.naming_convention)
    for module in EVERYTHING.modules:
        for model in module.models:
            model.__table__.to_metadata(metadata)  # type: ignore[attr-defined]
    return metadata


def _engine(database: str) -> Engine:
    """What is unqualified is in `public`. The role of the embedded server is called like the kernel's schema, and
    PostgreSQL's own search_path would look there first.
    """
    return create_engine(
        make_url(database).set(drivername="postgresql+psycopg"), connect_args={"options": "-c search_path=public"}
    )


# SQLAlchemy cannot read a CHECK that is NOT ENFORCED, and says so; those are compared below.
@pytest.mark.filterwarnings("ignore:Could not parse CHECK constraint text")
def test_alembic_finds_no_difference_between_models_and_migrated_database(database: str) -> None:
    metadata = _ours()
    schemas = {table.schema for table in metadata.tables.values()}

    def in_our_schemas(name: str | None, kind: str, _: Any) -> bool:
        return name in schemas if kind == "schema" else True

    engine = _engine(database)
    try:
        with engine.connect() as connection:
            context = MigrationContext.configure(
                connection,
                opts={
                    "include_schemas": True,
                    "include_name": in_our_schemas,
                    "compare_type": True,
                    "compare_server_default": True,
                },
            )
            differences = compare_metadata(context, metadata)
    finally:
        engine.dispose()
    assert differences == []


def test_alembic_sees_a_column_that_only_the_models_have(database: str) -> None:
    """Proof that the comparison above can fail."""
    from sqlalchemy import Column, Text

    metadata = _ours()
    metadata.tables["users"].append_column(Column("nickname", Text()))
    engine = _engine(database)
    try:
        with engine.connect() as connection:
            context = MigrationContext.configure(connection, opts={"include_schemas": False})
            differences = compare_metadata(context, metadata)
    finally:
        engine.dispose()
    assert any("nickname" in str(difference) for difference in differences)


async def test_the_checks_of_the_migrated_database_are_those_of_the_models(database: str) -> None:
    """Alembic compares no CHECK constraints. PostgreSQL does: it writes both down in its own words."""
    connection = await asyncpg.connect(database)
    declared: dict[tuple[str, str], str] = {}
    try:
        for module in EVERYTHING.modules:
            for model in module.models:
                table: Any = model.__table__
                name = f'"{table.schema or "public"}"."{table.name}"'
                await connection.execute(f"create temporary table shadow (like {name})")
                for check in table.constraints:
                    if isinstance(check, CheckConstraint) and not getattr(check, "_type_bound", False):
                        words = str(check.sqltext.compile(dialect=DIALECT, compile_kwargs={"literal_binds": True}))
                        kept = " not enforced" if check.info.get("enforced") is False else ""
                        await connection.execute(
                            f'alter table shadow add constraint "{check.name}" check ({words}){kept}'
                        )
                rows = await connection.fetch(_CHECKS, "shadow")
                declared |= {(name, row["name"]): row["said"] for row in rows}
                await connection.execute("drop table shadow")
        migrated = {
            (name, row["name"]): row["said"]
            for name in {table for table, _ in declared}
            for row in await connection.fetch(_CHECKS, name)
        }
    finally:
        await connection.close()
    assert migrated == declared


_CHECKS = """
select conname as name, pg_get_constraintdef(oid) as said
  from pg_constraint where conrelid = $1::text::regclass and contype = 'c'
"""


async def test_the_foreign_keys_that_are_not_enforced_are_those_that_the_models_name(database: str) -> None:
    declared = {
        f"{table.schema or 'public'}.{constraint.name}"
        for table in _ours().tables.values()
        for constraint in table.foreign_key_constraints
        if any(element.info.get("enforced") is False for element in constraint.elements)
    }
    connection = await asyncpg.connect(database)
    try:
        rows = await connection.fetch(
            "select s.nspname || '.' || c.conname as name from pg_constraint c"
            " join pg_namespace s on s.oid = c.connamespace where c.contype = 'f' and not c.conenforced"
        )
    finally:
        await connection.close()
    assert {row["name"] for row in rows} == declared


async def test_the_tables_and_columns_of_the_mission_are_there(database: str) -> None:
    connection = await asyncpg.connect(database)
    try:
        rows = await connection.fetch(
            "select table_schema || '.' || table_name as name, column_name from information_schema.columns"
        )
    finally:
        await connection.close()
    found: dict[str, set[str]] = {}
    for row in rows:
        found.setdefault(row["name"], set()).add(row["column_name"])
    missing = {
        table: sorted(set(columns.split()) - found.get(table, set()))
        for table, columns in PROMISED.items()
        if set(columns.split()) - found.get(table, set())
    }
    assert not missing


async def test_the_defaults_of_users_are_those_of_the_mission(database: str) -> None:
    connection = await asyncpg.connect(database)
    try:
        row = await connection.fetchrow("insert into users (email) values ('first@example.org') returning *")
    finally:
        await connection.close()
    assert row is not None
    assert (row["language_code"], row["timezone"], row["is_active"]) == ("ru", "Europe/Moscow", True)


async def test_every_table_has_a_primary_key_and_every_foreign_key_an_index(database: str) -> None:
    """A foreign key without an index makes each delete of its target read the whole table."""
    connection = await asyncpg.connect(database)
    try:
        keyless = await connection.fetch(
            """
            select s.nspname || '.' || t.relname as name
              from pg_class t join pg_namespace s on s.oid = t.relnamespace
             where t.relkind in ('r', 'p') and s.nspname not in ('pg_catalog', 'information_schema')
               and s.nspname !~ '^pg_'
               and not exists (select 1 from pg_index i where i.indrelid = t.oid and i.indisprimary)
            """
        )
        unindexed = await connection.fetch(
            """
            select c.conrelid::regclass::text || '.' || c.conname as name
              from pg_constraint c
             where c.contype = 'f'
               and not exists (
                   select 1 from pg_index i
                    where i.indrelid = c.conrelid and i.indpred is null
                      and (i.indkey::int2[])[0:cardinality(c.conkey) - 1] @> c.conkey
                      and (i.indkey::int2[])[0:cardinality(c.conkey) - 1] <@ c.conkey)
            """
        )
    finally:
        await connection.close()
    assert [row["name"] for row in keyless] == []
    assert {row["name"] for row in unindexed} == set(UNINDEXED)
