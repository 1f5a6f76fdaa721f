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
            servo = await products.create(tx, name="Servo 20 kg", price=Decimal("19.90"))
            await products.create(tx, name="Bearing 608", price=Decimal("0.80"), stock=400)

        read = await products.get(servo.id)
        print(isinstance(read, Product), read == servo, read.name, read.price, read.version)

        page = await products.list(Product.price < 10, order=(Product.name.asc(),), limit=20)
        print([product.name for product in page.items], page.next)

        async with headwater.transaction() as tx:
            old, new = await products.update(tx, servo.id, version=read.version, stock=25)
        print(old.stock, "->", new.stock, "version", new.version)

        try:
            read.stock = 5  # a value is what was read; nothing changes under your hands
        except AttributeError as error:
            print(error)


asyncio.run(main())

# It prints:
# True True Servo 20 kg 19.90 1
# ['Bearing 608'] None
# 0 -> 25 version 2
# Product.stock cannot be changed: a value is immutable. Write with Repository.update(), or load it in an orm_session().
