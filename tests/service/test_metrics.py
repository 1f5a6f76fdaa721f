"""Metrics: each request is counted once, where it belongs, and the pool shows its figures."""

from __future__ import annotations

import asyncio

import httpx
import msgspec

from headwater.followers.invalidation import relaying
from headwater.kernel.cache import Coherence
from headwater.kernel.lifecycle import Headwater
from headwater.modules.identity.repository import ensure_admin_key
from headwater.service.app import create_app


async def test_metrics_count_by_route_and_status_and_show_the_pool(anyone: httpx.AsyncClient) -> None:
    for path in ("/v1/shop/numbers/1", "/v1/shop/numbers/2", "/v1/shop/numbers/404", "/elsewhere"):
        await anyone.get(path)
    metrics = await anyone.get("/metrics")
    assert metrics.headers["content-type"].startswith("text/plain")
    route = 'method="GET",route="/v1/shop/numbers/{number}"'
    assert f'headwater_http_requests_total{{{route},status="200"}} 2.0' in metrics.text
    assert f'headwater_http_requests_total{{{route},status="404"}} 1.0' in metrics.text
    assert f"headwater_http_request_seconds_count{{{route}}} 3.0" in metrics.text
    assert f'headwater_http_request_seconds_bucket{{le="+Inf",{route}}} 3.0' in metrics.text
    assert 'route="unmatched",status="404"} 1.0' in metrics.text
    assert "headwater_pool_size_max 10.0" in metrics.text
    assert "headwater_http_in_flight 1.0" in metrics.text


async def test_metrics_show_the_stream_and_each_follower(headwater: Headwater) -> None:
    async with headwater.postgres.connection() as connection:
        await connection.execute(
            "insert into headwater.follower (name, state, epoch, position) values ('mirror', 'following', 1, 0)"
        )
    transport = httpx.ASGITransport(create_app(headwater))
    async with (
        httpx.AsyncClient(transport=transport, base_url="http://service") as client,
        relaying(headwater.system, headwater.settings),
    ):
        async with asyncio.timeout(15):
            while "headwater_cache_lag_changes 0.0" not in (shown := (await client.get("/metrics")).text):
                pass
    assert "headwater_stream_epoch 1.0" in shown
    assert "headwater_stream_position 0.0" in shown
    assert 'headwater_follower_lag_changes{follower="mirror"} 0.0' in shown
    assert 'headwater_follower_parked_keys{follower="mirror"} 0.0' in shown


async def test_metrics_show_whether_the_cache_is_believed_and_what_verify_found(headwater: Headwater) -> None:
    cache = headwater.postgres.cache
    assert cache is not None
    found = Coherence(at=1.0, entries=200, stale=1)
    await cache.wire.send(b"SET", cache.coherence_name, msgspec.json.encode(found))
    await cache.report()
    transport = httpx.ASGITransport(create_app(headwater))
    async with httpx.AsyncClient(transport=transport, base_url="http://service") as client:
        shown = (await client.get("/metrics")).text
    assert "headwater_cache_believed 0.0" in shown  # no relay runs
    assert "headwater_cache_coherent_percent 99.5" in shown
    assert "headwater_cache_verified_entries 200.0" in shown


async def test_a_write_over_http_stands_in_the_stream_with_its_actor_and_request(headwater: Headwater) -> None:
    key = await ensure_admin_key(headwater, None)
    transport = httpx.ASGITransport(create_app(headwater))
    async with httpx.AsyncClient(transport=transport, base_url="http://service") as client:
        answer = await client.post(
            "/api/users",
            json={"email": "ada@example.org"},
            headers={"authorization": f"Bearer {key}", "x-request-id": "the-request"},
        )
        assert answer.status_code == 201, answer.text
    async with headwater.postgres.connection() as connection:
        context = await connection.fetchval(
            "select context from headwater.change where \"table\" = 'public.users' order by id desc limit 1"
        )
    assert context["request"] == "the-request"
    assert context["actor"]
