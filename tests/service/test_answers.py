"""Answers: entities by their columns, pages with links, ETags, 304, Location."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import httpx

from headwater.kernel.lifecycle import Headwater


async def test_an_entity_is_shown_by_its_columns_without_private_ones(anyone: httpx.AsyncClient, product: Any) -> None:
    response = await anyone.get(f"/v1/shop/products/{product.id}")
    shown = response.json()
    assert " ".join(shown) == "id sku name price stock colour tags specifications created_at updated_at version"
    assert shown["price"] == "129.50"
    assert shown["colour"] == "red"
    assert shown["created_at"].endswith("Z")
    assert shown["specifications"] == {}
    assert response.headers["content-type"] == "application/json"


async def test_entities_inside_other_answers_are_shown_the_same_way(anyone: httpx.AsyncClient, product: Any) -> None:
    alone = (await anyone.get(f"/v1/shop/products/{product.id}")).json()
    total = (await anyone.post("/v1/shop/totals", json={"lines": [{"quantity": 2}]})).json()
    assert total == {"quantity": 2, "products": [alone]}


async def test_an_etag_names_the_version_and_answers_304(
    anyone: httpx.AsyncClient, seller: httpx.AsyncClient, product: Any
) -> None:
    path = f"/v1/shop/products/{product.id}"
    tag = (await anyone.get(path)).headers["etag"]
    assert tag.startswith('"1-')
    for known in (tag, "*", f'"x", {tag}', f"W/{tag}", f'W/"y",{tag}'):
        again = await anyone.get(path, headers={"If-None-Match": known})
        assert again.status_code == 304
        assert again.content == b""
        assert again.headers["etag"] == tag
        assert "content-type" not in again.headers
    changed = await seller.patch(path, json={"stock": 3})
    assert changed.headers["etag"] != tag
    fresh = await anyone.get(path, headers={"If-None-Match": tag})
    assert fresh.status_code == 200
    assert fresh.headers["etag"] == changed.headers["etag"]


async def test_what_has_no_version_gets_the_hash_of_its_bytes(anyone: httpx.AsyncClient) -> None:
    first = await anyone.get("/v1/shop/echo?ids=1")
    other = await anyone.get("/v1/shop/echo?ids=2")
    assert first.headers["etag"] != other.headers["etag"]
    assert (
        await anyone.get("/v1/shop/echo?ids=1", headers={"If-None-Match": first.headers["etag"]})
    ).status_code == 304


async def test_pages_are_linked_until_the_end(anyone: httpx.AsyncClient, shop: Headwater) -> None:
    from tests.service.conftest import Part  # the entity of these tests

    async with shop.transaction() as tx:
        for number in range(5):
            await shop.repository(Part).create(tx, sku=f"P{number}", name="Part", price=Decimal(1))
    seen: list[str] = []
    path = "/v1/shop/products?limit=2"
    while path:
        response = await anyone.get(path)
        page = response.json()
        seen += [item["sku"] for item in page["items"]]
        link = response.links.get("next")
        assert (page["next"] is None) == (link is None)
        path = link["url"] if link else ""
        assert "limit=2" in path or not path
    assert sorted(seen) == [f"P{number}" for number in range(5)]


async def test_a_bad_cursor_or_limit_is_refused(anyone: httpx.AsyncClient) -> None:
    for cursor in ("x", "", "!!!", "W10", "é"):
        response = await anyone.get("/v1/shop/products", params={"cursor": cursor})
        assert response.status_code == 422
        assert response.json()["type"] == "/problems/invalid-cursor"
    for limit in ("0", "-1", "201", "many"):
        response = await anyone.get("/v1/shop/products", params={"limit": limit})
        assert response.status_code == 422
        assert response.json()["errors"][0]["parameter"] == "limit"


async def test_a_created_entity_says_where_it_lives(seller: httpx.AsyncClient) -> None:
    made = await seller.post("/v1/shop/products", json={"sku": "HD-50", "name": "Drive", "price": "300.00"})
    assert made.status_code == 201
    assert made.headers["location"] == f"/v1/shop/products/{made.json()['id']}"
    read = await seller.get(made.headers["location"])
    assert read.json() == made.json()
    assert read.headers["etag"] == made.headers["etag"]
