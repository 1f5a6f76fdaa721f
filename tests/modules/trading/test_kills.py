"""Clients and a backend are killed with -9 while orders match: what was answered is there, and everything adds up."""

from __future__ import annotations

import asyncio
import os
import random
import shutil
import signal
import sys
import tempfile
from asyncio.subprocess import Process
from collections.abc import AsyncIterator
from pathlib import Path
from uuid import UUID

import asyncpg
import pytest_asyncio
from sqlalchemy import select
from tests.modules.trading.marketplace import Marketplace

from headwater.embedded.postgres import EmbeddedPostgres
from headwater.kernel.lifecycle import Headwater
from headwater.kernel.migrations import migrate
from headwater.kernel.settings import Settings
from headwater.modules.trading.models import Order, OrderStatus
from headwater.systems.construct import CONSTRUCT

_TRADER = """
import asyncio, random, sys
from uuid import UUID
from headwater.kernel.errors import HeadwaterError
from headwater.kernel.lifecycle import Headwater
from headwater.kernel.settings import Settings
from headwater.modules.trading.commands import Cancel, Place
from headwater.modules.trading.models import Side
from headwater.modules.trading.repository import TradingRepository
from headwater.systems.construct import CONSTRUCT

async def trade(trading, people, parts, chance):
    mine = []
    while True:
        side = chance.choice((Side.BUY, Side.SELL))
        price = 100 + chance.randrange(-10, 4) * (1 if side is Side.BUY else -1)
        command = Place(user_id=chance.choice(people), asset_id=chance.choice(parts), side=side, price=price,
                        quantity=chance.randrange(1, 30))
        if mine and chance.random() < 0.3:
            command = Cancel(order_id=mine.pop(chance.randrange(len(mine))))
        try:
            told = await trading.submit(command)
        except HeadwaterError:
            await asyncio.sleep(0.02)  # the server is away; whether it was done is not known
            continue
        if told.id is not None:
            print(told.id, told.status.value, told.filled_quantity, flush=True)
            if told.outcome.value in ("open", "partially_filled"):
                mine.append(told.id)

async def main(dsn, seed, *ids):
    people, parts = [UUID(i) for i in ids[:4]], [UUID(i) for i in ids[4:]]
    async with Headwater.open(CONSTRUCT, Settings(database_url=dsn, pool_size_max=2)) as headwater:
        trading = headwater.repository(TradingRepository)
        await asyncio.gather(*(trade(trading, people, parts, random.Random(f"{seed} {n}")) for n in range(4)))

asyncio.run(main(*sys.argv[1:]))
"""


@pytest_asyncio.fixture
async def own_server() -> AsyncIterator[str]:
    """A durable server of this test alone: whoever kills a backend of it ends all of them."""
    folder = Path(tempfile.mkdtemp(prefix="headwater-kills-"))
    try:
        async with EmbeddedPostgres(folder / "home") as server:
            await migrate(CONSTRUCT, Settings(database_url=server.socket_dsn))
            yield server.socket_dsn
    finally:
        shutil.rmtree(folder)


class Trader:
    """A process that trades, and what it was told of each order: its last status, and the most that was filled."""

    def __init__(self, process: Process) -> None:
        self.process = process
        self.told: dict[UUID, tuple[str, int]] = {}

    @classmethod
    async def start(cls, dsn: str, seed: int, here: Marketplace) -> Trader:
        ids = map(str, (*here.people, *here.parts))
        return cls(
            await asyncio.create_subprocess_exec(
                sys.executable, "-c", _TRADER, dsn, str(seed), *ids, stdout=asyncio.subprocess.PIPE
            )
        )

    async def hear(self, lines: int) -> None:
        """Read so many answers."""
        for _ in range(lines):
            assert self.process.stdout is not None
            self._note(await self.process.stdout.readline())

    async def kill(self) -> None:
        """End it at whatever it is doing; what it said before counts."""
        self.process.kill()
        assert self.process.stdout is not None
        for line in (await self.process.stdout.read()).splitlines(keepends=True):
            if line.endswith(b"\n"):
                self._note(line)
        await self.process.wait()

    def _note(self, line: bytes) -> None:
        key, status, filled = line.decode().split()
        self.told[UUID(key)] = (status, int(filled))


async def test_traders_and_a_backend_are_killed_and_nothing_is_lost_or_made(own_server: str) -> None:
    async with Headwater.open(CONSTRUCT, Settings(database_url=own_server, pool_size_max=2)) as headwater:
        here = await (await Marketplace(headwater, [], []).found(4, 2)).fund(money=10**7, tokens=10**5)
        traders = [await Trader.start(own_server, seed, here) for seed in range(2)]
        await asyncio.gather(*(trader.hear(25) for trader in traders))
        await traders[0].kill()
        traders.append(await Trader.start(own_server, 2, here))
        await asyncio.gather(*(trader.hear(25) for trader in traders[1:]))

        async with headwater.postgres.connection() as connection:
            pids = await connection.fetch(
                "select pid from pg_stat_activity where backend_type = 'client backend' and pid <> pg_backend_pid()"
            )
        os.kill(random.Random(3).choice(pids)["pid"], signal.SIGKILL)
        await asyncio.gather(*(trader.hear(40) for trader in traders[1:]))  # the server is back, and they trade on
        await asyncio.gather(*(trader.kill() for trader in traders[1:]))

    connection = await asyncpg.connect(own_server)
    others = "select count(*) from pg_stat_activity where backend_type = 'client backend' and pid <> pg_backend_pid()"
    try:
        while await connection.fetchval(others):  # what they were saying when they died is still being done
            pass
    finally:
        await connection.close()
    async with Headwater.open(CONSTRUCT, Settings(database_url=own_server)) as headwater:
        here = Marketplace(headwater, here.people, here.parts)
        told = {key: what for trader in traders for key, what in trader.told.items()}
        stored: dict[UUID, Order] = {order.id: order for order in await headwater.postgres.fetch(select(Order))}
        assert told.keys() <= stored.keys()
        for key, (status, filled) in told.items():
            order = stored[key]
            assert order.filled_quantity >= filled
            if status in ("filled", "cancelled"):
                assert (order.status, order.filled_quantity) == (OrderStatus(status), filled)
        assert await here.trades()
        await here.prove()
