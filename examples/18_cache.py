"""The cache: rows and results that are kept in Valkey, and gone when what they were made from changes, by whomever."""

from __future__ import annotations

import asyncio

import asyncpg
from sqlalchemy import func, select
from sqlalchemy.orm import Mapped
from throwaway import create_tables, database, valkey

from headwater import CachePolicy, Headwater, Keyed, Model, Module, Repository, Settings, System, Tag, Tracked, cached
from headwater.followers.invalidation import relaying
from headwater.kernel.migrations import migrate
from headwater.kernel.tracking import call_to_track, tracked_table


class Book(Keyed, Model):
    __tablename__ = "books"
    __tracked__ = Tracked("full", tags=("author",))  # what the cache follows

    author: Mapped[str]
    title: Mapped[str]


class BookRepository(Repository[Book]):
    """Books, and how many an author has written."""

    @cached("books_of", tags=lambda author: (Tag(Book, author=author),), ttl_seconds=300)
    async def count_of(self, author: str) -> int:
        print("  counted in PostgreSQL")
        return int(await self.postgres.fetch_value(select(func.count()).where(Book.author == author)))


MODULE = Module(name="library", package="library", summary="Books.")
vars(MODULE)["cache"] = (CachePolicy(kind="book", model=Book, ttl_seconds=600, near=1000),)  # library/cache.py says so


async def main() -> None:
    system = System("library", [MODULE])
    async with database() as dsn, valkey() as valkey_url:
        settings = Settings(database_url=dsn, valkey_url=valkey_url)
        await migrate(System("library", []), settings)
        async with Headwater.open(system, settings) as headwater, relaying(system, settings):
            await create_tables(headwater, Book)
            known = tracked_table(Book)
            assert known is not None
            async with headwater.transaction() as tx:  # a revision says this; `headwater migrate --new` writes it
                await tx.connection.execute(call_to_track(known))
            cache = headwater.postgres.cache
            assert cache is not None
            async with asyncio.timeout(30):
                while cache.near_until == 0:  # noqa: ASYNC110  # the relay makes it so
                    await asyncio.sleep(0.01)

            books = headwater.repository(BookRepository)
            book = await books.create(headwater.autocommit, author="Ada", title="Notes")
            print("read:", (await books.get(book.id)).title, "/", (await books.get(book.id)).title)
            await books.update(headwater.autocommit, book.id, title="Notes, 2nd edition")
            print("a writer reads what it wrote:", (await books.get(book.id)).title)

            foreign = await asyncpg.connect(dsn)
            await foreign.execute("update books set title = 'By psql'")
            await foreign.close()
            async with asyncio.timeout(10):
                while (await books.get(book.id)).title != "By psql":  # noqa: ASYNC110  # the relay tells it
                    await asyncio.sleep(0.001)
            print("another writer is heard of:", (await books.get(book.id)).title)

            print("books of Ada:", await books.count_of("Ada"))
            await books.create(headwater.autocommit, author="Ada", title="Letters")
            print("books of Ada:", await books.count_of("Ada"))


asyncio.run(main())

# It prints:
# read: Notes / Notes
# a writer reads what it wrote: Notes, 2nd edition
# another writer is heard of: By psql
#   counted in PostgreSQL
# books of Ada: 1
#   counted in PostgreSQL
# books of Ada: 2
