"""Savings with yield: deposits, a transfer, yield divided to the last cent, plain SQL, and a trail that is verified."""

from __future__ import annotations

import asyncio
from uuid import NAMESPACE_URL, UUID, uuid5

from throwaway import database

from headwater import Headwater, Settings
from headwater.kernel.errors import StateConflict
from headwater.kernel.migrations import migrate
from headwater.modules.finance.models import Distribution
from headwater.modules.finance.repository import FinanceRepository
from headwater.modules.identity.repository import UserRepository
from headwater.systems.abunfi import ABUNFI


async def move(headwater: Headwater, finance: FinanceRepository, ada: UUID, emeka: UUID) -> None:
    async with headwater.transaction() as tx:
        await finance.deposit(tx, user_id=ada, amount=12_000, id=uuid5(NAMESPACE_URL, "deposit/1"))
        await finance.transfer(tx, from_user_id=ada, to_user_id=emeka, amount=2_000, reference="rent")
        await finance.withdraw(tx, user_id=emeka, amount=500)


async def divide(headwater: Headwater, finance: FinanceRepository) -> Distribution:
    async with headwater.transaction() as tx:
        return await finance.distribute_yield(tx, distribution_id=uuid5(NAMESPACE_URL, "2026-01"), amount=1_337)


async def main() -> None:
    async with database() as dsn:
        settings = Settings(database_url=dsn)
        await migrate(ABUNFI, settings)
        async with Headwater.open(ABUNFI, settings) as headwater:
            users, finance = headwater.repository(UserRepository), headwater.repository(FinanceRepository)
            async with headwater.transaction() as tx:
                ada = await users.create_user(tx, email="ada@example.org", name="Ada")
                emeka = await users.create_user(tx, email="emeka@example.org", name="Emeka")

            await move(headwater, finance, ada.id, emeka.id)

            async with headwater.transaction() as tx:  # the same id: the same deposit, and no second one
                await finance.deposit(tx, user_id=ada.id, amount=12_000, id=uuid5(NAMESPACE_URL, "deposit/1"))

            made = await divide(headwater, finance)
            print(f"{made.amount} divided by {made.shares} shares among {made.holders}")
            for user in (ada, emeka):
                has = await finance.balance(user.id)
                print(f"{user.name}: {has.balance}, of it yield {has.yield_earned}, shares {has.shares}")

            try:
                async with headwater.transaction() as tx:
                    await finance.deposit(tx, user_id=ada.id, amount=5)
                    await finance.withdraw(tx, user_id=emeka.id, amount=1_000_000)
            except StateConflict as error:
                print("refused as a whole:", error.remedy)

            async with headwater.postgres.connection() as connection:  # as psql would
                await connection.execute("update finance.user_balances set balance = balance + 1 where balance < 5000")
            shown = await finance.dashboard(emeka.id)
            print([(one.type.value, one.direction.value, one.amount) for one in shown.transactions])

            async with headwater.transaction() as tx:
                seal = await finance.seal(tx)
            assert seal is not None
            found = await finance.verify(digest=(seal.number, seal.digest))
            print(f"{found.transactions} transactions, {found.entries} entries, {len(found.faults)} faults")
            async with headwater.postgres.connection() as connection:  # as somebody with every right would
                await connection.execute("alter table finance.transaction_history disable trigger all")
                await connection.execute("update finance.transaction_history set actor = 'nobody' where number = 2")
            print({fault.fault for fault in (await finance.verify()).faults})


asyncio.run(main())

# It prints:
# 1337 divided by 11500 shares among 2
# Ada: 11163, of it yield 1163, shares 10000
# Emeka: 1674, of it yield 174, shares 1500
# refused as a whole: Ask for less, or pay in first. What is pending is reserved.
# [('deposit', 'in', 1), ('yield', 'in', 174), ('withdraw', 'out', 500), ('transfer', 'in', 2000)]
# 7 transactions, 7 entries, 0 faults
# {'it was changed after it was written'}
