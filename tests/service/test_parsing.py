"""Parsing: nothing malformed reaches a handler, and each fault is named where it is."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

GOOD = {"sku": "HD-50", "name": "Large drive", "price": "300.00"}


def errors_of(response: httpx.Response) -> dict[str, str]:
    assert response.status_code == 422, response.text
    assert response.json()["type"] == "/problems/invalid-value"
    return {e.get("pointer", e.get("parameter")): e["detail"] for e in response.json()["errors"]}


async def test_a_malformed_id_is_refused(anyone: httpx.AsyncClient) -> None:
    assert errors_of(await anyone.get("/v1/shop/products/42")).keys() == {"part_id"}
    assert errors_of(await anyone.get("/v1/shop/products/%00")).keys() == {"part_id"}
    assert errors_of(await anyone.get("/v1/shop/products/a%2Fb")).keys() == {"part_id"}


async def test_integers_are_bounded_to_bigint(anyone: httpx.AsyncClient) -> None:
    largest = 2**63 - 1
    assert (await anyone.get(f"/v1/shop/numbers/{largest}")).json()["ids"] == [largest]
    for text in (str(2**63), str(-(2**63) - 1), "1e99", "twelve", "", "1_0", "0x10", "nan"):
        response = await anyone.get("/v1/shop/echo", params={"ids": text})
        assert errors_of(response).keys() == {"ids"}, text


async def test_an_integer_may_be_written_with_a_zero_fraction(
    anyone: httpx.AsyncClient, seller: httpx.AsyncClient
) -> None:
    assert (await anyone.get("/v1/shop/numbers/7.0")).json()["ids"] == [7]
    assert (await anyone.get("/v1/shop/echo?ids=3.0")).json()["ids"] == [3]
    json_type = {"Content-Type": "application/json"}
    response = await anyone.post("/v1/shop/totals", content=b'{"lines": [{"quantity": 2.0}]}', headers=json_type)
    assert response.json()["quantity"] == 2
    body = b'{"sku": "A", "name": "B", "price": "1", "stock": 5.0}'
    assert (await seller.post("/v1/shop/products", content=body, headers=json_type)).json()["stock"] == 5
    response = await anyone.post("/v1/shop/totals", content=b'{"lines": [{"quantity": 2.5}]}', headers=json_type)
    assert errors_of(response).keys() == {"/lines/0/quantity"}


async def test_query_parameters_of_every_kind(anyone: httpx.AsyncClient) -> None:
    response = await anyone.get("/v1/shop/echo?ids=1&ids=2&exact=true&above=1.5&colour=blue")
    assert response.json() == {"ids": [1, 2], "exact": True, "above": 1.5, "colour": "blue"}
    assert (await anyone.get("/v1/shop/echo")).json() == {"ids": [], "exact": False, "above": None, "colour": None}


@pytest.mark.parametrize(
    ("query", "parameter"),
    [
        ("exact=True", "exact"),
        ("exact=1", "exact"),
        ("above=nan", "above"),
        ("above=inf", "above"),
        ("colour=green", "colour"),
        ("colour=", "colour"),
        ("exact=true&exact=false", "exact"),
        ("unknown=1", "unknown"),
        ("colour=red%00", "colour"),
    ],
)
async def test_a_wrong_query_parameter_is_named(anyone: httpx.AsyncClient, query: str, parameter: str) -> None:
    assert errors_of(await anyone.get(f"/v1/shop/echo?{query}")).keys() == {parameter}


async def test_every_fault_of_a_query_is_named_at_once(anyone: httpx.AsyncClient) -> None:
    assert errors_of(await anyone.get("/v1/shop/echo?ids=x&above=y&z=1")).keys() == {"ids", "above", "z"}


async def test_an_operation_without_parameters_refuses_every_name(anyone: httpx.AsyncClient, product: Any) -> None:
    assert errors_of(await anyone.get(f"/v1/shop/products/{product.id}?fields=sku")).keys() == {"fields"}


async def test_a_query_that_is_not_utf8_is_malformed(anyone: httpx.AsyncClient) -> None:
    response = await anyone.get("/v1/shop/echo?colour=%ff")
    assert response.status_code == 400
    assert response.json()["type"] == "/problems/malformed"


async def test_every_fault_of_a_body_is_named_at_once(seller: httpx.AsyncClient) -> None:
    body = {"sku": 5, "price": "NaN", "stock": -1, "colour": "green", "id": "x", "cost": 1}
    found = errors_of(await seller.post("/v1/shop/products", json=body))
    assert found.keys() == {"/sku", "/name", "/price", "/stock", "/colour", "/id", "/cost"}
    assert "required" in found["/name"]
    assert "no such field" in found["/cost"]


async def test_unknown_fields_are_refused_in_nested_bodies(anyone: httpx.AsyncClient) -> None:
    response = await anyone.post("/v1/shop/totals", json={"lines": [{"quantity": 1}, {"quantity": 1, "price": 2}]})
    assert next(iter(errors_of(response))).startswith("/lines")


@pytest.mark.parametrize("price", ["NaN", "Infinity", "1e5", 12.5, "", "1.2.3", "-"])
async def test_decimals_are_finite_and_written_as_text(seller: httpx.AsyncClient, price: Any) -> None:
    assert errors_of(await seller.post("/v1/shop/products", json=GOOD | {"price": price})).keys() == {"/price"}


async def test_the_nul_character_is_refused_wherever_it_stands(seller: httpx.AsyncClient) -> None:
    body = GOOD | {"name": "a\0b", "tags": ["fine", "\0"], "specifications": {"a": {"b": ["\0"]}, "k\0": 1}}
    found = errors_of(await seller.post("/v1/shop/products", json=body))
    assert {"/name", "/tags/1", "/specifications/a/b/0", "/specifications"} == found.keys()
    harmless = await seller.post("/v1/shop/products", json=GOOD | {"name": "a backslash: \\u0000"})
    assert harmless.status_code == 201
    assert harmless.json()["name"] == "a backslash: \\u0000"


async def test_a_body_of_the_wrong_shape_is_refused(seller: httpx.AsyncClient) -> None:
    for body in (b"[]", b"null", b'"text"', b"5"):
        response = await seller.post("/v1/shop/products", content=body, headers={"Content-Type": "application/json"})
        assert response.status_code == 422
        assert response.json()["errors"] == [{"pointer": "", "detail": response.json()["errors"][0]["detail"]}]
