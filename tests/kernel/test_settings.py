"""Settings: read from the environment, checked at once, silent about passwords."""

from __future__ import annotations

from typing import Any

import pytest

from headwater.kernel.errors import InvalidValue
from headwater.kernel.settings import Settings


def read(given: dict[str, Any] | None = None, **env: str) -> Settings:
    return Settings.from_environment(env, **given or {})


def test_every_field_is_a_variable() -> None:
    settings = read(
        HEADWATER_DATABASE_URL="postgresql://a",
        HEADWATER_POOL_SIZE_MAX="3",
        HEADWATER_POOL_WAIT_SECONDS="0.5",
        HEADWATER_POOLED="yes",
    )
    assert settings == Settings(database_url="postgresql://a", pool_size_max=3, pool_wait_seconds=0.5, pooled=True)
    assert read() == Settings()


def test_common_names_are_understood_after_our_own() -> None:
    settings = read(DATABASE_URL="postgresql://a", REDIS_URL="redis://b")
    assert (settings.database_url, settings.valkey_url) == ("postgresql://a", "redis://b")
    settings = read(DATABASE_URL="postgresql://a", HEADWATER_DATABASE_URL="postgresql://c")
    assert settings.database_url == "postgresql://c"


def test_what_is_given_wins_and_none_is_nothing() -> None:
    settings = read({"pool_size_max": 7, "database_url": None}, DATABASE_URL="x", HEADWATER_POOL_SIZE_MAX="3")
    assert (settings.pool_size_max, settings.database_url) == (7, "x")


def test_the_direct_dsn_is_the_ordinary_one_unless_given() -> None:
    assert Settings(database_url="a").direct == "a"
    assert Settings(database_url="a", direct_url="b").direct == "b"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("HEADWATER_POOL_SIZE_MAX", "many"),
        ("HEADWATER_POOL_SIZE_MAX", "0"),
        ("HEADWATER_POOL_SIZE_MAX", "1.5"),
        ("HEADWATER_POOL_WAIT_SECONDS", "-1"),
        ("HEADWATER_POOL_WAIT_SECONDS", "nan"),
        ("HEADWATER_POOL_WAIT_SECONDS", "inf"),
        ("HEADWATER_CONNECT_TIMEOUT_SECONDS", "0"),
        ("HEADWATER_STATEMENT_TIMEOUT_MS", "-5"),
        ("HEADWATER_TRANSACTION_ATTEMPTS_MAX", "0"),
        ("HEADWATER_POOLED", "perhaps"),
    ],
)
def test_nonsense_is_refused_by_its_name(name: str, value: str) -> None:
    with pytest.raises(InvalidValue) as caught:
        read(**{name: value})
    assert name.removeprefix("HEADWATER_").lower() in str(caught.value).lower()


def test_passwords_are_not_shown() -> None:
    assert "s3cret" not in repr(Settings(database_url="s3cret", direct_url="s3cret", valkey_url="s3cret"))
