"""List rows: one page of 1,000 typed rows, one task."""

from __future__ import annotations

from benchmarks.command import run_as_program
from benchmarks.items import ItemRepository, create_table, rows
from benchmarks.measuring import Operation, interleaved, ratio
from benchmarks.peers.advanced_alchemy_repository import AdvancedAlchemy
from benchmarks.peers.piccolo_tables import Piccolo
from benchmarks.peers.raw_asyncpg import LIST, connect
from benchmarks.peers.sqlalchemy_async import SQLAlchemyCore, SQLAlchemyORM
from benchmarks.peers.sqlmodel_session import SQLModelSession
from benchmarks.reporting import Findings
from benchmarks.stores import durable_postgres
from headwater import Headwater, Settings, System

LIMIT = 1_000
OURS, RECORDS, DICTS = "headwater list(limit=1000)", "asyncpg Records", "asyncpg Records -> dict"


async def benchmark(short: bool) -> Findings:
    findings = Findings(
        "list_rows",
        "A page of 1,000 typed values costs little more than the driver's untyped records.",
        "The first 1,000 of 20,000 rows by key; jsonb decoded everywhere. Ours reads one row more, "
        "to know whether there is "
        "a next page, and builds its cursor.",
    )
    rounds, seconds = (2, 0.03) if short else (50, 0.07)
    async with durable_postgres() as postgres:
        dsn = postgres.socket_dsn
        await create_table(dsn, rows(2_000 if short else 20_000))
        async with Headwater.open(System("benchmark", []), Settings(database_url=dsn)) as headwater:
            ours = headwater.repository(ItemRepository)
            raw = await connect(dsn)
            core, orm, aa, sqlmodel = (
                peer(dsn, 2) for peer in (SQLAlchemyCore, SQLAlchemyORM, AdvancedAlchemy, SQLModelSession)
            )
            piccolo = await Piccolo.open(dsn, 2)

            async def dicts() -> list[dict[str, object]]:
                return [dict(record) for record in await raw.fetch(LIST, LIMIT)]

            operations: dict[str, Operation] = {
                OURS: lambda: ours.list(limit=LIMIT),
                RECORDS: lambda: raw.fetch(LIST, LIMIT),
                DICTS: dicts,
                "SQLAlchemy Core rows": lambda: core.list(LIMIT),
                "SQLAlchemy ORM": lambda: orm.list(LIMIT),
                "Advanced Alchemy repository.list": lambda: aa.list(LIMIT),
                "SQLModel": lambda: sqlmodel.list(LIMIT),
                "Piccolo select (dicts)": lambda: piccolo.list_dicts(LIMIT),
                "Piccolo objects": lambda: piccolo.list(LIMIT),
            }
            try:
                figures = await interleaved(
                    {name: [operation] for name, operation in operations.items()}, rounds=rounds, slice_seconds=seconds
                )
            finally:
                await raw.close()
                for peer in (core, orm, aa, sqlmodel, piccolo):
                    await peer.close()
    table = findings.table(
        "1,000 rows; time in ratios to asyncpg Records, lower is better", "", "time", "ms", "ours is"
    )
    for name, slices in sorted(figures.items(), key=lambda item: -item[1].rate):
        time, ours_is = ratio(figures[RECORDS], slices), ratio(figures[OURS], slices)
        table.add(name, f"{time:.2f}", f"{1e3 / slices.rate:.2f}", f"{ours_is:.1f} x" if name != OURS else "")
        findings.figures[name] = {"time": time, "milliseconds": 1e3 / slices.rate, "ours": ours_is}
    findings.goal("time, to raw Records", 1.15, ratio(figures[RECORDS], figures[OURS]), at_least=False)
    to_dicts = ratio(figures[DICTS], figures[OURS])
    findings.notes.append(f"To Records that are then made dicts, ours takes {to_dicts:.2f} of the time.")
    return findings


if __name__ == "__main__":
    run_as_program(benchmark)
