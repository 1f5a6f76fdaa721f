"""headwater ledger torture, in short: clients, a backend and the server die with -9, and nothing is lost or made."""

from __future__ import annotations

from pathlib import Path
from uuid import UUID, uuid4

from headwater.cli.ledger_torture import _parted, plan_of, read_plan, run


async def test_money_survives_clients_backends_and_servers_that_are_killed(tmp_path: Path) -> None:
    outcome = await run(tmp_path, kills=3, clients=2, pause_seconds=0.8, seed=11)
    assert outcome["faults"] == []
    counts = outcome["counts"]
    assert (counts["killed clients"], counts["killed backends"], counts["killed servers"]) == (1, 1, 1)
    assert counts["acknowledged"] > 0
    assert not any(Path(tmp_path).iterdir())  # noqa: ASYNC240


def test_an_id_says_what_was_asked() -> None:
    key = plan_of(100_001, 5_000_000, chain=20, debit=39, credit=0, amount=3_000)
    assert read_plan(key) == (100_001, 5_000_000, 20, 39, 0, 3_000)
    assert key.version == 8
    assert uuid4() != key


def test_a_chain_that_is_there_in_part_is_noticed() -> None:
    members = [plan_of(1, n, chain=4, debit=1, credit=2, amount=1) for n in range(1, 9)]
    there: dict[UUID, object] = dict.fromkeys(members)
    assert _parted(there) == []
    del there[members[6]]
    assert _parted(there)
