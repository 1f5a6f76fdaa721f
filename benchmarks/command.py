"""Command: how one benchmark file runs as a program: `python -m benchmarks.read_by_key [--short] [--results DIR]`."""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import uvloop

from benchmarks.reporting import RESULTS, Findings

Benchmark = Callable[[bool], Awaitable[Findings]]
"""Runs (short or in full) and tells what it found."""


def run_as_program(benchmark: Benchmark, *, on_uvloop: bool = False) -> None:
    """A full run writes its JSON to benchmarks/results; a short one writes only where it is told to."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--short", action="store_true", help="seconds instead of minutes; figures mean little")
    parser.add_argument("--results", type=Path, default=None, help="where the JSON goes")
    given = parser.parse_args()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop if on_uvloop else None) as runner:
        found = runner.run(benchmark(given.short))
    found.show()
    folder = given.results or (None if given.short else RESULTS)
    if not found.tables:
        raise SystemExit(0 if given.short else 1)  # nothing was measured: what was found before stays
    if folder is not None:
        found.write(folder, short=given.short)
