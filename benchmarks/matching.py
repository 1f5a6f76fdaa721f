"""Matching: orders placed and cancelled in one market, matched and settled in the ledger, one by one and in batches."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable
from statistics import median
from typing import Any
from uuid import UUID, uuid4

from benchmarks.command import run_as_program
from benchmarks.measuring import interleaved, ratio
from benchmarks.peers.client_side_matching import ClientSideMatching
from benchmarks.reporting import Findings
from benchmarks.stores import durable_postgres
from headwater import Headwater, Settings
from headwater.kernel.migrations import migrate
from headwater.modules.blockchain.models import Asset, ChainUser
from headwater.modules.identity.models import User
from headwater.modules.ledger.repository import LedgerRepository, Move
from headwater.modules.trading.commands import Answer, Cancel, Place
from headwater.modules.trading.markets import token_of
from headwater.modules.trading.models import Side
from headwater.modules.trading.repository import TradingRepository
from headwater.systems.construct import CONSTRUCT

MONEY, TOKENS = 10**14, 10**10
MIDDLE = 10_000
CANCELS = 0.3
"""Which part of the commands are cancels."""
TASKS = 64
GOAL_BATCH, GOAL_ONE = 20_000, 2_000


async def benchmark(short: bool) -> Findings:
    findings = Findings(
        "matching",
        "A market matches and settles in the database, one command at a time or many in one call.",
        "One market, one connection, durable commits; 30 % of the commands cancel, some 40 % of the orders cross, all "
        "from 1,000 traders. Ours reserves in the ledger, moves each fill through an escrow (three or four transfers "
        "with their balances), and writes each row to the change stream, all in the same transaction. The client-side "
        "peer keeps balances, orders and trades in tables of its own, and no more.",
    )
    traders, rounds, seconds = (100, 2, 0.2) if short else (1_000, 10, 0.6)
    batches = (1, 10, 100) if short else (1, 10, 100, 1_000)
    async with durable_postgres() as postgres:
        settings = Settings(database_url=postgres.socket_dsn)
        await migrate(CONSTRUCT, settings)
        async with Headwater.open(CONSTRUCT, settings) as headwater:
            users, parts = await _people_and_parts(headwater, traders, len(batches) + 1)
            peer = await ClientSideMatching.open(postgres.socket_dsn, users, MONEY, TOKENS)
            names = {size: _name(size) for size in batches}
            variants: dict[str, list[Callable[[], Awaitable[object]]]] = {
                names[size]: [_Flow(users, part).ours(headwater, size)]
                for size, part in zip(batches, parts[:-1], strict=True)
            }
            shared = _Flow(users, parts[-1])
            variants[_SUBMITTED] = [shared.submitted(headwater)] * TASKS
            variants[_CLIENT_SIDE] = [_Flow(users, parts[0]).theirs(peer)]
            try:
                figures = await interleaved(variants, rounds=rounds, slice_seconds=seconds)
            finally:
                await peer.close()
            table = findings.table("one market", "", "commands/s", "ratio", "p50 ms", "p99 ms")
            sizes = {names[size]: size for size in batches}
            for name, slices in figures.items():
                size = sizes.get(name, 1)
                rate, times = slices.rate * size, ratio(slices, figures[_CLIENT_SIDE]) * size
                p50, p99 = slices.percentile_us(50) / 1e3, slices.percentile_us(99) / 1e3
                table.add(name, f"{rate:,.0f}", f"{times:.1f}", f"{p50:.1f}", f"{p99:.1f}")
                findings.figures[name] = {"per_second": rate, "ratio": times, "p50_ms": p50, "p99_ms": p99}
            best = max(median(figures[names[size]].rates) * size for size in batches if size > 1)
            findings.goal("commands per second in batches, settled", GOAL_BATCH, best)
            findings.goal("commands per second one by one, settled", GOAL_ONE, figures[names[1]].rate)
            findings.goal(f"commands per second, {TASKS} callers await one each", GOAL_ONE, figures[_SUBMITTED].rate)
            findings.notes.append(await _shape(headwater))
    return findings


_SUBMITTED = f"headwater, {TASKS} callers await one command each"
_CLIENT_SIDE = "client-side code, one transaction per command"


def _name(size: int) -> str:
    return "headwater, one command per transaction" if size == 1 else f"headwater, batches of {size:,}"


class _Flow:
    """The commands of one market: the same kind of traffic for everybody, and the orders that can be cancelled."""

    def __init__(self, users: list[UUID], part: UUID) -> None:
        self._chance = random.Random(11)
        self._users, self._part = users, part
        self._open: list[UUID] = []

    def _cancels(self) -> UUID | None:
        if self._open and self._chance.random() < CANCELS:
            return self._open.pop(self._chance.randrange(len(self._open)))
        return None

    def _order(self) -> tuple[UUID, bool, int, int]:
        buying = self._chance.random() < 0.5
        offset = self._chance.randrange(-60, 25)
        price = MIDDLE + (offset if buying else -offset)
        return self._chance.choice(self._users), buying, price, self._chance.randrange(1, 100)

    def _command(self) -> Place | Cancel:
        cancelled = self._cancels()
        if cancelled is not None:
            return Cancel(order_id=cancelled)
        user_id, buying, price, quantity = self._order()
        side = Side.BUY if buying else Side.SELL
        return Place(user_id=user_id, asset_id=self._part, side=side, price=price, quantity=quantity)

    def ours(self, headwater: Headwater, size: int) -> Callable[[], Awaitable[object]]:
        trading = headwater.repository(TradingRepository)

        async def run() -> None:
            commands = [self._command() for _ in range(size)]
            async with headwater.transaction() as tx:
                outcomes = await trading.run(tx, commands)
            self._open += [
                outcome.id
                for outcome in outcomes
                if outcome.id is not None and outcome.outcome in (Answer.OPEN, Answer.PARTIALLY_FILLED)
            ]

        return run

    def submitted(self, headwater: Headwater) -> Callable[[], Awaitable[object]]:
        trading = headwater.repository(TradingRepository)

        async def run() -> None:
            outcome = await trading.submit(self._command())
            if outcome.id is not None and outcome.outcome in (Answer.OPEN, Answer.PARTIALLY_FILLED):
                self._open.append(outcome.id)

        return run

    def theirs(self, peer: ClientSideMatching) -> Callable[[], Awaitable[object]]:
        async def run() -> None:
            cancelled = self._cancels()
            if cancelled is not None:
                await peer.cancel(cancelled)
                return
            rests = await peer.place(*self._order())
            if rests is not None:
                self._open.append(rests)

        return run


async def _people_and_parts(headwater: Headwater, people: int, parts: int) -> tuple[list[UUID], list[UUID]]:
    """Traders who have money and tokens of every part, and the parts."""
    users, assets = headwater.repository(User), headwater.repository(Asset)
    ledger = headwater.repository(LedgerRepository)
    ids = [uuid4() for _ in range(people)]
    await users.bulk_insert(headwater.autocommit, [{"id": key, "email": f"{key}@example.org"} for key in ids])
    async with headwater.transaction() as tx:
        await headwater.repository(ChainUser).create(tx, user_id=ids[0], wallet_address="wallet")
        made = [
            (await assets.create(tx, asset_type="drive", issuer_id=ids[0], name="Drive", symbol=f"D{n}")).id
            for n in range(parts)
        ]
        for code, scale, amount in (("USD", 2, MONEY), *((token_of(part), 0, TOKENS) for part in made)):
            await ledger.open_asset(tx, code, scale=scale)
            issuance = await ledger.account(tx, "system", None, code, purpose="issuance", credit_limit=None)
            accounts = await ledger.accounts(tx, "user", ids, code)
            moves = [Move(debit=issuance.id, credit=one.id, amount=amount) for one in accounts.values()]
            for receipt in await ledger.post(tx, moves):
                receipt.or_raise()
    return ids, made


async def _shape(headwater: Headwater) -> str:
    """What all of it left behind, and that it adds up."""
    async with headwater.postgres.connection() as connection:
        row: Any = await connection.fetchrow(
            """
            select (select count(*) from trading.orders) as orders, (select count(*) from trading.trades) as trades,
                   (select count(*) from trading.resting) as resting,
                   (select count(*) from ledger.transfers) as transfers,
                   (select count(*) from headwater.change) as changes,
                   (select coalesce(sum(abs(s)), 0) from
                       (select sum(balance) as s from ledger.accounts group by asset_id) x) as wrong
            """
        )
    if row["wrong"]:
        raise SystemExit(f"the ledger does not add up: {row['wrong']}")
    return (
        f"{row['orders']:,} orders and {row['trades']:,} trades made {row['transfers']:,} transfers and "
        f"{row['changes']:,} changes in the stream; {row['resting']:,} orders rest; the ledger adds up to zero."
    )


if __name__ == "__main__":
    run_as_program(benchmark)
