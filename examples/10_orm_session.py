"""The way out: SQLAlchemy's own session inside the same transaction, for relationships and units of work."""

from __future__ import annotations

import asyncio
from uuid import UUID

from sqlalchemy import ForeignKey, select
from sqlalchemy.orm import Mapped, mapped_column, relationship, selectinload
from throwaway import create_tables, database

from headwater import Headwater, Keyed, Model, Settings, System, orm_session


class Author(Keyed, Model):
    """Someone who writes."""

    __tablename__ = "authors"

    name: Mapped[str]
    books: Mapped[list[Book]] = relationship(back_populates="author", order_by="Book.title")


class Book(Keyed, Model):
    """What they wrote."""

    __tablename__ = "books"

    title: Mapped[str]
    author_id: Mapped[UUID] = mapped_column(ForeignKey("authors.id"))
    author: Mapped[Author] = relationship(back_populates="books")


async def main() -> None:
    async with database() as dsn, Headwater.open(System("library", []), Settings(database_url=dsn)) as headwater:
        await create_tables(headwater, Author, Book)
        authors, books = headwater.repository(Author), headwater.repository(Book)

        async with headwater.transaction() as tx:
            ada = await authors.create(tx, name="Ada")  # a value, through the kernel
            async with orm_session(tx) as session:  # an object of the ORM, in the same transaction
                loaded = await session.get_one(Author, ada.id, options=[selectinload(Author.books)])
                loaded.books += [Book(title="Notes"), Book(title="Letters")]
                await session.flush()
                titles = await session.scalars(select(Book.title).order_by(Book.title))
                print("in the session:", list(titles))
            print("in the transaction:", await books.count(Book.author_id == ada.id, tx=tx))
            print("outside:", await books.count())
        print("after the commit:", await books.count())


asyncio.run(main())

# It prints:
# in the session: ['Letters', 'Notes']
# in the transaction: 2
# outside: 0
# after the commit: 2
