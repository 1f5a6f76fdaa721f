"""People who vote, and the tables over which they meet."""

from __future__ import annotations

from uuid import UUID

import pytest
import pytest_asyncio

from headwater.kernel.lifecycle import Headwater
from headwater.kernel.models import Model
from headwater.modules.governance.models import Proposal, Vote
from headwater.modules.identity.models import User


@pytest_asyncio.fixture
async def people(headwater: Headwater) -> list[UUID]:
    """The ids of forty users."""
    users = headwater.repository(User)
    await users.bulk_insert(headwater.autocommit, [{"email": f"voter{n}@example.org"} for n in range(40)])
    return [user.id for user in (await users.list(limit=40)).items]


@pytest.fixture
def contested() -> tuple[type[Model], ...]:
    """What these tests change at the same moment."""
    return (Proposal, Vote)
