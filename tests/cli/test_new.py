"""headwater new: the module it writes is checked, migrated, seeded and read like any module of ours."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from headwater.cli.new import command, write_module
from headwater.kernel.errors import InvalidValue, RefusedError

ROOT = Path(__file__).parents[2]


_RUN = """
import asyncio, sys
from sqlalchemy import text
from headwater import Headwater, Settings
from headwater.kernel.migrations import migrate, validate
from headwater.kernel.seeds import seed
from headwater.service.declarations import declarations
from workshop.repository import BenchRepository
from workshop.system import WORKSHOP

TOLD = text(
    "select op::text, count(*) as n from headwater.change "
    "where \\"table\\" = 'workshop.benches' group by 1 order by 1"
)

async def main():
    settings = Settings(database_url=sys.argv[1])
    await migrate(WORKSHOP, settings)
    assert (await validate(WORKSHOP, settings)).valid
    async with Headwater.open(WORKSHOP, settings) as headwater:
        print((await seed(headwater)).added["workshop.benches"], (await seed(headwater)).added["workshop.benches"])
        benches = headwater.repository(BenchRepository)
        print(await benches.named_like("s"))
        async with headwater.transaction() as tx:
            bench = await benches.create(tx, name="vice", note="in the corner")
            print((await benches.update(tx, bench.id, version=1, note="at the window")).new.version)
        told = await headwater.postgres.fetch(TOLD)
        print([(row.op, row.n) for row in told], [policy.kind for policy in WORKSHOP.modules[-1].cache])
    for path in sorted({one.route.path for one in declarations(WORKSHOP) if one.module == "workshop"}):
        print(path)

asyncio.run(main())
"""


def test_a_new_module_is_migrated_seeded_read_and_served_as_it_is(tmp_path: Path, empty_database: str) -> None:
    """In a process of its own: entities of a made-up module must not stay in the registry of the tests."""
    write_module("workshop", "Bench", tmp_path)
    result = subprocess.run(
        [sys.executable, "-W", "error", "-c", _RUN, empty_database],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.split("\n") == [
        "3 0",
        "['second']",
        "2",
        "[('i', 4), ('u', 1)] ['workshop_bench']",
        "/api/workshop/benches",
        "/api/workshop/benches/{bench_id}",
        "",
    ]


def test_the_code_of_a_new_module_passes_the_checks_of_the_house(tmp_path: Path) -> None:
    write_module("shop", "OrderItem", tmp_path)
    ruff = [sys.executable, "-m", "ruff"]
    configuration = ("--config", str(ROOT / "pyproject.toml"))
    for arguments in (("check", *configuration), ("format", "--check", *configuration)):
        result = subprocess.run([*ruff, *arguments, "shop"], cwd=tmp_path, capture_output=True, text=True, check=False)
        assert result.returncode == 0, result.stdout + result.stderr


def test_names_that_cannot_be_a_module_are_refused_and_nothing_is_written(tmp_path: Path) -> None:
    for name in ("Shop", "1shop", "my-shop", "class", "headwater", "public", "../shop", "pg_shop", ""):
        with pytest.raises(InvalidValue):
            write_module(name, "Product", tmp_path)
    for entity in ("product", "Two Words", "1st", "Class"):
        with pytest.raises(InvalidValue):
            write_module("shop", entity, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_what_is_there_is_not_written_over(tmp_path: Path) -> None:
    (tmp_path / "shop").mkdir()
    with pytest.raises(RefusedError):
        write_module("shop", "Product", tmp_path)
    assert list((tmp_path / "shop").iterdir()) == []


def test_tables_are_named_in_the_plural(tmp_path: Path) -> None:
    for entity, table in (("Product", "products"), ("Category", "categories"), ("Box", "boxes"), ("Key", "keys")):
        files = write_module(f"m_{table}", entity, tmp_path)
        assert any(path.name == f"0001_{table}.py" for path in files)


def test_the_command_says_what_it_made_and_how_to_start_it(tmp_path: Path) -> None:
    runner = CliRunner()
    result = runner.invoke(command, ["module", "shop", "--into", str(tmp_path), "--home", "trial"])
    assert result.exit_code == 0, result.output
    assert "headwater up --system shop.system:SHOP --home trial" in result.output
