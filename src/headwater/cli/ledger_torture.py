"""Torture: money moves while clients, backends and the server are killed with -9; an outside record says what must be.

A client is a process of its own. The id of each command encodes what was asked (debit, credit, amount, which chain),
so that whatever is found in the database can be judged by its id alone, and it writes each answer to a file of its own
after it was told. Afterwards: what was acknowledged is there, what was refused is not, nothing is there that nobody
asked for, a chain is there wholly or not at all, and the whole ledger is verified.
"""

from __future__ import annotations

import asyncio
import contextlib
import multiprocessing
import os
import random
import shutil
import signal
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from time import perf_counter
from typing import Any
from uuid import UUID

from headwater.embedded.postgres import EmbeddedPostgres
from headwater.kernel.errors import DeadlockDetected, HeadwaterError
from headwater.kernel.migrations import migrate
from headwater.kernel.module import System
from headwater.kernel.postgres import Postgres
from headwater.kernel.settings import Settings
from headwater.modules.ledger import MODULE
from headwater.modules.ledger.proof import seal, verify
from headwater.modules.ledger.repository import AnyCommand, LedgerRepository, Move

ACCOUNTS = 40
EACH = 1_000
_DONE, _REFUSED = "done", "refused"
_PROCESSES = multiprocessing.get_context("forkserver")
_PROCESSES.set_forkserver_preload([__name__])  # a client is born in milliseconds, with all its modules
_Client = tuple[multiprocessing.process.BaseProcess, Path]

Tell = Callable[[str], None]


def plan_of(client: int, number: int, *, chain: int, debit: int, credit: int, amount: int) -> UUID:
    """An id that says what is asked: client and number make it unique; `chain` is how many belong together, or 0."""
    return UUID(
        int=(client & 0xFFFF_FFFF) << 96
        | (number >> 12 & 0xFFFF) << 80
        | 8 << 76
        | (number & 0xFFF) << 64
        | 2 << 62
        | (chain & 0xFF) << 40
        | (debit & 0xFF) << 32
        | (credit & 0xFF) << 24
        | amount & 0xFFFF
    )


def read_plan(key: UUID) -> tuple[int, int, int, int, int, int]:
    """Client, number, chain, debit, credit, amount of an id."""
    whole = key.int
    number = (whole >> 80 & 0xFFFF) << 12 | whole >> 64 & 0xFFF
    return whole >> 96, number, whole >> 40 & 0xFF, whole >> 32 & 0xFF, whole >> 24 & 0xFF, whole & 0xFFFF


async def client(dsn: str, name: int, record: Path, accounts: list[int]) -> None:
    """Move money until somebody kills this process. What cannot be answered now is asked again with the same ids."""
    chance = random.Random(name)  # noqa: S311  # repeatable on purpose
    number = 0

    def asked(chain: int) -> Move:
        nonlocal number
        number += 1
        debit, credit = chance.sample(range(ACCOUNTS), 2)
        amount = chance.choice((1, 5, 20, 400, 3_000))
        key = plan_of(name, number, chain=chain, debit=debit, credit=credit, amount=amount)
        return Move(id=key, debit=accounts[debit], credit=accounts[credit], amount=amount)

    with record.open("a", buffering=1) as told:
        postgres: Postgres | None = None
        while True:
            size = chance.choice((1, 1, 1, 4, 20))
            linked = size > 1 and chance.random() < 0.5
            commands: list[AnyCommand] = [asked(size if linked else 0) for _ in range(size)]
            while True:
                try:
                    if postgres is None:
                        postgres = await Postgres.open(Settings(database_url=dsn, pool_size_max=4))
                    ledger = LedgerRepository(postgres)
                    if linked:
                        receipts = await ledger.post_chain(commands)
                    else:
                        receipts = list(await asyncio.gather(*(ledger.post_one(one) for one in commands)))
                    break
                except DeadlockDetected:
                    told.write("deadlock\n")
                except HeadwaterError:
                    if postgres is not None:
                        with contextlib.suppress(HeadwaterError):
                            await postgres.close(grace_seconds=0)
                    postgres = None
                    await asyncio.sleep(0.05)
            for receipt in receipts:
                told.write(f"{receipt.id} {_DONE if receipt.done else _REFUSED} {int(receipt.status)}\n")


async def run(
    home: Path, *, kills: int, clients: int, pause_seconds: float, seed: int, tell: Tell = lambda _line: None
) -> dict[str, Any]:
    """Torture a database made for it; what was counted, and what was found wrong."""
    folder = _folder(home)
    chance = random.Random(seed)  # noqa: S311  # repeatable on purpose
    killed: Counter[str] = Counter()
    running: list[_Client] = []
    restarts: list[float] = []
    try:
        async with EmbeddedPostgres(folder / "home") as server:
            dsn = server.socket_dsn
            await migrate(System("torture", [MODULE]), Settings(database_url=dsn))
            accounts = await _open_accounts(dsn)
            names = iter(range(seed * 100_000 + 1, 2**32))
            running = [_start(dsn, next(names), folder, accounts) for _ in range(clients)]
            for number in range(kills):
                await asyncio.sleep(pause_seconds * chance.uniform(0.5, 1.5))
                kind = chance.choices(("client", "backend", "server"), (8, 1, 1))[0] if number >= 3 else (
                    "client", "backend", "server")[number]  # fmt: skip
                if kind == "client":
                    at = chance.randrange(len(running))
                    await _told(running[at][1])
                    _kill(running[at])
                    running[at] = _start(dsn, next(names), folder, accounts)
                elif kind == "backend":
                    await _kill_backend(dsn, chance)
                else:
                    began = perf_counter()
                    identity = server.server.identity
                    assert identity is not None
                    os.kill(identity.pid, signal.SIGKILL)
                    while server.server.running:  # noqa: ASYNC110  # another process ends, nobody tells us
                        await asyncio.sleep(0.005)
                    await server.start()
                    restarts.append(perf_counter() - began)
                killed[kind] += 1
                if (number + 1) % 50 == 0:
                    tell(f"{number + 1} of {kills} kills")
                    await _seal(dsn)
            await asyncio.sleep(pause_seconds)
            for one in running:
                _kill(one)
            counts, faults = await _judge(dsn, folder, accounts)
        counts |= {f"killed {kind}s": killed[kind] for kind in ("client", "backend", "server")}
        counts["slowest restart (ms)"] = int(max(restarts, default=0) * 1_000)
        return {"counts": counts, "faults": faults}
    finally:
        for one in running:
            _kill(one)
        shutil.rmtree(folder, ignore_errors=True)


async def _open_accounts(dsn: str) -> list[int]:
    postgres = await Postgres.open(Settings(database_url=dsn))
    try:
        ledger = LedgerRepository(postgres)
        await ledger.open_asset(postgres, "GOLD", scale=0)
        issuance = await ledger.account(postgres, "system", None, "GOLD", credit_limit=None)
        owners = [UUID(int=n + 1) for n in range(ACCOUNTS)]
        made = await ledger.accounts(postgres, "tortured", owners, "GOLD")
        accounts = [made[owner].id for owner in owners]
        for receipt in await ledger.post(
            postgres, [Move(debit=issuance.id, credit=one, amount=EACH) for one in accounts]
        ):
            receipt.or_raise()
        return accounts
    finally:
        await postgres.close()


def _start(dsn: str, name: int, folder: Path, accounts: list[int]) -> _Client:
    record = folder / f"client-{name}"
    process = _PROCESSES.Process(target=_client, args=(dsn, name, record, accounts), daemon=True)
    process.start()
    return process, record


def _client(dsn: str, name: int, record: Path, accounts: list[int]) -> None:
    asyncio.run(client(dsn, name, record, accounts))


def _kill(one: _Client) -> None:
    one[0].kill()
    one[0].join()


async def _told(record: Path) -> None:
    """Wait until a client has had an answer (but not for long): killing one that never worked proves nothing."""
    for _ in range(200):
        if await asyncio.to_thread(_written, record):
            return
        await asyncio.sleep(0.01)


def _written(record: Path) -> bool:
    return record.exists() and record.stat().st_size > 0


async def _kill_backend(dsn: str, chance: random.Random) -> None:
    """One backend dies; PostgreSQL then ends all of them and recovers."""
    with contextlib.suppress(HeadwaterError, ProcessLookupError):
        postgres = await Postgres.open(Settings(database_url=dsn, pool_size_max=1))
        try:
            async with postgres.connection() as connection:
                pids = await connection.fetch(
                    "select pid from pg_stat_activity where backend_type = 'client backend' and pid <> pg_backend_pid()"
                )
        finally:
            await postgres.close(grace_seconds=0)
        if pids:
            os.kill(chance.choice(pids)["pid"], signal.SIGKILL)


async def _seal(dsn: str) -> None:
    with contextlib.suppress(HeadwaterError):
        postgres = await Postgres.open(Settings(database_url=dsn, pool_size_max=1))
        try:
            await seal(postgres)
        finally:
            await postgres.close(grace_seconds=0)


async def _judge(dsn: str, folder: Path, accounts: list[int]) -> tuple[dict[str, int], list[str]]:
    """What the clients were told against what is there."""
    acknowledged, known, deadlocks = _records(folder)
    postgres = await _reached(dsn)
    try:
        async with postgres.connection() as connection:
            rows = await connection.fetch(
                "select t.id, t.debit_account_id, t.credit_account_id, t.amount from ledger.transfers t"
                " where uuid_extract_version(t.id) = 8"
            )
            refusals = {row["id"] for row in await connection.fetch("select id from ledger.refusals")}
            held = await connection.fetchval("select sum(balance) from ledger.accounts where owner_kind = 'tortured'")
            lowest = await connection.fetchval("select min(balance) from ledger.accounts where owner_kind = 'tortured'")
        report = await verify(postgres)
    finally:
        await postgres.close(grace_seconds=0)
    there = {row["id"]: row for row in rows}
    lost = [key for key, what in acknowledged.items() if what == _DONE and key not in there]
    denied = [key for key, what in acknowledged.items() if what == _REFUSED and (key in there or key not in refusals)]
    clients = {read_plan(key)[0] for key in there}
    ghosts = [
        key
        for key, row in there.items()
        if (row["debit_account_id"], row["credit_account_id"], int(row["amount"])) != _asked(key, accounts)
    ]
    parted = _parted(there)
    faults = [f"acknowledged, and not there: {key}" for key in lost[:3]]
    faults += [f"refused, and there or forgotten: {key}" for key in denied[:3]]
    faults += [f"there, and not as it was asked: {key}" for key in ghosts[:3]]
    faults += [f"there from nobody: client {name}" for name in sorted(clients - known)[:3]]
    faults += [f"a chain is there in part: {key}" for key in parted[:3]]
    faults += [f"{fault.place}: {fault.message}" for fault in report.faults]
    if held != ACCOUNTS * EACH:
        faults.append(f"the sum is {held}, not {ACCOUNTS * EACH}")
    if lowest < 0:
        faults.append(f"an account is overdrawn: {lowest}")
    if deadlocks:
        faults.append(f"{deadlocks} deadlocks")
    answers = Counter(acknowledged.values())
    counts = {
        "acknowledged": answers[_DONE],
        "refused": answers[_REFUSED],
        "done unheard": len(there) - answers[_DONE] + len(lost),
        "lost": len(lost),
        "denied": len(denied),
        "ghosts": len(ghosts) + len(clients - known),
        "parted chains": len(parted),
        "deadlocks": deadlocks,
        "seals": report.seals,
    }
    return counts, faults


def _folder(home: Path) -> Path:
    home.mkdir(parents=True, exist_ok=True)
    return Path(tempfile.mkdtemp(prefix="torture-", dir=home))


def _records(folder: Path) -> tuple[dict[UUID, str], set[int], int]:
    """What the clients were told, who they were, and how many deadlocks they met."""
    acknowledged: dict[UUID, str] = {}
    known: set[int] = set()
    deadlocks = 0
    for record in folder.glob("client-*"):
        known.add(int(record.name.partition("-")[2]))
        for line in record.read_text().splitlines():
            if line == "deadlock":
                deadlocks += 1
                continue
            parts = line.split(" ")
            if len(parts) == 3 and parts[2]:  # else the process died while it wrote the line
                acknowledged[UUID(parts[0])] = parts[1]
    return acknowledged, known, deadlocks


def _asked(key: UUID, accounts: list[int]) -> tuple[int, int, int]:
    _, _, _, debit, credit, amount = read_plan(key)
    return accounts[debit], accounts[credit], amount


def _parted(there: dict[UUID, Any]) -> list[UUID]:
    """Chains of which some members are there and some are not. Members have consecutive numbers."""
    by_client: dict[int, dict[int, UUID]] = {}
    for key in there:
        name, number, chain, *_ = read_plan(key)
        if chain:
            by_client.setdefault(name, {})[number] = key
    found = []
    for members in by_client.values():
        numbers = sorted(members)
        at = 0
        while at < len(numbers):
            size = read_plan(members[numbers[at]])[2]
            if numbers[at : at + size] != list(range(numbers[at], numbers[at] + size)):
                found.append(members[numbers[at]])
            at += size
    return found


async def _reached(dsn: str) -> Postgres:
    """The server may be in recovery."""
    for attempt in range(200):
        try:
            return await Postgres.open(Settings(database_url=dsn, statement_timeout_ms=0))
        except HeadwaterError:
            if attempt == 199:
                raise
            await asyncio.sleep(0.05)
    raise AssertionError("unreachable")
