"""Metrics: each request is counted once, where it belongs, and the pool shows its figures."""

from __future__ import annotations

import httpx


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
