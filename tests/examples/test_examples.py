"""Every example runs alone and prints what its last comment says."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.conftest import PostgresServer

FOLDER = Path(__file__).parents[2] / "examples"
EXAMPLES = sorted(FOLDER.glob("[0-9]*.py"))
_PRINTS = "\n# It prints:\n"


def _promised(example: Path) -> str:
    _, _, comment = example.read_text(encoding="utf-8").partition(_PRINTS)
    return "".join(f"{line[2:]}\n" for line in comment.strip("\n").split("\n"))


def test_examples_are_numbered_without_a_gap() -> None:
    assert [path.name[:2] for path in EXAMPLES] == [f"{number:02}" for number in range(1, len(EXAMPLES) + 1)]
    assert all(re.fullmatch(r"\d\d_[a-z_]+\.py", path.name) for path in EXAMPLES)


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_prints_what_it_says(example: Path, postgres_server: PostgresServer) -> None:
    environment = {**os.environ, "HEADWATER_DATABASE_URL": postgres_server.dsn_of("postgres")}
    result = subprocess.run(
        [sys.executable, "-W", "error", str(example)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout == _promised(example)


def test_an_example_needs_nothing_but_the_command_that_runs_it(tmp_path: Path) -> None:
    """Without a server in the environment it starts one, and leaves nothing behind."""
    environment = {name: value for name, value in os.environ.items() if "DATABASE_URL" not in name}
    result = subprocess.run(
        [sys.executable, str(EXAMPLES[0])],
        env={**environment, "TMPDIR": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout == _promised(EXAMPLES[0])
    assert list(tmp_path.iterdir()) == []
