"""Write many rows through COPY: insert them all, or insert and change by a unique column, all or none."""

from __future__ import annotations

import asyncio

from sqlalchemy.orm import Mapped, mapped_column
from throwaway import create_tables, database

from headwater import Headwater, Keyed, Model, Settings, System, Timestamped, Versioned
from headwater.kernel.errors import AlreadyExists


class Product(Keyed, Timestamped, Versioned, Model):
    """A line of a catalogue."""

    __tablename__ = "products"

    sku: Mapped[str] = mapped_column(unique=True)
    stock: Mapped[int]


async def main() -> None:
    async with database() as dsn, Headwater.open(System("shop", []), Settings(database_url=dsn)) as headwater:
        await create_tables(headwater, Product)
        products = headwater.repository(Product)

        async with headwater.transaction() as tx:
            print("inserted", await products.bulk_insert(tx, ({"sku": f"P{n:05}", "stock": 1} for n in range(10_000))))

        async with headwater.transaction() as tx:
            delivered = ({"sku": f"P{n:05}", "stock": 5} for n in range(9_990, 10_020))
            merged = await products.bulk_upsert(tx, delivered, on=(Product.sku,))
            print("inserted", merged.inserted, "changed", merged.updated)

        try:
            async with headwater.transaction() as tx:
                await products.bulk_insert(tx, [{"sku": "NEW", "stock": 1}, {"sku": "P00001", "stock": 1}])
        except AlreadyExists as error:
            print(error.message)
        print("NEW was not kept:", await products.find_by(Product.sku == "NEW") is None)
        print("rows:", await products.count())


asyncio.run(main())

# It prints:
# inserted 10000
# inserted 20 changed 10
# public.products: this sku is already taken.
# NEW was not kept: True
# rows: 10020
