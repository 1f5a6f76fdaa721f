"""PostgreSQL reads every named query: a column that is gone or a parameter without a type is found here."""

from __future__ import annotations

import re

import asyncpg
import pytest

from headwater.kernel.queries import Queries

from .conftest import ROOT

_HEADER = re.compile(r"^--\s*name:\s*\w+", re.MULTILINE)


def _query_files() -> list[tuple[str, str]]:
    """Package and file name of each SQL file that names queries."""
    found = []
    for path in sorted((ROOT / "src").rglob("*.sql")):
        if _HEADER.search(path.read_text(encoding="utf-8")):
            package = ".".join(path.parent.relative_to(ROOT / "src").parts)
            found.append((package, path.name))
    return found


FILES = _query_files()


def test_there_are_named_queries_to_read() -> None:
    assert len(FILES) >= 5


@pytest.mark.parametrize(("package", "filename"), FILES, ids=lambda value: value)
async def test_postgresql_prepares_every_named_query(database: str, package: str, filename: str) -> None:
    queries = Queries.load(package, filename)
    connection = await asyncpg.connect(database)
    refused = {}
    try:
        for query in queries.values():
            try:
                statement = await connection.prepare(query.sql)
            except asyncpg.PostgresError as error:
                refused[query.name] = f"{type(error).__name__}: {error}"
                continue
            types = statement.get_parameters()
            assert len(types) == len(query.parameters), f"{query.name}: a parameter is never used"
    finally:
        await connection.close()
    assert not refused


@pytest.mark.parametrize(("package", "filename"), FILES, ids=lambda value: value)
def test_every_named_query_says_in_a_sentence_what_it_answers(package: str, filename: str) -> None:
    silent = [query.name for query in Queries.load(package, filename).values() if len(query.doc.split()) < 4]
    assert not silent, f"{package}/{filename}: {silent} say nothing"


@pytest.mark.parametrize(("package", "filename"), FILES, ids=lambda value: value)
def test_every_named_query_is_used(package: str, filename: str) -> None:
    folder = ROOT / "src" / package.replace(".", "/")
    text = "\n".join(path.read_text(encoding="utf-8") for path in folder.rglob("*.py"))
    unused = [name for name in Queries.load(package, filename) if f'"{name}"' not in text]
    assert not unused, f"{package}/{filename}: nobody runs {unused}"
