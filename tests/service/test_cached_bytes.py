"""Cached bytes: what the service sends of a cached kind is what lies in Valkey, undecoded."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any
from uuid import uuid4

import httpx
import pytest_asyncio
from tests.kernel.caching import trusted
from tests.modules.trading.marketplace import Marketplace

from headwater.followers.invalidation import relaying
from headwater.kernel.lifecycle import Headwater
from headwater.kernel.settings import Settings
from headwater.modules.blockchain.models import Asset, ChainUser, TransactionStatus
from headwater.modules.blockchain.repository import BlockchainRepository
from headwater.modules.identity.models import User
from headwater.modules.trading.models import Order
from headwater.service.app import create_app
from headwater.systems.everything import EVERYTHING


@pytest_asyncio.fixture
async def hw(settings: Settings) -> AsyncIterator[Headwater]:
    async with Headwater.open(EVERYTHING, settings) as opened, relaying(EVERYTHING, settings):
        await trusted(opened)
        yield opened


@pytest_asyncio.fixture
async def client(hw: Headwater) -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(app=create_app(hw), raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://headwater") as made:
        yield made


async def make_order(hw: Headwater) -> Any:
    unique = uuid4().hex[:12]
    user = await hw.repository(User).create(hw.autocommit, email=f"{unique}@b.example")
    await hw.repository(ChainUser).create(hw.autocommit, user_id=user.id, wallet_address=unique)
    asset = await hw.repository(Asset).create(
        hw.autocommit, asset_type="servo", issuer_id=user.id, name=f"Part {unique}", symbol=unique.upper()
    )
    marketplace = Marketplace(hw, [user.id], [asset.id])
    await marketplace.give(user.id, 10**8)
    return await marketplace.place(0, price=118_400, quantity=25)


async def alter(hw: Headwater, pattern: str, old: bytes, new: bytes) -> None:
    """Change an entry in Valkey where the row itself would not be read any more."""
    cache = hw.postgres.cache
    assert cache is not None and len(old) == len(new)
    place, names = b"0", []
    while True:
        place, found = await cache.wire.send(b"SCAN", place, b"MATCH", pattern, b"COUNT", 1000)
        names += found
        if place == b"0":
            break
    (name,) = names
    raw = await cache.wire.send_get(name)
    if raw.count(old) != 1:
        raise ValueError("The entry is not there now.")
    await cache.wire.send(b"SET", name, raw.replace(old, new), b"KEEPTTL")


async def test_an_entity_is_sent_as_it_lies_in_the_cache_with_the_same_tag_and_body_as_without(
    hw: Headwater, client: httpx.AsyncClient, settings: Settings
) -> None:
    order = await make_order(hw)
    path = f"/api/trading/orders/{order.id}"
    first = await client.get(path)  # loads and fills
    second = await client.get(path)
    assert first.content == second.content
    assert first.headers["etag"] == second.headers["etag"]
    assert (await client.get(path, headers={"If-None-Match": first.headers["etag"]})).status_code == 304
    async with Headwater.open(EVERYTHING, Settings(database_url=settings.database_url)) as bare:
        transport = httpx.ASGITransport(app=create_app(bare))
        async with httpx.AsyncClient(transport=transport, base_url="http://headwater") as without:
            plain = await without.get(path)
    assert (plain.content, plain.headers["etag"]) == (first.content, first.headers["etag"])

    async with asyncio.timeout(10):  # on a machine so busy that the guard runs out, PostgreSQL answers
        while (await client.get(path)).json()["price"] != 999_999:  # the bytes, as they are
            with contextlib.suppress(ValueError):
                await alter(hw, f"order:{order.id}", b'"price":118400', b'"price":999999')
    assert (await hw.repository(Order).get(order.id)).price == 118_400  # the value has a part of its own


async def test_an_entry_holds_no_private_column_in_its_json(hw: Headwater, client: httpx.AsyncClient) -> None:
    user = await hw.repository(User).create(hw.autocommit, email=f"{uuid4()}@b.example", password_hash="$secret$")
    await client.get(f"/api/users/{user.id}")
    answer = await client.get(f"/api/users/{user.id}")
    assert answer.json()["email"] == user.email
    assert "secret" not in answer.text
    cache = hw.postgres.cache
    assert cache is not None
    assert b"secret" not in await cache.wire.send_get(cache.entities[User].name_of(user.id))


async def test_a_result_is_sent_as_it_lies_in_the_cache_and_ends_with_what_it_was_made_from(
    hw: Headwater, client: httpx.AsyncClient
) -> None:
    order = await make_order(hw)
    path = f"/api/trading/orderbook/{order.asset_id}"
    first = await client.get(path)
    async with asyncio.timeout(5):  # the relay deletes the tags of what was just written once more
        while hw.postgres.cache.figures["order_book"].hits == 0:  # type: ignore[union-attr]
            assert (await client.get(path)).content == first.content
    async with asyncio.timeout(10):
        while (await client.get(path)).json()["best_bid"] != 999_999:
            with contextlib.suppress(ValueError):
                await alter(hw, f"order_book:*{order.asset_id}*", b'"best_bid":118400', b'"best_bid":999999')
    await Marketplace(hw, [order.user_id], [order.asset_id]).cancel(order.id)
    assert (await client.get(path)).json()["best_bid"] is None


async def test_a_transaction_is_found_by_its_hash_in_the_cache_and_followed_when_it_settles(
    hw: Headwater, client: httpx.AsyncClient
) -> None:
    chain = hw.repository(BlockchainRepository)
    tx_hash = f"0x{uuid4().hex}{uuid4().hex}"
    path = f"/api/blockchain/transactions/{tx_hash}"
    assert (await client.get(path)).status_code == 404  # it is remembered that there is none, until there is
    async with hw.transaction() as tx:
        made = await chain.record_transaction(tx, tx_hash=tx_hash, from_address="a" * 32, to_address="b" * 32, amount=5)
    answer = await client.get(path)
    assert (answer.json()["id"], answer.json()["status"]) == (str(made.id), "pending")
    figures = hw.postgres.cache.figures  # type: ignore[union-attr]
    async with asyncio.timeout(10):
        while not (figures["transaction"].hits and figures["transaction_id"].hits):
            assert (await client.get(path)).content == answer.content
    async with hw.transaction() as tx:
        await chain.settle_transaction(tx, tx_hash, status=TransactionStatus.CONFIRMED, block_number=7)
    assert (await client.get(path)).json()["status"] == "confirmed"
