"""Headwater: opened and closed as one, whatever fails on the way."""

from __future__ import annotations

from typing import Any

import pytest
from tests.kernel.conftest import EMPTY
from tests.kernel.shop import Category, Product

from headwater.kernel.errors import InvalidValue, Unreachable
from headwater.kernel.lifecycle import Headwater, open_valkey
from headwater.kernel.repository import Repository
from headwater.kernel.settings import Settings


class Products(Repository[Product]):
    pass


async def connections(admin: Any) -> int:
    return int(await admin.fetchval("select count(*) from pg_stat_activity where datname = current_database()"))


async def test_repositories_are_made_once(hw: Headwater) -> None:
    assert hw.repository(Products) is hw.repository(Products)
    assert hw.repository(Product) is hw.repository(Product)
    assert isinstance(hw.repository(Products), Products)
    assert hw.repository(Product).model is Product
    assert hw.repository(Category).model is Category


async def test_closing_leaves_no_connection(dsn: str, admin: Any) -> None:
    async with Headwater.open(EMPTY, Settings(database_url=dsn)) as hw:
        assert hw.system is EMPTY
        assert await hw.postgres.ping() > 0
        assert await connections(admin) == 2
    with pytest.raises(ZeroDivisionError):
        async with Headwater.open(EMPTY, Settings(database_url=dsn)):
            raise ZeroDivisionError
    while await connections(admin) > 1:  # the server notices a moment later
        pass


async def test_a_bad_valkey_url_is_told_before_anything_is_opened(dsn: str, admin: Any) -> None:
    with pytest.raises(InvalidValue, match="valkey_url") as caught:
        async with Headwater.open(EMPTY, Settings(database_url=dsn, valkey_url="http://:s3cret@h")):
            pass
    assert "s3cret" not in str(caught.value)
    assert await connections(admin) == 1


async def test_valkey_need_not_answer_and_postgres_must(dsn: str) -> None:
    async with Headwater.open(EMPTY, Settings(database_url=dsn, valkey_url="redis://127.0.0.1:1/0")) as hw:
        assert hw.valkey is not None
    with pytest.raises(Unreachable):
        async with Headwater.open(EMPTY, Settings(database_url="postgresql://u@127.0.0.1:1/db")):
            pass
    assert open_valkey("") is None


async def test_settings_come_from_the_environment(dsn: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", dsn)
    monkeypatch.setenv("HEADWATER_POOL_SIZE_MAX", "3")
    async with Headwater.open(EMPTY) as hw:
        assert hw.settings.pool_size_max == 3
        assert hw.postgres.figures().size_max == 3
