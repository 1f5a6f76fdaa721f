"""The coherence checker in its short form: nothing stale, old, torn, rolled back or back in time is read.

That it would find something is shown where each part is taken away: tests/kernel/test_cache_parts.py, by hand, and
`python -m benchmarks.coherence_peers`, by load. The long form is `make soak`.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


async def check(*arguments: str) -> tuple[int, dict[str, int]]:
    """Run the checker: its exit code and its counts."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "benchmarks.coherence",
        *arguments,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": f"{ROOT / 'src'}:{ROOT}"},
        stdout=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(120):
        out, _ = await process.communicate()
    assert process.returncode is not None
    return process.returncode, json.loads(out)


@pytest.mark.parametrize("level", ["strict", "bounded"])
async def test_nothing_that_must_not_be_is_read(database: str, level: str) -> None:
    near = ("--near=1000",) if level == "bounded" else ()
    faults = "all" if level == "strict" else "none"
    code, counts = await check("--seconds=2", f"--level={level}", f"--faults={faults}", f"--database={database}", *near)
    assert code == 0, counts
    assert counts["reads"] > 100
    assert counts["rounds"] > 0
    assert counts["checked at rest"] > 0 or faults != "none"  # the last fault may have emptied it
