"""Named queries: what becomes a parameter, what is left alone, and what is refused with a helpful word."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from headwater.kernel.errors import ProgrammingError
from headwater.kernel.queries import NamedQuery, Queries


def one(sql: str) -> NamedQuery:
    return Queries.parse(f"-- name: q\n{sql}")["q"]


def test_each_parameter_gets_a_number_and_the_same_name_the_same_number() -> None:
    query = one("select :a, :b::int, :a::text")
    assert query.sql == "select $1, $2::int, $1::text"
    assert query.parameters == ("a", "b")


@pytest.mark.parametrize(
    "sql",
    [
        "select x::text::jsonb",
        "select ':a', 'it''s :b', E'\\' :c'",
        'select ":a" from "b"":c"',
        "select $$ :a $$, $body$ :b $$ :c $body$",
        "select 1 -- :a\n, 2",
        "select 1 /* :a /* :b */ :c */, 2",
        "select a[1:2], a[lo:hi], a[f(1):hi]",
        "select f(x := 1)",
        "select a [b[1]:c]",
    ],
)
def test_a_colon_that_is_no_parameter_is_left_alone(sql: str) -> None:
    query = one(sql)
    assert query.sql == sql
    assert query.parameters == ()


def test_a_parameter_after_a_string_or_a_comment_is_still_found() -> None:
    assert one("select ':x' || :y /* it's */ || :z").sql == "select ':x' || $1 /* it's */ || $2"


def test_a_dollar_quote_does_not_begin_inside_a_name() -> None:
    assert one("select a$b$ + :c").parameters == ("c",)


def test_the_comment_under_the_name_is_the_doc_and_the_final_semicolon_goes() -> None:
    queries = Queries.parse(
        "-- The file.\n\n-- name: a\n-- What it answers.\n-- And more.\nselect 1;\n\n-- name: b\nselect 2\n"
    )
    assert list(queries) == ["a", "b"]
    assert queries["a"].doc == "What it answers.\nAnd more."
    assert queries["a"].sql == "select 1"
    assert queries["b"] == NamedQuery("b", "select 2", (), "<text>", "")


def test_a_file_is_loaded_from_beside_its_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "queries_fixture"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "queries.sql").write_text("-- name: now\nselect now()")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert Queries.load("queries_fixture")["now"].source == "queries_fixture/queries.sql"
    with pytest.raises(ProgrammingError, match=r"has no file 'other\.sql'"):
        Queries.load("queries_fixture", "other.sql")
    sys.modules.pop("queries_fixture")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("-- name: a\nselect 1\n-- name: a\nselect 2", "two queries are named 'a'"),
        ("-- name: a\n-- only words\n", "the query 'a' has no SQL"),
        ("-- name: a\n-- words\n;", "the query 'a' has no SQL"),
        ("-- name: Not good\nselect 1", "'Not good' cannot name a query"),
        ("select 1;\n-- name: a\nselect 1", "SQL before the first"),
        ("-- name: a\nselect $x$ open", r"\$x\$ is never closed"),
        ("-- name: a\nselect /* open", "is never closed"),
    ],
)
def test_a_broken_file_is_refused_with_its_reason(text: str, said: str) -> None:
    with pytest.raises(ProgrammingError, match=said):
        Queries.parse(text)


def test_an_unknown_name_is_answered_with_the_nearest() -> None:
    with pytest.raises(ProgrammingError, match="Did you mean 'order_book'"):
        Queries.parse("-- name: order_book\nselect 1")["orderbook"]
    with pytest.raises(ProgrammingError, match="There are: a, b"):
        Queries.parse("-- name: a\nselect 1\n-- name: b\nselect 1")["zzz"]


def test_asking_whether_a_name_exists_raises_nothing() -> None:
    queries = Queries.parse("-- name: a\nselect 1")
    assert "a" in queries
    assert "b" not in queries
    assert queries.get("a") is queries["a"]


def test_arguments_come_in_order_and_wrong_names_are_refused() -> None:
    query = one("select :asset_id, :limit")
    assert query.arguments({"limit": 3, "asset_id": 1}) == [1, 3]
    with pytest.raises(ProgrammingError, match="lacks 'limit'"):
        query.arguments({"asset_id": 1})
    with pytest.raises(ProgrammingError, match="Did you mean 'asset_id'"):
        query.arguments({"asset": 1, "limit": 3})
    with pytest.raises(ProgrammingError, match="has no parameter 'more'"):
        query.arguments({"asset_id": 1, "limit": 3, "more": 2})
