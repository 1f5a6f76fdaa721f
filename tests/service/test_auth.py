"""Auth: closed unless declared open, and a wrong key is wrong everywhere."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import httpx
import pytest
from tests.service.conftest import client_of

from headwater.kernel.caller import Caller
from headwater.kernel.errors import Unauthenticated
from headwater.service.app import create_app
from headwater.service.auth import Gate

BODY = {"sku": "HD-50", "name": "Drive", "price": "300.00"}


async def test_a_write_without_a_key_is_refused(anyone: httpx.AsyncClient) -> None:
    response = await anyone.post("/v1/shop/products", json=BODY)
    assert response.status_code == 401
    assert response.json()["type"] == "/problems/unauthenticated"
    assert response.headers["www-authenticate"].startswith("Bearer")
    assert (await anyone.get("/v1/shop/products")).json()["items"] == []


async def test_a_key_is_taken_from_either_header(anyone: httpx.AsyncClient) -> None:
    for headers in ({"Authorization": "bearer seller-key"}, {"X-API-Key": "seller-key"}):
        body = BODY | {"sku": str(len(headers["Authorization"]) if "Authorization" in headers else 0)}
        assert (await anyone.post("/v1/shop/products", json=body, headers=headers)).status_code == 201


@pytest.mark.parametrize(
    "headers",
    [
        {"Authorization": "Bearer wrong"},
        {"Authorization": "Bearer "},
        {"Authorization": "Basic c2VsbGVyLWtleQ=="},
        {"Authorization": ""},
        {"X-API-Key": "wrong"},
        {"X-API-Key": ""},
        {"Authorization": b"Bearer \xff\xfe"},
    ],
)
async def test_a_wrong_key_is_refused_on_public_reads_too(anyone: httpx.AsyncClient, headers: Any) -> None:
    assert (await anyone.get("/v1/shop/products", headers=headers)).status_code == 401


async def test_a_key_without_the_scope_is_forbidden(app: Any) -> None:
    async with client_of(app, "reader-key") as reader:
        refused = await reader.post("/v1/shop/products", json=BODY)
        assert refused.status_code == 403
        assert refused.json()["type"] == "/problems/forbidden"
        assert refused.json()["facts"] == {"scope": "shop:part:write"}
        assert (await reader.get("/v1/shop/notes")).status_code == 200


async def test_a_read_with_a_scope_needs_a_key(anyone: httpx.AsyncClient) -> None:
    assert (await anyone.get("/v1/shop/notes")).status_code == 401


async def test_a_handler_may_take_a_caller_who_need_not_be_known(
    anyone: httpx.AsyncClient, seller: httpx.AsyncClient
) -> None:
    assert (await anyone.get("/v1/shop/whoami")).json() == {"name": None}
    assert (await seller.get("/v1/shop/whoami")).json() == {"name": "seller"}


async def test_admin_operations_need_their_scope(anyone: httpx.AsyncClient, seller: httpx.AsyncClient) -> None:
    for method, path in (
        ("POST", "/api/admin/migrate"),
        ("POST", "/api/admin/seed"),
        ("GET", "/api/admin/migration-status"),
    ):
        assert (await anyone.request(method, path, json={})).status_code == 401
        assert (await seller.request(method, path, json={})).status_code == 403


async def test_a_verified_key_is_remembered_for_a_moment_and_a_wrong_one_never() -> None:
    asked: list[str] = []
    known = Caller(id=UUID(int=1), name="known", scopes=frozenset())

    async def count(key: str) -> Caller:
        asked.append(key)
        if key != "good" and not key.startswith("hws_"):
            raise Unauthenticated("no")
        return known

    gate = Gate(count, seconds=1000, size_max=2)
    for _ in range(3):
        assert await gate.caller({b"x-api-key": b"good"}) is known
        with pytest.raises(Unauthenticated):
            await gate.caller({b"x-api-key": b"bad"})
        await gate.caller({b"x-api-key": b"hws_session"})
    assert asked.count("good") == 1
    assert asked.count("bad") == 3
    assert asked.count("hws_session") == 3
    expired = Gate(count, seconds=0)
    await expired.caller({b"x-api-key": b"good"})
    await expired.caller({b"x-api-key": b"good"})
    assert asked.count("good") == 3


async def test_a_system_without_identity_knows_no_keys(shop: Any) -> None:
    async with client_of(create_app(shop), "any") as client:
        response = await client.get("/v1/shop/products")
        assert response.status_code == 401
        assert "no identity module" in response.json()["detail"]
