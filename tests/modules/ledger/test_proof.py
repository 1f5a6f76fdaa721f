"""Whatever is changed behind the back of the functions is found, and the first bad row is named."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass

import asyncpg
import pytest
import pytest_asyncio

from headwater.kernel.errors import InvalidValue, StateConflict
from headwater.kernel.lifecycle import Headwater
from headwater.modules.ledger import proof
from headwater.modules.ledger.proof import Digest, newest_digest, read_digest, seal, verify
from headwater.modules.ledger.repository import LedgerRepository, Move, Receipt

from .conftest import open_purse


@dataclass(frozen=True)
class Books:
    """A history with everything in it, sealed twice, and a connection of somebody who may do anything."""

    headwater: Headwater
    owner: asyncpg.Connection
    moved: Receipt
    last: Receipt
    held: Receipt
    alice: int
    digest: Digest


@pytest_asyncio.fixture
async def books(headwater: Headwater) -> AsyncIterator[Books]:
    ledger = headwater.repository(LedgerRepository)
    purse = await open_purse(ledger, headwater.postgres)
    db = headwater.postgres
    moved = await ledger.transfer(db, debit=purse.alice, credit=purse.bob, amount=100, reference="a", metadata={"k": 1})
    held = await ledger.hold(db, debit=purse.bob, credit=purse.carol, amount=50)
    await ledger.post_hold(db, held.id, 20, keep_rest=True)
    await seal(db)
    await ledger.reverse(db, moved.id)
    ended = await ledger.hold(db, debit=purse.bob, credit=purse.carol, amount=5)
    await ledger.void_hold(db, ended.id)
    await ledger.transfer(db, debit=purse.alice, credit=purse.bob, amount=10**9)  # refused
    last = await ledger.transfer(db, debit=purse.alice, credit=purse.bob, amount=7)
    digest = await seal(db)
    assert digest is not None
    assert digest.seal == 2
    await ledger.transfer(db, debit=purse.bob, credit=purse.alice, amount=1)
    owner = await asyncpg.connect(headwater.settings.database_url)
    await owner.execute("set session_replication_role = replica")  # the triggers that refuse are passed by
    try:
        yield Books(headwater, owner, moved, last, held, purse.alice, digest)
    finally:
        await owner.close()


async def test_an_untouched_ledger_is_sound_with_and_without_a_kept_digest(books: Books) -> None:
    report = await verify(
        books.headwater.postgres,
        digest=read_digest(
            b'{"seal": 2, "transfers": %d, "digest": "%s", '
            b'"sealed_at": "2026-01-01T00:00:00Z"}' % (books.digest.transfers, books.digest.digest.encode())
        ),
    )
    assert report.faults == []
    assert (report.seals, report.unsealed, report.transfers) == (2, 1, books.digest.transfers + 1)
    assert await newest_digest(books.headwater.postgres) == books.digest
    with pytest.raises(InvalidValue, match="no digest"):
        read_digest(b"{}")


_CHECKSUM = "checksum = ledger.checksum_of(ledger.said(t))"
_TAMPERED = {
    "an amount": ("update ledger.transfers set amount = amount + 1 where id = $1", "last", "chains"),
    "a byte of a reference": ("update ledger.transfers set reference = 'b' where id = $1", "moved", "chains"),
    "a byte of metadata": ("update ledger.transfers set metadata = '{\"k\": 2}' where id = $1", "moved", "chains"),
    "an instant": ("update ledger.transfers set created_at = created_at + '1 us' where id = $1", "last", "chains"),
    "a deleted row": ("delete from ledger.transfers where id = $1", "moved", "reversals"),
    "a deleted last row": ("delete from ledger.transfers where id = $1", "last", "chains"),
    "a forged end of a hold": ("update ledger.holds set remaining = 29 where transfer_id = $1", "held", "holds"),
    "a lost hold": ("delete from ledger.holds where transfer_id = $1", "held", "holds"),
    "a forgotten reversal": ("delete from ledger.reversals where transfer_id = $1", "moved", "reversals"),
    "one account twice": (
        "update ledger.transfers set credit_account_id = debit_account_id where id = $1", "moved", "rows",
    ),
    "an account that is not there": (
        "update ledger.transfers set credit_account_id = 1000000 where id = $1", "moved", "rows",
    ),
    "an account of a hold that is not there": (
        "update ledger.transfers set credit_account_id = 0 where id = $1", "held", "rows",
    ),
    "an account of another asset": (
        "with asset as (insert into ledger.assets (code, scale) values ('EUR', 2) returning id),"
        " account as (insert into ledger.accounts (asset_id, owner_kind, owner_id, purpose)"
        " select id, 'user', uuidv7(), 'main' from asset returning id)"
        " update ledger.transfers set credit_account_id = (select id from account) where id = $1", "moved", "rows",
    ),
    "half of a side": ("update ledger.transfers set credit_balance_after = null where id = $1", "last", "rows"),
    "an amount of nothing": ("update ledger.transfers set amount = 0 where id = $1", "last", "rows"),
}  # fmt: skip


@pytest.mark.parametrize("glanced_at_max", [proof._GLANCED_AT_MAX, 0], ids=["", "many accounts"])
@pytest.mark.parametrize("what", _TAMPERED)
async def test_a_changed_row_is_found_and_named(
    books: Books, monkeypatch: pytest.MonkeyPatch, what: str, glanced_at_max: int
) -> None:
    monkeypatch.setattr(proof, "_GLANCED_AT_MAX", glanced_at_max)
    statement, whose, check = _TAMPERED[what]
    key = getattr(books, whose).id
    assert await books.owner.execute(statement, key) in ("UPDATE 1", "DELETE 1")
    report = await verify(books.headwater.postgres)
    assert report.faults[0].check == check
    if not what.startswith(("a deleted", "a forgotten")):
        assert any(str(key) in fault.place for fault in report.faults), report.faults


@pytest.mark.parametrize(
    "change", ["balance = balance + 1", "held = held + 1", "version = version + 1", "head = sha256(head)"]
)
async def test_a_changed_account_is_found_and_named(books: Books, change: str) -> None:
    await books.owner.execute("update ledger.accounts set " + change + " where id = $1", books.alice)
    report = await verify(books.headwater.postgres)
    assert any(fault.place == f"ledger.accounts {books.alice}" for fault in report.faults), report.faults


async def test_a_row_changed_with_its_checksum_is_found_by_the_chains_and_the_seal(books: Books) -> None:
    await books.owner.execute("update ledger.transfers set reference = 'b' where id = $1", books.moved.id)
    await books.owner.execute("update ledger.transfers t set " + _CHECKSUM + " where id = $1", books.moved.id)
    report = await verify(books.headwater.postgres)
    assert [fault.check for fault in report.faults][:1] == ["chains"]
    assert any(fault.place == "ledger.seals 1" for fault in report.faults)


async def test_a_rewritten_seal_is_found(books: Books) -> None:
    await books.owner.execute("update ledger.seals set root = sha256(root) where number = 1")
    assert {fault.place for fault in (await verify(books.headwater.postgres)).faults} == {"ledger.seals 1"}
    await books.owner.execute("update ledger.seals s set digest = ledger.digest_of('', s) where number = 1")
    found = {(fault.check, fault.place) for fault in (await verify(books.headwater.postgres)).faults}
    assert found == {("seals", "ledger.seals 2"), ("seal_again", "ledger.seals 1")}


async def test_whoever_rewrites_everything_is_found_by_the_digest_that_was_kept_elsewhere(books: Books) -> None:
    """The owner of the database changes a row and makes anew whatever depends on it."""
    await books.owner.execute("update ledger.transfers set reference = 'b' where id = $1", books.moved.id)
    await books.owner.execute("update ledger.transfers t set " + _CHECKSUM)
    await books.owner.execute(
        "update ledger.accounts a set head = r.head from ledger.recomputed(0, 1) r where r.account = a.id"
    )
    await books.owner.execute("delete from ledger.seals")
    await seal(books.headwater.postgres)
    assert (await verify(books.headwater.postgres)).sound
    report = await verify(books.headwater.postgres, digest=books.digest)
    assert [fault.check for fault in report.faults] == ["digest"]


async def test_an_inserted_row_behind_a_seal_is_found(books: Books) -> None:
    await books.owner.execute(
        "insert into ledger.transfers select uuidv7(), debit_account_id, credit_account_id, 90, 90, created_at, xid,"
        " state, 0, amount, debit_balance_after, credit_balance_after from ledger.transfers where id = $1",
        books.moved.id,
    )  # fmt: skip
    checks = {fault.check for fault in (await verify(books.headwater.postgres)).faults}
    assert {"chains", "seal_again"} <= checks


async def test_a_transfer_that_commits_after_a_seal_with_an_older_transaction_is_in_the_next(
    headwater: Headwater,
) -> None:
    """The hole of sealing by ids: what was begun before the seal and committed after it is in no block, ever."""
    ledger = headwater.repository(LedgerRepository)
    purse = await open_purse(ledger, headwater.postgres)
    begun, sealed = asyncio.Event(), asyncio.Event()

    async def slow() -> None:
        async with headwater.transaction() as tx:
            await ledger.transfer(tx, debit=purse.alice, credit=purse.bob, amount=1)
            begun.set()
            await sealed.wait()

    task = asyncio.create_task(slow())
    await begun.wait()
    await ledger.post(headwater.postgres, [Move(debit=purse.issuance, credit=purse.carol, amount=1)])
    first = await seal(headwater.postgres)
    sealed.set()
    await task
    second = await seal(headwater.postgres)
    assert first is not None
    assert second is not None
    report = await verify(headwater.postgres)
    assert (report.sound, report.unsealed, second.transfers) == (True, 0, 5)


async def test_a_database_from_a_dump_whose_transactions_begin_anew_is_told_apart_from_a_rewritten_one(
    books: Books,
) -> None:
    """As if the seals came from a cluster that was further: what `pg_dump` carries into a new one."""
    await books.owner.execute(
        "insert into ledger.seals (number, xid_from, xid_to, transfers, root, digest)"
        " select s.number + 1, s.xid_to, s.xid_to + 1000000000, 0, '', '' from ledger.seals s where s.number = 2"
    )
    await books.owner.execute(
        "update ledger.seals s set transfers = f.transfers, root = f.root from ("
        "  select g.* from ledger.seals x cross join ledger.sealed(x.xid_from, x.xid_to) g where x.number = 3) f"
        " where s.number = 3"
    )
    await books.owner.execute(
        "update ledger.seals s set digest = ledger.digest_of(b.digest, s) from ledger.seals b"
        " where s.number = 3 and b.number = 2"
    )
    assert [(f.check, f.place) for f in (await verify(books.headwater.postgres)).faults] == [
        ("cluster", "ledger.seals 3")
    ]
    with pytest.raises(StateConflict, match="sealed already"):
        await seal(books.headwater.postgres)


async def test_a_row_deep_in_a_chain_is_found_when_everything_but_the_head_is_made_anew(books: Books) -> None:
    """Many links: the row is changed with its checksum, and the links after it are what tells."""
    ledger, db = books.headwater.repository(LedgerRepository), books.headwater.postgres
    made = await ledger.post(db, [Move(debit=books.alice, credit=books.alice + 1, amount=1) for _ in range(23)])
    middle = made[9].id
    assert (await verify(db)).sound
    for change in ("reference = 'x'", "xid = xid + 1", "state = 'pending'"):
        before = await books.owner.fetchrow("select * from ledger.transfers where id = $1", middle)
        await books.owner.execute("update ledger.transfers t set " + change + " where id = $1", middle)
        await books.owner.execute("update ledger.transfers t set " + _CHECKSUM + " where id = $1", middle)
        assert any(
            fault.check == "chains" and fault.place in (f"ledger.accounts {books.alice}", f"ledger.transfers {middle}")
            for fault in (await verify(db)).faults
        ), change
        await books.owner.execute(
            "update ledger.transfers set reference = $2, xid = $3, state = $4, checksum = $5 where id = $1",
            middle, before["reference"], before["xid"], before["state"], before["checksum"],
        )  # fmt: skip
    assert (await verify(db)).sound


_COLUMNS = {
    "id": "uuidv7()", "debit_account_id": "debit_account_id + 1000", "credit_account_id": "credit_account_id + 1000",
    "debit_version": "debit_version + 1000", "credit_version": "coalesce(credit_version, 0) + 1000",
    "created_at": "created_at + '1 us'", "xid": "xid + 1", "amount": "amount + 1",
    "state": "case state when 'voided' then 'expired' else 'voided' end::ledger.transfer_state",
    "released": "coalesce(released, 0) + 1", "pending_id": "uuidv7()", "reverses_id": "uuidv7()",
    "reference": "coalesce(reference, '') || 'x'", "metadata": "coalesce(metadata, '{}') || '{\"x\": 1}'",
}  # fmt: skip


@pytest.mark.parametrize("whose", ["moved", "last", "held"])
async def test_what_a_transfer_says_changes_with_each_of_its_columns(books: Books, whose: str) -> None:
    """Also from nothing to something: a plain transfer says nothing of what few have."""
    key = getattr(books, whose).id
    said = {await books.owner.fetchval("select ledger.said(t) from ledger.transfers t where id = $1", key)}
    for column, value in _COLUMNS.items():
        change = books.owner.transaction()
        await change.start()
        said.add(
            await books.owner.fetchval(
                f"update ledger.transfers t set {column} = {value} where id = $1 returning ledger.said(new)",
                key,
            )
        )
        await change.rollback()
    assert None not in said
    assert len(said) == len(_COLUMNS) + 1
