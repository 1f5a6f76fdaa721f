"""headwater status: where each module is, and exit codes for scripts."""

from __future__ import annotations

import json

import asyncpg
from tests.kernel.workshop import Workshop


async def test_status_tells_what_waits_what_is_applied_and_what_differs(
    empty_database: str, workshop: Workshop
) -> None:
    before = workshop.command(empty_database, "status", "--exit-code")
    assert before.returncode == 3, before.stderr
    assert "6 waiting: run `headwater migrate`." in before.stdout
    assert workshop.command(empty_database, "status").returncode == 0
    workshop.command(empty_database, "migrate")
    after = workshop.command(empty_database, "status", "--exit-code", "--json")
    assert after.returncode == 0, after.stderr
    told = json.loads(after.stdout)
    assert told["modules"][1] == {
        "module": "shop",
        "current": "shop_0002",
        "head": "shop_0002",
        "applied": 2,
        "pending": [],
    }
    connection = await asyncpg.connect(empty_database)
    await connection.execute("drop index shop.goods_name_idx")
    await connection.close()
    workshop.revision(workshop.modules[0], 3, "select 1")
    drifted = workshop.command(empty_database, "status", "--exit-code", "--json")
    assert drifted.returncode == 4
    told = json.loads(drifted.stdout)
    assert told["drift"] == [{"change": "removed", "object": "index shop.goods_name_idx"}]
    assert told["pending"] == 1
    assert "Drift: 1 differing" in workshop.command(empty_database, "status").stdout


def test_the_modules_of_another_system_are_mentioned(database: str, workshop: Workshop) -> None:
    done = workshop.command(database, "status")
    assert "also has modules that are not in 'workshop': blockchain, " in done.stdout
