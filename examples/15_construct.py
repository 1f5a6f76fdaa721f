"""The Construct from Python: migrate, users and a part, orders in the book, one of them cancelled."""

from __future__ import annotations

import asyncio

from throwaway import database

from headwater import Headwater, Settings
from headwater.kernel.errors import StateConflict
from headwater.kernel.migrations import migrate
from headwater.modules.blockchain.repository import AssetRepository, BlockchainRepository
from headwater.modules.identity.repository import UserRepository
from headwater.modules.trading.models import Side
from headwater.modules.trading.repository import TradingRepository
from headwater.systems.construct import CONSTRUCT


async def main() -> None:
    async with database() as dsn:
        settings = Settings(database_url=dsn)
        report = await migrate(CONSTRUCT, settings)
        print("applied:", ", ".join(applied.revision for applied in report.applied if applied.module == "trading"))

        async with Headwater.open(CONSTRUCT, settings) as headwater:
            users = headwater.repository(UserRepository)
            chain = headwater.repository(BlockchainRepository)
            assets = headwater.repository(AssetRepository)
            trading = headwater.repository(TradingRepository)

            async with headwater.transaction() as tx:
                ada = await users.create_user(tx, email="ada@example.org", name="Ada")
                bo = await users.create_user(tx, email="bo@example.org", name="Bo")
                await chain.register_wallet(tx, user_id=ada.id, wallet_address="AdaAdaAdaAdaAdaAdaAdaAdaAdaAdaAdaAda")
                drive = await assets.create_asset(
                    tx, asset_type="actuator", issuer_id=ada.id, name="Harmonic drive", symbol="HD-100"
                )
                for user, side, price in ((ada, Side.SELL, 120), (ada, Side.SELL, 125), (bo, Side.BUY, 110)):
                    await trading.place_order(
                        tx, user_id=user.id, asset_id=drive.id, side=side, price=price, quantity=10
                    )

            book = await trading.order_book(drive.id)
            print("asks:", [(level.price, level.quantity) for level in book.asks])
            print("bids:", [(level.price, level.quantity) for level in book.bids], "spread:", book.spread)

            mine = await trading.orders(user_id=bo.id)
            async with headwater.transaction() as tx:
                print((await trading.cancel_order(tx, mine.items[0].id)).status.value)
            try:
                async with headwater.transaction() as tx:
                    await trading.cancel_order(tx, mine.items[0].id)
            except StateConflict as error:
                print(error.remedy)


asyncio.run(main())

# It prints:
# applied: trading_0001, trading_0002
# asks: [(120, 10), (125, 10)]
# bids: [(110, 10)] spread: 10
# cancelled
# Only an open or partially filled order can be cancelled.
