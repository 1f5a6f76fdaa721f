"""Distribution: yield divided among all holders in one transaction, with its transfers, entries and changes."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable
from statistics import median
from typing import Any
from uuid import UUID, uuid4

import asyncpg

from benchmarks.command import run_as_program
from benchmarks.measuring import timed
from benchmarks.peers.client_side_distribution import ClientSideDistribution
from benchmarks.reporting import Findings
from benchmarks.stores import durable_postgres
from headwater import Headwater, Settings
from headwater.kernel.migrations import migrate
from headwater.modules.finance.repository import FinanceRepository
from headwater.systems.abunfi import ABUNFI

OURS, CLIENT_SIDE = "headwater distribute_yield", "client-side code, one transaction, COPY"
BATCH = 1_000
GOAL_TIMES = 3.0


async def benchmark(short: bool) -> Findings:
    holders, rounds = (500, 2) if short else (50_000, 5)
    amount = holders * 1_000 + 7
    findings = Findings(
        "distribution",
        "Yield is divided among all holders in one transaction, to the last minor unit and once.",
        f"{holders:,} holders, {rounds} rounds in turns on the same server after one that is not counted, durable "
        "commits; each holder has a part. Ours writes a transfer of the ledger with its chains and balances, a "
        "transaction, an entry of the audit trail with the balances before and after, and two changes for each holder; "
        "the client-side peer a balance, a payment and an entry, in tables of its own, and no more.",
    )
    async with durable_postgres() as postgres:
        dsn = postgres.socket_dsn
        await migrate(ABUNFI, Settings(database_url=dsn))
        shares = await _hold(dsn, holders)
        peer = await ClientSideDistribution.open(dsn, shares)
        taken: dict[str, list[float]] = {OURS: [], CLIENT_SIDE: []}
        try:
            async with Headwater.open(ABUNFI, Settings(database_url=dsn)) as headwater:
                finance = headwater.repository(FinanceRepository)

                async def ours() -> None:
                    async with headwater.transaction() as tx:
                        made = await finance.distribute_yield(tx, distribution_id=uuid4(), amount=amount)
                    assert made.holders == holders, f"{made.holders} of {holders} were paid"

                async def theirs() -> None:
                    assert await peer.distribute(uuid4(), amount) == holders

                work: dict[str, Callable[[], Awaitable[object]]] = {OURS: ours, CLIENT_SIDE: theirs}
                chance = random.Random(5)
                for number in range(rounds + 1):
                    for name, run in chance.sample(list(work.items()), len(work)):
                        seconds = await timed(run)
                        if number:
                            taken[name].append(seconds)
                faults = (await finance.verify()).faults
                assert not faults, faults[0]
            findings.notes.append(await _shape(dsn, rounds + 1, amount))
        finally:
            await peer.close()
    table = findings.table(f"{holders:,} holders", "", "seconds", "holders/s", "us/holder", "x client-side")
    for name, seconds in taken.items():
        middle = median(seconds)
        times = median(a / b for a, b in zip(seconds, taken[CLIENT_SIDE], strict=True))
        table.add(name, f"{middle:.2f}", f"{holders / middle:,.0f}", f"{middle / holders * 1e6:.0f}", f"{times:.2f}")
        findings.figures[name] = {"seconds": middle, "holders_per_second": holders / middle, "to_client_side": times}
    times = findings.figures[OURS]["to_client_side"]
    findings.goal("time, to client-side code without a ledger", GOAL_TIMES, times, at_least=False, unit=" x")
    return findings


async def _hold(dsn: str, count: int) -> dict[UUID, int]:
    """So many users with savings, written as one would from psql; what each has in shares."""
    connection = await asyncpg.connect(dsn)
    try:
        await connection.execute("set synchronous_commit = off; set statement_timeout = 0")
        users = [uuid4() for _ in range(count)]
        await connection.copy_records_to_table(
            "users", columns=["id", "email"], records=[(user, f"{user}@example.org") for user in users]
        )
        shares = {user: 1_000 + number * 7_919 % 10_007 for number, user in enumerate(users)}
        for start in range(0, count, BATCH):
            some = users[start : start + BATCH]
            await connection.execute(_DEPOSITS, some, [shares[user] for user in some])
        await connection.execute("vacuum analyze")
        await connection.execute("checkpoint")
    finally:
        await connection.close()
    return shares


_DEPOSITS = """
insert into finance.transactions (user_id, type, amount, status)
select u.id, 'deposit', u.amount, 'completed' from unnest($1::uuid[], $2::bigint[]) as u (id, amount)
"""


async def _shape(dsn: str, distributions: int, amount: int) -> str:
    """What all of it left behind, and that both have paid all of it."""
    connection = await asyncpg.connect(dsn)
    try:
        row: Any = await connection.fetchrow(
            """
            select (select sum(yield_earned) from finance.user_balances) as earned,
                   (select sum(amount) from client_side.payments) as paid,
                   (select count(*) from finance.transactions) as transactions,
                   (select count(*) from finance.transaction_history) as entries,
                   (select count(*) from ledger.transfers) as transfers,
                   (select count(*) from headwater.change) as changes
            """
        )
    finally:
        await connection.close()
    if not row["earned"] == row["paid"] == distributions * amount:
        raise SystemExit(f"{row['earned']} and {row['paid']} were paid of {distributions * amount}")
    return (
        f"{row['transactions']:,} transactions have {row['entries']:,} entries and {row['transfers']:,} transfers; the "
        f"stream has {row['changes']:,} changes. Both have paid every unit, and `finance verify` finds nothing."
    )


if __name__ == "__main__":
    run_as_program(benchmark)
