"""Upsert rows: 50,000 rows by key, once all of them new and once all of them there."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable
from statistics import median

from benchmarks.command import run_as_program
from benchmarks.items import Item, ItemRepository, create_table, fill, rows
from benchmarks.measuring import timed
from benchmarks.peers.advanced_alchemy_repository import AdvancedAlchemy
from benchmarks.peers.raw_asyncpg import connect, copy, tuples
from benchmarks.reporting import Findings
from benchmarks.stores import durable_postgres
from headwater import Headwater, Settings, System

OURS, AA, COPY = "headwater bulk_upsert", "Advanced Alchemy upsert_many", "asyncpg COPY of tuples (plain insert)"


async def benchmark(short: bool) -> Findings:
    count, rounds, slow_rounds = (2_000, 2, 1) if short else (50_000, 7, 2)
    findings = Findings(
        "upsert_rows",
        "Upserting many rows is one COPY and one statement.",
        f"{count:,} rows matched by primary key, from mappings in memory to committed rows; ours also "
        "tells how many were "
        f"new. {rounds} interleaved rounds, {slow_rounds} of Advanced Alchemy.",
    )
    content = rows(count)
    changed = [row | {"quantity": row["quantity"] + 1, "note": "changed"} for row in content]
    records = tuples(content)
    async with durable_postgres() as postgres:
        dsn = postgres.socket_dsn
        await create_table(dsn, [])
        async with Headwater.open(System("benchmark", []), Settings(database_url=dsn)) as headwater:
            repository = headwater.repository(ItemRepository)
            raw = await connect(dsn)
            aa = AdvancedAlchemy(dsn, 2)

            async def ours() -> None:
                async with headwater.transaction() as tx:
                    await repository.bulk_upsert(tx, changed, on=[Item.id])

            works: dict[str, Callable[[], Awaitable[object]]] = {OURS: ours, AA: lambda: aa.upsert(changed)}
            taken: dict[tuple[str, str], list[float]] = {}
            chance = random.Random(5)
            try:
                for number in range(rounds + 1):
                    for case, before in (("all new", []), ("all existing", content)):
                        order = [name for name in works if name != AA or 1 <= number <= slow_rounds]
                        chance.shuffle(order)
                        for name in order:
                            await fill(raw, before)
                            seconds = await timed(works[name])
                            found = await raw.fetchval("select count(*) from benchmark.items where note = 'changed'")
                            assert found == count, f"{name}, {case}: {found} rows are as they should be"
                            if number:  # the first round warms up
                                taken.setdefault((name, case), []).append(seconds)
                    await fill(raw, [])
                    seconds = await timed(lambda: copy(raw, records))
                    if number:
                        taken.setdefault((COPY, "all new"), []).append(seconds)
            finally:
                await raw.close()
                await aa.close()
    table = findings.table(f"{count:,} rows", "", "case", "seconds", "x COPY", "ours is")
    insert = median(taken[COPY, "all new"])
    for (name, case), seconds in sorted(taken.items(), key=lambda item: (item[0][1], median(item[1]))):
        middle = median(seconds)
        slower = middle / median(taken[OURS, case])
        table.add(name, case, f"{middle:.3f}", f"{middle / insert:.2f}", f"{slower:.1f} x" if name != OURS else "")
        findings.figures[f"{name}, {case}"] = {"seconds": middle, "to_copy": middle / insert, "ours": slower}
    for case in ("all new", "all existing"):
        findings.goal(f"{case}, to {AA}", 35, findings.figures[f"{AA}, {case}"]["ours"], unit=" x")
    return findings


if __name__ == "__main__":
    run_as_program(benchmark)
