"""Stations: health, readiness, metrics and the index tell the truth, also when a store is down."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import httpx
import pytest_asyncio
from tests.service.conftest import SYSTEM, authenticate, client_of

from headwater import __version__
from headwater.embedded.valkey import EmbeddedValkey
from headwater.kernel.lifecycle import Headwater
from headwater.kernel.settings import Settings
from headwater.service.app import create_app


async def test_health_names_each_store_with_its_latency(headwater: Headwater) -> None:
    async with client_of(create_app(headwater)) as client:
        response = await client.get("/health")
    assert response.status_code == 200
    health = response.json()
    assert health["status"] == "ok"
    assert health["version"] == __version__
    for store in ("postgres", "valkey"):
        assert health["stores"][store]["status"] == "ok"
        assert health["stores"][store]["latency_ms"] > 0


@pytest_asyncio.fixture
async def own_valkey(server_home: Path) -> AsyncIterator[EmbeddedValkey]:
    """A Valkey that the test may stop."""
    async with EmbeddedValkey(server_home.parent / "own-valkey") as valkey:
        yield valkey


async def test_without_valkey_the_service_is_degraded_and_serves(
    shop_settings: Settings, own_valkey: EmbeddedValkey
) -> None:
    settings = replace(shop_settings, valkey_url=own_valkey.dsn)
    async with (
        Headwater.open(SYSTEM, settings) as opened,
        client_of(create_app(opened, authenticate=authenticate)) as client,
    ):
        assert (await client.get("/health")).json()["status"] == "ok"
        await own_valkey.stop()
        response = await client.get("/health")
        assert response.status_code == 200
        assert response.json()["status"] == "degraded"
        assert response.json()["stores"]["valkey"]["status"] == "down"
        assert response.json()["stores"]["valkey"]["reason"]
        assert response.json()["stores"]["postgres"]["status"] == "ok"
        assert (await client.get("/v1/shop/products")).status_code == 200


async def test_without_postgres_it_is_down_and_says_so(shop_settings: Settings, shop: Headwater) -> None:
    async with client_of(create_app(shop, authenticate=authenticate)) as client:
        await shop.postgres.close()
        health = await client.get("/health")
        assert health.status_code == 503
        assert health.json()["status"] == "down"
        ready = await client.get("/ready")
        assert ready.status_code == 503
        assert ready.json()["ready"] is False
        read = await client.get("/v1/shop/products")
        assert read.status_code == 503
        assert read.json()["type"] == "/problems/unreachable"
        assert read.headers["retry-after"] == "1"


async def test_ready_means_that_no_revision_waits(headwater: Headwater, empty_database: str) -> None:
    async with client_of(create_app(headwater)) as client:
        assert (await client.get("/ready")).json() == {"ready": True, "reasons": []}
    settings = Settings(database_url=empty_database)
    async with Headwater.open(headwater.system, settings) as unmigrated, client_of(create_app(unmigrated)) as client:
        response = await client.get("/ready")
        assert response.status_code == 503
        assert "kernel_0001" in response.json()["reasons"][0]


async def test_the_index_leads_to_everything(anyone: httpx.AsyncClient) -> None:
    index = (await anyone.get("/")).json()
    for name in ("docs", "openapi", "health", "metrics"):
        assert (await anyone.get(index[name])).status_code == 200
    tag = (await anyone.get("/openapi.json")).headers["etag"]
    assert (await anyone.get("/openapi.json", headers={"If-None-Match": tag})).status_code == 304
