"""Idempotency keys: a request sent twice has one effect, and both senders get the same answer."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
from tests.service.conftest import client_of

from headwater.kernel import idempotency
from headwater.kernel.lifecycle import Headwater

BODY = {"sku": "HD-50", "name": "Drive", "price": "300.00"}
KEY = {"Idempotency-Key": "k-1"}


async def test_a_repeated_request_gets_the_first_answer_and_has_no_effect(seller: httpx.AsyncClient) -> None:
    first = await seller.post("/v1/shop/products", json=BODY, headers=KEY)
    again = await seller.post("/v1/shop/products", json=BODY, headers=KEY)
    assert first.status_code == again.status_code == 201
    assert again.content == first.content
    assert again.headers["idempotency-replayed"] == "true"
    assert "idempotency-replayed" not in first.headers
    for name in ("location", "etag", "content-type"):
        assert again.headers[name] == first.headers[name]
    assert len((await seller.get("/v1/shop/products")).json()["items"]) == 1


async def test_the_same_key_for_another_request_is_refused(seller: httpx.AsyncClient, product: Any) -> None:
    await seller.post("/v1/shop/products", json=BODY, headers=KEY)
    other_body = await seller.post("/v1/shop/products", json=BODY | {"sku": "Z"}, headers=KEY)
    other_path = await seller.post(f"/v1/shop/products/{product.id}/sales", json={"quantity": 1}, headers=KEY)
    for refused in (other_body, other_path):
        assert refused.status_code == 409
        assert refused.json()["type"] == "/problems/idempotency-key-reused"


async def test_sixteen_concurrent_twins_have_exactly_one_effect(seller: httpx.AsyncClient, product: Any) -> None:
    path = f"/v1/shop/products/{product.id}/sales"
    answers = await asyncio.gather(
        *(seller.post(path, json={"quantity": 1}, headers={"Idempotency-Key": "twin"}) for _ in range(16))
    )
    assert {answer.status_code for answer in answers} == {200}
    assert {answer.content for answer in answers} == {answers[0].content}
    assert sum("idempotency-replayed" in answer.headers for answer in answers) == 15
    assert (await seller.get(f"/v1/shop/products/{product.id}")).json()["stock"] == 3


async def test_nothing_is_stored_when_the_work_fails(seller: httpx.AsyncClient, product: Any) -> None:
    path = f"/v1/shop/products/{product.id}/sales"
    refused = await seller.post(path, json={"quantity": 5}, headers=KEY)
    assert refused.status_code == 409
    assert refused.json()["facts"] == {"stock": 4}
    await seller.patch(f"/v1/shop/products/{product.id}", json={"stock": 9})
    done = await seller.post(path, json={"quantity": 5}, headers=KEY)
    assert done.status_code == 200
    assert done.json()["stock"] == 4


async def test_callers_do_not_share_keys(app: Any, seller: httpx.AsyncClient) -> None:
    async with client_of(app, "other-key") as other:
        first = await seller.post("/v1/shop/products", json=BODY, headers=KEY)
        second = await other.post("/v1/shop/products", json=BODY | {"sku": "B"}, headers=KEY)
    assert first.json()["id"] != second.json()["id"]


async def test_a_malformed_key_is_refused(seller: httpx.AsyncClient) -> None:
    for key in ("", "x" * 256, b"\xc3\xa9"):
        response = await seller.post("/v1/shop/products", json=BODY, headers={"Idempotency-Key": key})  # type: ignore[dict-item]  # bytes are headers too
        assert response.status_code == 422
        assert response.json()["errors"][0]["parameter"] == "Idempotency-Key"


async def test_a_key_older_than_a_day_counts_as_never_used(seller: httpx.AsyncClient, shop: Headwater) -> None:
    await seller.post("/v1/shop/products", json=BODY, headers=KEY)
    async with shop.postgres.connection() as connection:
        await connection.execute("update headwater.idempotency_key set created_at = now() - interval '25 hours'")
    response = await seller.post("/v1/shop/products", json=BODY | {"sku": "NEW"}, headers=KEY)
    assert response.status_code == 201
    assert response.json()["sku"] == "NEW"
    again = await seller.post("/v1/shop/products", json=BODY | {"sku": "NEW"}, headers=KEY)
    assert again.headers["idempotency-replayed"] == "true"


async def test_a_sweep_removes_only_expired_keys(seller: httpx.AsyncClient, shop: Headwater) -> None:
    for number in range(4):
        headers = {"Idempotency-Key": f"k-{number}"}
        await seller.post("/v1/shop/products", json=BODY | {"sku": f"S{number}"}, headers=headers)
    async with shop.postgres.connection() as connection:
        await connection.execute(
            "update headwater.idempotency_key set created_at = now() - interval '25 hours' where key < 'k-3'"
        )
    assert await idempotency.sweep(shop.autocommit, rows_max=2) == 2
    assert await idempotency.sweep(shop.autocommit) == 1
    assert await idempotency.sweep(shop.autocommit) == 0
