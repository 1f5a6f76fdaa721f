"""The ledger: transfers per second against pgbench's TPC-B on the same server, measured right before each figure."""

from __future__ import annotations

import asyncio
import random
import subprocess
import tempfile
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import asyncpg
from sqlalchemy import text

from benchmarks.command import run_as_program
from benchmarks.peers.django_hordak import DjangoHordak
from benchmarks.peers.ledger_shapes import ClientSide, PgledgerShape
from benchmarks.reporting import Findings
from benchmarks.stores import durable_postgres
from headwater.embedded.postgres import programs
from headwater.kernel.migrations import migrate
from headwater.kernel.module import System
from headwater.kernel.postgres import Postgres
from headwater.kernel.settings import Settings
from headwater.modules.ledger import MODULE
from headwater.modules.ledger.proof import seal, verify
from headwater.modules.ledger.repository import LedgerRepository, Move

Figure = Callable[[float], Awaitable[tuple[float, list[float]]]]
"""Works for so many seconds: transfers per second, and the seconds of each call."""


@dataclass(slots=True)
class Measured:
    """What one figure was in each round, next to TPC-B just before it."""

    rates: list[float] = field(default_factory=list)
    ratios: list[float] = field(default_factory=list)
    latencies: list[float] = field(default_factory=list)

    @property
    def p99_ms(self) -> float:
        if not self.latencies:
            return 0.0
        ordered = sorted(self.latencies)
        return ordered[min(len(ordered) - 1, int(len(ordered) * 0.99))] * 1_000


async def benchmark(short: bool) -> Findings:
    accounts, scale, rounds, seconds = (2_000, 1, 1, 0.5) if short else (100_000, 50, 3, 3.0)
    findings = Findings(
        "ledger",
        "A transfer is cheaper than TPC-B's transaction, also awaited one by one from Python, and more so in batches.",
        f"pgbench's TPC-B (prepared, scale {scale}, 16 clients, durable commits) runs for as long right before each "
        f"figure; ratios are medians over {rounds} rounds. {accounts:,} accounts, pairs at random, hot: 90 % of the "
        "transfers credit one account. All figures with the indexes of statements and past balances, with the change "
        "stream's row for each transfer, with checksums and the chains of both accounts. The client shares the two "
        "cores with the server.",
    )
    async with durable_postgres() as server:
        dsn = server.socket_dsn
        await migrate(System("benchmark", [MODULE]), Settings(database_url=dsn))
        await _pgbench(dsn, "-i", "-q", "-s", str(scale))
        await _open_accounts(dsn, accounts)
        postgres = await Postgres.open(Settings(database_url=dsn, pool_size_max=8))
        client, shape = await ClientSide.open(dsn, accounts), await PgledgerShape.open(dsn, accounts)
        hordak = await DjangoHordak.open(dsn, accounts)
        ledger = LedgerRepository(postgres)
        try:
            figures: dict[str, Figure] = {
                "one call, 16 clients of pgbench": _by_pgbench(dsn, accounts),
                "one await each, 64 tasks": _awaited(ledger, accounts, 64, hot=False),
                "one await each, 1,024 tasks": _awaited(ledger, accounts, 1_024, hot=False),
                "post(100), 4 connections": _batches(ledger, accounts, 100, hot=False),
                "post(1,000), 4 connections": _batches(ledger, accounts, 1_000, hot=False),
                "hot: one await each, 64 tasks": _awaited(ledger, accounts, 64, hot=True),
                "hot: post(1,000), 4 connections": _batches(ledger, accounts, 1_000, hot=True),
                "peer: BEGIN … COMMIT from Python, 16 connections": _peer(client.transfer, accounts, hot=False),
                "peer, hot: BEGIN … COMMIT from Python": _peer(client.transfer, accounts, hot=True),
                "peer: pgledger's shape, 16 connections": _peer(shape.transfer, accounts, hot=False),
                "peer, hot: pgledger's shape": _peer(shape.transfer, accounts, hot=True),
                "peer: django-hordak, 16 threads": _peer(hordak.transfer, accounts, hot=False),
                "peer, hot: django-hordak": _peer(hordak.transfer, accounts, hot=True),
            }
            measured = await _rounds(dsn, figures, rounds, seconds)
            stored = await _bytes_per_transfer(postgres)
            cost = await _cost_of_proof(postgres, accounts, rounds * 4, seconds / 2)
            report = await verify(postgres)
            await seal(postgres)
            sealed = await verify(postgres)
        finally:
            await client.close()
            await shape.close()
            await hordak.close()
            await postgres.close()
    table = findings.table("Against TPC-B", "", "x TPC-B", "transfers/s", "p99 ms")
    for name, one in measured.items():
        p99 = f"{one.p99_ms:,.1f}" if one.latencies else ""
        table.add(name, f"{median(one.ratios):.2f}", f"{median(one.rates):,.0f}", p99)
        findings.figures[name] = {
            "ratio": median(one.ratios), "per_second": median(one.rates), "p99_ms": one.p99_ms
        }  # fmt: skip
    rate = report.transfers / report.seconds
    proof = findings.table("Proof and room", "", "figure")
    proof.add("verify, transfers/s on 2 connections", f"{rate:,.0f}")
    proof.add("verify with one seal over all of them", f"{sealed.transfers / sealed.seconds:,.0f}")
    proof.add("checksum and chains, share of post(100)", f"{cost:.1%}")
    proof.add("bytes per transfer, with its indexes", f"{stored:.0f}")
    findings.figures["proof"] = {
        "verified_per_second": rate,
        "verified_with_seal_per_second": sealed.transfers / sealed.seconds,
        "cost": cost,
        "bytes": stored,
    }
    for what, target in _GOALS.items():
        findings.goal(f"{what}, times TPC-B", target, median(measured[what].ratios))
    findings.goal("one await each, 64 tasks: p99", 10.0, measured["one await each, 64 tasks"].p99_ms, at_least=False,
                  unit="ms")  # fmt: skip
    findings.goal("verify", 300_000, rate, unit="transfers/s")
    findings.goal("cost of checksum and chains", 0.05, cost, at_least=False)
    findings.goal("bytes per transfer with its indexes", 250, stored, at_least=False, unit="B")
    for found in (report, sealed):
        if found.faults:
            raise AssertionError(found.faults[0])
    return findings


_GOALS = {
    "one call, 16 clients of pgbench": 1.8,
    "one await each, 64 tasks": 4.0,
    "one await each, 1,024 tasks": 7.0,
    "post(100), 4 connections": 8.0,
    "post(1,000), 4 connections": 8.0,
    "hot: one await each, 64 tasks": 5.0,
    "hot: post(1,000), 4 connections": 10.0,
}


async def _rounds(dsn: str, figures: dict[str, Figure], rounds: int, seconds: float) -> dict[str, Measured]:
    measured = {name: Measured() for name in figures}
    order = list(figures)
    chance = random.Random(7)
    for _ in range(rounds):
        chance.shuffle(order)
        for name in order:
            yardstick = await _pgbench(dsn, "-n", "-M", "prepared", "-c", "16", "-j", "2", "-T", _whole(seconds))
            rate, latencies = await figures[name](seconds)
            measured[name].rates.append(rate)
            measured[name].ratios.append(rate / yardstick)
            measured[name].latencies += latencies
    return measured


def _whole(seconds: float) -> str:
    return str(max(1, round(seconds)))


async def _pgbench(dsn: str, *arguments: str) -> float:
    """Run it; transactions per second, or 0 when it only made its tables."""
    process = await asyncio.create_subprocess_exec(
        str(programs() / "pgbench"), *arguments, "-d", dsn, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    said, complained = await process.communicate()
    if process.returncode:
        raise RuntimeError(complained.decode())
    for line in said.decode().splitlines():
        if line.startswith("tps = "):
            return float(line.split()[2])
    return 0.0


async def _open_accounts(dsn: str, accounts: int) -> None:
    """Many accounts with much in each, in one go: the issuance has the other side, so that it adds up."""
    postgres = await Postgres.open(Settings(database_url=dsn, statement_timeout_ms=0))
    try:
        ledger = LedgerRepository(postgres)
        await ledger.open_asset(postgres, "USD", scale=2)
        async with postgres.connection() as connection:
            await connection.execute(_MANY, accounts)
        issuance = await ledger.account(postgres, "system", None, "USD", credit_limit=None)
        for start in range(1, accounts + 1, 1_000):
            await ledger.post(
                postgres,
                [
                    Move(debit=issuance.id, credit=one, amount=10**9)
                    for one in range(start, min(start + 1_000, accounts + 1))
                ],
            )
        async with postgres.connection() as connection:
            await connection.execute("vacuum analyze ledger.accounts, ledger.transfers")
    finally:
        await postgres.close()


_MANY = """
insert into ledger.accounts (owner_kind, owner_id, asset_id, purpose, credit_limit)
select 'user', uuidv7(), 1, 'main', 0 from generate_series(1, $1::int)
"""


def _pair(chance: random.Random, accounts: int, hot: bool) -> tuple[int, int]:
    debit = chance.randint(2, accounts)
    if hot and chance.random() < 0.9:
        return debit, 1
    credit = chance.randint(1, accounts - 1)
    return debit, credit if credit < debit else credit + 1


def _by_pgbench(dsn: str, accounts: int) -> Figure:
    script = Path(tempfile.mkdtemp()) / "transfer.sql"
    script.write_text(
        f"\\set a random(1, {accounts})\n\\set b 1 + (:a + random(0, {accounts - 2})) % {accounts}\n"
        "select status from ledger.transfer(uuidv7(), :a, :b, 1, 0::smallint, null, null);\n"
    )

    async def figure(seconds: float) -> tuple[float, list[float]]:
        arguments = ("-n", "-M", "prepared", "-c", "16", "-j", "2", "-T", _whole(seconds), "-f", str(script))
        return await _pgbench(dsn, *arguments), []

    return figure


def _awaited(ledger: LedgerRepository, accounts: int, tasks: int, *, hot: bool) -> Figure:
    async def figure(seconds: float) -> tuple[float, list[float]]:
        latencies: list[float] = []
        chance = random.Random(3)
        started = perf_counter()
        deadline = started + seconds

        async def task() -> None:
            while True:
                debit, credit = _pair(chance, accounts, hot)
                began = perf_counter()
                receipt = await ledger.post_one(Move(debit=debit, credit=credit, amount=1))
                ended = perf_counter()
                assert receipt.done
                latencies.append(ended - began)
                if ended >= deadline:
                    return

        await asyncio.gather(*(task() for _ in range(tasks)))
        return len(latencies) / (perf_counter() - started), latencies

    return figure


def _batches(ledger: LedgerRepository, accounts: int, size: int, *, hot: bool, connections: int = 4) -> Figure:
    async def figure(seconds: float) -> tuple[float, list[float]]:
        latencies: list[float] = []
        chance = random.Random(5)
        started = perf_counter()
        deadline = started + seconds

        async def task() -> None:
            while True:
                pairs = [_pair(chance, accounts, hot) for _ in range(size)]
                moves = [Move(debit=debit, credit=credit, amount=1) for debit, credit in pairs]
                began = perf_counter()
                receipts = await ledger.post(ledger.postgres, moves)
                ended = perf_counter()
                assert all(receipt.done for receipt in receipts)
                latencies.append(ended - began)
                if ended >= deadline:
                    return

        await asyncio.gather(*(task() for _ in range(connections)))
        return len(latencies) * size / (perf_counter() - started), latencies

    return figure


def _peer(transfer: Callable[[int, int, int, int], Awaitable[Any]], accounts: int, *, hot: bool) -> Figure:
    async def figure(seconds: float) -> tuple[float, list[float]]:
        latencies: list[float] = []
        chance = random.Random(9)
        started = perf_counter()
        deadline = started + seconds

        async def task(number: int) -> None:
            while True:
                debit, credit = _pair(chance, accounts, hot)
                began = perf_counter()
                await transfer(number, debit, credit, 1)
                ended = perf_counter()
                latencies.append(ended - began)
                if ended >= deadline:
                    return

        await asyncio.gather(*(task(number) for number in range(16)))
        return len(latencies) / (perf_counter() - started), latencies

    return figure


async def _bytes_per_transfer(postgres: Postgres) -> float:
    """The heap and every index, by the number of transfers that are there."""
    found = await postgres.fetch_one(
        text("select pg_total_relation_size('ledger.transfers') as bytes, count(*) as n from ledger.transfers")
    )
    return float(found.bytes / found.n)


async def _cost_of_proof(postgres: Postgres, accounts: int, rounds: int, seconds: float) -> float:
    """post(100) on one connection with and without checksum and chains, in turns: which share of the time they take.

    The function without them is put in its place, and put back; what it wrote is taken away again with the chains.
    """
    ledger = LedgerRepository(postgres)
    figure = _batches(ledger, accounts, 100, hot=False, connections=1)
    async with postgres.connection() as connection:
        whole: str = await connection.fetchval("select pg_get_functiondef('ledger.post'::regproc)")
    bare = whole
    for place, following in (("first", "first := first + 1;"), ("i", "expected := expected + 1;")):  # both of its ways
        start = bare.index(f"            said := ledger.words(\n                ids[{place}]")
        end = bare.index(f"            {following}", start)
        bare = f"{bare[:start]}            o_checksum[{place}] := 0;\n{bare[end:]}"
    ratios = []
    for _ in range(rounds):
        rates = {}
        for name, source in (("bare", bare), ("whole", whole)):
            async with postgres.connection() as connection:
                await connection.execute(source)
            rates[name] = (await figure(seconds))[0]
        ratios.append(rates["whole"] / rates["bare"])
    async with postgres.connection() as connection:
        await connection.execute(whole)
        await _mend(connection)
    return max(0.0, 1 - median(ratios))


async def _mend(connection: asyncpg.Connection) -> None:
    """Checksums and chains of what was written without them, so that the whole can be verified."""
    await connection.execute("set session_replication_role = replica; set statement_timeout = 0")
    await connection.execute(
        "update ledger.transfers t set checksum = ledger.checksum_of(ledger.said(t)) where checksum = 0"
    )
    await connection.execute(
        "update ledger.accounts a set head = r.head from ledger.recomputed(0, 1) r where r.account = a.id"
    )
    await connection.execute("vacuum analyze ledger.transfers")
    await connection.execute("reset session_replication_role")


if __name__ == "__main__":
    run_as_program(benchmark)
