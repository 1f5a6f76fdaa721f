"""The change stream tracks the tables of identity."""

from __future__ import annotations

from alembic import op

revision = "identity_0002"
down_revision = "identity_0001"
branch_labels = None
depends_on = ("kernel_0003",)


def upgrade() -> None:
    op.execute("select headwater.track('public.users', 'full', '{}', '{password_hash}')")
    op.execute("select headwater.track('public.api_keys', 'keys', '{user_id}', '{key_hash}')")
    op.execute("select headwater.keep_version('public.users')")
