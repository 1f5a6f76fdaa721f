"""FODI: wallets with real keypairs, a transfer from pending to confirmed, a plain INSERT, and a supply that adds up."""

from __future__ import annotations

import asyncio

from throwaway import database

from headwater import Headwater, Settings
from headwater.kernel.errors import StateConflict
from headwater.kernel.keyring import new_key
from headwater.kernel.migrations import migrate
from headwater.modules.blockchain.models import UNITS_PER_FODI
from headwater.modules.blockchain.repository import TokenRepository, WalletRepository
from headwater.modules.identity.repository import UserRepository
from headwater.systems.construct import CONSTRUCT

PLAIN = """
    INSERT INTO blockchain.fodi_transactions (tx_id, from_address, to_address, amount, tx_type)
    VALUES ('order-2', $1, $2, 9000000000, 'transfer')
"""


async def main() -> None:
    async with database() as dsn:
        settings = Settings(database_url=dsn, keyring=new_key("2026-11"))  # private keys are stored encrypted by it
        await migrate(CONSTRUCT, settings)
        async with Headwater.open(CONSTRUCT, settings) as headwater:
            users = headwater.repository(UserRepository)
            wallets = headwater.repository(WalletRepository)
            tokens = headwater.repository(TokenRepository)

            async with headwater.transaction() as tx:
                ada = await users.create_user(tx, email="ada@example.org", name="Ada")
                bo = await users.create_user(tx, email="bo@example.org", name="Bo")
                one = (await wallets.create_wallet(tx, user_id=ada.id)).public_key
                two = (await wallets.create_wallet(tx, user_id=bo.id)).public_key
                await tokens.mint(tx, tx_id="mint-1", to_address=one, amount=10 * UNITS_PER_FODI)
                await tokens.create_transaction(
                    tx, tx_id="order-1", from_address=one, to_address=two, amount=4 * UNITS_PER_FODI
                )
            before = await wallets.balance_of(ada.id)
            print("Ada has", before.balance, "of which", before.held, "are on their way")

            async with headwater.transaction() as tx:
                print("order-1 is", (await tokens.confirm(tx, "order-1")).status.value)
            print("Ada has", await wallets.get_wallet_balance(ada.id), "Bo", await wallets.get_wallet_balance(bo.id))

            try:
                async with headwater.transaction() as tx:  # by whatever means: the ledger decides
                    await tx.connection.execute(PLAIN, one, two)
            except StateConflict as refused:
                print(refused.message)

            async with headwater.transaction() as tx:
                await tokens.reward(tx, user_id=bo.id, amount=250_000_000, reason="first order", order_id=1)
            print("supply:", await tokens.total_supply())
            print("signature of", len(await wallets.sign(one, b"I am Ada")), "bytes")


asyncio.run(main())

# It prints:
# Ada has 10000000000 of which 4000000000 are on their way
# order-1 is confirmed
# Ada has 6000000000 Bo 4000000000
# blockchain.fodi_transactions: order-2 needs 9000000000 units of FODI and the sender can spend 6000000000.
# supply: 10250000000
# signature of 64 bytes
