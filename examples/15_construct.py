"""The Construct from Python: users and a part, money and tokens in the ledger, orders that match and settle."""

from __future__ import annotations

import asyncio

from throwaway import database

from headwater import Headwater, Settings
from headwater.kernel.errors import StateConflict
from headwater.kernel.migrations import migrate
from headwater.modules.blockchain.repository import AssetRepository, BlockchainRepository
from headwater.modules.identity.repository import UserRepository
from headwater.modules.ledger.repository import LedgerRepository
from headwater.modules.trading.commands import Cancel, Place
from headwater.modules.trading.markets import MarketRepository
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
            ledger = headwater.repository(LedgerRepository)
            markets = headwater.repository(MarketRepository)
            trading = headwater.repository(TradingRepository)

            async with headwater.transaction() as tx:
                ada = await users.create_user(tx, email="ada@example.org", name="Ada")
                bo = await users.create_user(tx, email="bo@example.org", name="Bo")
                await chain.register_wallet(tx, user_id=ada.id, wallet_address="AdaAdaAdaAdaAdaAdaAdaAdaAdaAdaAdaAda")
                drive = await assets.create_asset(
                    tx, asset_type="actuator", issuer_id=ada.id, name="Harmonic drive", symbol="HD-100"
                )
                # Ada gets 20 tokens of her part to sell, Bo gets 20.00 dollars to buy with.
                await markets.issue(tx, drive.id, user_id=ada.id, quantity=20)
                await ledger.open_asset(tx, "USD", scale=2)
                issuance = await ledger.account(tx, "system", None, "USD", purpose="issuance", credit_limit=None)
                purse = await ledger.account(tx, "user", bo.id, "USD")
                await ledger.transfer(tx, debit=issuance.id, credit=purse.id, amount=2_000)

            async with headwater.transaction() as tx:
                for price in (120, 125):
                    await trading.place_order(
                        tx, user_id=ada.id, asset_id=drive.id, side=Side.SELL, price=price, quantity=10
                    )
                bought = await trading.place_order(
                    tx, user_id=bo.id, asset_id=drive.id, side=Side.BUY, price=122, quantity=12
                )
            print("bought:", bought.filled_quantity, "of", bought.quantity, bought.status.value)
            for trade in (await trading.trades(drive.id)).items:
                print("trade:", trade.quantity, "at", trade.price)

            book = await trading.order_book(drive.id)
            print("asks:", [(level.price, level.quantity) for level in book.asks])
            print("bids:", [(level.price, level.quantity) for level in book.bids], "spread:", book.spread)
            account = await ledger.find_account("user", bo.id, "USD")
            if account is not None:
                print("Bo has", account.balance, "of which", account.held, "are reserved")
            print("and", await markets.tokens_of(bo.id, drive.id), "tokens")

            try:
                async with headwater.transaction() as tx:
                    await trading.place_order(
                        tx, user_id=bo.id, asset_id=drive.id, side=Side.BUY, price=100, quantity=6
                    )
            except StateConflict as error:
                print(error.remedy)

            async with headwater.transaction() as tx:  # many commands, one call: each has its outcome
                outcomes = await trading.run(
                    tx,
                    [
                        Cancel(order_id=bought.id),
                        Place(user_id=bo.id, asset_id=drive.id, side=Side.BUY, price=100, quantity=6),
                        Cancel(order_id=bought.id),
                    ],
                )
            print([outcome.outcome.value for outcome in outcomes])


asyncio.run(main())

# It prints:
# applied: trading_0001, trading_0002, trading_0003
# bought: 10 of 12 partially_filled
# trade: 10 at 120
# asks: [(125, 10)]
# bids: [(122, 2)] spread: 3
# Bo has 800 of which 244 are reserved
# and 10 tokens
# Credit the account of the user in the ledger, cancel other orders, or place a smaller one.
# ['cancelled', 'open', 'not_open']
