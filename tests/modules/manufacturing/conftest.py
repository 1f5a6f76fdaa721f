"""The tables of an order and its steps."""

from __future__ import annotations

import pytest

from headwater.kernel.models import Model
from headwater.modules.manufacturing.models import Inspection, Milestone, Order


@pytest.fixture
def contested() -> tuple[type[Model], ...]:
    """What these tests change at the same moment."""
    return (Order, Milestone, Inspection)
