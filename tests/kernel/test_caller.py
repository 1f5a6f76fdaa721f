"""Caller: what the scopes of a key cover."""

from __future__ import annotations

from uuid import uuid4

import pytest

from headwater.kernel.caller import Caller
from headwater.kernel.errors import Forbidden


def caller(*scopes: str) -> Caller:
    return Caller(uuid4(), "somebody", frozenset(scopes))


@pytest.mark.parametrize(
    ("granted", "wanted", "may"),
    [
        ("*", "trading:orders:write", True),
        ("trading:*", "trading:orders:write", True),
        ("trading:orders:*", "trading:orders:write", True),
        ("trading:*:read", "trading:orders:read", True),
        ("*:*:read", "trading:orders:read", True),
        ("trading:orders:read", "trading:orders:read", True),
        ("trading:*:read", "trading:orders:write", False),
        ("trading:orders", "trading:orders:write", False),
        ("trading:orders:write:more", "trading:orders:write", False),
        ("trad*", "trading:orders:write", False),
        ("", "trading:orders:write", False),
        ("identity:*", "trading:orders:write", False),
    ],
)
def test_a_scope_covers_what_it_says(granted: str, wanted: str, may: bool) -> None:
    assert caller(granted).may(wanted) is may
    assert caller("other:thing:read", granted).may(wanted) is may


def test_a_caller_without_the_scope_is_forbidden() -> None:
    caller("a:b:c").require("a:b:c")
    with pytest.raises(Forbidden, match="may not do 'a:b:d'") as caught:
        caller("a:b:c").require("a:b:d")
    assert caught.value.detail == {"scope": "a:b:d"}
    assert not caller().may("a")
