"""Your own SQL: typed statements of SQLAlchemy for the ordinary, named queries in a .sql file for the clever."""

from __future__ import annotations

import asyncio

import msgspec
from sqlalchemy import func, select, update
from sqlalchemy.orm import Mapped
from throwaway import create_tables, database

from headwater import Headwater, Keyed, Model, Settings, System
from headwater.kernel.queries import Queries


class Sale(Keyed, Model):
    """One sale."""

    __tablename__ = "sales"

    region: Mapped[str]
    cents: Mapped[int]


class Rank(msgspec.Struct):
    """A region and its place."""

    region: str
    total: int
    place: int


# A module keeps this in queries.sql beside it and loads it with Queries.load(__package__).
QUERIES = Queries.parse(
    """
-- name: ranking
-- The regions by what they sold, the best first.
select region, sum(cents)::bigint as total, rank() over (order by sum(cents) desc)::int as place
  from sales
 group by region
having sum(cents) >= :at_least::bigint
 order by place, region
"""
)


async def main() -> None:
    async with database() as dsn, Headwater.open(System("shop", []), Settings(database_url=dsn)) as headwater:
        await create_tables(headwater, Sale)
        postgres = headwater.postgres
        rows = [("north", 300), ("south", 500), ("north", 400), ("west", 20)]
        async with headwater.transaction() as tx:
            await headwater.repository(Sale).bulk_insert(tx, [{"region": r, "cents": c} for r, c in rows])

        for rank in await postgres.fetch(QUERIES["ranking"], into=Rank, at_least=100):
            print(rank.place, rank.region, rank.total)

        by_region = select(Sale.region, func.count().label("sales")).group_by(Sale.region).order_by(Sale.region)
        for row in await postgres.fetch(by_region):
            print(row.region, row.sales)

        async with headwater.transaction() as tx:
            print("changed", await tx.execute(update(Sale).where(Sale.cents < 100).values(cents=100)))
        print("total", await postgres.fetch_value(select(func.sum(Sale.cents))))


asyncio.run(main())

# It prints:
# 1 north 700
# 2 south 500
# north 2
# south 1
# west 1
# changed 1
# total 1300
