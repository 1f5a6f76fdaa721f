"""headwater cache: figures, comparison with PostgreSQL, and a flush."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from tests.kernel.caching import told, trusted

from headwater.followers.invalidation import relaying
from headwater.kernel.lifecycle import Headwater
from headwater.kernel.settings import Settings
from headwater.modules.blockchain.models import ChainUser
from headwater.modules.blockchain.repository import AssetRepository
from headwater.modules.identity.models import User
from headwater.modules.manufacturing.repository import ManufacturingRepository
from headwater.modules.trading.repository import TradingRepository
from headwater.systems.everything import EVERYTHING


async def run(settings: Settings, home: Path, *arguments: str) -> tuple[int, Any]:
    stores = {"HEADWATER_DATABASE_URL": settings.database_url, "HEADWATER_VALKEY_URL": settings.valkey_url}
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "headwater.cli.main", "cache", *arguments, "--json",
        env={**os.environ, **stores},
        cwd=home, stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    out, _ = await process.communicate()
    return process.returncode or 0, json.loads(out)


@pytest.fixture
async def hw(settings: Settings) -> Any:
    async with Headwater.open(EVERYTHING, settings) as opened, relaying(EVERYTHING, settings):
        await trusted(opened)
        yield opened


async def test_figures_are_told_and_an_entry_that_lies_is_found_and_flushed(
    hw: Headwater, settings: Settings, tmp_path: Path
) -> None:
    users = hw.repository(User)
    user = await users.create(hw.autocommit, email=f"{uuid4()}@b.example", name="true")
    await users.get(user.id)
    cache = hw.postgres.cache
    assert cache is not None
    await cache.report()
    code, told = await run(settings, tmp_path, "stats")
    assert (code, told["trusted"], told["kinds"]["user"]["misses"]) == (0, True, 1)

    code, found = await run(settings, tmp_path, "verify", "--quick")
    assert (code, found["stale"]) == (0, [])
    assert found["entries"] >= 1

    name = f"user:{user.id}"
    entry = await cache.wire.send("GET", name)
    await cache.wire.send("SET", name, entry.replace(b"true", b"lies"))
    code, found = await run(settings, tmp_path, "verify", "--quick")
    assert (code, found["stale"]) == (6, [name])
    await cache.report()
    assert cache.coherence is not None
    assert (cache.coherence.entries, cache.coherence.stale) == (found["entries"], 1)

    code, _ = await run(settings, tmp_path, "flush")
    assert code == 0
    async with asyncio.timeout(5):
        while (await users.get(user.id)).name != "true":  # noqa: ASYNC110  # a new generation makes it so
            await asyncio.sleep(0.01)


async def test_results_are_made_again_and_one_that_lies_is_found(
    hw: Headwater, settings: Settings, tmp_path: Path
) -> None:
    user = await hw.repository(User).create(hw.autocommit, email=f"{uuid4()}@b.example")
    await hw.repository(ChainUser).create(hw.autocommit, user_id=user.id, wallet_address=uuid4().hex)
    assets, trading = hw.repository(AssetRepository), hw.repository(TradingRepository)
    asset = await assets.create(
        hw.autocommit, asset_type="servo", issuer_id=user.id, name="A true part", symbol=uuid4().hex[:12].upper()
    )
    cache = hw.postgres.cache
    assert cache is not None
    await told(hw)
    await assets.search_json("part", limit=7)
    await trading.order_book(asset.id)
    await trading.market_summary()
    await hw.repository(ManufacturingRepository).statistics()  # what is late changes with the clock
    code, found = await run(settings, tmp_path, "verify", "--quick")
    assert (code, found["stale"]) == (0, [])
    seen = {kind: count for kind, count in found["by_kind"].items() if count}
    assert seen == {"asset_search": 1, "order_book": 1, "market_analytics": 1}

    name = "asset_search:'part:-:'7:-"
    entry = await cache.wire.send("GET", name)
    await cache.wire.send("SET", name, entry.replace(b"true", b"fake"))
    code, found = await run(settings, tmp_path, "verify", "--quick")
    assert (code, found["stale"]) == (6, [name])
