"""Health: every store is asked at the same time, and none can keep the answer waiting."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from headwater.kernel.health import probe
from headwater.kernel.lifecycle import Headwater


async def test_stores_that_answer_are_ok_with_their_latency(headwater: Headwater) -> None:
    found = await probe(headwater)
    assert found.status == "ok"
    assert all(store.latency_ms is not None for store in found.stores.values())


async def test_a_store_that_hangs_is_down_after_the_timeout(
    headwater: Headwater, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def hang(*_: Any) -> float:
        await asyncio.Event().wait()
        return 0.0

    monkeypatch.setattr(headwater.valkey, "ping", hang)
    found = await probe(headwater, timeout_seconds=0.01)
    assert found.stores["valkey"].status == "down"
    assert "0.01 s" in (found.stores["valkey"].reason or "")


async def test_a_store_that_is_not_configured_is_off_and_nothing_is_degraded(
    headwater: Headwater, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(headwater, "valkey", None)
    found = await probe(headwater)
    assert found.stores["valkey"].status == "off"
    assert found.status == "ok"


async def test_without_postgres_everything_is_down(headwater: Headwater) -> None:
    await headwater.postgres.close()
    found = await probe(headwater)
    assert found.status == "down"
    assert found.stores["postgres"].reason == "The pool is closed."
