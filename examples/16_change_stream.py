"""The change stream: every committed change once, in order, in whose name, with events of your own among them."""

from __future__ import annotations

import asyncio

from sqlalchemy.orm import Mapped
from throwaway import create_tables, database

from headwater import Context, Headwater, Keyed, Model, Settings, System, Tracked, emit
from headwater.kernel.changes import Stream
from headwater.kernel.migrations import migrate
from headwater.kernel.ticker import ticking
from headwater.kernel.tracking import call_to_track, tracked_table


class Parcel(Keyed, Model):
    __tablename__ = "parcels"
    __tracked__ = Tracked("full", tags=("place",))

    place: Mapped[str]


async def main() -> None:
    system = System("parcels", [])
    async with database() as dsn:
        settings = Settings(database_url=dsn)
        await migrate(system, settings)
        async with Headwater.open(system, settings) as headwater, ticking(settings) as ticker:
            await create_tables(headwater, Parcel)
            known = tracked_table(Parcel)
            assert known is not None
            async with headwater.transaction() as tx:  # a revision says this; `headwater migrate --new` writes it
                await tx.connection.execute(call_to_track(known))
            await ticker.leads()
            stream = Stream(headwater.postgres)
            start = await stream.head()

            parcels = headwater.repository(Parcel)
            async with headwater.transaction(context=Context(actor="ada", reason="collected")) as tx:
                parcel = await parcels.create(tx, place="depot")
                await emit(tx, "labels", str(parcel.id), {"print": True})
            async with headwater.transaction() as tx:
                await parcels.update(tx, parcel.id, place="door")
            try:
                async with headwater.transaction() as tx:
                    await parcels.delete(tx, parcel.id)
                    raise RuntimeError("changed our mind")
            except RuntimeError:
                print("the deletion was rolled back: it is not told")

            told = 0
            async for batch in stream.tail(start):
                for change in batch.changes:
                    told += 1
                    before = "" if change.old is None else f"{change.old['place']} -> "
                    place = change.new.get("place", change.new)
                    who = "" if change.context is None else f", by {change.context['actor']}"
                    print(f"{change.position.number - start.number} {change.table} {change.op}: {before}{place}{who}")
                if told == 3:
                    break


asyncio.run(main())

# It prints:
# the deletion was rolled back: it is not told
# 1 public.parcels i: depot, by ada
# 2 topic:labels e: {'print': True}, by ada
# 3 public.parcels u: depot -> door
