"""Page through a listing by cursor: no offsets, no row twice, none left out, however deep the page."""

from __future__ import annotations

import asyncio

from sqlalchemy.orm import Mapped
from throwaway import create_tables, database

from headwater import Headwater, Keyed, Model, Settings, System
from headwater.kernel.errors import InvalidCursor


class Reading(Keyed, Model):
    """What a sensor said. Many readings have the same value: the key decides between them."""

    __tablename__ = "readings"

    sensor: Mapped[str]
    value: Mapped[int]


async def main() -> None:
    async with database() as dsn, Headwater.open(System("lab", []), Settings(database_url=dsn)) as headwater:
        await create_tables(headwater, Reading)
        readings = headwater.repository(Reading)
        async with headwater.transaction() as tx:
            await readings.bulk_insert(tx, ({"sensor": "t1", "value": number % 3} for number in range(7)))

        cursor: str | None = None
        while True:
            page = await readings.list(Reading.sensor == "t1", order=(Reading.value.desc(),), limit=3, cursor=cursor)
            print([reading.value for reading in page.items], "more" if page.next else "end")
            if page.next is None:
                break
            cursor = page.next

        try:
            await readings.list(order=(Reading.sensor.asc(),), cursor=cursor)
        except InvalidCursor as error:
            print(error.message)


asyncio.run(main())

# It prints:
# [2, 2, 1] more
# [1, 0, 0] more
# [0] end
# The cursor belongs to another listing or another order.
