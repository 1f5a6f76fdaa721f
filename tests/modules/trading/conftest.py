"""The table over which traders meet."""

from __future__ import annotations

from uuid import UUID

import pytest
from tests.modules.trading.marketplace import Marketplace

from headwater.kernel.lifecycle import Headwater
from headwater.kernel.models import Model
from headwater.modules.trading.models import Order


@pytest.fixture
def contested() -> tuple[type[Model], ...]:
    """What these tests change at the same moment."""
    return (Order,)


@pytest.fixture
def marketplace(headwater: Headwater, people: list[UUID], parts: list[UUID]) -> Marketplace:
    """People and parts, and nobody has anything yet."""
    return Marketplace(headwater, people, parts)
