"""The app: routing, methods, request ids, bodies, and what every answer carries."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

BODY = {"sku": "HD-50", "name": "Large drive", "price": "300.00"}


def assert_problem(response: httpx.Response, status: int, slug: str) -> dict[str, Any]:
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    problem: dict[str, Any] = response.json()
    assert problem["type"] == f"/problems/{slug}"
    assert problem["status"] == status
    assert problem["title"]
    assert problem["remedy"]
    assert problem["instance"] == response.headers["x-request-id"]
    return problem


async def test_an_unknown_path_is_a_problem(anyone: httpx.AsyncClient) -> None:
    assert_problem(await anyone.get("/v1/shop/nothing"), 404, "not-found")
    assert_problem(await anyone.get("/v1/shop/products/"), 404, "not-found")
    assert_problem(await anyone.get("/v1//products"), 404, "not-found")


async def test_a_wrong_method_is_told_every_right_one(anyone: httpx.AsyncClient, product: Any) -> None:
    response = await anyone.delete("/v1/shop/products")
    assert_problem(response, 405, "method-not-allowed")
    assert response.headers["allow"] == "GET, HEAD, OPTIONS, POST"
    response = await anyone.request("TRACE", f"/v1/shop/products/{product.id}")
    assert response.headers["allow"] == "DELETE, GET, HEAD, OPTIONS, PATCH"
    assert response.status_code == 405


async def test_options_lists_the_methods(anyone: httpx.AsyncClient) -> None:
    response = await anyone.options("/v1/shop/products")
    assert response.status_code == 204
    assert response.headers["allow"] == "GET, HEAD, OPTIONS, POST"


async def test_head_is_get_without_the_body(anyone: httpx.AsyncClient, product: Any) -> None:
    head = await anyone.head(f"/v1/shop/products/{product.id}")
    get = await anyone.get(f"/v1/shop/products/{product.id}")
    assert head.status_code == 200
    assert head.content == b""
    assert head.headers["etag"] == get.headers["etag"]
    assert head.headers["content-length"] == str(len(get.content))


async def test_exact_segments_win_over_parameters(anyone: httpx.AsyncClient) -> None:
    assert (await anyone.get("/v1/shop/numbers/12")).json()["ids"] == [12]
    assert (await anyone.get("/v1/shop/numbers/largest")).status_code == 500


async def test_a_fault_says_nothing_of_the_inside_and_is_logged(
    anyone: httpx.AsyncClient, caplog: pytest.LogCaptureFixture
) -> None:
    response = await anyone.get("/v1/shop/numbers/largest", headers={"X-Request-Id": "my-request"})
    assert_problem(response, 500, "internal")
    assert "secret" not in response.text
    (record,) = [r for r in caplog.records if r.name == "headwater.service"]
    assert record.exc_info is not None
    assert record.facts == {"request_id": "my-request"}  # type: ignore[attr-defined]


async def test_a_request_id_is_kept_if_it_is_well_formed(anyone: httpx.AsyncClient) -> None:
    assert (await anyone.get("/", headers={"X-Request-Id": "abc-1"})).headers["x-request-id"] == "abc-1"
    made = (await anyone.get("/", headers={"X-Request-Id": "no spaces"})).headers["x-request-id"]
    assert made != "no spaces"
    assert (await anyone.get("/")).headers["x-request-id"] != made


async def test_every_answer_carries_the_security_headers(anyone: httpx.AsyncClient) -> None:
    for path in ("/", "/v1/shop/products", "/nothing", "/docs"):
        assert (await anyone.get(path)).headers["x-content-type-options"] == "nosniff"


async def test_malformed_json_is_refused(seller: httpx.AsyncClient) -> None:
    json_type = {"Content-Type": "application/json"}
    for body in (b"{", b"", b'{"a": NaN}', b'"\xff"', b'{"name": "\\ud800"}', b"[" * 100_000):
        response = await seller.post("/v1/shop/products", content=body, headers=json_type)
        assert_problem(response, 400, "malformed")


async def test_a_wrong_content_type_is_refused(seller: httpx.AsyncClient, product: Any) -> None:
    for headers in ({"Content-Type": "text/plain"}, {}):
        response = await seller.post("/v1/shop/products", content=b"{}", headers=headers)
        assert_problem(response, 415, "unsupported-media-type")
    kind = {"Content-Type": "Application/Merge-Patch+JSON; charset=utf-8"}
    path = f"/v1/shop/products/{product.id}"
    assert (await seller.patch(path, content=b'{"stock": 9}', headers=kind)).status_code == 200


async def test_a_body_that_is_too_large_is_refused(seller: httpx.AsyncClient) -> None:
    large = {**BODY, "name": "x" * 1024 * 1024}
    assert_problem(await seller.post("/v1/shop/products", json=large), 413, "too-large")

    async def chunks() -> Any:
        for _ in range(20):
            yield b" " * 100_000

    headers = {"Content-Type": "application/json"}
    assert_problem(await seller.post("/v1/shop/products", content=chunks(), headers=headers), 413, "too-large")


async def test_a_body_in_pieces_is_put_together(seller: httpx.AsyncClient) -> None:
    async def chunks() -> Any:
        yield b'{"sku": "HD-7", "name": '
        yield b'"Drive", "price": "1"}'

    headers = {"Content-Type": "application/json"}
    response = await seller.post("/v1/shop/products", content=chunks(), headers=headers)
    assert response.status_code == 201
    assert response.json()["name"] == "Drive"


async def test_it_can_be_mounted_in_another_app(app: Any, product: Any) -> None:
    from starlette.applications import Starlette
    from starlette.routing import Mount

    outer = Starlette(routes=[Mount("/data", app=app)])
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app=outer), base_url="http://outer") as client:
        read = await client.get(f"/data/v1/shop/products/{product.id}")
        assert read.json()["sku"] == "HD-20"
        made = await client.post("/data/v1/shop/products", json=BODY, headers={"X-API-Key": "seller-key"})
        assert made.headers["location"] == f"/data/v1/shop/products/{made.json()['id']}"
        page = await client.get("/data/v1/shop/products?limit=1")
        assert page.headers["link"].startswith("</data/v1/shop/products?")


async def test_cors_answers_only_configured_origins(shop: Any) -> None:
    from dataclasses import replace

    from headwater.service.app import create_app

    shop.settings = replace(shop.settings, cors_origins="https://shop.example, https://admin.example")
    transport = httpx.ASGITransport(app=create_app(shop))
    async with httpx.AsyncClient(transport=transport, base_url="http://shop") as client:
        asked = {"Origin": "https://shop.example", "Access-Control-Request-Method": "PATCH"}
        preflight = await client.options("/v1/shop/products", headers=asked)
        assert preflight.headers["access-control-allow-origin"] == "https://shop.example"
        read = await client.get("/v1/shop/products", headers={"Origin": "https://admin.example"})
        assert read.headers["access-control-allow-origin"] == "https://admin.example"
        assert "ETag" in read.headers["access-control-expose-headers"]
        other = await client.get("/v1/shop/products", headers={"Origin": "https://evil.example"})
        assert "access-control-allow-origin" not in other.headers


async def test_without_origins_there_is_no_cors(anyone: httpx.AsyncClient) -> None:
    response = await anyone.get("/v1/shop/products", headers={"Origin": "https://shop.example"})
    assert "access-control-allow-origin" not in response.headers


async def test_the_access_log_has_one_line_per_request(shop: Any, caplog: pytest.LogCaptureFixture) -> None:
    from headwater.service.app import create_app

    caplog.set_level("INFO", logger="headwater.access")
    transport = httpx.ASGITransport(app=create_app(shop, access_log=True))
    async with httpx.AsyncClient(transport=transport, base_url="http://shop") as client:
        await client.get("/v1/shop/products")
    (record,) = [r for r in caplog.records if r.name == "headwater.access"]
    assert record.facts["route"] == "/v1/shop/products"  # type: ignore[attr-defined]
    assert record.facts["status"] == 200  # type: ignore[attr-defined]
