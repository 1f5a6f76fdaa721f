"""headwater migrate: what it applies, plans and writes, and how it ends."""

from __future__ import annotations

import json
from pathlib import Path

import asyncpg
import pytest
from tests.kernel.workshop import Workshop

from headwater.kernel.migrations import LOCK


def test_migrate_applies_what_waits_and_then_nothing(empty_database: str, workshop: Workshop) -> None:
    planned = workshop.command(empty_database, "migrate", "--plan", "--json")
    assert planned.returncode == 0, planned.stderr
    waiting = [p["revision"] for p in json.loads(planned.stdout)["planned"]]
    assert waiting == ["kernel_0001", "kernel_0002", "kernel_0003", "kernel_0004", "shop_0001", "shop_0002"]
    done = workshop.command(empty_database, "migrate")
    assert done.returncode == 0, done.stderr
    assert "6 revisions applied." in done.stdout
    assert "Goods are found by name" in done.stdout
    assert "shop_0002" in done.stderr, "progress is told on stderr"
    again = workshop.command(empty_database, "migrate", "--json")
    assert json.loads(again.stdout) == {"system": "workshop", "applied": [], "missing": [], "drift": []}
    assert "Nothing to apply." in workshop.command(empty_database, "migrate", "--plan").stdout


def test_a_failing_revision_ends_with_one_and_names_the_file(empty_database: str, workshop: Workshop) -> None:
    workshop.revision(workshop.modules[0], 3, "select * from nowhere")
    done = workshop.command(empty_database, "migrate", "--json")
    assert done.returncode == 1
    told = json.loads(done.stdout)["error"]
    assert told["type"] == "migration"
    assert told["detail"] == {"revision": "shop_0003", "module": "shop", "sqlstate": "42P01"}
    assert "0003_step.py" in done.stderr
    assert "Traceback" not in done.stderr


async def test_a_lock_that_is_not_free_in_time_ends_with_seven(empty_database: str, workshop: Workshop) -> None:
    other = await asyncpg.connect(empty_database)
    await other.execute("select pg_advisory_lock($1)", LOCK)
    done = workshop.command(empty_database, "migrate", "--lock-wait", "0.1", "--json")
    await other.close()
    assert done.returncode == 7
    assert json.loads(done.stdout)["error"]["detail"] == {"pid": other.get_server_pid()}


def test_an_edited_revision_ends_with_four(empty_database: str, workshop: Workshop) -> None:
    assert workshop.command(empty_database, "migrate").returncode == 0
    workshop.revision(workshop.modules[0], 2, "create index goods_name_idx on shop.goods (id)")
    done = workshop.command(empty_database, "migrate", "--json")
    assert done.returncode == 4
    assert json.loads(done.stdout)["error"]["detail"] == {"revisions": ["shop_0002"]}


def test_a_database_that_does_not_answer_ends_with_nine(workshop: Workshop) -> None:
    for verb in ("migrate", "status", "validate"):
        done = workshop.command("postgresql://nobody@127.0.0.1:1/nothing", verb, "--json")
        assert done.returncode == 9, done.stderr
        assert json.loads(done.stdout)["error"]["type"] == "unreachable"


def test_new_writes_a_revision_that_the_next_migrate_applies(empty_database: str, workshop: Workshop) -> None:
    workshop.command(empty_database, "migrate")
    done = workshop.command(empty_database, "migrate", "--new", "shop", "-m", "Shelves, too", "--json")
    assert done.returncode == 0, done.stderr
    path = Path(json.loads(done.stdout)["path"])
    assert path.name == "0003_shelves_too.py"
    assert path.read_text().rstrip().endswith("pass"), "the module has no models, so nothing of it is compared"
    applied = json.loads(workshop.command(empty_database, "migrate", "--json").stdout)["applied"]
    assert [(r["revision"], r["name"]) for r in applied] == [("shop_0003", "Shelves, too")]


@pytest.mark.parametrize("arguments", [["--new", "shop"], ["-m", "x"], ["--plan", "--new", "shop", "-m", "x"]])
def test_options_that_do_not_go_together_are_a_usage_error(
    empty_database: str, workshop: Workshop, arguments: list[str]
) -> None:
    done = workshop.command(empty_database, "migrate", *arguments)
    assert done.returncode == 2
    assert "go together" in done.stderr
