"""What a transaction has written: told by verbs, or as the change stream captured it."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from typing import Any
from uuid import UUID, uuid4

import pytest
from tests.kernel.caching import TRUNCATE_USERS, cache_of, kind_of, make_user

from headwater.kernel.lifecycle import Headwater
from headwater.kernel.written import CHANGES_MAX, Written, tag_name, tags_of
from headwater.modules.identity.models import User

_VALUES = [None, "a", "\u00f6" * 64, "x" * 65, 7, True, uuid4(), Decimal("1.50"), 1.5, datetime(2026, 1, 1, tzinfo=UTC)]


@pytest.mark.parametrize("value", _VALUES, ids=str)
async def test_a_change_concerns_the_tag_whatever_its_value_is(headwater: Headwater, value: Any) -> None:
    kinds = {bool: "boolean", int: "bigint", float: "float8", UUID: "uuid", Decimal: "numeric", datetime: "timestamptz"}
    async with headwater.postgres._borrow() as link:
        told_as = await link.connection.fetchval(
            f"select jsonb_build_object('c', $1::{kinds.get(type(value), 'text')})", value
        )
    assert tag_name("t.t", "c", value) in tags_of("t.t", None, told_as, None)


async def test_what_a_statement_wrote_is_captured_with_its_rows_and_tags(headwater: Headwater) -> None:
    user = await make_user(headwater)
    async with headwater.transaction() as tx:
        await tx.connection.execute("update users set name = 'x' where id = $1", user.id)
        written = Written(cache_of(headwater))
        assert await written.add_captured(tx.connection)
        assert written.rows == {(kind_of(headwater), user.id)}
        assert tag_name("public.users") in written.tags
        assert tag_name("public.users", "id", user.id) in written.tags


async def test_what_cannot_be_told_key_by_key_says_so(headwater: Headwater) -> None:
    cache = cache_of(headwater)
    many = "insert into users (email) select 'many' || i || '@b.example' from generate_series(1, $1::int) i"
    for statement, arguments, complete in (
        (many, (CHANGES_MAX,), True),
        (many.replace("many", "more"), (CHANGES_MAX + 1,), False),
        (TRUNCATE_USERS, (), False),
    ):
        async with headwater.transaction() as tx:
            await tx.connection.execute(statement, *arguments)
            assert await Written(cache).add_captured(tx.connection) is complete


async def test_a_verb_tells_of_the_row_as_it_was_and_as_it_is(headwater: Headwater) -> None:
    written = Written(cache_of(headwater))
    assert not written
    user = await make_user(headwater)
    written.add_values(User, [user])
    assert written
    assert written.rows == {(kind_of(headwater), user.id)}
