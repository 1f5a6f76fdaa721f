"""Customers, inspectors and the parts they order."""

from __future__ import annotations

from uuid import UUID

import pytest_asyncio

from headwater.kernel.lifecycle import Headwater
from headwater.modules.blockchain.models import Asset, ChainUser
from headwater.modules.identity.models import User


@pytest_asyncio.fixture
async def people(headwater: Headwater) -> list[UUID]:
    """The ids of three users."""
    users = headwater.repository(User)
    return [(await users.create(headwater.autocommit, email=f"customer{n}@example.org")).id for n in range(3)]


@pytest_asyncio.fixture
async def parts(headwater: Headwater, people: list[UUID]) -> list[UUID]:
    """The ids of two assets."""
    await headwater.repository(ChainUser).create(headwater.autocommit, user_id=people[0], wallet_address="wallet-0")
    assets = headwater.repository(Asset)
    return [
        (
            await assets.create(
                headwater.autocommit, asset_type="actuator", issuer_id=people[0], name=f"Drive {n}", symbol=f"DRV{n}"
            )
        ).id
        for n in range(2)
    ]
