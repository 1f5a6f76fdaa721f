"""Read, list, count, change and delete rows through a repository, and give it a verb of your own."""

from __future__ import annotations

import asyncio

from sqlalchemy.orm import Mapped, mapped_column
from throwaway import create_tables, database

from headwater import Headwater, Keyed, Model, Repository, Settings, System
from headwater.kernel.postgres import Runner


class Part(Keyed, Model):
    """A part on a shelf."""

    __tablename__ = "parts"

    name: Mapped[str] = mapped_column(unique=True)
    shelf: Mapped[str]
    stock: Mapped[int]


class PartRepository(Repository[Part]):
    """What one does with parts. A verb takes the transaction, writes, and never commits."""

    async def take(self, tx: Runner, name: str, quantity: int) -> Part:
        """Take parts from a shelf; a part that nobody has heard of gets an empty place."""
        part = await self.find_by(Part.name == name, tx=tx)
        if part is None:
            return await self.create(tx, name=name, shelf="unsorted", stock=0)
        return (await self.update(tx, part.id, stock=part.stock - quantity)).new


async def main() -> None:
    async with database() as dsn, Headwater.open(System("shop", []), Settings(database_url=dsn)) as headwater:
        await create_tables(headwater, Part)
        parts = headwater.repository(PartRepository)

        async with headwater.transaction() as tx:
            for name, shelf, stock in (("bearing", "A1", 40), ("belt", "A1", 12), ("motor", "B2", 3)):
                await parts.create(tx, name=name, shelf=shelf, stock=stock)

        bearing = await parts.find_by(Part.name == "bearing")
        assert bearing is not None
        print("get:", (await parts.get(bearing.id)).stock)
        print("get_many:", len(await parts.get_many([bearing.id])), "found")
        print("count:", await parts.count(Part.shelf == "A1"))

        page = await parts.list(Part.stock > 5, order=(Part.name.asc(),))
        print("list:", [part.name for part in page.items])

        async with headwater.transaction() as tx:
            old, new = await parts.update(tx, bearing.id, stock=39)  # both rows, from one statement
            print("update:", old.stock, "->", new.stock)
            print("take:", (await parts.take(tx, "belt", 2)).stock)
            gone = await parts.delete(tx, bearing.id)
            print("delete:", gone.name)

        print("find:", await parts.find(bearing.id))


asyncio.run(main())

# It prints:
# get: 40
# get_many: 1 found
# count: 2
# list: ['bearing', 'belt']
# update: 40 -> 39
# take: 10
# delete: bearing
# find: None
