"""The change stream tracks the tables of blockchain."""

from __future__ import annotations

from alembic import op

revision = "blockchain_0002"
down_revision = "blockchain_0001"
branch_labels = None
depends_on = ("kernel_0003",)


def upgrade() -> None:
    op.execute("select headwater.track('blockchain.users', 'full')")
    op.execute("select headwater.track('blockchain.assets', 'full', '{issuer_id}', '{search}')")
    op.execute("select headwater.track('blockchain.transactions', 'full', '{asset_id,tx_hash}')")
    op.execute("select headwater.track('blockchain.price_feeds', 'full', '{symbol}')")
    op.execute("select headwater.keep_version('blockchain.users')")
    op.execute("select headwater.keep_version('blockchain.assets')")
    op.execute("select headwater.keep_version('blockchain.transactions')")
