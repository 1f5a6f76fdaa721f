"""The table over which traders meet."""

from __future__ import annotations

import pytest

from headwater.kernel.models import Model
from headwater.modules.trading.models import Order


@pytest.fixture
def contested() -> tuple[type[Model], ...]:
    """What these tests change at the same moment."""
    return (Order,)
