"""The routes of tokens over HTTP: a wallet's life, a transaction's life, who may do what, and what a refusal says."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest
import pytest_asyncio

from headwater.modules.blockchain.keypairs import Keypair
from headwater.modules.blockchain.seeds import tx_hash_of

ClientWithRole = Callable[[str], Awaitable[httpx.AsyncClient]]
API = "/api/blockchain"


@pytest_asyncio.fixture
async def admin(client_with_role: ClientWithRole) -> httpx.AsyncClient:
    return await client_with_role("admin")


@pytest_asyncio.fixture
async def writer(client_with_role: ClientWithRole) -> httpx.AsyncClient:
    return await client_with_role("writer")


@pytest_asyncio.fixture
async def addresses(admin: httpx.AsyncClient, people: list[UUID]) -> list[str]:
    """Two wallets, the first with 1,000 units."""
    made = [await admin.post(f"{API}/wallets", json={"user_id": str(person)}) for person in people[:2]]
    assert [one.status_code for one in made] == [201, 201]
    found = [str(one.json()["public_key"]) for one in made]
    minted = await admin.post(f"{API}/fodi/mint", json={"tx_id": "m", "to_address": found[0], "amount": 1_000})
    assert minted.status_code == 201, minted.text
    return found


async def test_a_wallet_is_made_and_shows_everything_but_its_private_key(
    admin: httpx.AsyncClient, anyone: httpx.AsyncClient, people: list[UUID]
) -> None:
    made = await admin.post(f"{API}/wallets", json={"user_id": str(people[0])})
    assert made.headers["location"].endswith(f"{API}/wallets/{made.json()['public_key']}")
    read = await anyone.get(made.headers["location"])
    assert read.json() == made.json()
    assert set(read.json()) == {"id", "user_id", "public_key", "wallet_type", "balance", "created_at", "last_sync"}
    assert (await anyone.get(f"{API}/wallets/{Keypair.make().address}")).status_code == 404
    assert (await admin.post(f"{API}/wallets", json={"user_id": str(uuid4())})).status_code == 409


async def test_a_transaction_is_made_repeated_confirmed_and_seen(
    writer: httpx.AsyncClient, anyone: httpx.AsyncClient, addresses: list[str], people: list[UUID]
) -> None:
    body = {"tx_id": "order-7", "from_address": addresses[0], "to_address": addresses[1], "amount": 300}
    made = await writer.post(f"{API}/fodi/transactions", json=body)
    assert (made.status_code, made.json()["status"]) == (201, "pending")
    assert (await writer.post(f"{API}/fodi/transactions", json=body)).json() == made.json()
    other = await writer.post(f"{API}/fodi/transactions", json=body | {"amount": 301})
    assert (other.status_code, other.json()["type"]) == (409, "/problems/already-exists")
    balance = (await anyone.get(f"{API}/users/{people[0]}/balance")).json()
    assert balance == {"user_id": str(people[0]), "wallets": 1, "balance": 1_000, "held": 300, "available": 700}
    told = {"blockchain_tx": tx_hash_of(1)}
    confirmed = await writer.post(f"{API}/fodi/transactions/order-7/confirm", json=told)
    assert (confirmed.status_code, confirmed.json()["status"]) == (200, "confirmed")
    assert (await anyone.get(made.headers["location"])).json() == confirmed.json()
    assert (await writer.post(f"{API}/fodi/transactions/order-7/fail", json={})).status_code == 409
    listed = (await anyone.get(f"{API}/wallets/{addresses[1]}/transactions")).json()["items"]
    assert listed == [confirmed.json()]
    assert (await anyone.get(f"{API}/wallets/{addresses[1]}")).json()["balance"] == 300


async def test_a_transfer_without_funds_is_refused_with_the_figures(
    writer: httpx.AsyncClient, addresses: list[str]
) -> None:
    body = {"tx_id": "t", "from_address": addresses[0], "to_address": addresses[1], "amount": 1_001}
    refused = await writer.post(f"{API}/fodi/transactions", json=body)
    assert (refused.status_code, refused.json()["type"]) == (409, "/problems/state-conflict")
    assert "needs 1001 units of FODI and the sender can spend 1000" in refused.json()["detail"]
    assert "Send less" in refused.json()["remedy"]
    assert (await writer.get(f"{API}/fodi/transactions/t")).status_code == 404


async def test_the_supply_is_what_was_minted_and_not_burnt(
    admin: httpx.AsyncClient, anyone: httpx.AsyncClient, addresses: list[str], people: list[UUID]
) -> None:
    burn = {"tx_id": "b", "from_address": addresses[0], "amount": 400}
    assert (await admin.post(f"{API}/fodi/burn", json=burn)).status_code == 201
    reward = {"user_id": str(people[1]), "amount": 5, "reason": "first order", "order_id": 7}
    given = [await admin.post(f"{API}/fodi/rewards", json=reward) for _ in range(2)]
    assert given[0].json() == given[1].json()
    assert (await anyone.get(given[0].headers["location"])).json()["tx_type"] == "reward"
    assert (await anyone.get(f"{API}/users/{people[1]}/rewards")).json()["items"] == [given[0].json()]
    supply = (await anyone.get(f"{API}/fodi/supply")).json()
    assert supply == {"symbol": "FODI", "scale": 9, "total_supply": 605}


async def test_an_nft_is_minted_listed_and_moved(writer: httpx.AsyncClient, anyone: httpx.AsyncClient) -> None:
    one, two = Keypair.make().address, Keypair.make().address
    made = await writer.post(f"{API}/nfts", json={"name": "Table 4", "owner_address": one, "metadata": {"seats": 2}})
    assert made.status_code == 201
    assert (await anyone.get(made.headers["location"])).json() == made.json()
    move = {"from_address": one, "to_address": two}
    moved = await writer.post(f"{made.headers['location']}/transfer", json=move)
    assert (moved.json()["owner_address"], moved.json()["version"]) == (two, 2)
    assert (await writer.post(f"{made.headers['location']}/transfer", json=move)).status_code == 409
    assert (await anyone.get(f"{API}/nfts", params={"owner": two})).json()["items"] == [moved.json()]


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/fodi/mint", {"tx_id": "x", "to_address": "11111111111111111111111111111111", "amount": 1}),
        ("/fodi/burn", {"tx_id": "x", "from_address": "11111111111111111111111111111111", "amount": 1}),
        ("/fodi/rewards", {"user_id": str(UUID(int=1)), "amount": 1, "reason": "x"}),
    ],
)
async def test_the_supply_is_changed_by_admins_alone(
    writer: httpx.AsyncClient, anyone: httpx.AsyncClient, path: str, body: dict[str, Any]
) -> None:
    assert (await writer.post(API + path, json=body)).status_code == 403
    assert (await anyone.post(API + path, json=body)).status_code == 401


@pytest.mark.parametrize(
    "body",
    [
        {"tx_id": "a/b"},
        {"tx_id": ""},
        {"amount": 0},
        {"amount": 1.5},
        {"amount": 2**63},
        {"from_address": "0OIl"},
        {"tx_type": "theft"},
        {"status": "confirmed"},
    ],
)
async def test_a_malformed_transaction_is_refused_before_anything_happens(
    writer: httpx.AsyncClient, addresses: list[str], body: dict[str, Any]
) -> None:
    known = {"tx_id": "t", "from_address": addresses[0], "to_address": addresses[1], "amount": 1}
    assert (await writer.post(f"{API}/fodi/transactions", json=known | body)).status_code == 422
