"""The ledger: accounts, a payment, a refusal that stays one, a hold spent in parts, a chain, and the proof."""

from __future__ import annotations

import asyncio
from uuid import UUID

from throwaway import database

from headwater import Headwater, Settings, System
from headwater.kernel.migrations import migrate
from headwater.modules.ledger import MODULE
from headwater.modules.ledger.proof import seal, verify
from headwater.modules.ledger.repository import LedgerRepository, Move, id_of

ADA, BO = UUID(int=1), UUID(int=2)


async def main() -> None:
    system = System("money", [MODULE])
    async with database() as dsn:
        settings = Settings(database_url=dsn)
        await migrate(system, settings)
        async with Headwater.open(system, settings) as headwater:
            ledger = headwater.repository(LedgerRepository)
            async with headwater.transaction() as tx:
                await ledger.open_asset(tx, "EUR", scale=2)
                world = await ledger.account(tx, "system", None, "EUR", purpose="deposits", credit_limit=None)
                ada = await ledger.account(tx, "user", ADA, "EUR")
                bo = await ledger.account(tx, "user", BO, "EUR")
                paid = await ledger.transfer(tx, debit=world.id, credit=ada.id, amount=100_00, id=id_of("deposit", 1))
                print(paid.status.name, paid.credit_balance)

            # In the transaction of whatever it pays for: both happen, or neither.
            async with headwater.transaction() as tx:
                order = id_of("order", 42)
                hold = await ledger.hold(tx, debit=ada.id, credit=bo.id, amount=80_00, id=order, reference="order:42")
                hold.or_raise()
                account = await ledger.get(ada.id, tx=tx)
                print("balance", account.balance, "of which may be spent", account.available)
                part = await ledger.post_hold(tx, order, 30_00, keep_rest=True)
                rest = await ledger.void_hold(tx, order)
                print("paid", part.amount, "released", rest.amount)

            refused = Move(id=id_of("payment", 7), debit=ada.id, credit=bo.id, amount=500_00)
            print((await ledger.post_one(refused)).status.reason)
            await ledger.post_one(Move(debit=world.id, credit=ada.id, amount=1_000_00))
            again = await ledger.post_one(refused)  # there would be enough now
            print("asked again:", again.status.name, again.repeated)

            # Many callers at once: they travel together, each gets its own receipt.
            told = await asyncio.gather(
                *(ledger.post_one(Move(debit=ada.id, credit=bo.id, amount=1_00)) for _ in range(200))
            )
            print("done:", sum(receipt.done for receipt in told))

            chain = await ledger.post_chain(
                [Move(debit=bo.id, credit=world.id, amount=10), Move(debit=ada.id, credit=world.id, amount=9_999_99)]
            )
            print("chain:", [receipt.status.name for receipt in chain])

            newest = (await ledger.statement(bo.id, limit=1)).items[0]
            print("statement:", newest.change, "->", newest.balance)
            await seal(headwater.postgres)
            report = await verify(headwater.postgres)
            print("adds up:", report.sound, "transfers:", report.transfers, "seals:", report.seals)


asyncio.run(main())

# It prints:
# DONE 10000
# balance 10000 of which may be spent 2000
# paid 3000 released 5000
# The debit account has not enough: balance less holds plus credit limit.
# asked again: EXCEEDS_BALANCE True
# done: 200
# chain: ['LINKED_REFUSED', 'EXCEEDS_BALANCE']
# statement: 100 -> 23000
# adds up: True transfers: 205 seals: 1
