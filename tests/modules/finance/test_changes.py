"""Every transaction is told to the change stream once and as it is, whoever writes it and however many at once."""

from __future__ import annotations

import json
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import pytest

from headwater.kernel.errors import MissingReference
from headwater.kernel.lifecycle import Headwater
from headwater.kernel.tracking import Context
from headwater.modules.finance.models import MoneyTransaction, TransactionStatus, TransactionType
from headwater.modules.finance.repository import FinanceRepository

from .conftest import Faults, sql

_UNTOLD = """
-- Rows that the stream has not told once, or not as they were written (none of these tests changes one later).
select t.id, count(c.id) as times, bool_and(c.new = to_jsonb(t)) as same
  from finance.transactions t
  left join headwater.change c
    on c."table" = 'finance.transactions' and c.op = 'i' and c.key = jsonb_build_object('id', t.id)
 group by t.id having count(c.id) <> 1 or not bool_and(c.new = to_jsonb(t))
union all
select (c.key ->> 'id')::uuid, 0, false from headwater.change c
 where c."table" = 'finance.transactions' and c.op = 'i'
   and not exists (select from finance.transactions t where t.id = (c.key ->> 'id')::uuid)
"""


async def _fetch(dsn: str, query: str) -> list[Any]:
    connection = await asyncpg.connect(dsn)
    try:
        return list(await connection.fetch(query))
    finally:
        await connection.close()


async def test_verbs_plain_sql_copy_and_distributions_tell_each_row_once(
    headwater: Headwater, finance: FinanceRepository, savers: list[UUID], database: str, faults: Faults
) -> None:
    async with headwater.transaction() as tx:
        await finance.transfer(tx, from_user_id=savers[0], to_user_id=savers[1], amount=7)  # two sides, two rows
    await sql(
        database,
        f"insert into finance.transactions (user_id, type, amount, status) values ('{savers[0]}', 'deposit', 5,"
        f" 'completed'), ('{savers[1]}', 'deposit', 6, 'completed'), ('{savers[0]}', 'withdraw', 1, 'completed')",
        f"insert into finance.transactions (user_id, type, amount, status)"
        f" select '{savers[0]}', 'deposit', 5, 'completed' where false",
        f"update finance.user_balances set balance = balance + 1 where user_id = '{savers[0]}'",
    )
    async with headwater.transaction() as tx:
        await headwater.repository(MoneyTransaction).bulk_insert(
            tx,
            [
                {"user_id": user, "type": TransactionType.DEPOSIT, "amount": 3, "status": TransactionStatus.COMPLETED}
                for user in savers
            ],
        )
    async with headwater.transaction(context=Context(actor="the month's end")) as tx:
        made = await finance.distribute_yield(tx, distribution_id=uuid4(), amount=100)
    assert await _fetch(database, _UNTOLD) == []
    told = await _fetch(
        database,
        f"select context from headwater.change where new ->> 'distribution_id' = '{made.id}'",
    )
    assert [json.loads(row["context"])["actor"] for row in told] == ["the month's end"] * 2
    assert await faults() == []


async def test_a_writer_whose_triggers_are_off_is_told_of_too(
    headwater: Headwater, savers: list[UUID], database: str
) -> None:
    await sql(
        database,
        "set session_replication_role = replica",
        "insert into finance.transactions (user_id, type, direction, amount)"
        f" values ('{savers[0]}', 'deposit', 'in', 5), ('{savers[1]}', 'deposit', 'in', 6)",
    )
    assert await _fetch(database, _UNTOLD) == []


async def test_a_step_is_told_once_with_what_was_before(
    headwater: Headwater, finance: FinanceRepository, savers: list[UUID], database: str
) -> None:
    async with headwater.transaction() as tx:
        pending = await finance.withdraw(tx, user_id=savers[0], amount=5, pending=True)
        await finance.complete(tx, pending.id)
    told = await _fetch(
        database,
        "select op::text, old ->> 'status' as old, new ->> 'status' as new from headwater.change"
        f" where \"table\" = 'finance.transactions' and key ->> 'id' = '{pending.id}' order by id",
    )
    assert [tuple(row) for row in told] == [("i", None, "pending"), ("u", "pending", "completed")]


async def test_nobody_unknown_has_transactions_and_nobody_who_has_some_can_go(
    headwater: Headwater, finance: FinanceRepository, savers: list[UUID], database: str
) -> None:
    for pending in (False, True):
        with pytest.raises(MissingReference, match="no such user"):
            async with headwater.transaction() as tx:
                await finance.deposit(tx, user_id=uuid4(), amount=5, pending=pending)
    with pytest.raises(asyncpg.InvalidParameterValueError, match="not its own"):
        await sql(
            database,
            "insert into finance.transactions (user_id, type, direction, amount, status, transfer_id, ended_at)"
            " select uuidv7(), type, direction, amount, status, transfer_id, now() from finance.transactions limit 1",
        )
    with pytest.raises(asyncpg.ForeignKeyViolationError):
        await sql(database, f"delete from users where id = '{savers[0]}'")
    with pytest.raises(asyncpg.ObjectNotInPrerequisiteStateError, match="holders is history"):
        await sql(database, f"delete from finance.holders where user_id = '{savers[0]}'")
