"""The seeds of identity and blockchain: the same every time, whole, and removable without touching anything else."""

from __future__ import annotations

from collections.abc import AsyncIterator

import msgspec
import pytest_asyncio

from headwater.kernel.lifecycle import Headwater
from headwater.kernel.module import System
from headwater.kernel.rows import as_dict
from headwater.kernel.seeds import clear, seed
from headwater.kernel.settings import Settings
from headwater.modules import blockchain, identity, ledger
from headwater.modules.blockchain.catalogue import CATALOGUE
from headwater.modules.blockchain.models import Asset, ChainTransaction, ChainUser, PriceFeed, TransactionStatus
from headwater.modules.blockchain.repository import AssetRepository, BlockchainRepository
from headwater.modules.blockchain.routes import ROUTES
from headwater.modules.identity.models import User
from headwater.modules.identity.repository import UserRepository

SYSTEM = System("seeded", [identity.MODULE, ledger.MODULE, blockchain.MODULE])
ENTITIES = (User, ChainUser, Asset, ChainTransaction, PriceFeed)


@pytest_asyncio.fixture
async def two(settings: Settings) -> AsyncIterator[Headwater]:
    async with Headwater.open(SYSTEM, settings) as opened:
        yield opened


async def _everything(two: Headwater) -> bytes:
    rows = {}
    for entity in ENTITIES:
        rows[entity.__name__] = [as_dict(value) async for value in two.repository(entity).stream()]
    return msgspec.json.encode(rows)


async def test_the_demo_is_the_same_every_time_and_planted_once(two: Headwater) -> None:
    first = await seed(two)
    planted = await _everything(two)
    assert first.added["users"] == 60
    assert first.added["blockchain.assets"] == len(CATALOGUE) == 48
    again = await seed(two)
    assert sum(again.added.values()) == 0
    assert await _everything(two) == planted
    await clear(two)
    await seed(two)
    assert await _everything(two) == planted


async def test_a_demo_worth_looking_at(two: Headwater) -> None:
    await seed(two)
    assets, chain = two.repository(AssetRepository), two.repository(BlockchainRepository)
    assert len({a.asset_type for a in (await assets.list(limit=100)).items}) == 12
    found = await assets.search("harmonic", asset_type="harmonic_drive")
    assert len(found.items) == 4
    assert all({"ratio", "rated_torque_nm", "weight_kg"} <= a.specifications.keys() for a in found.items)
    for asset in (await assets.list(limit=100)).items:
        assert (await chain.latest_price(asset.symbol)).price > 0
    transactions = two.repository(ChainTransaction)
    for status in TransactionStatus:
        assert await transactions.count(ChainTransaction.status == status) > 0


async def test_clear_leaves_what_others_wrote(two: Headwater) -> None:
    await seed(two)
    users = two.repository(UserRepository)
    own = await users.create_user(two.autocommit, email="own@example.com")
    chain, assets = two.repository(BlockchainRepository), two.repository(AssetRepository)
    seeded = (await assets.list(limit=1)).items[0]
    issued = await assets.create_asset(
        two.autocommit, issuer_id=seeded.issuer_id, asset_type="lidar", name="Mine", symbol="MINE"
    )
    report = await clear(two)
    assert report.removed["blockchain.assets"] == 48
    assert report.kept == {"users": 1, "blockchain.users": 1}
    assert (await assets.list()).items == (issued,)
    assert await users.get(own.id) == own
    assert await chain.get(issued.issuer_id)


async def test_a_load_has_about_the_rows_asked_for_and_fits_over_the_demo(two: Headwater) -> None:
    demo = await seed(two)
    load = await seed(two, "load:20000")
    assert 0.38 * 20_000 < sum(demo.added.values()) + sum(load.added.values()) < 0.80 * 20_000
    assert load.added["users"] == 2_000 - 60
    assert sum((await seed(two, "load:20000")).added.values()) == 0
    emails = await two.repository(User).count()
    assert emails == 2_000


async def test_the_smallest_load_works(two: Headwater) -> None:
    load = await seed(two, "load:1")
    assert load.added["users"] >= 1
    assert load.added["blockchain.assets"] >= 1


async def test_the_examples_of_the_routes_exist_in_the_demo(two: Headwater) -> None:
    await seed(two)
    chain, users = two.repository(BlockchainRepository), two.repository(UserRepository)
    for route in (*ROUTES, *identity.MODULE.routes):
        for name, value in route.path_examples.items():
            if name == "user_id":
                await users.get(value)
            elif name == "asset_id":
                await two.repository(AssetRepository).get(value)
            elif name == "wallet_address":
                await chain.wallet_owner(value)
            elif name == "tx_hash":
                await chain.transaction_by_hash(value)
            elif name == "asset_symbol":
                await chain.latest_price(value)
