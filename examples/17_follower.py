"""A follower of your own: a table of counts that is kept by the change stream, each change exactly once."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from sqlalchemy import text
from sqlalchemy.orm import Mapped
from throwaway import create_tables, database

from headwater import Headwater, Keyed, Model, Settings, System, Tracked
from headwater.kernel.changes import Change
from headwater.kernel.followers import Follower, PostgresSink, following, standings
from headwater.kernel.migrations import migrate
from headwater.kernel.ticker import ticking
from headwater.kernel.tracking import call_to_track, tracked_table
from headwater.kernel.transaction import Transaction


class Crate(Keyed, Model):
    __tablename__ = "crates"
    __tracked__ = Tracked("full")

    place: Mapped[str]


COUNT = text(
    "insert into places (place, crates) values (:place, :n) "
    "on conflict (place) do update set crates = places.crates + excluded.crates"
)


async def count(tx: Transaction, changes: Sequence[Change]) -> None:
    """Apply changes in the transaction that also moves the checkpoint. A bootstrap gives every row as an insert."""
    for change in changes:
        for row, n in ((change.old, -1), (change.new, 1)):
            if row is not None:
                await tx.execute(COUNT, place=row["place"], n=n)


async def clear(tx: Transaction) -> None:
    """Forget everything: a bootstrap follows."""
    await tx.execute(text("truncate places"))


async def main() -> None:
    system = System("crates", [])
    async with database() as dsn:
        settings = Settings(database_url=dsn)
        await migrate(system, settings)
        async with Headwater.open(system, settings) as headwater, ticking(settings):
            await create_tables(headwater, Crate)
            known = tracked_table(Crate)
            assert known is not None
            crates = headwater.repository(Crate)
            async with headwater.transaction() as tx:
                await tx.execute(text("create table places (place text primary key, crates bigint not null)"))
                await tx.connection.execute(call_to_track(known))  # a revision says this
                crate = await crates.create(tx, place="depot")

            sink = PostgresSink(headwater.postgres, "places", count, clear)
            follower = Follower(headwater.postgres, "places", sink, tables=[Crate])
            async with following(follower):
                async with headwater.transaction() as tx:
                    await crates.create(tx, place="depot")
                    await crates.update(tx, crate.id, place="ship")
                while True:  # other code need not wait for it
                    rows = await headwater.autocommit.fetch(text("select place, crates from places order by place"))
                    found = {row.place: row.crates for row in rows}
                    if found == {"depot": 1, "ship": 1}:
                        break
                    await asyncio.sleep(0.01)
                print(found)
            (standing,) = await standings(headwater.postgres)
            print(f"{standing.name} is {standing.state}, {standing.parked_keys} keys parked")


asyncio.run(main())

# It prints:
# {'depot': 1, 'ship': 1}
# places is following, 0 keys parked
