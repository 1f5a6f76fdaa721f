"""Sessions in a real Valkey: tokens, their time to live, and what happens when Valkey is away."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any
from uuid import uuid4

import pytest
import pytest_asyncio
from valkey.asyncio import Valkey

from headwater.kernel.errors import InvalidValue, Unreachable
from headwater.kernel.lifecycle import open_valkey
from headwater.kernel.sessions import TTL_SECONDS_MAX, Sessions, session_id


@pytest_asyncio.fixture
async def valkey(valkey_server: Any) -> AsyncIterator[Valkey]:
    client = open_valkey(valkey_server.url)
    assert client is not None
    yield client
    await client.aclose()


@pytest.fixture
def sessions(valkey: Valkey) -> Sessions:
    return Sessions(valkey)


async def test_a_session_is_found_by_its_token(sessions: Sessions) -> None:
    new = await sessions.create({"user_id": "7", "since": 3})
    assert await sessions.get(new.token) == {"user_id": "7", "since": 3}


async def test_two_sessions_of_one_payload_have_different_tokens_and_ids(sessions: Sessions) -> None:
    first, second = await sessions.create({"user_id": "7"}), await sessions.create({"user_id": "7"})
    assert first.token != second.token
    assert first.id != second.id


async def test_a_token_holds_32_random_bytes_and_is_not_shown_by_repr(sessions: Sessions) -> None:
    new = await sessions.create({})
    assert new.token.startswith("hws_")
    assert len(new.token.removeprefix("hws_")) == 43
    assert new.token not in repr(new)


async def test_what_valkey_holds_signs_nobody_in(sessions: Sessions, valkey: Valkey) -> None:
    new = await sessions.create({"user_id": "7"})
    key = f"session:{new.id}"
    assert await valkey.exists(key) == 1
    assert new.token.encode() not in await valkey.get(key)
    assert new.token not in key
    assert await sessions.get(f"hws_{new.id}") is None
    assert await sessions.get(str(new.id)) is None


async def test_a_session_ends_by_itself(sessions: Sessions, valkey: Valkey) -> None:
    new = await sessions.create({}, ttl_seconds=100)
    assert 0 < await valkey.ttl(f"session:{new.id}") <= 100
    await valkey.pexpire(f"session:{new.id}", 0)  # the hundred seconds are over
    assert await sessions.get(new.token) is None


async def test_refresh_gives_a_session_more_time(sessions: Sessions, valkey: Valkey) -> None:
    new = await sessions.create({"user_id": "7"}, ttl_seconds=100)
    assert await sessions.refresh(new.id, ttl_seconds=5_000)
    assert 100 < await valkey.ttl(f"session:{new.id}") <= 5_000
    assert await sessions.get(new.token) == {"user_id": "7"}


async def test_refresh_does_not_bring_an_ended_session_back(sessions: Sessions) -> None:
    new = await sessions.create({})
    await sessions.delete(new.id)
    assert not await sessions.refresh(new.id)
    assert await sessions.get(new.token) is None


async def test_delete_ends_one_session_and_no_other(sessions: Sessions) -> None:
    first, second = await sessions.create({"n": 1}), await sessions.create({"n": 2})
    assert await sessions.delete(first.id)
    assert await sessions.get(first.token) is None
    assert await sessions.get(second.token) == {"n": 2}
    assert not await sessions.delete(first.id)


@pytest.mark.parametrize("token", ["", "hws_", "hws_x", "hw_" + "0" * 32, "nonsense", "hws_" + "ü" * 43, "hws_\0"])
async def test_a_token_that_is_none_finds_nothing(sessions: Sessions, token: str) -> None:
    assert await sessions.get(token) is None


@pytest.mark.parametrize("ttl_seconds", [0, -1, TTL_SECONDS_MAX + 1])
async def test_a_senseless_time_to_live_is_refused(sessions: Sessions, ttl_seconds: int) -> None:
    with pytest.raises(InvalidValue, match="cannot live"):
        await sessions.create({}, ttl_seconds=ttl_seconds)
    with pytest.raises(InvalidValue, match="cannot live"):
        await sessions.refresh(uuid4(), ttl_seconds=ttl_seconds)


async def test_the_id_follows_from_the_token(sessions: Sessions) -> None:
    new = await sessions.create({})
    assert session_id(new.token) == new.id


async def test_without_valkey_every_verb_says_so() -> None:
    away = Sessions(None)
    for call in (away.create({}), away.get("hws_x"), away.refresh(uuid4()), away.delete(uuid4())):
        with pytest.raises(Unreachable, match="no Valkey is configured"):
            await call


async def test_a_valkey_that_does_not_answer_is_unreachable(unused_tcp_port: int) -> None:
    client = open_valkey(f"redis://127.0.0.1:{unused_tcp_port}")
    assert client is not None
    away = Sessions(client)
    for call in (away.create({}), away.get("hws_x"), away.refresh(uuid4()), away.delete(uuid4())):
        with pytest.raises(Unreachable, match="Valkey does not answer"):
            await call
    await client.aclose()
