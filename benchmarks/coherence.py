"""Coherence: writers, readers, a relay, a ticker and faults, each in its own process; a count of what must not be.

    python -m benchmarks.coherence --seconds 60 --faults all --level strict
    python -m benchmarks.coherence --seconds 20 --adapter cashews

Each row carries its version in its name, and rows are written in pairs, one transaction each. Shared memory holds per
row the version whose call has returned to a library's writer, and the newest one committed by whoever. Counted are:
entries stale at rest (as each process sees them, near caches included), reads older than a write that had returned
before they began, reads more than a second old, reads back in time within a process, torn pairs, rolled-back versions
seen, and errors. What must be 0 is in capitals, and the exit code is 1 when it is not.

Nothing counted rests on how fast the machine is: rest is when every writer has said so, PostgreSQL has nothing under
way, the relay's cursor covers that moment, and each reader has had an answer from Valkey since.
`--without PART` removes a part of the protocol (coherence_parts.py): the checker must then find something.
"""

from __future__ import annotations

import argparse
import asyncio
import contextvars
import importlib
import json
import os
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import Any, Protocol

import asyncpg

from benchmarks.coherence_board import (
    ANSWERED,
    COMMITTED,
    COMMITTED_AT,
    OVER,
    PHANTOM,
    RESTING,
    RETURNED,
    ROWS,
    VICTIM_ROWS,
    WRITING,
    Board,
    key_of,
)
from benchmarks.coherence_parts import PARTS, load_old_rows, remove
from benchmarks.valkey_pair import ValkeyPair

READY = '{"ready": true}'
ADAPTERS = ("headwater", "cashews", "aiocache", "dogpile", "advanced_alchemy")
DECK = ("flush", "connections", "frozen", "writer", "relay", "ticker", "full", "evicted", "old", "promoted")
"""The faults. `all` deals them shuffled, again and again."""
_OURS = ("relay", "ticker")
WRITER_TASKS, READER_TASKS = 8, 8


class Adapter(Protocol):
    """A cache as its users use it."""

    async def get(self, row: int) -> int:
        """The row's version, read through the cache."""

    async def pair(self, rows: Sequence[int]) -> list[int]:
        """The versions of two rows, read together."""

    async def peek(self, row: int) -> int | None:
        """What the cache would give this process for the row; None when it would ask the database."""

    async def write(self, rows: Sequence[int], name: str, answered: Callable[[], None], *, fail: bool) -> None:
        """Write the rows in one transaction and tell the cache; `answered` is called when COMMIT has been answered."""


class Ours:
    """Headwater's cache, with figures and with the moment at which it has heard of everything."""

    def __init__(self, headwater: Any) -> None:
        from headwater.modules.identity.models import User

        self.users = headwater.repository(User)
        self.headwater = headwater
        self.cache = headwater.postgres.cache
        self.answered: contextvars.ContextVar[Callable[[], None]] = contextvars.ContextVar("answered")
        self._listen_for_commits()

    def _listen_for_commits(self) -> None:
        from headwater.kernel import transaction

        honest = transaction._commit

        async def commit(link: Any) -> None:
            await honest(link)
            self.answered.get(lambda: None)()

        transaction._commit = commit

    async def get(self, row: int) -> int:
        return int((await self.users.get(key_of(row))).name)

    async def pair(self, rows: Sequence[int]) -> list[int]:
        found = await self.users.get_many([key_of(row) for row in rows], consistency="snapshot")
        return [int(user.name) for user in found.values()]

    async def peek(self, row: int) -> int | None:
        figures = self.cache.figures["user"]
        before = figures.hits + figures.near_hits
        version = await self.get(row)
        return version if figures.hits + figures.near_hits > before else None

    async def write(self, rows: Sequence[int], name: str, answered: Callable[[], None], *, fail: bool) -> None:
        self.answered.set(answered)
        async with self.headwater.transaction() as tx:
            for row in rows:
                await self.users.update(tx, key_of(row), name=name)
            if fail:
                raise ZeroDivisionError

    async def hear(self) -> None:
        """Return when this process believes Valkey again and has had an answer from it, and so all it said before."""
        async with asyncio.timeout(30):
            while True:
                with suppress(*_unreachable()):
                    if self.cache.believes():
                        await self.cache.wire.send(b"PING")
                        return
                await asyncio.sleep(0.01)


def _unreachable() -> tuple[type[Exception], ...]:
    from headwater.kernel.cached_rows import UNREACHABLE

    return UNREACHABLE


@asynccontextmanager
async def opened(arguments: argparse.Namespace) -> AsyncIterator[Adapter]:
    """The adapter of one process."""
    if arguments.adapter != "headwater":
        peer = importlib.import_module(f"benchmarks.peers.{arguments.adapter}_cache")
        async with peer.opened(arguments.database, arguments.valkey) as made:
            yield made
        return
    from headwater.kernel.lifecycle import Headwater
    from headwater.kernel.settings import Settings

    settings = Settings(database_url=arguments.database, valkey_url=arguments.valkey)
    async with Headwater.open(system_of(arguments), settings) as headwater:
        yield Ours(headwater)


def system_of(arguments: argparse.Namespace) -> Any:
    """The product's identity module with the level that is checked."""
    from headwater.kernel.cache_policy import CachePolicy
    from headwater.kernel.module import System
    from headwater.modules.identity import MODULE
    from headwater.modules.identity.models import User

    near = 0 if arguments.level in ("strict", "snapshot") else arguments.near
    stale = {"stale_seconds": 0.0} if arguments.level != "relaxed" else {"stale_seconds": 5.0}
    policy = CachePolicy(kind="user", model=User, ttl_seconds=600, level=arguments.level, near=near, **stale)
    vars(MODULE)["cache"] = (policy,)
    return System("checked", [MODULE])


# -- the processes -----------------------------------------------------------------------------------------------------


async def write(arguments: argparse.Namespace, board: Board, *, victim: bool) -> Counter[str]:
    """Bump pairs of rows for ever: by the library, with rollbacks, and like psql."""
    counts: Counter[str] = Counter()
    rows = range(ROWS - VICTIM_ROWS, ROWS) if victim else range(ROWS - VICTIM_ROWS)
    busy = 0

    async def bump(adapter: Adapter, pair: tuple[int, int], lot: random.Random, foreign: Any) -> None:
        known = await foreign.fetchval("select max(name::bigint) from users where id = any($1)", [*map(key_of, pair)])
        version, how = known + 1, lot.random()

        def answered() -> None:
            for row in pair:
                board.put(ANSWERED, row, version)

        if how < arguments.foreign * (5 if victim else 1):
            await foreign.execute("update users set name = $1 where id = any($2)", str(version), [*map(key_of, pair)])
            counts["foreign"] += 1
        elif how > 0.95:
            with suppress(ZeroDivisionError, *_rollbacks(arguments)):
                await adapter.write(pair, str(PHANTOM), lambda: None, fail=True)
            counts["rolled back"] += 1
            return
        else:
            await adapter.write(pair, str(version), answered, fail=False)
            for row in pair:
                board.put(RETURNED, row, version)
            counts["library"] += 1
        for row in pair:
            board.put(COMMITTED_AT, row, time.monotonic_ns())
            board.put(COMMITTED, row, version)

    async def task(adapter: Adapter, number: int) -> None:
        nonlocal busy
        lot = random.Random(f"{arguments.seed} {number} {os.getpid()}")
        foreign = None
        own = [(a, a + 1) for a in rows if a % 2 == 0 and (victim or a // 2 % WRITER_TASKS == number)]
        while board.phase != OVER:
            busy += 1
            if board.phase != WRITING:
                busy -= 1
                await asyncio.sleep(0.005)
                continue
            try:
                if foreign is None or foreign.is_closed():
                    foreign = await asyncpg.connect(arguments.database)
                await bump(adapter, lot.choice(own), lot, foreign)
            except Exception as error:  # of the peers: any
                counts[f"write error {type(error).__name__}"] += 1
            finally:
                busy -= 1
            await asyncio.sleep(lot.expovariate(1 / arguments.pause))
        if foreign is not None:
            await foreign.close()

    async def rest() -> None:
        while board.phase != OVER:
            turn = board.turn
            if board.phase != WRITING and busy == 0:
                board.rest(int(victim), turn)
            await asyncio.sleep(0.005)

    async with opened(arguments) as adapter:
        print(READY, flush=True)
        await asyncio.gather(rest(), *(task(adapter, i) for i in range(1 if victim else WRITER_TASKS)))
    return counts


def _rollbacks(arguments: argparse.Namespace) -> tuple[type[Exception], ...]:
    if arguments.adapter == "headwater":
        return ()
    from benchmarks.peers.coherence_writes import Rollback

    return (Rollback,)


async def read(arguments: argparse.Namespace, board: Board) -> Counter[str]:
    """Read rows and pairs for ever, and at rest say what is seen of each row."""
    counts: Counter[str] = Counter()
    newest = [0] * ROWS
    ours = arguments.adapter == "headwater"
    # Strict and snapshot kinds promise it whatever happens; the others are at most a second old.
    late = "OLDER THAN RETURNED" if arguments.level in ("strict", "snapshot") or not ours else "older than returned"

    async def look(adapter: Adapter, row: int) -> None:
        returned, answered = board.get(RETURNED, row), board.get(ANSWERED, row)
        committed, committed_at, seen = board.get(COMMITTED, row), board.get(COMMITTED_AT, row), newest[row]
        began = time.monotonic_ns()
        version = await adapter.get(row)
        counts["slowest ms"] = max(counts["slowest ms"], (time.monotonic_ns() - began) // 1_000_000)
        counts["reads"] += 1
        if version >= PHANTOM:
            counts["PHANTOM"] += 1
            return
        counts[late] += version < returned
        counts["older than answered"] += version < answered
        if version < committed:
            counts["older than committed"] += 1
            counts["OLDER THAN A SECOND"] += began - committed_at > 1_000_000_000
        counts["BACK IN TIME"] += version < seen
        newest[row] = max(newest[row], version)

    async def task(adapter: Adapter, number: int) -> None:
        lot = random.Random(f"{arguments.seed} {number} {os.getpid()}")
        turn = 0
        while board.phase != OVER:
            if board.phase not in (WRITING, RESTING):
                await asyncio.sleep(0.005)
                continue
            turn += 1
            if turn % 50 == 0:
                await asyncio.sleep(0.001)
            row = lot.randrange(ROWS)
            try:
                if lot.random() < 0.15:
                    found = await adapter.pair([row & ~1, row | 1])
                    counts["pairs"] += 1
                    counts["TORN"] += len(set(found)) != 1
                    counts["PHANTOM"] += max(found) >= PHANTOM
                else:
                    await look(adapter, row)
            except Exception as error:  # of the peers: any
                counts[f"READ ERROR {type(error).__name__}"] += 1
                await asyncio.sleep(0.005)
            if arguments.near:
                await asyncio.sleep(0)

    async def rest(adapter: Adapter) -> None:
        asked = 0
        while board.phase != OVER:
            if board.phase > 100 and board.phase != asked:
                asked, heard = board.phase, True
                if isinstance(adapter, Ours):
                    try:
                        await adapter.hear()
                    except TimeoutError:
                        heard = False
                seen = []
                for row in range(ROWS):
                    try:
                        seen.append(await adapter.peek(row))
                    except Exception:  # of the peers: any
                        seen.append(None)
                        counts["peek errors"] += 1
                print(json.dumps({"round": asked, "rest": seen, "heard": heard}), flush=True)
            await asyncio.sleep(0.01)

    async with opened(arguments) as adapter:
        if isinstance(adapter, Ours):
            await adapter.hear()
        print(READY, flush=True)
        await asyncio.gather(rest(adapter), *(task(adapter, i) for i in range(READER_TASKS)))
        if isinstance(adapter, Ours):
            figures = adapter.cache.figures["user"]
            for name in ("hits", "near_hits", "misses", "bypasses", "fills_refused"):
                counts[name] += getattr(figures, name)
    return counts


async def relay(arguments: argparse.Namespace, board: Board) -> Counter[str]:
    """The relay, until the end or a kill."""
    from headwater.followers.invalidation import relaying
    from headwater.kernel.settings import Settings

    settings = Settings(database_url=arguments.database, valkey_url=arguments.valkey)
    async with relaying(system_of(arguments), settings):
        print(READY, flush=True)
        while board.phase != OVER:
            await asyncio.sleep(0.02)
    return Counter()


async def ticker(arguments: argparse.Namespace, board: Board) -> Counter[str]:
    """The ticker of the stream, until the end or a kill. The cache does not need it; nor may it be in its way."""
    from headwater.kernel.settings import Settings
    from headwater.kernel.ticker import ticking

    async with ticking(Settings(database_url=arguments.database)):
        print(READY, flush=True)
        while board.phase != OVER:
            await asyncio.sleep(0.02)
    return Counter()


# -- the run -----------------------------------------------------------------------------------------------------------


class Run:
    """Starts the processes, does harm, and counts."""

    def __init__(self, arguments: argparse.Namespace, home: Path) -> None:
        self.arguments = arguments
        self.home = home
        self.counts: Counter[str] = Counter()
        self.lot = random.Random(arguments.seed)
        self.processes: dict[str, asyncio.subprocess.Process] = {}
        self.rests: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self.readings: list[asyncio.Task[None]] = []
        self.ready: asyncio.Queue[str] = asyncio.Queue()
        self.ours = arguments.adapter == "headwater"
        self.deck: list[str] = []

    async def start(self, role: str, name: str) -> None:
        spoken = [f"--{k}={v}" for k, v in vars(self.arguments).items() if k != "role" and v is not None]
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "benchmarks.coherence",
            f"--role={role}",
            *spoken,
            stdout=asyncio.subprocess.PIPE,
            stderr=None if self.ours else asyncio.subprocess.DEVNULL,  # the peers log what they swallow
        )
        self.processes[name] = process
        self.readings.append(asyncio.create_task(self._listen(process, name)))

    async def _listen(self, process: asyncio.subprocess.Process, name: str) -> None:
        assert process.stdout is not None
        async for line in process.stdout:
            said = json.loads(line)
            if "ready" in said:
                self.ready.put_nowait(name)
            elif "rest" in said:
                self.rests.put_nowait(said)
            else:
                slowest = max(self.counts["slowest ms"], said.get("slowest ms", 0))
                self.counts.update(said)
                self.counts["slowest ms"] = slowest

    async def restart(self, name: str) -> None:
        """kill -9, and another one in its place."""
        process = self.processes[name]
        with suppress(ProcessLookupError):
            process.kill()
        await process.wait()
        await self.start(name, name)

    def deal(self) -> str:
        """The next fault."""
        if self.arguments.faults != "all":
            return str(self.arguments.faults)
        if not self.deck:
            self.deck = [fault for fault in DECK if self.ours or fault not in _OURS]
            self.lot.shuffle(self.deck)
        return self.deck.pop()

    async def harm(self, valkey: ValkeyPair) -> None:
        fault, lot = self.deal(), self.lot
        if fault == "flush":
            await valkey.flush()
        elif fault == "connections":
            await valkey.disconnect()
        elif fault == "frozen":
            await valkey.freeze(lot.uniform(0.02, 0.3))
        elif fault == "writer":
            await self.restart("victim")
        elif fault in _OURS:
            await self.restart(fault)
        elif fault == "full":
            await valkey.fill_up(lot.uniform(0.1, 0.4), "noeviction", lot)
        elif fault == "evicted":
            await valkey.fill_up(lot.uniform(0.1, 0.4), "allkeys-lru", lot)
        elif fault == "old":
            await valkey.fall_back(lot.uniform(0.05, 0.3))
        elif fault == "promoted":
            await valkey.promote(lot.uniform(0.05, 0.3))
        self.counts[f"fault {fault}"] += fault != "none"

    async def run(self) -> Counter[str]:
        arguments = self.arguments
        async with AsyncExitStack() as stack:
            if arguments.database is None:
                arguments.database = await self.database(stack)
            valkey = await stack.enter_async_context(
                ValkeyPair(self.home / "valkeys", replica=arguments.faults in ("promoted", "all"))
            )
            arguments.valkey = valkey.url
            arguments.board = str(self.home / "board")
            board = Board(Path(arguments.board), create=True)
            admin = await asyncpg.connect(arguments.database)
            stack.push_async_callback(admin.close)
            await admin.execute("delete from users where id = any($1)", [*map(key_of, range(ROWS))])
            await admin.executemany(
                "insert into users (id, email, name) values ($1, $2, '1')",
                [(key_of(row), f"{row}@b.example") for row in range(ROWS)],
            )
            stack.push_async_callback(self._end)
            roles = [(role, role) for role in ("write", "victim", *(_OURS if self.ours else ()))]
            roles += [("read", f"reader {i}") for i in range(arguments.readers)]
            for role, name in roles:
                await self.start(role, name)
            async with asyncio.timeout(90):
                for _ in roles:
                    await self.ready.get()
            began, number = time.monotonic(), 100
            while time.monotonic() < began + arguments.seconds:
                number += 1
                board.phase = WRITING
                until = min(began + arguments.seconds, time.monotonic() + arguments.round)
                while time.monotonic() < until:
                    await asyncio.sleep(self.lot.uniform(0.05, 0.15))
                    if arguments.faults != "none":
                        await self.harm(valkey)
                await self.at_rest(number, board, admin, valkey)
            board.phase = OVER
            for name, process in self.processes.items():
                try:
                    await asyncio.wait_for(process.wait(), 30)
                except TimeoutError:
                    self.counts[f"{name} did not end"] += 1
                    process.kill()
            await asyncio.gather(*self.readings)
        return self.counts

    async def _end(self) -> None:
        for process in self.processes.values():
            if process.returncode is None:
                process.kill()
                await process.wait()

    async def database(self, stack: AsyncExitStack) -> str:
        from headwater.embedded.postgres import EmbeddedPostgres
        from headwater.kernel.migrations import migrate
        from headwater.kernel.module import System
        from headwater.kernel.settings import Settings
        from headwater.modules.identity import MODULE

        postgres = await stack.enter_async_context(EmbeddedPostgres(self.home / "home", durable=False))
        await migrate(System("checked", [MODULE]), Settings(database_url=postgres.socket_dsn))
        return postgres.socket_dsn

    async def at_rest(self, number: int, board: Board, admin: Any, valkey: ValkeyPair) -> None:
        """Wait for rest, and compare what each process sees of each row with what PostgreSQL says."""
        board.turn = number
        board.phase = RESTING
        async with asyncio.timeout(60):
            while min(board.rests(0), board.rests(1)) < number:
                await asyncio.sleep(0.005)
            while await admin.fetchval(  # a writer that was killed may have sent its COMMIT
                """select count(*) from pg_stat_activity where datname = current_database()
                   and pid <> pg_backend_pid() and backend_xid is not null"""
            ):
                await asyncio.sleep(0.005)
        if self.ours:
            caught_up = await self._caught_up(admin, valkey)
            self.counts["THE RELAY DID NOT CATCH UP"] += not caught_up
        else:
            await asyncio.sleep(0.3)  # what runs after the commit without being waited for
        truth = {row["id"]: int(row["name"]) for row in await admin.fetch("select id, name from users")}
        board.phase = number
        for _ in range(self.arguments.readers):
            said = await asyncio.wait_for(self.rests.get(), 90)
            self.counts["READERS THAT NEVER BELIEVED"] += not said["heard"]
            for row, version in enumerate(said["rest"]):
                self.counts["checked at rest"] += version is not None
                self.counts["STALE AT REST"] += version is not None and version != truth[key_of(row)]
        self.counts["rounds"] += 1
        if not self.ours:
            await valkey.flush()  # so that an entry which stays stale is counted once

    async def _caught_up(self, admin: Any, valkey: ValkeyPair) -> bool:
        from headwater.followers.invalidation import _IDENTITY, Cursor
        from headwater.kernel.cache import names_of
        from headwater.kernel.snapshots import covers

        identity, _, now, _ = await admin.fetchrow(_IDENTITY)
        with suppress(TimeoutError):
            async with asyncio.timeout(60):
                while True:
                    with suppress(OSError, ConnectionError):
                        cursor = Cursor.read(await valkey.ask("GET", names_of(identity)[0]))
                        if cursor is not None and covers(cursor.snapshot, now):
                            return True
                    await asyncio.sleep(0.01)
        return False


def findings(counts: Counter[str]) -> dict[str, int]:
    """What must not be."""
    return {
        name: count
        for name, count in counts.items()
        if count and (name.isupper() or name.startswith("READ ERROR") or "did not end" in name)
    }


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--seconds", type=float, default=20)
    made.add_argument("--round", type=float, default=1.5, help="seconds between two looks at rest")
    made.add_argument("--adapter", choices=ADAPTERS, default="headwater")
    made.add_argument("--level", choices=("relaxed", "bounded", "strict", "snapshot"), default="bounded")
    made.add_argument("--near", type=int, default=0)
    made.add_argument("--faults", choices=("none", "all", *DECK), default="none")
    made.add_argument("--without", choices=PARTS)
    made.add_argument("--standby", type=float, default=0, help="loads lag so many seconds behind")
    made.add_argument("--readers", type=int, default=2)
    made.add_argument("--pause", type=float, default=0.003, help="between writes of one task, on average")
    made.add_argument("--foreign", type=float, default=0.05, help="the share of writes that come as from psql")
    made.add_argument("--seed", type=int, default=1)
    made.add_argument("--database", help="a migrated database to use (default: one of its own)")
    made.add_argument("--role", help=argparse.SUPPRESS)
    made.add_argument("--board", help=argparse.SUPPRESS)
    made.add_argument("--valkey", help=argparse.SUPPRESS)
    return made


@contextmanager
def home_of_a_run() -> Iterator[Path]:
    """A folder for the servers, in memory where there is some."""
    memory = Path("/dev/shm")
    place = memory if memory.is_dir() else None
    with tempfile.TemporaryDirectory(prefix="headwater-coherence-", dir=place, ignore_cleanup_errors=True) as home:
        Path(home).chmod(0o755)  # the servers run as another user
        yield Path(home)


def check(arguments: argparse.Namespace) -> Counter[str]:
    """One run, with servers of its own."""
    with home_of_a_run() as home:
        return asyncio.run(Run(arguments, home).run())


def main() -> int:
    arguments = parser().parse_args()
    if arguments.role:
        return play(arguments)
    counts = check(arguments)
    print(json.dumps(dict(sorted(counts.items())), indent=1))
    return 1 if findings(counts) else 0


def play(arguments: argparse.Namespace) -> int:
    """One of the processes."""
    import uvloop

    if arguments.without:
        remove(arguments.without)
    if arguments.standby and arguments.role == "read":
        load_old_rows(arguments.standby)
    board = Board(Path(arguments.board))
    roles: dict[str, Any] = {
        "write": lambda: write(arguments, board, victim=False),
        "victim": lambda: write(arguments, board, victim=True),
        "read": lambda: read(arguments, board),
        "relay": lambda: relay(arguments, board),
        "ticker": lambda: ticker(arguments, board),
    }
    counts = uvloop.run(roles[arguments.role]())
    print(json.dumps(counts), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
