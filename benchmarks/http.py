"""HTTP: one entity and a page of 100 from the whole stack on one core, beside the usual stacks; and what overload does.

Run it as `python -m benchmarks.http`: as a script its name would hide the standard library's module.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any
from uuid import UUID

from benchmarks.command import run_as_program
from benchmarks.reporting import Findings
from benchmarks.stores import durable_postgres
from headwater import Headwater, Settings
from headwater.embedded.postgres import EmbeddedPostgres
from headwater.kernel.migrations import migrate
from headwater.modules.blockchain.models import Asset, ChainUser
from headwater.modules.identity.models import User
from headwater.systems.construct import CONSTRUCT

SERVICES = {
    "headwater": "ours",
    "FastAPI + SQLAlchemy async": "fastapi_sqlalchemy",
    "FastAPI + SQLModel template": "fastapi_sqlmodel",
    "Starlette, constant bytes": "starlette_constant",
}
OURS, ORM, TEMPLATE, BARE = SERVICES
ENTITY, PAGE = "one entity", "a page of 100"
GOALS = {ENTITY: (8, 10), PAGE: (5, 8)}
CONNECTIONS = 32
GOODPUT_LEVELS = (64, 256, 1_024)
BEYOND = 4_096
_DIGITS = str.maketrans("0", "Z")  # base58 has no zero
TYPES = 20
HERE = Path(__file__).parent


@dataclass(frozen=True, slots=True)
class Load:
    """What one slice of load found."""

    requests: int
    seconds: float
    refused: int
    broken: int
    p50_ms: float
    p99_ms: float
    cpu_us: float

    @property
    def rate(self) -> float:
        """Requests answered well, per second."""
        return (self.requests - self.refused) / self.seconds


@dataclass(frozen=True, slots=True)
class Probe:
    """One request beside the load, and what it was told."""

    status: int
    retry_after: bool
    seconds: float


@dataclass(slots=True)
class Server:
    """A running service."""

    process: subprocess.Popen[str]
    port: int
    loads: dict[str, list[Load]] = field(default_factory=dict)

    def cpu_seconds(self) -> float:
        """CPU time of the process with all its threads, also those that have ended (Linux: clock_getcpuclockid)."""
        return time.clock_gettime((~self.process.pid << 3) | 2)


async def benchmark(short: bool) -> Findings:
    assets, rounds, seconds = (2_000, 1, 1) if short else (10_000, 10, 1)
    findings = Findings(
        "http",
        "The whole service answers an entity or a page many times as often as the usual stacks, and "
        "overload does not stop it.",
        f"{assets:,} assets; {TYPES} types. Each service is one uvicorn worker (uvloop, httptools, no "
        "access log) on core 0; "
        f"wrk with {CONNECTIONS} connections and PostgreSQL share core 1. Random keys; pages are the "
        "first 100 by name of a "
        "random type. Ours does all it does in production: validation, ETag, request id, metrics, "
        f"admission. {rounds} shuffled "
        f"rounds of {seconds} s slices, all services up at once; CPU is the service's own, per request.",
    )
    if shutil.which("wrk") is None:
        findings.notes.append("Not measured: the load generator wrk is missing. Install it: apt-get install wrk.")
        return findings
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {cores[-1]})  # what this process starts stays there: PostgreSQL and wrk
    async with durable_postgres() as postgres:
        keys = await _fill(postgres, assets)
        folder = postgres.home.path
        paths = {ENTITY: folder / "entities.txt", PAGE: folder / "pages.txt"}
        paths[ENTITY].write_text("".join(f"/api/assets/{key}\n" for key in keys))
        paths[PAGE].write_text("".join(f"/api/assets/search?asset_type=type_{n}&limit=100\n" for n in range(TYPES)))
        with contextlib.ExitStack() as running:
            servers = {
                name: running.enter_context(_served(module, postgres.socket_dsn, cores[0]))
                for name, module in SERVICES.items()
            }
            for server in servers.values():
                for path in paths.values():
                    await _check(server, path)
            await _compare(findings, servers, paths, rounds, seconds)
            await _overload(findings, servers[OURS], paths[ENTITY], rounds=1 if short else 3, seconds=1 if short else 3)
    return findings


async def _compare(
    findings: Findings, servers: dict[str, Server], paths: dict[str, Path], rounds: int, seconds: int
) -> None:
    chance = random.Random(11)
    for number in range(rounds + 1):
        order = [(server, what) for server in servers.values() for what in paths]
        chance.shuffle(order)
        for server, what in order:
            load = await _load(server, paths[what], CONNECTIONS, seconds)
            if number:  # the first round warms up
                server.loads.setdefault(what, []).append(load)
    for what in paths:
        rates = {name: [load.rate for load in server.loads[what]] for name, server in servers.items()}
        table = findings.table(
            f"{what}, {CONNECTIONS} connections", "", "requests/s", "CPU us/request", "p50 ms", "p99 ms", "ours is"
        )
        for name, server in sorted(servers.items(), key=lambda item: -median(rates[item[0]])):
            loads = server.loads[what]
            times = median(o / r for o, r in zip(rates[OURS], rates[name], strict=True))
            figures = {
                "per_second": median(rates[name]),
                "cpu_us": median(load.cpu_us for load in loads),
                "p50_ms": median(load.p50_ms for load in loads),
                "p99_ms": median(load.p99_ms for load in loads),
                "ours": times,
                "not_answered": sum(load.refused + load.broken for load in loads),
            }
            findings.figures[f"{name}, {what}"] = figures
            table.add(
                name,
                f"{figures['per_second']:,.0f}",
                f"{figures['cpu_us']:,.0f}",
                f"{figures['p50_ms']:.1f}",
                f"{figures['p99_ms']:.1f}",
                f"{times:.2f} x" if name != OURS else "",
            )
            if figures["not_answered"]:
                findings.notes.append(f"{name}, {what}: {figures['not_answered']} requests failed.")
        for name, target in zip((ORM, TEMPLATE), GOALS[what], strict=True):
            findings.goal(f"{what}, to {name}", target, findings.figures[f"{name}, {what}"]["ours"], unit=" x")


async def _overload(findings: Findings, server: Server, paths: Path, *, rounds: int, seconds: int) -> None:
    levels = (CONNECTIONS, *GOODPUT_LEVELS, BEYOND)
    loads: dict[int, list[Load]] = {level: [] for level in levels}
    recoveries: dict[int, list[float]] = {level: [] for level in levels}
    probes: list[Probe] = []
    await asyncio.sleep(0.5)
    alone = median([(await _ask(server, paths)).seconds for _ in range(20)])
    chance = random.Random(13)
    for _ in range(rounds):
        for connections in chance.sample(levels, len(levels)):
            probing = asyncio.create_task(_probe(server, paths, probes))
            loads[connections].append(await _load(server, paths, connections, seconds))
            recoveries[connections].append(await _recovery(server, paths))
            probing.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await probing
    goodput = {level: median(load.rate for load in loads[level]) for level in levels}
    peak = max(goodput.values())
    table = findings.table(
        f"headwater, one entity, more and more connections ({rounds} shuffled rounds of {seconds} s)",
        "connections", "good/s", "of the peak", "shed/s", "broken", "p50 ms", "p99 ms", "normal again after",
    )  # fmt: skip
    for level in levels:
        shed = median(load.refused / load.seconds for load in loads[level])
        kept = {
            "good_per_second": goodput[level],
            "of_peak": goodput[level] / peak,
            "shed_per_second": shed,
            "broken": sum(load.broken for load in loads[level]),
            "p50_ms": median(load.p50_ms for load in loads[level]),
            "p99_ms": median(load.p99_ms for load in loads[level]),
            "recovery_seconds": max(recoveries[level]),
        }
        findings.figures[f"{level} connections"] = kept
        table.add(
            f"{level:,}",
            f"{goodput[level]:,.0f}",
            f"{kept['of_peak']:.0%}",
            f"{shed:,.0f}",
            kept["broken"],
            f"{kept['p50_ms']:.0f}",
            f"{kept['p99_ms']:.0f}",
            f"{kept['recovery_seconds'] * 1e3:,.0f} ms",
        )
        if level in GOODPUT_LEVELS:
            findings.goal(f"{level:,} connections, goodput of the peak", 0.9, kept["of_peak"])
            findings.goal(
                f"{level:,} connections, normal again", 1.0, kept["recovery_seconds"], at_least=False, unit=" s"
            )
    refused = [probe for probe in probes if probe.status == 503]
    with_header = sum(probe.retry_after for probe in refused)
    findings.figures["refused probes"] = {"refused": len(refused), "with_retry_after": with_header}
    findings.notes.append(
        f"A request that comes alone takes {alone * 1e3:.1f} ms. Of {len(probes)} probes beside the "
        f"load {len(refused)} met a "
        f"503, {with_header} of them with Retry-After. 'Normal again' is the longest time until a "
        "request was answered 200 "
        f"within 50 ms. {BEYOND:,} connections show what happens beyond the goals."
    )


async def _probe(server: Server, paths: Path, probes: list[Probe]) -> None:
    """Requests beside the load, one after another."""
    while True:
        with contextlib.suppress(OSError, TimeoutError, asyncio.IncompleteReadError):
            probes.append(await _ask(server, paths))
        await asyncio.sleep(0.1)


async def _recovery(server: Server, paths: Path) -> float:
    """Seconds from the end of the load until a request is answered well and fast."""
    ended = time.perf_counter()
    while (since := time.perf_counter() - ended) < 30:
        with contextlib.suppress(OSError, TimeoutError, asyncio.IncompleteReadError):
            probe = await _ask(server, paths)
            if probe.status == 200 and probe.seconds <= 0.05:
                return time.perf_counter() - ended
    return since


async def _ask(server: Server, paths: Path) -> Probe:
    """One GET on a connection of its own."""
    path = _first(paths)
    began = time.perf_counter()
    async with asyncio.timeout(10):
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        try:
            writer.write(f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n".encode())
            head = await reader.readuntil(b"\r\n\r\n")
            await reader.read()
        finally:
            writer.close()
    seconds = time.perf_counter() - began
    return Probe(int(head.split(b" ", 2)[1]), b"\r\nretry-after:" in head.lower(), seconds)


async def _check(server: Server, paths: Path) -> None:
    probe = await _ask(server, paths)
    if probe.status != 200:
        raise RuntimeError(f"{_first(paths)} on port {server.port} answers {probe.status}")


def _first(paths: Path) -> str:
    with paths.open() as lines:
        return lines.readline().strip()


async def _load(server: Server, paths: Path, connections: int, seconds: int) -> Load:
    cpu = server.cpu_seconds()
    process = await asyncio.create_subprocess_exec(
        "wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "--timeout", "10s",
        "-s", str(HERE / "services" / "load.lua"),
        f"http://127.0.0.1:{server.port}",
        stdout=subprocess.PIPE, env=os.environ | {"PATHS": str(paths), "SEED": str(random.randrange(10**6))},
    )  # fmt: skip
    said, _ = await process.communicate()
    cpu = server.cpu_seconds() - cpu
    line = next(line for line in said.decode().splitlines() if line.startswith("FIGURES"))
    requests, duration, refused, broken, p50, p99 = map(float, line.split()[1:])
    return Load(
        int(requests), duration / 1e6, int(refused), int(broken), p50 / 1e3, p99 / 1e3, cpu * 1e6 / max(1, requests)
    )


@contextlib.contextmanager
def _served(module: str, dsn: str, core: int) -> Iterator[Server]:
    process = subprocess.Popen(
        [sys.executable, "-m", f"benchmarks.services.{module}", dsn, str(core)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        if not line.strip().isdigit():
            raise RuntimeError(f"The service {module} did not start.")
        yield Server(process, int(line))
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


async def _fill(postgres: EmbeddedPostgres, count: int) -> list[UUID]:
    """The system's own tables, with users who issue assets; the keys of the assets."""
    settings = Settings(database_url=postgres.socket_dsn)
    await migrate(CONSTRUCT, settings)
    chance = random.Random(17)
    users = [UUID(int=chance.getrandbits(128), version=4) for _ in range(100)]
    assets = [UUID(int=chance.getrandbits(128), version=4) for _ in range(count)]
    async with Headwater.open(CONSTRUCT, settings) as headwater:
        async with headwater.transaction() as tx:
            await headwater.repository(User).bulk_insert(
                tx, [{"id": key, "email": f"issuer{n}@headwater.example"} for n, key in enumerate(users)]
            )
            await headwater.repository(ChainUser).bulk_insert(
                tx,
                [
                    {"user_id": key, "wallet_address": f"{n + 1_000}".translate(_DIGITS).rjust(44, "A")}
                    for n, key in enumerate(users)
                ],
            )
            await headwater.repository(Asset).bulk_insert(
                tx, (_asset(chance, n, key, users) for n, key in enumerate(assets))
            )
        async with headwater.postgres.connection() as connection:
            await connection.execute("vacuum analyze")
            await connection.execute("checkpoint")
    return assets


def _asset(chance: random.Random, number: int, key: UUID, issuers: list[UUID]) -> dict[str, Any]:
    return {
        "id": key,
        "asset_type": f"type_{number % TYPES}",
        "issuer_id": chance.choice(issuers),
        "name": f"Harmonic drive {chance.randrange(10**6)}",
        "symbol": f"HD-{number}",
        "description": "A strain wave gear with zero backlash for the joints of collaborative robots, ratio 1:100.",
        "specifications": {
            "ratio": chance.randrange(30, 160),
            "rated_torque_nm": round(chance.random() * 100, 2),
            "mass_kg": round(chance.random() * 5, 3),
            "interfaces": ["ISO 9409-1-50-4-M6", "EtherCAT"],
        },
        "metadata_": {"supplier": "Voronezh Precision", "lot": number // 100},
    }


if __name__ == "__main__":
    run_as_program(benchmark)
