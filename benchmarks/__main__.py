"""Runs the benchmarks one after another, each in a process of its own, and writes RESULTS.md after full runs."""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path
from time import perf_counter

from benchmarks.reporting import write_results

BENCHMARKS = ("read_by_key", "list_rows", "insert_rows", "upsert_rows", "update_row", "ledger", "http", "startup")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"which ones: {', '.join(BENCHMARKS)} (default: all)")
    parser.add_argument("--short", action="store_true", help="seconds per benchmark; writes nothing without --results")
    parser.add_argument("--results", type=Path, default=None, help="where the JSON goes (default: benchmarks/results)")
    parser.add_argument("--report", action="store_true", help="only write RESULTS.md again from the JSON files")
    given = parser.parse_args()
    unknown = [name for name in given.names if name not in BENCHMARKS]
    if unknown:
        parser.error(f"there is no benchmark '{unknown[0]}'; there are {', '.join(BENCHMARKS)}")
    failed = []
    for name in () if given.report else given.names or BENCHMARKS:
        command = [sys.executable, "-m", f"benchmarks.{name}"]
        command += ["--short"] if given.short else []
        command += ["--results", str(given.results)] if given.results else []
        began = perf_counter()
        code = subprocess.run(command, check=False, cwd=Path(__file__).parent.parent).returncode
        print(f"  [{name}: {perf_counter() - began:.0f} s{'' if code == 0 else f', failed with {code}'}]", flush=True)
        if code:
            failed.append(name)
    if given.results is None and not given.short:
        write_results()
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
