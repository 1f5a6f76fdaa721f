"""Many tasks read single rows at once: the reads of one turn of the loop travel as one statement, on one connection."""

from __future__ import annotations

import asyncio

from sqlalchemy.orm import Mapped
from throwaway import create_tables, database

from headwater import Headwater, Keyed, Model, Settings, System


class Product(Keyed, Model):
    """A product."""

    __tablename__ = "products"

    number: Mapped[int]


async def main() -> None:
    async with database() as dsn:
        async with Headwater.open(System("shop", []), Settings(database_url=dsn, pool_size_max=2)) as headwater:
            await create_tables(headwater, Product)
            products = headwater.repository(Product)
            async with headwater.transaction() as tx:
                await products.bulk_insert(tx, ({"number": number} for number in range(200)))
            keys = [product.id for product in (await products.list(limit=200)).items]

            before = headwater.postgres.figures()
            read = await asyncio.gather(*(products.get(key) for key in keys))
            after = headwater.postgres.figures()

            print(len({product.number for product in read}), "rows")
            print("in few statements:", after.acquired_total - before.acquired_total <= 4)
            print("nobody waited for a connection:", after.waited_total == before.waited_total)


asyncio.run(main())

# It prints:
# 200 rows
# in few statements: True
# nobody waited for a connection: True
