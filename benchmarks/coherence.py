"""Coherence: writers, readers, a relay and faults, each in a process of its own, and a count of all that must not be.

    python -m benchmarks.coherence --seconds 60 --faults all

Each row carries its version in its name, and rows are written in pairs, one transaction each. Shared memory holds per
row the version whose library call has returned, and the version that is committed, by whoever. Counted are: entries
stale at rest (per process, near caches included, and in Valkey itself), reads older than a write that had returned
before they began, reads more than a second old, reads back in time within a process, torn pairs, rolled-back versions
seen, and errors. `--without PART` removes a part of the protocol: the checker must then find something.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import mmap
import os
import random
import signal
import struct
import sys
import tempfile
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any
from uuid import UUID

import asyncpg

ROWS = 64
PHANTOM = 10**9
VICTIM_ROWS = 8  # the last ones belong to the writer that is killed
RETURNED, COMMITTED, COMMITTED_AT = range(3)
READY = '{"ready": true}'
FAULTS = ("none", "flush", "connections", "relay", "frozen", "old", "all")
PARTS = ("lease", "tombstone", "relay", "ordering")


def key_of(row: int) -> UUID:
    return UUID(int=0x5EED_C0DE_0000_8000_8000_0000_0000_0000 + row)


class Board:
    """What the processes tell each other."""

    def __init__(self, path: Path, *, create: bool = False) -> None:
        size = ROWS * 3 * 8 + 16
        if create:
            path.write_bytes(b"\0" * size)
        self._file = path.open("r+b")
        self._map = mmap.mmap(self._file.fileno(), size)

    def get(self, what: int, row: int) -> int:
        return struct.unpack_from("<q", self._map, (what * ROWS + row) * 8)[0]

    def put(self, what: int, row: int, value: int) -> None:
        struct.pack_into("<q", self._map, (what * ROWS + row) * 8, value)

    @property
    def phase(self) -> int:
        return struct.unpack_from("<q", self._map, ROWS * 24)[0]

    @phase.setter
    def phase(self, value: int) -> None:
        struct.pack_into("<q", self._map, ROWS * 24, value)


def remove(part: str, level: str) -> None:
    """Take a part of the protocol away in this process."""
    from headwater.followers import invalidation
    from headwater.kernel import cache, near_cache
    from headwater.kernel.wire import Script

    def rewrite(*pairs: tuple[str, str]) -> None:
        text = cache.STEPS.text.decode()
        for old, new in pairs:
            assert old in text, old
            text = text.replace(old, new)
        path = Path(tempfile.mkstemp(suffix=".lua")[1])
        path.write_text(text)
        cache.STEPS = invalidation.STEPS = Script.load(path)
        path.unlink()

    if part == "lease":  # a fill is taken without one, as a plain SET
        head = "function steps.fill(key, token, snapshot, entry, ms)\n"
        rewrite((head, head + "  if entry ~= '' then return put(key, entry, ms) and 1 or 0 end\n"))
    elif part == "tombstone":  # an invalidated entry is only deleted
        rewrite(("if entry ~= '' and fulfilled(needs, snapshot) then", "if entry ~= '' then"))
    elif part == "relay":  # it reads, moves its cursor, renews the guard, and invalidates nothing
        invalidation.Invalidation._concerned = lambda self, changes: ({}, set(), False)  # type: ignore[method-assign]
    elif part == "ordering":  # a value is kept even if its invalidation came while it was on its way
        honest = near_cache.NearCache.store

        def store(self: Any, key: Any, ticket: object, value: Any, deadline: float) -> bool:
            self._reading[key] = ticket
            return honest(self, key, ticket, value, deadline)

        near_cache.NearCache.store = store  # type: ignore[method-assign]


def old_loads(seconds: float) -> None:
    """Loads see the database as it was a moment ago, as on a standby that lags."""
    from headwater.kernel.cached_rows import _RowLoader

    lock = asyncio.Lock()
    held: dict[str, Any] = {}

    async def load_all(self: Any, keys: Any) -> Any:
        async with lock:
            if not held or time.monotonic() - held["at"] > seconds:
                if held:
                    await held["connection"].close()
                connection = await asyncpg.connect(self._postgres.settings.database_url)
                await connection.set_type_codec(
                    "jsonb", encoder=json.dumps, decoder=json.loads, schema="pg_catalog", format="text"
                )
                await connection.execute("begin isolation level repeatable read read only; select 1")
                held.update(connection=connection, at=time.monotonic())
            arguments = self._template.arguments({"keys": list(keys)})
            records = await held["connection"].fetch(self._template.sql, *arguments)
        known = self._known
        at = 1 + known.columns.index(known.key_columns[0])
        values = [known.make(record[1:]) for record in records if record[at] is not None]
        return {known.key_of(value): value for value in values}, records[0][0]

    _RowLoader.load_all = load_all  # type: ignore[method-assign]


def system_of(arguments: argparse.Namespace) -> Any:
    """The product's identity module with the level that is checked."""
    from headwater.kernel.cache_policy import CachePolicy
    from headwater.kernel.module import System
    from headwater.modules.identity import MODULE
    from headwater.modules.identity.models import User

    near = 0 if arguments.level in ("strict", "snapshot") else arguments.near
    vars(MODULE)["cache"] = (CachePolicy(kind="user", model=User, ttl_seconds=600, level=arguments.level, near=near),)
    return System("checked", [MODULE])


# -- the processes -----------------------------------------------------------------------------------------------------


async def write(arguments: argparse.Namespace, board: Board, *, victim: bool) -> Counter[str]:
    """Bump pairs of rows for ever: by the library, with rollbacks, and like psql."""
    from headwater.kernel.errors import HeadwaterError
    from headwater.kernel.lifecycle import Headwater
    from headwater.kernel.settings import Settings
    from headwater.modules.identity.models import User

    counts: Counter[str] = Counter()
    rows = range(ROWS - VICTIM_ROWS, ROWS) if victim else range(ROWS - VICTIM_ROWS)
    settings = Settings(database_url=arguments.database, valkey_url=arguments.valkey)
    async with Headwater.open(system_of(arguments), settings) as headwater:
        users = headwater.repository(User)
        print(READY, flush=True)

        async def bump(pair: tuple[int, int], lot: random.Random, foreign: Any) -> None:
            known = await foreign.fetchval(
                "select max(name::bigint) from users where id = any($1)", [*map(key_of, pair)]
            )
            version, how = known + 1, lot.random()
            if how < 0.05 or (victim and how < 0.3):
                await foreign.execute(
                    "update users set name = $1 where id = any($2)", str(version), [*map(key_of, pair)]
                )
                counts["foreign"] += 1
            elif how < 0.1:
                with suppress(ZeroDivisionError):
                    async with headwater.transaction() as tx:
                        await users.update(tx, key_of(pair[0]), name=str(PHANTOM))
                        await users.update(tx, key_of(pair[1]), name=str(PHANTOM))
                        1 / 0  # noqa: B018
                counts["rolled back"] += 1
                return
            else:
                async with headwater.transaction() as tx:
                    for row in pair:
                        await users.update(tx, key_of(row), name=str(version))
                for row in pair:
                    board.put(RETURNED, row, version)
                counts["library"] += 1
            for row in pair:
                board.put(COMMITTED_AT, row, time.monotonic_ns())
                board.put(COMMITTED, row, version)

        async def task(number: int) -> None:
            lot = random.Random(f"{arguments.seed} {number} {os.getpid()}")
            foreign = None
            own = [(a, a + 1) for a in rows if a % 2 == 0 and (victim or a // 2 % 8 == number)]
            while board.phase != 9:
                if board.phase != 1:
                    await asyncio.sleep(0.005)
                    continue
                try:
                    if foreign is None or foreign.is_closed():
                        foreign = await asyncpg.connect(arguments.database)
                    await bump(lot.choice(own), lot, foreign)
                except (HeadwaterError, asyncpg.PostgresError, OSError) as error:
                    counts[f"write error: {type(error).__name__}"] += 1
                await asyncio.sleep(lot.expovariate(1 / arguments.pause))
            if foreign is not None:
                await foreign.close()

        await asyncio.gather(*(task(i) for i in range(1 if victim else 8)))
    return counts


async def read(arguments: argparse.Namespace, board: Board) -> Counter[str]:
    """Read rows and pairs for ever, and at rest say what is seen of each row."""
    from headwater.kernel.errors import HeadwaterError
    from headwater.kernel.lifecycle import Headwater
    from headwater.kernel.settings import Settings
    from headwater.modules.identity.models import User

    counts: Counter[str] = Counter()
    newest = [0] * ROWS
    # A near cache hears of others a moment later, and a writer that was cut off cannot tell: a second bounds both.
    promised = arguments.level == "strict" or (not arguments.near and arguments.faults == "none")
    late = "OLDER THAN RETURNED" if promised else "older than returned"
    settings = Settings(database_url=arguments.database, valkey_url=arguments.valkey)
    async with Headwater.open(system_of(arguments), settings) as headwater:
        users = headwater.repository(User)
        cache = headwater.postgres.cache
        assert cache is not None
        async with asyncio.timeout(30):
            while cache.good_until < time.monotonic():  # noqa: ASYNC110  # the relay makes it so
                await asyncio.sleep(0.01)
        print(READY, flush=True)

        async def task(number: int) -> None:
            lot = random.Random(f"{arguments.seed} {number} {os.getpid()}")
            turn = 0
            while board.phase != 9:
                if board.phase not in (1, 2):
                    await asyncio.sleep(0.005)
                    continue
                turn += 1
                if turn % 50 == 0:
                    await asyncio.sleep(0.001)
                row = lot.randrange(ROWS)
                try:
                    if lot.random() < 0.15:
                        pair = [row & ~1, row | 1]
                        found = await users.get_many(map(key_of, pair), consistency="snapshot")
                        counts["pairs"] += 1
                        if len({user.name for user in found.values()}) != 1:
                            counts["TORN"] += 1
                        continue
                    returned, committed = board.get(RETURNED, row), board.get(COMMITTED, row)
                    committed_at, seen = board.get(COMMITTED_AT, row), newest[row]
                    began = time.monotonic_ns()
                    version = int((await users.get(key_of(row))).name or 0)
                except HeadwaterError as error:
                    counts[f"READ ERROR {type(error).__name__}"] += 1
                    continue
                took = time.monotonic_ns() - began
                counts["slowest ms"] = max(counts["slowest ms"], took // 1_000_000)
                counts["reads"] += 1
                if version >= PHANTOM:
                    counts["PHANTOM"] += 1
                    continue
                counts[late] += version < returned
                if version < committed:
                    counts["older than committed"] += 1
                    counts["OLDER THAN A SECOND"] += began - committed_at > 1_000_000_000
                counts["BACK IN TIME"] += version < seen
                newest[row] = max(newest[row], version)
                if arguments.near:
                    await asyncio.sleep(0)

        async def rest() -> None:
            asked = 0
            while board.phase != 9:
                if board.phase > 100 and board.phase != asked:
                    asked = board.phase
                    await asyncio.sleep(0.05)
                    found = [await users.find(key_of(row)) for row in range(ROWS)]
                    seen = [int(user.name or 0) for user in found if user is not None]
                    print(
                        json.dumps({"round": asked, "rest": seen, "trusted": cache.good_until > time.monotonic()}),
                        flush=True,
                    )
                await asyncio.sleep(0.01)

        await asyncio.gather(rest(), *(task(i) for i in range(8)))
        figures = cache.figures["user"]
        for name in ("hits", "near_hits", "misses", "bypasses", "fills_refused"):
            counts[name] += getattr(figures, name)
    return counts


async def relay(arguments: argparse.Namespace, board: Board) -> Counter[str]:
    """The relay, until the end or a kill."""
    from headwater.followers.invalidation import relaying
    from headwater.kernel.settings import Settings

    settings = Settings(database_url=arguments.database, valkey_url=arguments.valkey)
    async with relaying(system_of(arguments), settings):
        while board.phase != 9:  # noqa: ASYNC110  # another process says so
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
        self.ready = asyncio.Semaphore(0)

    async def start(self, role: str, name: str) -> None:
        spoken = [f"--{k}={v}" for k, v in vars(self.arguments).items() if k not in ("role", "json") and v is not None]
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "benchmarks.coherence", f"--role={role}", *spoken, stdout=asyncio.subprocess.PIPE
        )
        self.processes[name] = process
        self.readings.append(asyncio.create_task(self._listen(process)))

    async def _listen(self, process: asyncio.subprocess.Process) -> None:
        assert process.stdout is not None
        async for line in process.stdout:
            said = json.loads(line)
            if "ready" in said:
                self.ready.release()
            elif "rest" in said:
                self.rests.put_nowait(said)
            else:
                slowest = max(self.counts["slowest ms"], said.get("slowest ms", 0))
                self.counts.update(said)
                self.counts["slowest ms"] = slowest

    async def restart(self, role: str, name: str) -> None:
        process = self.processes[name]
        with suppress(ProcessLookupError):
            process.kill()
        await process.wait()
        self.counts[f"killed {role}"] += 1
        await self.start(role, name)

    async def harm(self, valkey: Any, client: Any) -> None:
        kind = self.arguments.faults
        choice = kind if kind != "all" else self.lot.choice(("flush", "connections", "relay", "frozen", "writer"))
        if choice == "flush":
            await client.flushall()
        elif choice == "connections":
            await client.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
        elif choice == "relay":
            await self.restart("relay", "relay")
        elif choice == "writer":
            await self.restart("victim", "victim")
        elif choice == "frozen":
            pid = valkey.server.identity.pid
            os.kill(pid, signal.SIGSTOP)
            await asyncio.sleep(self.lot.uniform(0.02, 0.3))
            os.kill(pid, signal.SIGCONT)
        elif choice == "old":
            await self.fall_back(valkey, client)
        self.counts[f"fault {choice}"] += choice != "none"

    async def fall_back(self, valkey: Any, client: Any) -> None:
        """Kill Valkey and start it from a file that is a moment old."""
        await client.save()
        await asyncio.sleep(self.lot.uniform(0.05, 0.3))
        os.kill(valkey.server.identity.pid, signal.SIGKILL)
        await asyncio.sleep(0.02)
        await valkey.start()

    async def run(self) -> Counter[str]:
        from valkey.asyncio import Valkey

        from headwater.embedded.postgres import EmbeddedPostgres
        from headwater.embedded.valkey import EmbeddedValkey
        from headwater.kernel.migrations import migrate
        from headwater.kernel.module import System
        from headwater.kernel.settings import Settings
        from headwater.modules.identity import MODULE

        arguments = self.arguments
        async with (
            EmbeddedPostgres(self.home / "home", durable=False) as postgres,
            EmbeddedValkey(self.home / "home") as valkey,
        ):
            arguments.database, arguments.valkey = postgres.socket_dsn, valkey.dsn
            arguments.board = str(self.home / "board")
            board = Board(Path(arguments.board), create=True)
            await migrate(System("checked", [MODULE]), Settings(database_url=arguments.database))
            admin = await asyncpg.connect(arguments.database)
            await admin.executemany(
                "insert into users (id, email, name) values ($1, $2, '1')",
                [(key_of(row), f"{row}@b.example") for row in range(ROWS)],
            )
            client = Valkey.from_url(arguments.valkey)
            await self.start("relay", "relay")
            await self.start("write", "writer")
            await self.start("victim", "victim")
            for i in range(arguments.readers):
                await self.start("read", f"reader {i}")
            async with asyncio.timeout(60):
                for _ in range(2 + arguments.readers):
                    await self.ready.acquire()
            ends = time.monotonic() + arguments.seconds
            round_number = 100
            while time.monotonic() < ends:
                board.phase = 1
                until = min(ends, time.monotonic() + arguments.round)
                while time.monotonic() < until:
                    await asyncio.sleep(self.lot.uniform(0.05, 0.15) if arguments.faults != "old" else 0.8)
                    with suppress(Exception):  # harming a server that is being harmed
                        await self.harm(valkey, client)
                board.phase = 2
                await asyncio.sleep(0.3)  # writes that are under way end
                round_number += 1
                await self.at_rest(round_number, board, admin, client)
            board.phase = 9
            for process in self.processes.values():
                await asyncio.wait_for(process.wait(), 30)
            await asyncio.gather(*self.readings)
            await client.aclose()
            await admin.close()
        return self.counts

    async def at_rest(self, number: int, board: Board, admin: Any, client: Any) -> None:
        """Compare what each process, and Valkey, says of each row with what PostgreSQL says."""
        await asyncio.sleep(0.5 if self.arguments.faults == "none" else 1.5)  # a killed relay is replaced
        truth = {row["id"]: int(row["name"]) for row in await admin.fetch("select id, name from users")}
        board.phase = number
        for _ in range(self.arguments.readers):
            said = await asyncio.wait_for(self.rests.get(), 20)
            self.counts["checked at rest"] += ROWS
            self.counts["checks without trust"] += not said["trusted"]
            self.counts["STALE AT REST"] += sum(
                version != truth[key_of(row)] for row, version in enumerate(said["rest"])
            )
        self.counts["rounds"] += 1


def findings(counts: Counter[str]) -> dict[str, int]:
    """What must not be."""
    return {
        name: count for name, count in counts.items() if (name.isupper() and count) or name.startswith("READ ERROR")
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--round", type=float, default=1.5)
    parser.add_argument("--level", choices=("bounded", "strict", "snapshot"), default="bounded")
    parser.add_argument("--near", type=int, default=0)
    parser.add_argument("--faults", choices=FAULTS, default="none")
    parser.add_argument("--without", choices=PARTS)
    parser.add_argument("--standby", type=float, default=0, help="loads lag so many seconds behind")
    parser.add_argument("--readers", type=int, default=2)
    parser.add_argument("--pause", type=float, default=0.003, help="between writes of one task, on average")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--role", help=argparse.SUPPRESS)
    parser.add_argument("--board", help=argparse.SUPPRESS)
    parser.add_argument("--database", help=argparse.SUPPRESS)
    parser.add_argument("--valkey", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.role:
        return play(arguments)
    with tempfile.TemporaryDirectory(
        prefix="headwater-coherence-", dir="/dev/shm" if Path("/dev/shm").is_dir() else None
    ) as home:
        counts = asyncio.run(Run(arguments, Path(home)).run())
    print(json.dumps(dict(sorted(counts.items())), indent=1))
    found = findings(counts)
    return 1 if found else 0


def play(arguments: argparse.Namespace) -> int:
    """One of the processes."""
    import uvloop

    if arguments.without:
        remove(arguments.without, arguments.level)
    if arguments.standby and arguments.role == "read":
        old_loads(arguments.standby)
    board = Board(Path(arguments.board))
    roles: dict[str, Any] = {
        "write": lambda: write(arguments, board, victim=False),
        "victim": lambda: write(arguments, board, victim=True),
        "read": lambda: read(arguments, board),
        "relay": lambda: relay(arguments, board),
    }
    counts = uvloop.run(roles[arguments.role]())
    print(json.dumps(counts), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
