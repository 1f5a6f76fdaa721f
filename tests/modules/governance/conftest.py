"""People who vote."""

from __future__ import annotations

from uuid import UUID

import pytest_asyncio

from headwater.kernel.lifecycle import Headwater
from headwater.modules.identity.models import User


@pytest_asyncio.fixture
async def people(headwater: Headwater) -> list[UUID]:
    """The ids of forty users."""
    users = headwater.repository(User)
    await users.bulk_insert(headwater.autocommit, [{"email": f"voter{n}@example.org"} for n in range(40)])
    return [user.id for user in (await users.list(limit=40)).items]
