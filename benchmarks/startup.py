"""Start-up: what `headwater --help` costs, and how long `headwater up` takes, cold and warm."""

from __future__ import annotations

import json
import resource
import socket
import subprocess
import sys
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

from benchmarks.command import run_as_program
from benchmarks.reporting import Findings
from benchmarks.stores import temporary_home

HEADWATER = str(Path(sys.executable).parent / "headwater")
READY_SECONDS_MAX = 120


async def benchmark(short: bool) -> Findings:
    helps, rounds = (3, 1) if short else (9, 3)
    findings = Findings(
        "startup",
        "The command is there at once, and everything is up within seconds.",
        f"CPU (user and system) of `headwater --help`, median of {helps}. Seconds of `headwater up "
        "--detach --json`, which "
        "returns when /ready answers: cold in an empty home (initdb, both stores, all migrations, "
        "demo rows), warm in the "
        f"same home after `headwater down`; median of {rounds}.",
    )
    _run("--help")  # bytecode is written once
    cpu_ms, wall_ms = zip(*[_cost("--help") for _ in range(helps)], strict=True)
    bare_ms = median(_cost_of([sys.executable, "-c", "pass"])[0] for _ in range(helps))
    cold, warm, down = [], [], []
    for _ in range(rounds):
        async with temporary_home() as home:
            cold.append(_up(home))
            down.append(_timed("down", "--home", str(home)))
            warm.append(_up(home))
            down.append(_timed("down", "--home", str(home)))
    figures: dict[str, Any] = {
        "help_cpu_ms": median(cpu_ms),
        "help_wall_ms": median(wall_ms),
        "python_cpu_ms": bare_ms,
        "cold_up_seconds": median(cold),
        "warm_up_seconds": median(warm),
        "down_seconds": median(down),
    }
    findings.figures = figures
    table = findings.table("Commands", "", "median")
    table.add("headwater --help, CPU", f"{figures['help_cpu_ms']:.0f} ms")
    table.add("headwater --help, wall", f"{figures['help_wall_ms']:.0f} ms")
    table.add("python -c pass, CPU (what no program can avoid)", f"{bare_ms:.0f} ms")
    table.add("headwater up, empty home", f"{figures['cold_up_seconds']:.2f} s")
    table.add("headwater up, warm home", f"{figures['warm_up_seconds']:.2f} s")
    table.add("headwater down", f"{figures['down_seconds']:.2f} s")
    findings.goal("headwater --help, CPU", 150, figures["help_cpu_ms"], at_least=False, unit=" ms")
    return findings


def _run(*arguments: str) -> str:
    done = subprocess.run(
        [HEADWATER, *arguments], capture_output=True, text=True, timeout=READY_SECONDS_MAX, check=False
    )
    if done.returncode != 0:
        raise RuntimeError(f"headwater {' '.join(arguments)} ended with {done.returncode}: {done.stderr}")
    return done.stdout


def _cost(*arguments: str) -> tuple[float, float]:
    return _cost_of([HEADWATER, *arguments])


def _cost_of(command: list[str]) -> tuple[float, float]:
    """CPU and wall milliseconds of one run."""
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), perf_counter()
    subprocess.run(command, stdout=subprocess.DEVNULL, check=True)
    wall, after = perf_counter() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    return (after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime) * 1e3, wall * 1e3


def _up(home: Path) -> float:
    """Seconds until a fresh `up` is ready; the JSON it prints is checked."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    began = perf_counter()
    said = _run("up", "--home", str(home), "--port", str(port), "--detach", "--json")
    seconds = perf_counter() - began
    assert json.loads(said)["http"].endswith(f":{port}")
    return seconds


def _timed(*arguments: str) -> float:
    began = perf_counter()
    _run(*arguments)
    return perf_counter() - began


if __name__ == "__main__":
    run_as_program(benchmark)
