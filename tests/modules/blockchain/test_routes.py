"""The routes of blockchain over HTTP: every verb once, and what a bad request is told."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest_asyncio

from headwater.kernel.lifecycle import Headwater
from headwater.modules.blockchain import MODULE
from headwater.modules.blockchain.seeds import tx_hash_of, wallet_of
from headwater.modules.identity.repository import UserRepository

ClientWithRole = Callable[[str], Awaitable[httpx.AsyncClient]]

ASSET = {
    "asset_type": "lidar",
    "name": "Lidar scanner LD-3D-16",
    "symbol": "LD-3D-16",
    "specifications": {"range_m": 100, "channels": 16},
}
TRANSFER = {"tx_hash": tx_hash_of(1), "from_address": wallet_of(1), "to_address": wallet_of(2), "amount": 25}
PRICE = {"symbol": "LD-3D-16", "price": "3950.00", "source": "pyth", "observed_at": "2026-01-01T12:00:00Z"}


@pytest_asyncio.fixture
async def writer(client_with_role: ClientWithRole) -> httpx.AsyncClient:
    return await client_with_role("writer")


@pytest_asyncio.fixture
async def user_id(headwater: Headwater) -> UUID:
    users = headwater.repository(UserRepository)
    return (await users.create_user(headwater.autocommit, email="ada@example.org", name="Ada")).id


async def _register(writer: httpx.AsyncClient, user_id: UUID, number: int = 1) -> httpx.Response:
    body = {"user_id": str(user_id), "wallet_address": wallet_of(number)}
    return await writer.post("/api/blockchain/users", json=body)


async def test_a_wallet_is_registered_found_moved_and_earns_reputation(
    writer: httpx.AsyncClient, anyone: httpx.AsyncClient, user_id: UUID
) -> None:
    registered = await _register(writer, user_id)
    assert registered.status_code == 201
    assert registered.headers["location"].endswith(f"/api/blockchain/users/{user_id}")
    owner = (await anyone.get(f"/api/users/wallet/{wallet_of(1)}")).json()
    assert (owner["user_id"], owner["name"], owner["reputation_score"]) == (str(user_id), "Ada", 0)
    assert "email" not in owner
    raised = await writer.post(f"/api/blockchain/users/{user_id}/reputation", json={"change": 12})
    assert raised.json()["reputation_score"] == 12
    assert (await writer.post(f"/api/blockchain/users/{user_id}/reputation", json={"change": -13})).status_code == 409
    moved = await writer.patch(f"/api/blockchain/users/{user_id}", json={"wallet_address": wallet_of(2)})
    assert moved.json()["wallet_address"] == wallet_of(2)
    assert (await anyone.get(f"/api/users/wallet/{wallet_of(1)}")).status_code == 404
    stats = (await anyone.get(f"/api/users/{user_id}/stats")).json()
    assert (stats["wallet_address"], stats["reputation_score"], stats["assets_issued"]) == (wallet_of(2), 12, 0)
    read = (await anyone.get(f"/api/blockchain/users/{user_id}")).json()
    assert read["version"] == 3


async def test_bad_wallets_are_refused(writer: httpx.AsyncClient, anyone: httpx.AsyncClient, user_id: UUID) -> None:
    assert (await anyone.get("/api/users/wallet/0OIl")).status_code == 422
    bad = await writer.post("/api/blockchain/users", json={"user_id": str(user_id), "wallet_address": "0OIl"})
    assert bad.status_code == 422
    assert (await _register(writer, uuid4())).status_code == 409
    assert (await _register(writer, user_id)).status_code == 201
    taken = await _register(writer, user_id)
    assert taken.status_code == 409
    assert (await anyone.get(f"/api/users/{uuid4()}/stats")).status_code == 404


async def test_an_asset_is_issued_found_and_changed(
    writer: httpx.AsyncClient, anyone: httpx.AsyncClient, user_id: UUID
) -> None:
    await _register(writer, user_id)
    issued = await writer.post("/api/assets", json=ASSET | {"issuer_id": str(user_id)})
    assert issued.status_code == 201
    asset = issued.json()
    assert (await anyone.get(f"/api/assets/{asset['id']}")).json() == asset
    for query in ({"q": "lidar"}, {"q": "scan", "asset_type": "lidar"}, {"asset_type": "lidar"}, {}):
        assert (await anyone.get("/api/assets/search", params=query)).json()["items"] == [asset], query
    assert (await anyone.get("/api/assets/search", params={"q": "gripper"})).json() == {"items": [], "next": None}
    changed = await writer.patch(
        f"/api/assets/{asset['id']}", json={"specifications": {}}, headers={"If-Match": issued.headers["etag"]}
    )
    assert (changed.json()["specifications"], changed.json()["version"]) == ({}, 2)
    late = await writer.patch(
        f"/api/assets/{asset['id']}", json={"name": "Late"}, headers={"If-Match": issued.headers["etag"]}
    )
    assert late.status_code == 412


async def test_bad_assets_and_searches_are_refused(
    writer: httpx.AsyncClient, anyone: httpx.AsyncClient, user_id: UUID
) -> None:
    await _register(writer, user_id)
    good = ASSET | {"issuer_id": str(user_id)}
    wrongs: tuple[tuple[dict[str, Any], int], ...] = (
        ({"symbol": "lower"}, 422),
        ({"asset_type": "Lidar"}, 422),
        ({"name": ""}, 422),
        ({"specifications": []}, 422),
        ({"specifications": {"drawing": "x" * 70_000}}, 422),
        ({"issuer_id": str(uuid4())}, 409),
        ({"unknown": 1}, 422),
    )
    for wrong, status in wrongs:
        assert (await writer.post("/api/assets", json=good | wrong)).status_code == status, wrong
    assert (await anyone.get("/api/assets/search")).json()["items"] == []
    assert (await writer.post("/api/assets", json=good)).status_code == 201
    assert (await writer.post("/api/assets", json=good)).status_code == 409
    for query in ({"cursor": "nonsense"}, {"limit": 0}, {"limit": 10_000}, {"type": "lidar"}, {"asset_type": "Lidar"}):
        assert (await anyone.get("/api/assets/search", params=query)).status_code in (400, 422), query
    assert (await anyone.get(f"/api/assets/{uuid4()}")).status_code == 404
    assert (await anyone.get("/api/assets/nonsense")).status_code == 422


async def test_a_transaction_is_recorded_read_and_settled(writer: httpx.AsyncClient, anyone: httpx.AsyncClient) -> None:
    recorded = await writer.post("/api/blockchain/transactions", json=TRANSFER)
    assert recorded.status_code == 201
    url = f"/api/blockchain/transactions/{tx_hash_of(1)}"
    assert recorded.headers["location"].endswith(url)
    read = (await anyone.get(url)).json()
    assert (read["amount"], read["status"], read["network"]) == (25, "pending", "solana")
    settled = await writer.patch(url, json={"status": "confirmed", "block_number": 7})
    assert (settled.json()["status"], settled.json()["block_number"]) == ("confirmed", 7)
    assert (await writer.patch(url, json={"status": "failed"})).status_code == 409
    assert (await writer.patch(url, json={"status": "pending"})).status_code == 422
    assert (await writer.post("/api/blockchain/transactions", json=TRANSFER)).status_code == 409
    assert (await anyone.get(f"/api/blockchain/transactions/{tx_hash_of(2)}")).status_code == 404
    assert (await anyone.get("/api/blockchain/transactions/nonsense")).status_code == 422
    for wrong in ({"amount": -1}, {"amount": 1.5}, {"from_address": "x"}, {"network": "Solana"}, {"block_number": -1}):
        body = TRANSFER | {"tx_hash": tx_hash_of(3)} | wrong
        assert (await writer.post("/api/blockchain/transactions", json=body)).status_code == 422, wrong


async def test_a_price_is_recorded_and_the_newest_is_shown(
    writer: httpx.AsyncClient, anyone: httpx.AsyncClient
) -> None:
    assert (await writer.post("/api/blockchain/prices", json=PRICE)).status_code == 201
    older = PRICE | {"price": "3900", "observed_at": "2026-01-01T11:00:00Z"}
    assert (await writer.post("/api/blockchain/prices", json=older)).status_code == 201
    newest = await anyone.get("/api/blockchain/prices/ld-3d-16")
    assert newest.json()["price"] == "3950.00"
    history = (await anyone.get("/api/blockchain/prices/LD-3D-16/history", params={"limit": 1})).json()
    assert [price["price"] for price in history["items"]] == ["3950.00"]
    more = await anyone.get("/api/blockchain/prices/LD-3D-16/history", params={"cursor": history["next"]})
    assert [price["price"] for price in more.json()["items"]] == ["3900"]
    assert (await anyone.get("/api/blockchain/prices/NOTHING")).status_code == 404
    assert (await anyone.get("/api/blockchain/prices/LD-3D-16", params={"currency": "usd"})).status_code == 422
    assert (await writer.post("/api/blockchain/prices", json=PRICE)).status_code == 409
    for price in ("0", "0.00", "-1", "NaN", "1e3", "", 12.5):
        assert (await writer.post("/api/blockchain/prices", json=PRICE | {"price": price})).status_code == 422, price


async def test_writing_needs_a_key_with_the_scope(anyone: httpx.AsyncClient, client_with_role: ClientWithRole) -> None:
    reader = await client_with_role("reader")
    for url, body in (
        ("/api/assets", ASSET | {"issuer_id": str(uuid4())}),
        ("/api/blockchain/users", {"user_id": str(uuid4()), "wallet_address": wallet_of(1)}),
        ("/api/blockchain/transactions", TRANSFER),
        ("/api/blockchain/prices", PRICE),
    ):
        assert (await anyone.post(url, json=body)).status_code == 401
        assert (await reader.post(url, json=body)).status_code == 403


def test_every_write_names_its_scope_and_every_read_is_open() -> None:
    for route in MODULE.routes:
        assert not route.public
        assert (route.scope is None) == (route.method == "GET"), route.path
