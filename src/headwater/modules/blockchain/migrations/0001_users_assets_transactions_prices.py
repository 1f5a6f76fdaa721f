"""The schema `blockchain`: users, assets with their text search, transactions and prices."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "blockchain_0001"
down_revision = None
branch_labels = ("blockchain",)
depends_on = ("kernel_0001", "identity_0001")


def upgrade() -> None:
    op.execute("CREATE SCHEMA blockchain")
    op.create_table(
        "users",
        sa.Column("user_id", sa.Uuid(), nullable=False),
        sa.Column("wallet_address", sa.Text(), nullable=False),
        sa.Column("reputation_score", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.func.now(), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), server_default=sa.func.now(), nullable=False),
        sa.Column("version", sa.BigInteger(), server_default=sa.text("1"), nullable=False),
        sa.PrimaryKeyConstraint("user_id", name="users_pkey"),
        sa.UniqueConstraint("wallet_address", name="users_wallet_address_key"),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"], name="users_user_id_fkey"),
        sa.CheckConstraint("length(wallet_address) BETWEEN 1 AND 128", name=op.f("users_wallet_address_check")),
        sa.CheckConstraint("reputation_score BETWEEN 0 AND 1000000", name=op.f("users_reputation_score_check")),
        schema="blockchain",
    )

    # Each word twice: as written ('simple', so that the beginning of a word finds it) and as its English stem.
    # The body is parsed here and now (RETURN), so it does not depend on the search_path of a restore.
    op.execute("""
        CREATE FUNCTION blockchain.asset_text(
            symbol text, name text, asset_type text, description text, specifications jsonb
        ) RETURNS tsvector LANGUAGE sql IMMUTABLE PARALLEL SAFE
        RETURN setweight(
                to_tsvector('pg_catalog.simple', symbol || ' ' || name || ' ' || replace(asset_type, '_', ' ')), 'A')
            || setweight(to_tsvector('pg_catalog.english', name || ' ' || replace(asset_type, '_', ' ')), 'A')
            || setweight(to_tsvector('pg_catalog.simple', description), 'B')
            || setweight(to_tsvector('pg_catalog.english', description), 'B')
            || setweight(jsonb_to_tsvector('pg_catalog.simple', specifications, '["string", "key"]'), 'C')
    """)
    op.create_table(
        "assets",
        sa.Column("id", sa.Uuid(), server_default=sa.text("uuidv7()"), nullable=False),
        sa.Column("asset_type", sa.Text(), nullable=False),
        sa.Column("issuer_id", sa.Uuid(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("symbol", sa.Text(), nullable=False),
        sa.Column("description", sa.Text(), server_default="", nullable=False),
        sa.Column("specifications", postgresql.JSONB(), server_default="{}", nullable=False),
        sa.Column("metadata", postgresql.JSONB(), server_default="{}", nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.func.now(), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), server_default=sa.func.now(), nullable=False),
        sa.Column("version", sa.BigInteger(), server_default=sa.text("1"), nullable=False),
        sa.Column(
            "search",
            postgresql.TSVECTOR(),
            sa.Computed("blockchain.asset_text(symbol, name, asset_type, description, specifications)", persisted=True),
            nullable=False,
        ),
        sa.PrimaryKeyConstraint("id", name="assets_pkey"),
        sa.UniqueConstraint("symbol", name="assets_symbol_key"),
        sa.ForeignKeyConstraint(["issuer_id"], ["blockchain.users.user_id"], name="assets_issuer_id_fkey"),
        sa.CheckConstraint("length(asset_type) BETWEEN 1 AND 64", name=op.f("assets_asset_type_check")),
        sa.CheckConstraint("length(name) BETWEEN 1 AND 200", name=op.f("assets_name_check")),
        sa.CheckConstraint("length(symbol) BETWEEN 1 AND 32", name=op.f("assets_symbol_check")),
        sa.CheckConstraint("jsonb_typeof(specifications) = 'object'", name=op.f("assets_specifications_check")),
        sa.CheckConstraint("jsonb_typeof(metadata) = 'object'", name=op.f("assets_metadata_check")),
        schema="blockchain",
    )
    op.create_index("assets_asset_type_name_idx", "assets", ["asset_type", "name", "id"], schema="blockchain")
    op.create_index("assets_name_idx", "assets", ["name", "id"], schema="blockchain")
    op.create_index("assets_issuer_id_idx", "assets", ["issuer_id"], schema="blockchain")
    # What a person types, as a query: English inflections; or the words as written, of which the last may be cut off.
    # A negation is taken by its English stem alone, because either half of an OR could let through what it excludes.
    op.execute("""
        CREATE FUNCTION blockchain.asset_query(words text) RETURNS tsquery LANGUAGE sql IMMUTABLE PARALLEL SAFE
        RETURN websearch_to_tsquery('pg_catalog.english', words)
            || CASE WHEN websearch_to_tsquery('pg_catalog.simple', words)::text ~ '^[^!]*''$'
                    THEN (websearch_to_tsquery('pg_catalog.simple', words)::text || ':*')::tsquery
                    ELSE ''::tsquery END
    """)
    op.create_index("assets_search_idx", "assets", ["search"], schema="blockchain", postgresql_using="gin")

    op.create_table(
        "transactions",
        sa.Column("id", sa.Uuid(), server_default=sa.text("uuidv7()"), nullable=False),
        sa.Column("tx_hash", sa.Text(), nullable=False),
        sa.Column("from_address", sa.Text(), nullable=False),
        sa.Column("to_address", sa.Text(), nullable=False),
        sa.Column("asset_id", sa.Uuid()),
        sa.Column("amount", sa.Numeric(39, 0), nullable=False),
        sa.Column("block_number", sa.BigInteger()),
        sa.Column(
            "status",
            sa.Enum("pending", "confirmed", "failed", name="transaction_status", schema="blockchain"),
            server_default="pending",
            nullable=False,
        ),
        sa.Column("network", sa.Text(), server_default="solana", nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.func.now(), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), server_default=sa.func.now(), nullable=False),
        sa.Column("version", sa.BigInteger(), server_default=sa.text("1"), nullable=False),
        sa.PrimaryKeyConstraint("id", name="transactions_pkey"),
        sa.UniqueConstraint("tx_hash", name="transactions_tx_hash_key"),
        sa.ForeignKeyConstraint(["asset_id"], ["blockchain.assets.id"], name="transactions_asset_id_fkey"),
        sa.CheckConstraint("length(tx_hash) BETWEEN 1 AND 128", name=op.f("transactions_tx_hash_check")),
        sa.CheckConstraint("amount >= 0", name=op.f("transactions_amount_check")),
        sa.CheckConstraint("block_number >= 0", name=op.f("transactions_block_number_check")),
        schema="blockchain",
    )
    op.create_index(
        "transactions_from_address_idx",
        "transactions",
        ["from_address", sa.text("created_at DESC")],
        schema="blockchain",
    )
    op.create_index(
        "transactions_to_address_idx", "transactions", ["to_address", sa.text("created_at DESC")], schema="blockchain"
    )
    op.create_index("transactions_asset_id_idx", "transactions", ["asset_id"], schema="blockchain")

    op.create_table(
        "price_feeds",
        sa.Column("id", sa.Uuid(), server_default=sa.text("uuidv7()"), nullable=False),
        sa.Column("symbol", sa.Text(), nullable=False),
        sa.Column("price", sa.Numeric(), nullable=False),
        sa.Column("currency", sa.Text(), server_default="USD", nullable=False),
        sa.Column("source", sa.Text(), nullable=False),
        sa.Column("observed_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.func.now(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="price_feeds_pkey"),
        sa.UniqueConstraint(
            "symbol",
            "currency",
            "source",
            "observed_at",
            name="price_feeds_symbol_currency_source_observed_at_key",
        ),
        sa.CheckConstraint("price > 0 AND price < 1e20", name=op.f("price_feeds_price_check")),
        schema="blockchain",
    )
    op.create_index(
        "price_feeds_symbol_observed_at_idx",
        "price_feeds",
        ["symbol", sa.text("observed_at DESC"), sa.text("id DESC")],
        schema="blockchain",
    )
