"""Connect, declare an entity once, write a row and read it back as a plain typed value."""

from __future__ import annotations

import asyncio
from decimal import Decimal

from sqlalchemy.orm import Mapped, mapped_column
from throwaway import create_tables, database

from headwater import Headwater, Keyed, Model, Settings, System, Timestamped, Versioned


class Product(Keyed, Timestamped, Versioned, Model):
    """An ordinary typed SQLAlchemy model: Alembic and an ORM session see it too."""

    __tablename__ = "products"

    name: Mapped[str] = mapped_column(unique=True)
    price: Mapped[Decimal]
    stock: Mapped[int] = mapped_column(server_default="0")


async def main() -> None:
    async with database() as dsn, Headwater.open(System("shop", []), Settings(database_url=dsn)) as headwater:
        await create_tables(headwater, Product)
        products = headwater.repository(Product)

        async with headwater.transaction() as tx:
            made = await products.create(tx, name="Servo 20 kg", price=Decimal("19.90"))

        read = await products.get(made.id)
        print(type(read).__name__, isinstance(read, Product), read == made)
        print(read.name, read.price, read.stock, read.version)

        try:
            read.stock = 5  # a value is what was read; it does not change under anybody's hands
        except AttributeError as error:
            print(error)


asyncio.run(main())

# It prints:
# Product True True
# Servo 20 kg 19.90 0 1
# Product.stock cannot be changed: a value is immutable. Write with Repository.update(), or load it in an orm_session().
