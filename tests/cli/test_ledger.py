"""headwater ledger: accounts, statement, transfer; verify tells by its exit code, and checks exported digests."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any
from uuid import UUID

import asyncpg
import pytest

from headwater.cli import exits
from headwater.kernel.postgres import Postgres
from headwater.kernel.settings import Settings
from headwater.modules.ledger.repository import LedgerRepository


def _run(database: str, tmp_path: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "headwater.cli.main", "ledger", *arguments],
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
async def moved(database: str) -> tuple[int, UUID]:
    """An account and the transfer that it had."""
    postgres = await Postgres.open(Settings(database_url=database))
    try:
        ledger = LedgerRepository(postgres)
        await ledger.open_asset(postgres, "USD", scale=2)
        source = await ledger.account(postgres, "system", None, "USD", credit_limit=None)
        target = await ledger.account(postgres, "user", UUID(int=7), "USD")
        receipt = await ledger.transfer(postgres, debit=source.id, credit=target.id, amount=500, reference="salary")
        return target.id, receipt.id
    finally:
        await postgres.close()


def test_who_has_what_and_what_happened(database: str, moved: tuple[int, UUID], tmp_path: Path) -> None:
    account, transfer = moved
    listed = _json(_run(database, tmp_path, "accounts", "--asset", "USD", "--owner", "user", "--json"))["accounts"]
    assert [(one["id"], one["balance"], one["purpose"]) for one in listed] == [(account, 500, "main")]
    page = _json(_run(database, tmp_path, "statement", str(account), "--json"))
    assert [(e["change"], e["balance"], e["reference"]) for e in page["entries"]] == [(500, 500, "salary")]
    shown = _json(_run(database, tmp_path, "transfer", str(transfer), "--json"))
    assert (shown["amount"], shown["state"], shown["credit_balance_after"]) == (500, "posted", 500)
    text = _run(database, tmp_path, "statement", str(account)).stdout
    assert "+500" in text
    assert _run(database, tmp_path, "statement", "999999").returncode == exits.FAILED


async def test_verify_ends_with_6_when_something_does_not_add_up(
    database: str, moved: tuple[int, UUID], tmp_path: Path
) -> None:
    sound = _run(database, tmp_path, "verify", "--seal", "--export", "digest.json")
    assert (sound.returncode, "The ledger adds up." in sound.stdout) == (exits.OK, True)
    kept = json.loads((tmp_path / "digest.json").read_text())
    assert (kept["seal"], kept["transfers"]) == (1, 1)
    again = _json(_run(database, tmp_path, "verify", "--digest", "digest.json", "--json"))
    assert (again["faults"], again["transfers"]) == ([], 1)
    connection = await asyncpg.connect(database)
    try:
        await connection.execute("set session_replication_role = replica")
        await connection.execute("update ledger.transfers set amount = 501 where id = $1", moved[1])
    finally:
        await connection.close()
    broken = _run(database, tmp_path, "verify", "--json")
    assert broken.returncode == exits.VERIFICATION_FAILED
    first = json.loads(broken.stdout)["faults"][0]
    assert first["place"] == f"ledger.transfers {moved[1]}"
    (tmp_path / "digest.json").write_text(json.dumps(kept | {"digest": "00"}))
    assert _run(database, tmp_path, "verify", "--digest", "digest.json").returncode == exits.VERIFICATION_FAILED
    (tmp_path / "digest.json").write_text("{}")
    assert _run(database, tmp_path, "verify", "--digest", "digest.json").returncode == exits.USAGE
