"""Two people edit the same row: the second one hears of it, with the row as it stands now."""

from __future__ import annotations

import asyncio

from sqlalchemy.orm import Mapped
from throwaway import create_tables, database

from headwater import Headwater, Keyed, Model, Settings, System, Versioned
from headwater.kernel.errors import VersionConflict


class Document(Keyed, Versioned, Model):
    """A text that several people edit."""

    __tablename__ = "documents"

    text: Mapped[str]


async def main() -> None:
    async with database() as dsn, Headwater.open(System("desk", []), Settings(database_url=dsn)) as headwater:
        await create_tables(headwater, Document)
        documents = headwater.repository(Document)

        async with headwater.transaction() as tx:
            read = await documents.create(tx, text="draft")

        async with headwater.transaction() as tx:
            first = await documents.update(tx, read.id, version=read.version, text="Ada's edit")
            print("Ada:", first.old.version, "->", first.new.version)

        try:
            async with headwater.transaction() as tx:
                await documents.update(tx, read.id, version=read.version, text="Bo's edit")
        except VersionConflict as conflict:
            print("Bo:", type(conflict).__name__, "- it is now version", conflict.current.version)
            print("   ", conflict.current.text)

        print((await documents.get(read.id)).text)


asyncio.run(main())

# It prints:
# Ada: 1 -> 2
# Bo: VersionConflict - it is now version 2
#     Ada's edit
# Ada's edit
