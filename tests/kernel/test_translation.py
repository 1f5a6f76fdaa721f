"""Translation: each way PostgreSQL can refuse becomes the error of the tree that says what to do about it."""

from __future__ import annotations

from typing import Any
from uuid import uuid4

import asyncpg
import pytest

from headwater.kernel import errors
from headwater.kernel.errors import HeadwaterError
from headwater.kernel.lifecycle import Headwater
from headwater.kernel.translation import translate

PRODUCT = "00000000-0000-7000-8000-000000000001"
BEFORE = f"""
insert into shop.products (id, name, price, color) values ('{PRODUCT}', 'a', 1, 'red');
insert into shop.reviews (product_id, author) values ('{PRODUCT}', 'x');
insert into shop.categories (id, name) overriding system value values (101, 'root'), (102, 'leaf');
update shop.categories set parent_id = 101 where id = 102;
"""

VIOLATIONS: list[tuple[str, type[HeadwaterError], str, dict[str, Any]]] = [
    ("insert into shop.products (name, price, color) values ('a', 1, 'red')", errors.AlreadyExists,
     "shop.products: this name is already taken.", {"columns": ["name"], "constraint": "products_name_key"}),
    (f"insert into shop.products (id, name, price, color) values ('{PRODUCT}', 'b', 1, 'red')", errors.AlreadyExists,
     "shop.products: this id is already taken.", {"columns": ["id"]}),
    ("insert into shop.categories (name) values ('root')", errors.AlreadyExists,
     "shop.categories: pick another name.", {"columns": ["name"]}),
    (f"insert into shop.reviews (product_id, author) values ('{PRODUCT}', 'x')", errors.AlreadyExists,
     "shop.reviews: you have reviewed this already.", {"columns": ["product_id", "author"]}),
    (f"insert into shop.reviews (product_id, author) values ('{uuid4()}', 'x')", errors.MissingReference,
     "shop.reviews: there is no such product.", {"columns": ["product_id"]}),
    ("update shop.categories set parent_id = 99", errors.MissingReference,
     "shop.categories: no row of shop.categories has the given parent_id.", {"columns": ["parent_id"]}),
    ("delete from shop.categories where id = 101", errors.StillReferenced, "referred to by shop.categories", {}),
    ("delete from shop.products", errors.StillReferenced, "referred to by shop.reviews", {}),
    ("update shop.products set price = -1", errors.InvalidValue, "shop.products: a price is not negative.",
     {"columns": ["price"]}),
    ("update shop.products set weight = 5000", errors.InvalidValue, "breaks the rule 'products_weight_check'",
     {"columns": ["weight"]}),
    ("update shop.products set name = null", errors.InvalidValue, "shop.products: 'name' must have a value",
     {"columns": ["name"]}),
    ("select 1 / 0", errors.InvalidValue, "division by zero", {"sqlstate": "22012"}),
    ("select 'x'::int", errors.InvalidValue, "invalid input syntax", {"sqlstate": "22P02"}),
    ("select 'green'::shop.color", errors.InvalidValue, "green", {}),
    ("insert into shop.categories (name) values ('x'), ('x') on conflict (name) do update set name = 'x'",
     errors.InvalidValue, "names the same row twice", {"sqlstate": "21000"}),
    ("do $$ begin raise exception 'the till is closed' using hint = 'Come back tomorrow.'; end $$", errors.InvalidValue,
     "the till is closed Come back tomorrow.", {"sqlstate": "P0001"}),
    ("do $$ begin raise exception 'it is shut' using errcode = '55000', hint = 'Open it.'; end $$",
     errors.StateConflict, "it is shut. Open it.", {"sqlstate": "55000"}),
    ("do $$ begin raise exception '' using errcode = '40001'; end $$", errors.SerializationFailure, "again", {}),
    ("do $$ begin raise exception '' using errcode = '40P01'; end $$", errors.DeadlockDetected, "again", {}),
    ("do $$ begin raise exception '' using errcode = '55P03'; end $$", errors.LockNotAvailable, "again", {}),
    ("do $$ begin raise exception '' using errcode = '57014'; end $$", errors.StatementTimeout, "", {}),
    ("do $$ begin raise exception 'full' using errcode = '53100'; end $$", errors.Unreachable, "full", {}),
    ("do $$ begin raise exception 'gone' using errcode = '57P01'; end $$", errors.Unreachable, "gone", {}),
    ("do $$ begin raise exception '' using errcode = '23P01'; end $$", errors.AlreadyExists, "overlaps", {}),
    ("do $$ begin raise exception '' using errcode = '23001'; end $$", errors.StillReferenced, "", {}),
    ("selec 1", errors.ProgrammingError, "syntax error", {"sqlstate": "42601"}),
    ("select * from shop.nowhere", errors.ProgrammingError, "headwater migrate", {"sqlstate": "42P01"}),
    ("select nonsense", errors.ProgrammingError, "nonsense", {"sqlstate": "42703"}),
    ("begin; set transaction read only; delete from shop.paints", errors.ProgrammingError, "read only", {}),
    ("create table pg_temp.t (a int primary key); insert into pg_temp.t values (1), (1)", errors.AlreadyExists,
     "this value is already taken", {"columns": []}),
]  # fmt: skip


@pytest.mark.parametrize(
    ("sql", "kind", "message", "detail"), VIOLATIONS, ids=lambda v: v if isinstance(v, str) else ""
)
async def test_a_refusal_becomes_its_error(
    hw: Headwater, admin: Any, sql: str, kind: type[HeadwaterError], message: str, detail: dict[str, Any]
) -> None:
    await admin.execute(BEFORE)
    with pytest.raises(HeadwaterError) as caught:
        async with hw.postgres.connection() as connection:
            await connection.execute(sql)
    assert type(caught.value) is kind
    assert message in str(caught.value)
    assert caught.value.detail | detail == caught.value.detail
    assert isinstance(caught.value.__cause__, asyncpg.PostgresError)


def refused(detail: str, **fields: str) -> Any:
    """A foreign key violation as a server of another language words it."""
    error: Any = asyncpg.ForeignKeyViolationError("…")
    error.sqlstate = "23503"
    error.schema_name, error.table_name, error.constraint_name = "shop", "reviews", "reviews_product_id_fkey"
    error.detail = detail
    for name, value in fields.items():
        setattr(error, name, value)
    return error


def test_both_sides_of_a_foreign_key_are_told_apart_in_any_language() -> None:
    missing = "Schlüssel (product_id)=(still referenced) ist nicht in Tabelle »products« vorhanden."
    held = "Auf Schlüssel (id)=(7) wird noch aus Tabelle »reviews« verwiesen."
    assert isinstance(translate(refused(missing)), errors.MissingReference)
    assert isinstance(translate(refused(held)), errors.StillReferenced)
    assert isinstance(translate(refused("")), errors.MissingReference)


def test_what_is_not_the_stores_is_left_alone() -> None:
    for error in (KeyError("x"), ZeroDivisionError(), KeyboardInterrupt(), GeneratorExit()):
        assert translate(error) is None
    ours = errors.NotFound("x")
    assert translate(ours) is ours


def test_what_breaks_a_connection_is_unreachable() -> None:
    for error in (
        ConnectionResetError("x"),
        TimeoutError(),
        EOFError(),
        asyncpg.ConnectionDoesNotExistError("x"),
        asyncpg.InterfaceError("connection is closed"),
    ):
        assert isinstance(translate(error), errors.Unreachable)
    assert isinstance(translate(asyncpg.InterfaceError("another operation is in progress")), errors.ProgrammingError)
    assert isinstance(translate(asyncpg.OutdatedSchemaCacheError("x")), errors.TransientError)
    assert isinstance(translate(OverflowError("x")), errors.InvalidValue)
