"""Insert a row or change the one that is there: one statement, so many writers at once make exactly one row."""

from __future__ import annotations

import asyncio

from sqlalchemy.orm import Mapped, mapped_column
from throwaway import create_tables, database

from headwater import Headwater, Keyed, Model, Settings, System, Versioned


class Price(Keyed, Versioned, Model):
    """The newest price of a symbol."""

    __tablename__ = "prices"

    symbol: Mapped[str] = mapped_column(unique=True)
    cents: Mapped[int]


async def main() -> None:
    async with database() as dsn, Headwater.open(System("market", []), Settings(database_url=dsn)) as headwater:
        await create_tables(headwater, Price)
        prices = headwater.repository(Price)

        # One statement each, so the verb may run in autocommit.
        outcomes = await asyncio.gather(
            *(prices.upsert(headwater.autocommit, on=(Price.symbol,), symbol="ARM", cents=100 + n) for n in range(8))
        )
        print("created by", sum(outcome.created for outcome in outcomes), "of", len(outcomes))
        print("rows:", await prices.count(), "- version", (await prices.list()).items[0].version)


asyncio.run(main())

# It prints:
# created by 1 of 8
# rows: 1 - version 8
