"""The coherence checker in its short form: the protocol whole finds nothing, and each part that is removed is missed.

The long form is `make soak`.
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


@pytest.mark.parametrize(
    "arguments",
    [
        ("--near=1000", "--faults=all"),
        ("--level=strict",),
    ],
    ids=["bounded, near, every fault", "strict"],
)
async def test_nothing_stale_old_torn_or_back_in_time_is_read(arguments: tuple[str, ...]) -> None:
    code, counts = await check("--seconds=3", *arguments)
    assert counts["reads"] > 100
    assert counts["checked at rest"] > 0
    assert code == 0, counts


@pytest.mark.parametrize(
    ("part", "arguments"),
    [
        ("lease", ()),
        ("tombstone", ("--standby=0.3",)),
        ("relay", ()),
        ("ordering", ("--near=1000",)),
    ],
)
async def test_without_a_part_something_is_found(part: str, arguments: tuple[str, ...]) -> None:
    code, counts = await check("--seconds=3", f"--without={part}", *arguments)
    assert code == 1
    if part != "lease":
        assert counts["STALE AT REST"] > 0
