"""Read more rows than fit in memory: one by one through a server-side cursor, all of one moment."""

from __future__ import annotations

import asyncio

from sqlalchemy.orm import Mapped
from throwaway import create_tables, database

from headwater import Headwater, Keyed, Model, Settings, System


class Event(Keyed, Model):
    """Something that happened."""

    __tablename__ = "events"

    number: Mapped[int]


async def main() -> None:
    async with database() as dsn, Headwater.open(System("log", []), Settings(database_url=dsn)) as headwater:
        await create_tables(headwater, Event)
        events = headwater.repository(Event)
        async with headwater.transaction() as tx:
            await events.bulk_insert(tx, ({"number": number} for number in range(5_000)))

        seen = total = 0
        async for event in events.stream(Event.number >= 1_000, order=(Event.number.asc(),), batch_size=500):
            seen += 1
            total += event.number
            if seen == 1:  # a row that comes now is not of the moment that is being read
                await events.create(headwater.autocommit, number=9_999)
        print(seen, "events, sum", total)
        print(await events.count(Event.number >= 1_000), "afterwards")


asyncio.run(main())

# It prints:
# 4000 events, sum 11998000
# 4001 afterwards
