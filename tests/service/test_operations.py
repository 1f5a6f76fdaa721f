"""Operations: what happens between a request and its answer: conditions, content types, transactions."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import httpx
from tests.service.conftest import Part, authenticate, client_of

from headwater.kernel.caller import Caller
from headwater.kernel.errors import SerializationFailure
from headwater.kernel.lifecycle import Headwater
from headwater.kernel.repository import Repository
from headwater.kernel.routes import Route
from headwater.kernel.transaction import Transaction
from headwater.service.app import create_app


async def test_if_match_guards_a_change(seller: httpx.AsyncClient, product: Any) -> None:
    path = f"/v1/shop/products/{product.id}"
    old = (await seller.get(path)).headers["etag"]
    assert (await seller.patch(path, json={"stock": 3}, headers={"If-Match": old})).status_code == 200
    late = await seller.patch(path, json={"stock": 2}, headers={"If-Match": old})
    assert late.status_code == 412
    assert late.json()["type"] == "/problems/version-conflict"
    assert late.json()["facts"]["current_version"] == 2
    assert (await seller.get(path)).json()["stock"] == 3
    for foreign in ('"1-00000000"', "garbage", 'W/"2-x"', f"{old}, {old}", '"99999999999999999999-x"'):
        refused = await seller.delete(path, headers={"If-Match": foreign})
        assert refused.status_code == 412
        assert refused.json()["type"] == "/problems/precondition-failed"
    assert (await seller.patch(path, json={}, headers={"If-Match": old})).status_code == 412
    assert (await seller.patch(path, json={"stock": 1}, headers={"If-Match": "*"})).status_code == 200
    assert (await seller.delete(path, headers={"If-Match": old})).status_code == 412
    assert (await seller.delete(path)).status_code == 204


async def test_work_that_gave_way_to_another_transaction_is_done_again(shop: Headwater, product: Any) -> None:
    tries: list[UUID] = []

    async def insist(part_id: UUID, caller: Caller, tx: Transaction, products: Repository[Part]) -> Part:
        tries.append(caller.id)
        changed = (await products.update(tx, part_id, stock=len(tries))).new
        if len(tries) < 3:
            raise SerializationFailure("Gave way.")
        return changed

    route = Route(method="POST", path="/v1/insist/{part_id}", handler=insist, summary="", scope="shop:part:write")
    async with client_of(create_app(shop, routes=[route], authenticate=authenticate), "seller-key") as client:
        response = await client.post(f"/v1/insist/{product.id}")
    assert response.status_code == 200
    assert response.json()["stock"] == len(tries) == 3
    assert response.json()["version"] == 2


async def test_a_read_that_takes_a_transaction_cannot_write(shop: Headwater, product: Any) -> None:
    async def sneak(part_id: UUID, tx: Transaction, products: Repository[Part]) -> Part:
        return (await products.update(tx, part_id, stock=0)).new

    route = Route(method="GET", path="/v1/sneak/{part_id}", handler=sneak, summary="")
    async with client_of(create_app(shop, routes=[route], authenticate=authenticate)) as client:
        assert (await client.get(f"/v1/sneak/{product.id}")).status_code >= 400
        assert (await client.get(f"/v1/shop/products/{product.id}")).json()["stock"] == 4


async def test_a_refused_write_is_rolled_back_whole(shop: Headwater, seller: httpx.AsyncClient, product: Any) -> None:
    path = f"/v1/shop/products/{product.id}"
    assert (await seller.post(f"{path}/sales", json={"quantity": 99})).status_code == 409
    assert (await seller.get(path)).json()["version"] == 1
