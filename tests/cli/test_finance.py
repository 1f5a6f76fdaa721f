"""headwater finance: seals are made, digests are checked, and what was tampered with ends with 6."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from headwater.cli import exits


def _run(database: str, tmp_path: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "headwater.cli.main", "finance", *arguments],
        env={**os.environ, "HEADWATER_DATABASE_URL": database},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def _json(done: subprocess.CompletedProcess[str]) -> Any:
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture
async def saved(database: str) -> str:
    """A user with two transactions; their id."""
    connection = await asyncpg.connect(database)
    try:
        user = await connection.fetchval("insert into users (email) values ('saver@example.org') returning id")
        for amount in (100, 250):
            await connection.execute(
                "insert into finance.transactions (user_id, type, amount, status)"
                " values ($1, 'deposit', $2, 'completed')",
                user,
                amount,
            )
    finally:
        await connection.close()
    return str(user)


async def test_what_was_sealed_is_verified_and_what_was_changed_is_named(
    database: str, saved: str, tmp_path: Path
) -> None:
    made = _json(_run(database, tmp_path, "seal", "--json"))
    assert (made["number"], made["trails"]) == (1, 1)
    kept = f"1:{made['digest']}"
    found = _json(_run(database, tmp_path, "verify", "--digest", kept, "--json"))
    assert found == {"transactions": 2, "entries": 2, "seals": 1, "faults": []}
    connection = await asyncpg.connect(database)
    try:
        await connection.execute("alter table finance.transaction_history disable trigger all")
        await connection.execute("update finance.transaction_history set actor = 'nobody' where number = 2")
    finally:
        await connection.close()
    wrong = _run(database, tmp_path, "verify", "--digest", f"1:{'0' * 64}")
    assert wrong.returncode == exits.VERIFICATION_FAILED
    assert f"trail: user_id {saved}, number 2: it was changed" in wrong.stdout
    assert "digest: number 1: the seal is not the one that was kept" in wrong.stdout


def test_without_trails_there_is_nothing_to_seal(database: str, tmp_path: Path) -> None:
    done = _run(database, tmp_path, "seal")
    assert (done.returncode, done.stdout) == (0, "There is no trail to seal.\n")


def test_a_digest_that_cannot_be_one_is_a_usage_error(database: str, tmp_path: Path) -> None:
    assert _run(database, tmp_path, "verify", "--digest", "seven").returncode == exits.USAGE
