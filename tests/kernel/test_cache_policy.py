"""Cache policies: what cannot be kept is refused when it is declared."""

from __future__ import annotations

from typing import Any

import pytest
from tests.kernel.shop import Product

from headwater.kernel.cache_policy import CachePolicy
from headwater.kernel.errors import ProgrammingError


@pytest.mark.parametrize(
    ("said", "why"),
    [
        ({"level": "eventual"}, "no consistency level"),
        ({"level": "strict", "near": 10}, "has a near cache"),
        ({"level": "snapshot", "near": 10}, "has a near cache"),
        ({"stale_seconds": 5}, "may be served stale"),
    ],
)
def test_a_policy_that_contradicts_itself_is_refused(said: dict[str, Any], why: str) -> None:
    with pytest.raises(ProgrammingError, match=why):
        CachePolicy(kind="product", model=Product, **said)
