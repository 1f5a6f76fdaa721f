"""The trail: a byte that was flipped, a row that is gone and an end that was rewritten are named. As superuser."""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from uuid import UUID, uuid4

import asyncpg
import pytest
import pytest_asyncio
from sqlalchemy import select

from headwater.kernel.lifecycle import Headwater
from headwater.modules.finance.models import HistoryEntry
from headwater.modules.finance.repository import FinanceRepository, SealedDigest

from .conftest import Faults

Tamper = Callable[..., Awaitable[list[str]]]


@pytest_asyncio.fixture
async def sealed(headwater: Headwater, finance: FinanceRepository, savers: list[UUID]) -> SealedDigest:
    """A few transactions of each kind, sealed; and some more that are not."""
    async with headwater.transaction() as tx:
        await finance.transfer(tx, from_user_id=savers[0], to_user_id=savers[2], amount=100)
        await finance.distribute_yield(tx, distribution_id=uuid4(), amount=99)
        out = await finance.withdraw(tx, user_id=savers[1], amount=7, pending=True)
    async with headwater.transaction() as tx:
        made = await finance.seal(tx)
    assert made is not None
    async with headwater.transaction() as tx:
        await finance.complete(tx, out.id)
        await finance.deposit(tx, user_id=savers[2], amount=3)
    return made


@pytest.fixture
def tamper(database: str, finance: FinanceRepository) -> Tamper:
    """Change something as superuser, past every trigger, and say which checks notice."""

    async def change(*statements: str, digest: tuple[int, str] | None = None) -> list[str]:
        connection = await asyncpg.connect(database)
        try:
            async with connection.transaction():
                await connection.execute("set local session_replication_role = replica")
                for table in ("finance.transactions", "finance.transaction_history", "finance.seals"):
                    await connection.execute(f"alter table {table} disable trigger all")
                for statement in statements:
                    done = await connection.execute(statement)
                    assert not done.endswith(" 0"), f"it changed nothing: {statement}"
                for table in ("finance.transactions", "finance.transaction_history", "finance.seals"):
                    await connection.execute(f"alter table {table} enable trigger all")
        finally:
            await connection.close()
        return sorted({fault.check for fault in (await finance.verify(digest=digest)).faults})

    return change


async def test_what_nobody_touched_is_whole(finance, sealed, faults: Faults) -> None:
    found = await finance.verify(digest=(sealed.number, sealed.digest))
    assert found.faults == []
    assert (found.transactions, found.entries, found.seals) == (9, 10, 1)
    assert await faults() == []


FIRST = "(user_id, number) = (select user_id, number from finance.transaction_history order by user_id, number limit 1)"
LAST = (
    "(user_id, number) = (select user_id, number from finance.transaction_history"
    " order by user_id desc, number desc limit 1)"
)


CHANGES = (
    "actor = 'nobody'",
    "action = 'update '",
    "at = at + interval '1 microsecond'",
    """after = jsonb_set(after, '{amount}', '1')""",
    "before = '{}'",
    "transaction_id = uuidv7()",
    "previous = hash",
    "hash = set_byte(hash, 7, (get_byte(hash, 7) + 1) % 256)",
)


@pytest.mark.parametrize("which", [FIRST, LAST], ids=["first", "last"])
async def test_an_entry_that_was_changed_is_named(headwater, finance, sealed, which: str) -> None:
    for change in CHANGES:
        with pytest.raises(_Undone):
            async with headwater.transaction() as tx:
                await tx.connection.execute("set local session_replication_role = replica")
                done = await tx.connection.execute(f"update finance.transaction_history set {change} where {which}")
                assert done == "UPDATE 1"
                assert "trail" in {fault.check for fault in (await finance.verify(tx=tx)).faults}, change
                raise _Undone
    assert (await finance.verify()).faults == []


class _Undone(Exception):
    """What was tried is rolled back."""


async def test_the_first_bad_entry_of_a_trail_is_named(headwater, finance, savers, sealed, tamper: Tamper) -> None:
    await tamper(f"update finance.transaction_history set actor = 'x' where user_id = '{savers[0]}' and number >= 2")
    (fault,) = [one for one in (await finance.verify()).faults if one.check == "trail"]
    assert fault.where == f"user_id {savers[0]}, number 2"
    assert fault.fault == "it was changed after it was written"


async def test_a_removed_entry_is_named_at_every_place(finance, savers, sealed, tamper: Tamper) -> None:
    first = await tamper(f"delete from finance.transaction_history where user_id = '{savers[0]}' and number = 1")
    assert {"trail", "told"} <= set(first)
    last = await tamper(f"delete from finance.transaction_history where user_id = '{savers[2]}' and number = 3")
    assert "told" in last


async def test_a_transaction_that_is_gone_with_its_entry_is_missed_by_the_ledger(
    finance, savers, sealed, tamper: Tamper
) -> None:
    """Both ends of the trail agree; the ledger does not."""
    found = await tamper(
        f"delete from finance.transaction_history where user_id = '{savers[2]}' and number = 3",
        f"delete from finance.transactions where user_id = '{savers[2]}' and amount = 3",
    )
    assert found == ["untold"]


async def test_a_transaction_that_was_changed_is_named(finance, savers, sealed, tamper: Tamper) -> None:
    found = await tamper(f"update finance.transactions set amount = 4 where user_id = '{savers[2]}' and amount = 3")
    assert found == ["moved", "told"]
    assert "told" in await tamper(f"update finance.transactions set reference = 'x' where user_id = '{savers[1]}'")


async def test_a_distribution_that_does_not_add_up_is_named(finance, savers, sealed, tamper: Tamper) -> None:
    assert "distribution" in await tamper(
        "alter table finance.distributions disable trigger all", "update finance.distributions set amount = amount + 1"
    )


async def _rewrite_the_end(database: str, user_id: UUID) -> None:
    """The last entry is written anew with a hash that fits, as someone who knows how would do it."""
    connection = await asyncpg.connect(database)
    try:
        await connection.execute("alter table finance.transaction_history disable trigger all")
        await connection.execute(
            """
            update finance.transaction_history e
               set actor = 'somebody else',
                   hash = finance.entry_hash(e.user_id, e.number, e.transaction_id, e.at, 'somebody else', e.action,
                                             e.before, e.after, e.previous)
             where e.user_id = $1
               and e.number = (select max(number) from finance.transaction_history where user_id = $1)
            """,
            user_id,
        )
        await connection.execute("alter table finance.transaction_history enable trigger all")
    finally:
        await connection.close()


async def test_a_rewritten_end_is_named_by_the_seal(headwater, finance, savers, sealed, database) -> None:
    await _rewrite_the_end(database, savers[0])
    (fault,) = (await finance.verify()).faults
    assert (fault.check, fault.where) == ("sealed", f"user_id {savers[0]}, number 3")
    assert fault.fault == "the seal 1 has seen another entry here"


async def test_a_seal_that_was_changed_or_removed_is_named(headwater, finance, savers, sealed, tamper: Tamper) -> None:
    async with headwater.transaction() as tx:
        second = await finance.seal(tx)
    assert second is not None
    assert (second.number, second.trails) == (2, 2)
    assert await tamper("update finance.seals set created_at = created_at + interval '1 s' where number = 2") == [
        "seal"
    ]
    assert "seal" in await tamper("update finance.sealed_trails set number = number + 1 where seal_number = 1")


async def test_whoever_rewrites_everything_is_betrayed_by_a_digest_kept_elsewhere(
    headwater, finance, savers, sealed, database, tamper: Tamper
) -> None:
    await _rewrite_the_end(database, savers[0])
    found = await tamper(
        "alter table finance.sealed_trails disable trigger all",
        "alter table finance.seals disable trigger all",
        "update finance.sealed_trails s set hash = e.hash from finance.transaction_history e"
        " where e.user_id = s.user_id and e.number = s.number",
        "update finance.seals s set root = (select finance.root_of(array_agg(t.user_id), array_agg(t.number),"
        " array_agg(t.hash)) from finance.sealed_trails t where t.seal_number = s.number)",
        "update finance.seals set digest = finance.digest_of(number, trails, root, previous, created_at)",
    )
    assert found == []  # inside, everything fits
    (fault,) = (await finance.verify(digest=(sealed.number, sealed.digest))).faults
    assert (fault.check, fault.fault) == ("digest", "the seal is not the one that was kept")
    (gone,) = (await finance.verify(digest=(9, sealed.digest))).faults
    assert gone.fault == "the seal is gone"


async def test_a_seal_follows_only_when_something_has_grown(headwater, finance, savers, sealed) -> None:
    async with headwater.transaction() as tx:
        second, again = await finance.seal(tx), await finance.seal(tx)
    assert second == again
    assert second is not None
    assert second.number == 2


async def test_without_a_trail_there_is_no_seal(headwater, finance) -> None:
    async with headwater.transaction() as tx:
        assert await finance.seal(tx) is None


async def test_python_computes_the_same_chain(headwater, finance, savers, sealed) -> None:
    """The hashes are not PostgreSQL's secret: whoever has the rows can check them."""
    previous: dict[UUID, bytes] = {}
    entries = await headwater.postgres.fetch(select(HistoryEntry).order_by(HistoryEntry.user_id, HistoryEntry.number))
    raw = {}
    async with headwater.postgres.connection() as connection:
        for row in await connection.fetch(
            "select user_id, number, before::text as before, after::text as after from finance.transaction_history"
        ):
            raw[row["user_id"], row["number"]] = (row["before"], row["after"])
    for entry in entries:
        before, after = raw[entry.user_id, entry.number]
        assert entry.previous == previous.get(entry.user_id, b"")
        assert json.loads(after) == entry.after
        assert entry.hash == _hash(entry, before, after)
        previous[entry.user_id] = entry.hash


def _hash(entry: HistoryEntry, before: str | None, after: str) -> bytes:
    """SHA-256 over the row in PostgreSQL's binary form: how many fields, then of each its type, length and bytes."""
    since = entry.at - datetime(2000, 1, 1, tzinfo=UTC)
    at = (since.days * 86_400 + since.seconds) * 1_000_000 + since.microseconds
    fields = [
        (2950, entry.user_id.bytes),
        (20, struct.pack("!q", entry.number)),
        (2950, entry.transaction_id.bytes),
        (1184, struct.pack("!q", at)),
        (25, entry.actor.encode()),
        (25, entry.action.encode()),
        (3802, None if before is None else b"\x01" + before.encode()),
        (3802, b"\x01" + after.encode()),
        (17, entry.previous),
    ]
    said = struct.pack("!i", len(fields))
    for kind, value in fields:
        said += struct.pack("!ii", kind, -1 if value is None else len(value)) + (value or b"")
    return hashlib.sha256(said).digest()


async def test_a_forged_transfer_is_refused(headwater, finance, savers, sealed, database, faults: Faults) -> None:
    """A completed transaction must name the very transfer of the ledger that it tells of."""
    connection = await asyncpg.connect(database)
    try:
        taken = await connection.fetchval("select transfer_id from finance.transactions where amount = 5000")
        for transfer in (uuid4(), taken):
            with pytest.raises(asyncpg.InvalidParameterValueError, match="not its own"):
                await connection.execute(
                    "insert into finance.transactions (user_id, type, direction, amount, status, transfer_id, ended_at)"
                    " values ($1, 'deposit', 'in', 10000, 'completed', $2, now())",
                    savers[0],
                    transfer,
                )
    finally:
        await connection.close()
    assert await faults() == []


async def test_a_role_of_an_application_moves_money_and_cannot_touch_the_trail(
    headwater, finance, savers, sealed, database, faults: Faults
) -> None:
    role = f"app_{uuid4().hex[:12]}"
    connection = await asyncpg.connect(database)
    try:
        await connection.execute(f"create role {role}")
        await connection.execute(f"select finance.grant_to('{role}')")
        await connection.execute(f"set role {role}")
        await connection.execute(
            "insert into finance.transactions (user_id, type, amount, status) values ($1, 'deposit', 5, 'completed')",
            savers[0],
        )
        await connection.execute("update finance.user_balances set balance = balance - 1 where user_id = $1", savers[0])
        await connection.execute("select finance.distribute_yield(uuidv7(), 'USD', 10, null)")
        for forbidden in (
            "insert into finance.transaction_history select * from finance.transaction_history limit 1",
            "update finance.transaction_history set actor = 'x'",
            "delete from finance.transaction_history",
            "truncate finance.transaction_history",
            "delete from finance.transactions",
            "insert into finance.holders select * from finance.holders",
            "update ledger.accounts set balance = 1",
            "select finance.settle(t, true, false) from finance.transactions t limit 1",
            "select finance.remember('x', null, null, null, null, null, null, null, null, null)",
        ):
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await connection.execute(forbidden)
        await connection.execute("reset role")
        await connection.execute(f"drop owned by {role}")
        await connection.execute(f"drop role {role}")
    finally:
        await connection.close()
    assert await faults() == []
