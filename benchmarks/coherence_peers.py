"""Coherence of caches: the coherence checker on ours and on the peers, on the same work; and ours without each part."""

from __future__ import annotations

import argparse
import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

from benchmarks.coherence import ADAPTERS, Adapter, Ours, Run, findings, home_of_a_run, opened, parser, system_of
from benchmarks.coherence_board import ROWS
from benchmarks.command import run_as_program
from benchmarks.reporting import Findings, Table
from benchmarks.valkey_pair import ValkeyPair

_RACE = "--foreign=0"
_OURS = {
    "headwater, bounded": (),
    "headwater, bounded, near cache": ("--near=1000",),
    "headwater, strict": ("--level=strict",),
    "headwater, snapshot": ("--level=snapshot",),
}
_PEERS = {name: (f"--adapter={name}",) for name in ADAPTERS[1:]}
_COLUMNS = (
    "",
    "writes",
    "reads",
    "stale at rest",
    "of cached",
    "%",
    "older /100k",
    "back /100k",
    "torn /100k",
    "errors",
)
_WITHOUT = {
    "lease": ("--without=lease",),
    "tombstone (loads 0.3 s behind)": ("--without=tombstone", "--standby=0.3"),
    "relay": ("--without=relay",),
    "ordering of pushes (near cache)": ("--without=ordering", "--near=1000"),
    "guard (strict, a replica promoted)": ("--without=guard", "--level=strict", "--faults=promoted"),
    "guard (strict, started from an old file)": ("--without=guard", "--level=strict", "--faults=old"),
    "marks (strict)": ("--without=marks", "--level=strict"),
}


async def benchmark(short: bool) -> Findings:
    found = Findings(
        "coherence_peers",
        "Ours is never stale at rest, never torn and never back in time; what its strict level has answered is seen.",
        "One writer process with 8 tasks and one that is killed, two reader processes with 8 tasks each, 64 rows "
        "written in pairs, 5 % rollbacks. Peers are used as their documentation shows: read through, deleted after "
        "the commit. Older: than a write that had returned to its caller before the read began. Faults are dealt in "
        "turn: FLUSHALL, connections closed, Valkey frozen, writers, relay and ticker killed -9, no memory left "
        "(refusing, evicting), a restart from an old file, a replica promoted; some writes come as from psql.",
    )
    seconds = 1.2 if short else 8.0
    async with _postgres() as dsn:
        race = found.table("Races alone: no faults, no foreign writes", *_COLUMNS)
        for name, chosen in _some(short, "headwater, bounded, near cache", *_PEERS).items():
            _add(race, name, await _run(dsn, seconds, *chosen, _RACE), found, "race")
        storm = found.table("Every fault, and foreign writes", *_COLUMNS)
        for name, chosen in _some(short, "headwater, strict").items():
            _add(storm, name, await _run(dsn, seconds * 2, *chosen, "--faults=all"), found, "storm")
        parts = found.table(
            "Ours without a part",
            "without",
            "stale at rest",
            "older",
            "older than a second",
            "back",
            "torn",
            "older than COMMIT",
        )
        missing = {k: v for k, v in _WITHOUT.items() if not short or k == "relay"}
        for name, chosen in {"nothing (strict)": ("--level=strict",), **missing}.items():
            counts = await _run(dsn, seconds / 2, *chosen)
            older = counts["OLDER THAN RETURNED"] + counts["older than returned"]
            parts.add(
                name, counts["STALE AT REST"], older, counts["OLDER THAN A SECOND"], counts["BACK IN TIME"],
                counts["TORN"], counts["older than answered"],
            )  # fmt: skip
        frozen = found.table("Valkey frozen for a second, 16 readers", "", "reads meanwhile", "slowest ms", "errors")
        for name in ADAPTERS[:1] if short else ADAPTERS[:4]:
            reads, slowest_ms, errors = await _frozen(dsn, name)
            frozen.add(name, reads, f"{slowest_ms:.0f}", errors)
            if name == "headwater":
                found.goal("slowest read while Valkey is frozen", 60, slowest_ms, at_least=False, unit=" ms")
    found.notes.append(
        "Older than COMMIT counts reads that began after PostgreSQL had answered COMMIT, before the writer's call had "
        "returned. Only marks prevent those; they are no promise when Valkey loses its memory in between."
    )
    return found


def _some(short: bool, *names: str) -> dict[str, tuple[str, ...]]:
    """Everyone, or in the short form these."""
    return {name: chosen for name, chosen in (_OURS | _PEERS).items() if not short or name in names}


def _add(table: Table, name: str, counts: Counter[str], found: Findings, work: str) -> None:
    """One row; and for ours, what was promised."""
    older = counts["OLDER THAN RETURNED"] + counts["older than returned"]
    cached, reads, pairs = max(counts["checked at rest"], 1), max(counts["reads"], 1), max(counts["pairs"], 1)
    stale = counts["STALE AT REST"]
    errors = sum(count for what, count in counts.items() if "error" in what.lower())
    writes = counts["library"] + counts["foreign"]
    table.add(
        name, f"{writes:,}", f"{counts['reads'] + counts['pairs']:,}", stale, f"{cached:,}",
        f"{100 * stale / cached:.1f}", f"{1e5 * older / reads:.1f}", f"{1e5 * counts['BACK IN TIME'] / reads:.1f}",
        f"{1e5 * counts['TORN'] / pairs:.1f}", errors,
    )  # fmt: skip
    found.figures[f"{name}, {work}"] = dict(counts)
    if name.startswith("headwater"):
        bad = findings(counts)
        found.goal(f"{name}, {work}: anything that must not be", 0, float(sum(bad.values())), at_least=False)
        if bad:
            found.notes.append(f"{name}, {work}: {bad}")


async def _run(dsn: str, seconds: float, *chosen: str) -> Counter[str]:
    arguments = parser().parse_args([f"--seconds={seconds}", "--round=0.7", f"--database={dsn}", *chosen])
    async with _home() as home:
        return await Run(arguments, home).run()


async def _frozen(dsn: str, name: str) -> tuple[int, float, int]:
    """How many reads end while Valkey stands still for a second, how long the slowest takes, and how many fail."""
    counts: Counter[str] = Counter()
    slowest = 0.0
    async with AsyncExitStack() as stack:
        valkey = await stack.enter_async_context(ValkeyPair(await stack.enter_async_context(_home()), replica=False))
        arguments = parser().parse_args([f"--adapter={name}", f"--database={dsn}"])
        arguments.valkey = valkey.url
        if name == "headwater":
            from headwater.followers.invalidation import relaying
            from headwater.kernel.settings import Settings

            await stack.enter_async_context(
                relaying(system_of(arguments), Settings(database_url=dsn, valkey_url=valkey.url))
            )
        adapter: Adapter = await stack.enter_async_context(opened(arguments))
        if isinstance(adapter, Ours):
            await adapter.hear()
        for row in range(ROWS):
            await adapter.get(row)
        over = False

        async def read(number: int) -> None:
            nonlocal slowest
            while not over:
                number = (number + 7) % ROWS
                began = time.perf_counter()
                try:
                    await adapter.get(number)
                    counts["reads"] += 1
                except Exception:  # of the peers: any
                    counts["errors"] += 1
                slowest = max(slowest, time.perf_counter() - began)
                await asyncio.sleep(0.001)

        tasks = [asyncio.create_task(read(number)) for number in range(16)]
        await asyncio.sleep(0.2)
        counts.clear()
        slowest = 0.0
        await valkey.freeze(1.0)
        reads, errors = counts["reads"], counts["errors"]
        await asyncio.sleep(0.1)
        over = True
        await asyncio.gather(*tasks)
        return reads, slowest * 1000, errors


@asynccontextmanager
async def _home() -> AsyncIterator[Path]:
    with home_of_a_run() as home:
        yield home


@asynccontextmanager
async def _postgres() -> AsyncIterator[str]:
    """One PostgreSQL for all runs."""
    arguments = argparse.Namespace(adapter="headwater", seed=1)
    async with _home() as home, AsyncExitStack() as stack:
        yield await Run(arguments, home).database(stack)


if __name__ == "__main__":
    run_as_program(benchmark)
