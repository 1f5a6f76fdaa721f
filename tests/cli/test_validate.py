"""headwater validate: names what was edited, is missing, waits or differs; and what --accept takes."""

from __future__ import annotations

import json

import asyncpg
from tests.kernel.workshop import Workshop


async def execute(dsn: str, statements: str) -> None:
    connection = await asyncpg.connect(dsn)
    await connection.execute(statements)
    await connection.close()


def test_a_database_as_the_migrations_made_it_is_valid(empty_database: str, workshop: Workshop) -> None:
    waiting = workshop.command(empty_database, "validate")
    assert waiting.returncode == 3
    assert "6 not applied:\n  revision kernel_0001" in waiting.stdout
    workshop.command(empty_database, "migrate")
    done = workshop.command(empty_database, "validate", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["valid"] is True


async def test_everything_that_is_wrong_is_named_and_can_be_accepted(empty_database: str, workshop: Workshop) -> None:
    shop = workshop.modules[0]
    last = workshop.revision(shop, 3, "select 1")
    workshop.command(empty_database, "migrate")
    last.unlink()
    workshop.revision(shop, 1, "create schema shop")
    await execute(empty_database, "alter table shop.goods add phone text; drop index shop.goods_name_idx")
    await execute(empty_database, "alter table shop.goods alter name set default 'x'")
    brief = workshop.command(empty_database, "validate")
    assert brief.returncode == 4
    for line in (
        "revision shop_0001",
        "revision shop_0003",
        "column shop.goods.name  (made by shop_0001)",
        "index shop.goods_name_idx  (made by shop_0002)",
        "column shop.goods.phone",
    ):
        assert f"  {line}" in brief.stdout
    assert "default 'x'" not in brief.stdout
    verbose = workshop.command(empty_database, "validate", "--verbose")
    assert "recorded: text" in verbose.stdout
    assert "now:      text default 'x'::text" in verbose.stdout
    refused = workshop.command(empty_database, "validate", "--accept")
    assert refused.returncode == 8
    assert "column shop.goods.phone" in refused.stderr
    accepted = workshop.command(empty_database, "validate", "--accept", "--force", "--json")
    assert accepted.returncode == 0, accepted.stderr
    assert len(json.loads(accepted.stdout)["accepted"]["drift"]) == 3
    left = json.loads(workshop.command(empty_database, "validate", "--json").stdout)
    assert (left["edited"], left["drift"]) == ([], [])
    assert [m["revision"] for m in left["missing"]] == ["shop_0003"]


async def test_many_are_counted_and_named_only_when_asked(empty_database: str, workshop: Workshop) -> None:
    workshop.command(empty_database, "migrate")
    await execute(empty_database, ";".join(f"create table shop.extra_{n} ()" for n in range(9)))
    assert "and 4 more; --verbose names them" in workshop.command(empty_database, "validate").stdout
    verbose = workshop.command(empty_database, "validate", "--verbose").stdout
    assert all(f"table shop.extra_{n}" in verbose for n in range(9))
