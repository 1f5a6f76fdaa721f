"""follow: one block runs all that follows the stream, and ends it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from typing import Any
from uuid import uuid4

from headwater import follow
from headwater.kernel.changes import Change
from headwater.kernel.followers import CallingSink, Follower
from headwater.kernel.lifecycle import Headwater
from headwater.kernel.settings import Settings
from headwater.kernel.ticker import is_led
from headwater.modules.identity.models import User
from headwater.systems.everything import EVERYTHING


async def until(condition: Any, seconds: float = 15.0) -> None:
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110  # another task makes it so
            await asyncio.sleep(0.005)


async def test_the_cache_is_believed_and_a_follower_of_ones_own_is_told(headwater: Headwater) -> None:
    heard: list[str] = []

    async def hear(changes: Sequence[Change]) -> None:
        heard.extend(change.new["email"] for change in changes)

    email = f"{uuid4()}@b.example"
    follower = Follower(headwater.postgres, "hearing", CallingSink(headwater.postgres, "hearing", hear), tables=[User])
    cache = headwater.postgres.cache
    assert cache is not None
    async with follow(headwater, follower) as following:
        await following.ticker.leads()
        await until(lambda: cache.good_until > asyncio.get_running_loop().time())
        await headwater.repository(User).create(headwater.autocommit, email=email)
        await until(lambda: email in heard)
    async with asyncio.timeout(15):
        while await is_led(headwater.postgres):  # noqa: ASYNC110  # the server frees the lock when it sees the end
            await asyncio.sleep(0.005)


async def test_without_a_valkey_there_is_a_ticker_and_no_relay(settings: Settings) -> None:
    async with (
        Headwater.open(EVERYTHING, replace(settings, valkey_url="")) as headwater,
        follow(headwater) as following,
    ):
        await following.ticker.leads()
        assert following.relay is None
