"""Insert rows: 50,000 rows into an empty table, committed."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable
from statistics import median

from benchmarks.command import run_as_program
from benchmarks.items import ItemRepository, create_table, fill, rows
from benchmarks.measuring import timed
from benchmarks.peers.advanced_alchemy_repository import AdvancedAlchemy
from benchmarks.peers.piccolo_tables import Piccolo
from benchmarks.peers.raw_asyncpg import connect, copy, tuples
from benchmarks.peers.sqlalchemy_async import SQLAlchemyCore, SQLAlchemyORM
from benchmarks.peers.sqlmodel_session import SQLModelSession
from benchmarks.reporting import Findings
from benchmarks.stores import durable_postgres
from headwater import Headwater, Settings, System

OURS, COPY = "headwater bulk_insert", "asyncpg COPY of tuples"
ORM_PEERS = ("SQLAlchemy ORM add_all", "Advanced Alchemy add_many", "SQLModel add_all", "Piccolo insert")


async def benchmark(short: bool) -> Findings:
    count, fast_rounds, slow_rounds = (2_000, 2, 1) if short else (50_000, 12, 3)
    findings = Findings(
        "insert_rows",
        "Inserting many rows costs what COPY costs.",
        f"{count:,} rows with keys of the client (uuid4), from mappings in memory to committed rows; "
        "raw COPY gets finished "
        f"tuples. The table is emptied, vacuumed and checkpointed before each run. {fast_rounds} "
        "interleaved rounds of the "
        f"fast ones, {slow_rounds} of all.",
    )
    content = rows(count)
    records = tuples(content)
    async with durable_postgres() as postgres:
        dsn = postgres.socket_dsn
        await create_table(dsn, [])
        async with Headwater.open(System("benchmark", []), Settings(database_url=dsn)) as headwater:
            repository = headwater.repository(ItemRepository)
            raw = await connect(dsn)
            core, orm, aa, sqlmodel = (
                peer(dsn, 2) for peer in (SQLAlchemyCore, SQLAlchemyORM, AdvancedAlchemy, SQLModelSession)
            )
            piccolo = await Piccolo.open(dsn, 2)

            async def ours() -> None:
                async with headwater.transaction() as tx:
                    await repository.bulk_insert(tx, content)

            fast: dict[str, Callable[[], Awaitable[object]]] = {COPY: lambda: copy(raw, records), OURS: ours}
            every: dict[str, Callable[[], Awaitable[object]]] = {
                "SQLAlchemy Core insert(list)": lambda: core.insert(content),
                "SQLAlchemy ORM bulk insert": lambda: orm.insert_bulk(content),
                ORM_PEERS[0]: lambda: orm.insert(content),
                ORM_PEERS[1]: lambda: aa.insert(content),
                ORM_PEERS[2]: lambda: sqlmodel.insert(content),
                ORM_PEERS[3]: lambda: piccolo.insert(content),
            }
            taken: dict[str, list[float]] = {name: [] for name in (*fast, *every)}
            chance = random.Random(5)
            try:
                for work in fast.values():  # warm up: connections, codecs, files of the table
                    await fill(raw, [])
                    await work()
                for number in range(fast_rounds):
                    order = list((fast if number >= slow_rounds else fast | every).items())
                    chance.shuffle(order)
                    for name, work in order:
                        await fill(raw, [])
                        taken[name].append(await timed(work))
                        found = await raw.fetchval("select count(*) from benchmark.items")
                        assert found == count, f"{name} inserted {found} rows"
            finally:
                await raw.close()
                for peer in (core, orm, aa, sqlmodel, piccolo):
                    await peer.close()
    to_copy = median(o / c for o, c in zip(taken[OURS], taken[COPY], strict=True))
    table = findings.table(f"{count:,} rows", "", "seconds", "x COPY", "ours is")
    for name, seconds in sorted(taken.items(), key=lambda item: median(item[1])):
        middle = median(seconds)
        times = to_copy if name == OURS else median(s / c for s, c in zip(seconds, taken[COPY], strict=False))
        slower = median(s / o for s, o in zip(seconds, taken[OURS], strict=False))
        table.add(name, f"{middle:.3f}", f"{times:.2f}", f"{slower:.1f} x" if name != OURS else "")
        findings.figures[name] = {"seconds": middle, "to_copy": times, "ours": slower}
    findings.goal("time, to raw COPY", 1.15, to_copy, at_least=False)
    for name in ORM_PEERS:
        findings.goal(f"to {name}", 15, findings.figures[name]["ours"], unit=" x")
    return findings


if __name__ == "__main__":
    run_as_program(benchmark)
