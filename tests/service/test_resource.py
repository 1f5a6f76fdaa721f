"""Resource: one line gives an entity its whole REST face."""

from __future__ import annotations

from typing import Any

import httpx
import pytest
from tests.service.conftest import Part, Remark

from headwater.kernel.errors import ProgrammingError
from headwater.kernel.resource import merge_patch, resource

BODY = {"sku": "HD-50", "name": "Drive", "price": "300.00"}


async def test_create_read_change_delete(seller: httpx.AsyncClient) -> None:
    made = (await seller.post("/v1/shop/products", json=BODY | {"colour": None, "tags": ["a"]})).json()
    assert (made["stock"], made["colour"], made["tags"], made["version"]) == (0, None, ["a"], 1)
    path = f"/v1/shop/products/{made['id']}"
    changed = await seller.patch(path, json={"colour": "blue", "stock": 3})
    assert changed.status_code == 200
    assert changed.json() == made | {
        "colour": "blue",
        "stock": 3,
        "version": 2,
        "updated_at": changed.json()["updated_at"],
    }
    assert (await seller.patch(path, json={"colour": None})).json()["colour"] is None
    gone = await seller.delete(path)
    assert gone.status_code == 204
    assert gone.content == b""
    for response in (await seller.get(path), await seller.delete(path), await seller.patch(path, json={"stock": 1})):
        assert response.status_code == 404


async def test_lists_are_narrowed_by_indexed_columns(seller: httpx.AsyncClient) -> None:
    for number, colour in enumerate(("red", "blue", "red")):
        await seller.post("/v1/shop/products", json=BODY | {"sku": f"S{number}", "colour": colour})
    red = (await seller.get("/v1/shop/products?colour=red")).json()["items"]
    assert [item["sku"] for item in red] == ["S0", "S2"]
    both = (await seller.get("/v1/shop/products?colour=red&sku=S2")).json()["items"]
    assert [item["sku"] for item in both] == ["S2"]
    assert (await seller.get("/v1/shop/products?name=Drive")).status_code == 422


async def test_a_patch_merges_objects(seller: httpx.AsyncClient) -> None:
    made = (await seller.post("/v1/shop/products", json=BODY | {"specifications": {"a": 1, "b": {"c": 2}}})).json()
    path = f"/v1/shop/products/{made['id']}"
    changed = await seller.patch(path, json={"specifications": {"a": None, "b": {"d": 3}}})
    assert changed.json()["specifications"] == {"b": {"c": 2, "d": 3}}
    stale = await seller.patch(path, json={"specifications": {"x": 1}}, headers={"If-Match": '"1-00000000"'})
    assert stale.status_code == 412


async def test_an_empty_patch_changes_nothing(seller: httpx.AsyncClient, product: Any) -> None:
    response = await seller.patch(f"/v1/shop/products/{product.id}", json={})
    assert response.status_code == 200
    assert response.json()["version"] == 1


async def test_what_may_not_be_null_cannot_be_emptied(seller: httpx.AsyncClient, product: Any) -> None:
    response = await seller.patch(f"/v1/shop/products/{product.id}", json={"stock": None, "version": 9})
    assert response.status_code == 422
    assert {error["pointer"] for error in response.json()["errors"]} == {"/stock", "/version"}


def test_merge_patch_follows_the_examples_of_its_rfc() -> None:
    cases: list[tuple[Any, Any, Any]] = [
        ({"a": "b"}, {"a": "c"}, {"a": "c"}),
        ({"a": "b"}, {"a": None}, {}),
        ({"a": {"b": "c"}}, {"a": {"b": "d", "c": None}}, {"a": {"b": "d"}}),
        ({"a": [{"b": "c"}]}, {"a": [1]}, {"a": [1]}),
        (["a"], {"a": "b"}, {"a": "b"}),
        ({}, {"a": {"bb": {"ccc": None}}}, {"a": {"bb": {}}}),
    ]
    for target, patch, result in cases:
        assert merge_patch(target, patch) == result


def test_scopes_paths_and_verbs_follow_the_declaration() -> None:
    routes = resource(Remark, path="/v1/x/notes", module="x", verbs=("list", "delete"), read_scope=True)
    assert [(r.method, r.path, r.scope) for r in routes] == [
        ("GET", "/v1/x/notes", "x:remark:read"),
        ("DELETE", "/v1/x/notes/{remark_id}", "x:remark:write"),
    ]
    with pytest.raises(ProgrammingError, match="no verb 'remove'"):
        resource(Part, path="/p", verbs=("remove",))  # type: ignore[arg-type]  # that is what is refused
