"""Work that meets a serialization failure or a deadlock runs again by itself; the caller sees the outcome only."""

from __future__ import annotations

import asyncio

from sqlalchemy.orm import Mapped
from throwaway import create_tables, database

from headwater import Headwater, Keyed, Model, Settings, System, Transaction


class Counter(Keyed, Model):
    """A number that many tasks add to."""

    __tablename__ = "counters"

    value: Mapped[int]


async def main() -> None:
    async with database() as dsn:
        settings = Settings(database_url=dsn, transaction_attempts_max=50)
        async with Headwater.open(System("count", []), settings) as headwater:
            await create_tables(headwater, Counter)
            counters = headwater.repository(Counter)
            counter = await counters.create(headwater.autocommit, value=0)
            attempts = 0

            async def add_one(tx: Transaction) -> None:
                nonlocal attempts
                attempts += 1
                read = await counters.get(counter.id, tx=tx)
                await counters.update(tx, counter.id, value=read.value + 1)

            await asyncio.gather(*(headwater.run(add_one, isolation="serializable") for _ in range(20)))
            print("counted", (await counters.get(counter.id)).value)
            print("some ran again:", attempts > 20)


asyncio.run(main())

# It prints:
# counted 20
# some ran again: True
