"""The ledger does what its promises say: compared with a model, and scene by scene."""

from __future__ import annotations

import asyncio
import itertools
import os
from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

import asyncpg
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from sqlalchemy.dialects import postgresql

from headwater.kernel.errors import (
    AlreadyExists,
    DeadlockDetected,
    InvalidCursor,
    InvalidValue,
    MissingReference,
    NotFound,
    StateConflict,
)
from headwater.kernel.lifecycle import Headwater
from headwater.kernel.postgres import Postgres
from headwater.kernel.settings import Settings
from headwater.modules.ledger.models import TransferState
from headwater.modules.ledger.proof import verify
from headwater.modules.ledger.repository import (
    AMOUNT_MAX,
    AnyCommand,
    Hold,
    LedgerRepository,
    Move,
    PostHold,
    Reverse,
    Status,
    VoidHold,
    accounts_of,
    id_of,
)

from .conftest import Purse
from .oracle import Oracle
from .oracle import Purse as Model

# -- the model -------------------------------------------------------------------------------------------------------

# Places of the accounts in an example: an issuance, three people, one who may be overdrawn, one of another asset, one
# that is closed, and one that does not exist.
_LIMITS = (None, 0, 0, 0, 100, None, 0)
_ABSENT = 7
_IDS = st.integers(0, 24)
_AMOUNTS = st.one_of(st.integers(1, 60), st.sampled_from([1, 100, 10**37, AMOUNT_MAX // 2, AMOUNT_MAX]))
_ACCOUNTS = st.sampled_from([0, 0, 1, 1, 2, 2, 3, 4, 5, 6, _ABSENT])
_PAST = datetime(2020, 1, 1, tzinfo=UTC)


@st.composite
def _commands(draw: st.DrawFn) -> tuple[str, dict[str, object]]:
    kind = draw(st.sampled_from(["move", "move", "move", "hold", "hold", "post", "post", "void", "reverse"]))
    said: dict[str, object] = {"id": draw(_IDS), "linked": draw(st.sampled_from([False, False, True]))}
    if kind in ("move", "hold"):
        said |= {"debit": draw(_ACCOUNTS), "credit": draw(_ACCOUNTS), "amount": draw(_AMOUNTS)}
        said["up_to"] = draw(st.sampled_from([False, False, True]))
        if kind == "move":
            said["up_to_debt"] = draw(st.sampled_from([False, False, False, True]))
        else:
            said["expires_at"] = draw(st.sampled_from([None, None, _PAST]))
    elif kind == "post":
        said |= {"hold": draw(_IDS), "amount": draw(st.none() | _AMOUNTS), "keep_rest": draw(st.booleans())}
    elif kind == "void":
        said["hold"] = draw(_IDS)
    else:
        said["transfer"] = draw(_IDS)
    return kind, said


_KINDS = {"move": Move, "hold": Hold, "post": PostHold, "void": VoidHold, "reverse": Reverse}


def _made(batch: list[tuple[str, dict[str, object]]], ids: list[UUID], accounts: list[int]) -> list[AnyCommand]:
    made: list[AnyCommand] = []
    for at, (kind, said) in enumerate(batch):
        values = dict(said)
        for name in ("id", "hold", "transfer"):
            if name in values:
                values[name] = ids[values[name]]  # type: ignore[index]
        for name in ("debit", "credit"):
            if name in values:
                values[name] = accounts[values[name]]  # type: ignore[index]
        if at == len(batch) - 1:
            values["linked"] = False
        made.append(_KINDS[kind](**values))
    return made


async def _compare(dsn: str, batches: list[list[tuple[str, dict[str, object]]]]) -> None:
    postgres = await Postgres.open(Settings(database_url=dsn, pool_size_max=2))
    try:
        ledger = LedgerRepository(postgres)
        await ledger.open_asset(postgres, "USD", scale=2)
        await ledger.open_asset(postgres, "EUR", scale=2)
        accounts = []
        for place, limit in enumerate(_LIMITS):
            asset = "EUR" if place == 5 else "USD"
            opened = await ledger.account(postgres, "model", uuid4(), asset, credit_limit=limit)
            accounts.append(opened.id)
        await ledger.close_account(postgres, accounts[6])
        oracle = Oracle({key: Model(2 if p == 5 else 1, _LIMITS[p], closed=p == 6) for p, key in enumerate(accounts)})
        accounts.append(2**40)
        ids = [uuid4() for _ in range(25)]
        for batch in batches:
            commands = _made(batch, ids, accounts)
            one = commands[0]
            if len(commands) == 1 and isinstance(one, Move):
                receipts = [
                    await ledger.transfer(
                        postgres, id=one.id, debit=one.debit, credit=one.credit, amount=one.amount, up_to=one.up_to,
                        up_to_debt=one.up_to_debt,
                    )
                ]  # fmt: skip
                expected = [oracle.transfer(one)]
            else:
                receipts = await ledger.post(postgres, commands)
                expected = oracle.post(commands)
            assert [(r.status, r.amount, r.repeated) for r in receipts] == expected, commands
        found = await ledger.get_many(accounts)
        assert {key: (a.balance, a.held) for key, a in found.items()} == {
            key: (purse.balance, purse.held) for key, purse in oracle.purses.items()
        }
    finally:
        await postgres.close()


@settings(
    max_examples=int(os.environ.get("HEADWATER_TEST_EXAMPLES", "40")),
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    phases=[Phase.explicit, Phase.reuse, Phase.generate, Phase.shrink],
)
@given(batches=st.lists(st.lists(_commands(), min_size=1, max_size=8), min_size=1, max_size=8))
def test_every_answer_is_that_of_the_model(database: str, batches: list[list[tuple[str, dict[str, object]]]]) -> None:
    """Chains, holds, expiry, the same id twice in a batch, repetitions, extreme amounts: one call and many."""
    asyncio.run(_compare(database, batches))


async def test_an_id_that_was_answered_and_comes_twice_in_a_chain_is_no_repetition(database: str) -> None:
    void: dict[str, object] = {"id": 1, "hold": 5}
    move: dict[str, object] = {"id": 1, "debit": 0, "credit": 0, "amount": 1, "linked": True}
    await _compare(database, [[("void", void), ("move", move), ("void", void)]])


async def test_a_hold_that_was_there_before_is_posted_also_in_a_call_that_asks_for_it_again(database: str) -> None:
    hold: dict[str, object] = {"id": 1, "debit": 0, "credit": 1, "amount": 5}
    other: dict[str, object] = {"id": 1, "debit": 0, "credit": 2, "amount": 7}
    parts: list[dict[str, object]] = [{"id": key, "hold": 1, "amount": 2, "keep_rest": True} for key in (2, 3)]
    await _compare(
        database, [[("hold", hold)], [("hold", hold), ("post", parts[0])], [("hold", other), ("post", parts[1])]]
    )


async def test_a_transfer_that_is_not_plain_releases_what_is_overdue_as_post_does(database: str) -> None:
    overdue: dict[str, object] = {"id": 0, "debit": 0, "credit": 1, "amount": 1, "expires_at": _PAST}
    conflict: dict[str, object] = {"id": 0, "debit": 0, "credit": 0, "amount": 1}
    plain: dict[str, object] = {"id": 1, "debit": 0, "credit": 1, "amount": 1}
    await _compare(database, [[("hold", overdue), ("move", conflict)], [("move", plain)], [("move", conflict)]])


# -- mutants: each rule is broken once, and each time the comparison notices -------------------------------------------


_A, _B = 1, 2


def _move(key: int, debit: int, credit: int, amount: int) -> tuple[str, dict[str, object]]:
    return "move", {"id": key, "debit": debit, "credit": credit, "amount": amount}


_PROBES: list[list[tuple[str, dict[str, object]]]] = [
    [_move(0, 0, _A, 100), _move(1, _A, _B, 30)],
    [_move(1, _A, _B, 30), _move(2, _A, _B, 500)],
    [_move(3, 0, _A, 1_000), _move(2, _A, _B, 500)],
    [("hold", {"id": 4, "debit": _A, "credit": _B, "amount": 1_000}), _move(5, _A, _B, 100)],
]
_MUTANTS = {
    "no mutation": ("post", "", ""),
    "a missing idempotency check": ("post", "where t.id = any (ids)", "where t.id = any (ids) and false"),
    "a forgotten refusal": ("post", "if no_count > 0 then", "if false then"),
    "a dropped hold": ("post", "a_held[d] := a_held[d] + amount;", "null;"),
    "a missing idempotency check of one call": ("transfer", "where t.id = transfer.id", "where false"),
    "a forgotten refusal of one call": ("transfer", "where r.id = transfer.id", "where false"),
    "a hold that one call can spend": ("transfer", "d.balance - d.held + d.credit_limit", "d.balance + d.credit_limit"),
}


async def _mutate(dsn: str, function: str, old: str, new: str) -> None:
    connection = await asyncpg.connect(dsn)
    try:
        source = await connection.fetchval("select pg_get_functiondef($1::regproc)", f"ledger.{function}")
        assert old in source
        await connection.execute(source.replace(old, new))
    finally:
        await connection.close()


@pytest.mark.parametrize("mutant", _MUTANTS)
async def test_a_broken_rule_is_noticed_by_the_comparison(database: str, mutant: str) -> None:
    await _mutate(database, *_MUTANTS[mutant])
    probes = [[one] for batch in _PROBES for one in batch] if "one call" in mutant else _PROBES
    if mutant == "no mutation":
        await _compare(database, _PROBES)
        await _compare(database, [[one] for batch in _PROBES for one in batch])
    else:
        with pytest.raises((AssertionError, AlreadyExists)):
            await _compare(database, probes)


@pytest.mark.parametrize("door", ["post", "transfer"])
@pytest.mark.parametrize("order", ["by id", "of arrival"])
async def test_a_broken_lock_order_is_a_deadlock(purse: Purse, headwater: Headwater, order: str, door: str) -> None:
    """B waits for the account that a third one holds, then A locks the other and waits behind B: who locks in the order
    of arrival has now met its deadlock.
    """
    if order == "of arrival":
        old, new = {
            "post": ("order by a.id for no key update", "order by array_position(touched, a.id) for no key update"),
            "transfer": ("ledger.accounts c, ledger.accounts d", "ledger.accounts d, ledger.accounts c"),
        }[door]
        await _mutate(headwater.settings.database_url, door, old, new)
    there = [Move(debit=purse.alice, credit=purse.bob, amount=1), Move(debit=purse.alice, credit=purse.bob, amount=1)]
    back = [Move(debit=purse.bob, credit=purse.alice, amount=1), Move(debit=purse.bob, credit=purse.alice, amount=1)]

    async def post(commands: list[Move]) -> Status:
        async with headwater.transaction() as tx:
            if door == "post":
                return (await purse.ledger.post(tx, commands))[0].status
            one = commands[0]
            return (await purse.ledger.transfer(tx, debit=one.debit, credit=one.credit, amount=one.amount)).status

    async with headwater.transaction() as third:
        await third.connection.execute("select from ledger.accounts where id = $1 for update", purse.bob)
        tasks = [asyncio.create_task(post(list(back)))]
        await _waiting(third, 1)
        tasks.append(asyncio.create_task(post(list(there))))
        await _waiting(third, 2)
    told = await asyncio.gather(*tasks, return_exceptions=True)
    if order == "by id":
        assert told == [Status.DONE, Status.DONE]
    else:
        assert sum(isinstance(one, DeadlockDetected) for one in told) == 1


async def _waiting(tx, backends: int) -> None:
    """Returns when so many wait for a lock."""
    seen = 0
    while seen < backends:
        await asyncio.sleep(0.005)
        seen = await tx.connection.fetchval(
            "select count(distinct pid) from pg_locks where not granted"  # pg_stat_activity stands still here
        )


# -- scenes ----------------------------------------------------------------------------------------------------------


async def test_money_moves_and_the_receipt_has_both_balances(purse: Purse, headwater: Headwater) -> None:
    async with headwater.transaction() as tx:
        receipt = await purse.ledger.transfer(tx, debit=purse.alice, credit=purse.bob, amount=300, reference="rent")
    assert (receipt.status, receipt.debit_balance, receipt.credit_balance) == (Status.DONE, 700, 1_300)
    kept = await purse.ledger.get_transfer(receipt.id)
    assert (kept.state, kept.amount, kept.reference) == (TransferState.POSTED, 300, "rent")


async def test_the_same_id_gets_the_same_answer_also_when_it_was_a_refusal(purse: Purse, headwater: Headwater) -> None:
    ask = {"id": uuid4(), "debit": purse.alice, "credit": purse.bob, "amount": 1_500}
    first = await purse.ledger.transfer(headwater.postgres, **ask)
    assert (first.status, first.repeated) == (Status.EXCEEDS_BALANCE, False)
    await purse.ledger.transfer(headwater.postgres, debit=purse.bob, credit=purse.alice, amount=1_000)
    again = await purse.ledger.transfer(headwater.postgres, **ask)  # now there would be enough
    assert (again.status, again.repeated) == (Status.EXCEEDS_BALANCE, True)
    other = await purse.ledger.transfer(headwater.postgres, **{**ask, "amount": 1_501})
    assert other.status is Status.ID_CONFLICT
    with pytest.raises(StateConflict, match="belongs to another command"):
        other.or_raise()


async def test_a_hold_is_spent_in_parts_and_nothing_else_can_spend_it(purse: Purse, headwater: Headwater) -> None:
    async with headwater.transaction() as tx:
        hold = (await purse.ledger.hold(tx, debit=purse.alice, credit=purse.bob, amount=800)).or_raise()
        refused = await purse.ledger.transfer(tx, debit=purse.alice, credit=purse.carol, amount=201)
        assert refused.status is Status.EXCEEDS_BALANCE
        part = await purse.ledger.post_hold(tx, hold.id, 300, keep_rest=True)
        assert (part.amount, part.credit_balance) == (300, 1_300)
        account = await purse.ledger.get(purse.alice, tx=tx)
        assert (account.balance, account.held, account.available) == (700, 500, 200)
        assert (await purse.ledger.post_hold(tx, hold.id, 501)).status is Status.EXCEEDS_HOLD
        assert (await purse.ledger.void_hold(tx, hold.id)).amount == 500
        assert (await purse.ledger.post_hold(tx, hold.id)).status is Status.HOLD_VOIDED


async def test_what_is_overdue_is_released_when_it_is_needed(purse: Purse, headwater: Headwater) -> None:
    past = datetime.now(UTC) - timedelta(seconds=1)
    hold = await purse.ledger.hold(headwater.postgres, debit=purse.alice, credit=purse.bob, amount=900, expires_at=past)
    spent = await purse.ledger.transfer(headwater.postgres, debit=purse.alice, credit=purse.carol, amount=1_000)
    assert spent.status is Status.DONE
    late = await purse.ledger.post_hold(headwater.postgres, hold.id)
    assert late.status is Status.HOLD_EXPIRED
    await purse.ledger.hold(headwater.postgres, debit=purse.bob, credit=purse.carol, amount=1, expires_at=past)
    assert await purse.ledger.expire_holds(headwater.postgres) == 1
    assert (await purse.ledger.get(purse.bob)).held == 0


async def test_a_chain_is_all_or_nothing(purse: Purse, headwater: Headwater) -> None:
    chain = [
        Move(debit=purse.alice, credit=purse.bob, amount=600, linked=True),
        Move(debit=purse.bob, credit=purse.carol, amount=1_600, linked=True),
        Move(debit=purse.carol, credit=purse.alice, amount=9_999),
    ]
    told = await purse.ledger.post(headwater.postgres, chain)
    assert [r.status for r in told] == [Status.LINKED_REFUSED, Status.LINKED_REFUSED, Status.EXCEEDS_BALANCE]
    assert (await purse.ledger.get(purse.carol)).balance == 1_000
    again = await purse.ledger.post(headwater.postgres, chain)
    assert [(r.status, r.repeated) for r in again] == [(r.status, True) for r in told]
    done = await purse.ledger.post_chain(
        [Move(debit=purse.alice, credit=purse.bob, amount=1), Move(debit=purse.bob, credit=purse.carol, amount=1_001)]
    )
    assert all(r.done for r in done)


async def test_a_transfer_is_reversed_once_by_a_new_one(purse: Purse, headwater: Headwater) -> None:
    sent = await purse.ledger.transfer(headwater.postgres, debit=purse.alice, credit=purse.bob, amount=10)
    back = await purse.ledger.reverse(headwater.postgres, sent.id)
    assert (back.status, back.amount, back.credit_balance) == (Status.DONE, 10, 1_000)
    assert (await purse.ledger.get_transfer(back.id)).reverses_id == sent.id
    assert (await purse.ledger.reverse(headwater.postgres, sent.id)).status is Status.ALREADY_REVERSED


async def test_balances_of_the_past_and_statements_agree(purse: Purse, headwater: Headwater) -> None:
    for amount in range(1, 31):
        await purse.ledger.transfer(headwater.postgres, debit=purse.alice, credit=purse.bob, amount=amount)
    entries = []
    cursor = None
    while True:
        page = await purse.ledger.statement(purse.alice, limit=7, cursor=cursor)
        entries += page.items
        cursor = page.next
        if cursor is None:
            break
    assert [entry.version for entry in entries] == list(range(31, 0, -1))
    for entry in entries:
        assert await purse.ledger.balance_at(purse.alice, entry.created_at) == entry.balance
    assert await purse.ledger.balance_at(purse.alice, datetime(2020, 1, 1, tzinfo=UTC)) == 0
    with pytest.raises(InvalidCursor):
        await purse.ledger.statement(purse.bob, cursor=cursor or "bm8")
    with pytest.raises(NotFound):
        await purse.ledger.balance_at(2**40, datetime.now(UTC))


async def test_the_largest_amounts_are_exact(purse: Purse, headwater: Headwater) -> None:
    wei = await purse.ledger.open_asset(headwater.postgres, "WEI", scale=18)
    source = await purse.ledger.account(headwater.postgres, "system", None, wei.code, credit_limit=None)
    target = await purse.ledger.account(headwater.postgres, "user", uuid4(), wei.code)
    most = await purse.ledger.transfer(headwater.postgres, debit=source.id, credit=target.id, amount=AMOUNT_MAX)
    assert most.credit_balance == AMOUNT_MAX
    more = await purse.ledger.transfer(headwater.postgres, debit=source.id, credit=target.id, amount=1)
    assert more.status is Status.TOO_LARGE
    for wrong in (0, -1, AMOUNT_MAX + 1, 1.0, True):
        with pytest.raises(InvalidValue):
            await purse.ledger.transfer(headwater.postgres, debit=source.id, credit=target.id, amount=wrong)  # type: ignore[arg-type]


async def test_accounts_are_made_once_and_closed_when_empty(purse: Purse, headwater: Headwater) -> None:
    owner = uuid4()
    made = await asyncio.gather(
        *(purse.ledger.account(headwater.autocommit, "order", owner, "USD", purpose="escrow") for _ in range(8))
    )
    assert len({account.id for account in made}) == 1
    assert await purse.ledger.find_account("order", owner, "USD") is None
    await purse.ledger.close_account(headwater.autocommit, made[0].id)
    refused = await purse.ledger.transfer(headwater.postgres, debit=purse.alice, credit=made[0].id, amount=1)
    assert refused.status is Status.ACCOUNT_CLOSED
    with pytest.raises(StateConflict, match="cannot be closed"):
        await purse.ledger.close_account(headwater.autocommit, purse.alice)
    with pytest.raises(MissingReference):
        await purse.ledger.account(headwater.autocommit, "user", owner, "no such asset")
    with pytest.raises(StateConflict, match="decimal places"):
        await purse.ledger.open_asset(headwater.autocommit, "USD", scale=3)


async def test_a_credit_limit_counts_holds(purse: Purse, headwater: Headwater) -> None:
    await purse.ledger.set_credit_limit(headwater.autocommit, purse.alice, 500)
    await purse.ledger.hold(headwater.postgres, debit=purse.alice, credit=purse.bob, amount=1_400)
    assert (
        await purse.ledger.transfer(headwater.postgres, debit=purse.alice, credit=purse.bob, amount=101)
    ).status is Status.EXCEEDS_BALANCE
    with pytest.raises(StateConflict, match="overdrawn further"):
        await purse.ledger.set_credit_limit(headwater.autocommit, purse.alice, 399)


# -- at the same moment ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("isolation", ["read committed", "repeatable read", "serializable"])
async def test_concurrent_spenders_never_overdraw_a_small_balance(
    purse: Purse, headwater: Headwater, crowd: None, isolation: str
) -> None:
    async def spend(tx) -> Status:
        return (await purse.ledger.transfer(tx, debit=purse.alice, credit=purse.bob, amount=70)).status

    told = await asyncio.gather(
        *(headwater.run(spend, isolation=isolation, attempts_max=200) for _ in range(40))  # type: ignore[arg-type]
    )
    assert sorted(told) == [Status.DONE] * 14 + [Status.EXCEEDS_BALANCE] * 26
    assert (await purse.ledger.get(purse.alice)).balance == 20


async def test_one_id_sent_by_many_at_once_is_done_once(purse: Purse, headwater: Headwater, crowd: None) -> None:
    key = id_of("payment", 1)

    async def send(tx) -> tuple[Status, bool]:
        receipt = await purse.ledger.transfer(tx, id=key, debit=purse.alice, credit=purse.bob, amount=70)
        return receipt.status, receipt.repeated

    told = await asyncio.gather(*(headwater.run(send) for _ in range(30)))
    assert sorted(told) == [(Status.DONE, False)] + [(Status.DONE, True)] * 29
    assert (await purse.ledger.get(purse.alice)).balance == 930


async def test_pairs_in_both_directions_and_batches_over_all_never_deadlock(
    purse: Purse, headwater: Headwater, crowd: None
) -> None:
    people = [purse.alice, purse.bob, purse.carol, purse.issuance]

    async def batch(n: int) -> None:
        order = people[n % 4 :] + people[: n % 4]
        moves = [Move(debit=a, credit=b, amount=1) for a, b in itertools.pairwise(order)]
        holds = [Hold(debit=b, credit=a, amount=1) for a, b in itertools.pairwise(order)]
        async with headwater.transaction() as tx:  # no retries: a deadlock would be an error here
            await purse.ledger.post(tx, [*moves, *holds, *(PostHold(hold=h.id) for h in holds)])

    async def pair(n: int) -> None:
        debit, credit = (purse.alice, purse.bob) if n % 2 else (purse.bob, purse.alice)
        async with headwater.transaction() as tx:
            await purse.ledger.transfer(tx, debit=debit, credit=credit, amount=1)

    await asyncio.gather(*(batch(n) for n in range(40)), *(pair(n) for n in range(40)))


async def test_a_transaction_of_several_calls_locks_first(purse: Purse, headwater: Headwater, crowd: None) -> None:
    async def both(n: int) -> None:
        first, second = (purse.alice, purse.bob) if n % 2 else (purse.bob, purse.alice)
        async with headwater.transaction() as tx:
            await purse.ledger.lock_accounts(tx, [purse.issuance, purse.alice, purse.bob])
            await purse.ledger.transfer(tx, debit=purse.issuance, credit=first, amount=1)
            await purse.ledger.transfer(tx, debit=second, credit=purse.issuance, amount=1)

    await asyncio.gather(*(both(n) for n in range(20)))


# -- who may write, and what was written -----------------------------------------------------------------------------


async def test_history_is_changed_by_nobody_and_written_by_the_functions_alone(
    purse: Purse, headwater: Headwater
) -> None:
    role = f"teller_{uuid4().hex[:8]}"
    connection = await asyncpg.connect(headwater.settings.database_url)
    try:
        for statement in (
            "update ledger.transfers set amount = 1",
            "delete from ledger.transfers",
            "truncate ledger.transfers",
            "delete from ledger.accounts",
            "truncate ledger.refusals, ledger.seals, ledger.holds, ledger.reversals",
        ):
            with pytest.raises(asyncpg.PostgresError, match="history"):
                await connection.execute(statement)
        await connection.execute(f"create role {role}")
        try:
            await connection.fetch("select ledger.grant_to($1)", role)
            await connection.execute(f"set role {role}")
            moved = await connection.fetchval(
                "select status from ledger.transfer(uuidv7(), $1, $2, 5, 0::smallint, null, null)",
                purse.alice,
                purse.bob,
            )
            assert moved == 0
            for statement in (
                "update ledger.accounts set balance = 10",
                "insert into ledger.refusals (id, status, body) values (uuidv7(), 2, uuidv7())",
                "delete from ledger.transfers",
                "alter table ledger.transfers disable trigger all",
                "select ledger.grant_to('public')",
            ):
                with pytest.raises(asyncpg.InsufficientPrivilegeError):
                    await connection.execute(statement)
        finally:
            await connection.execute("reset role")
            await connection.execute(f"drop owned by {role}")
            await connection.execute(f"drop role {role}")
    finally:
        await connection.close()


async def test_a_transfer_is_told_once_in_the_change_stream_with_its_accounts(
    purse: Purse, headwater: Headwater
) -> None:
    from headwater.kernel.tracking import Context

    connection = await asyncpg.connect(headwater.settings.database_url)
    try:
        before = await connection.fetchval("select coalesce(max(id), 0) from headwater.change")
        async with headwater.transaction(context=Context(actor="teller")) as tx:
            one = await purse.ledger.transfer(tx, debit=purse.alice, credit=purse.bob, amount=5)
            two = (await purse.ledger.post(tx, [Hold(debit=purse.bob, credit=purse.carol, amount=5)]))[0]
        rows = await connection.fetch(
            "select \"table\", op, key->>'id' as id, new, context from headwater.change where id > $1 order by id",
            before,
        )
    finally:
        await connection.close()
    assert [(r["table"], r["op"].decode(), r["id"]) for r in rows] == [
        ("ledger.transfers", "i", str(one.id)),
        ("ledger.transfers", "i", str(two.id)),
    ]
    assert f'"debit_account_id": {purse.alice}' in rows[0]["new"]
    assert "teller" in rows[0]["context"]


async def test_a_cached_balance_is_never_older_than_a_transfer_somebody_was_told_of(
    purse: Purse, headwater: Headwater
) -> None:
    for expected in range(999, 979, -1):
        await purse.ledger.find(purse.alice)  # fills the cache
        await purse.ledger.post_one(Move(debit=purse.alice, credit=purse.bob, amount=1))
        account = await purse.ledger.find(purse.alice)
        assert account is not None
        assert account.balance == expected


# -- plans -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("state", ["empty", "small", "full", "bloated"])
async def test_plans_stay_on_the_indexes_whatever_the_statistics_say(database: str, state: str) -> None:
    """A session keeps its plans: made on an empty table they must still be right when it is full."""
    postgres = await Postgres.open(Settings(database_url=database, pool_size_max=1))
    try:
        ledger = LedgerRepository(postgres)
        await ledger.open_asset(postgres, "USD", scale=2)
        source = (await ledger.account(postgres, "system", None, "USD", credit_limit=None)).id
        people = [a.id for a in (await ledger.accounts(postgres, "user", [uuid4() for _ in range(3)], "USD")).values()]
        if state != "empty":
            await ledger.post(postgres, [Move(debit=source, credit=people[0], amount=5) for _ in range(20)])
        async with postgres.connection() as connection:
            await connection.execute("vacuum analyze ledger.accounts, ledger.transfers, ledger.refusals, ledger.holds")
        for _ in range(8):  # enough for PostgreSQL to settle on its generic plans
            await _each_door(ledger, postgres, source, people)
        if state in ("full", "bloated"):
            async with postgres.connection() as connection:
                await connection.execute(
                    "insert into ledger.accounts (owner_kind, owner_id, asset_id, purpose)"
                    " select 'crowd', uuidv7(), 1, 'main' from generate_series(1, 5000)"
                )
                if state == "bloated":
                    for _ in range(3):
                        await connection.execute(
                            "update ledger.accounts set moved_at = now() where owner_kind = 'crowd'"
                        )
                await connection.execute("analyze ledger.accounts")
        async with postgres.connection() as connection:
            await connection.execute("select pg_stat_reset()")
            before = await connection.fetchval(_SEQUENTIAL)
        for _ in range(8):
            await _each_door(ledger, postgres, source, people)
        async with postgres.connection() as connection:
            await connection.execute("select pg_stat_force_next_flush()")
            assert await connection.fetchval(_SEQUENTIAL) == before == 0
    finally:
        await postgres.close()


_SEQUENTIAL = """
select coalesce(sum(seq_scan), 0) from pg_stat_user_tables
 where schemaname = 'ledger' and relname in ('accounts', 'transfers', 'refusals', 'holds')
"""


async def _each_door(ledger: LedgerRepository, postgres: Postgres, source: int, people: list[int]) -> None:
    await ledger.transfer(postgres, debit=source, credit=people[0], amount=2)
    await ledger.transfer(postgres, debit=people[2], credit=people[0], amount=10**6)
    hold = Hold(debit=people[0], credit=people[1], amount=1)
    await ledger.post(postgres, [hold, PostHold(hold=hold.id), Move(debit=people[2], credit=source, amount=10**6)])
    kept = await ledger.hold(postgres, debit=people[0], credit=people[1], amount=1)
    await ledger.void_hold(postgres, kept.id)
    await ledger.reverse(postgres, (await ledger.transfer(postgres, debit=source, credit=people[1], amount=1)).id)


async def test_after_all_of_it_the_ledger_adds_up(purse: Purse, headwater: Headwater) -> None:
    assert (await verify(headwater.postgres)).sound


@pytest.mark.parametrize("analyzed", ["never", "empty", "full"])
async def test_accounts_are_found_by_their_key_whatever_the_planner_knows(headwater: Headwater, analyzed: str) -> None:
    """The index on the asset alone looked as good before the first ANALYZE, and read all accounts of the asset."""
    ledger = headwater.repository(LedgerRepository)
    await ledger.open_asset(headwater.postgres, "PLAN", scale=0)
    statement = str(
        accounts_of("user", [uuid4() for _ in range(100)], "PLAN", "main").compile(
            dialect=postgresql.dialect(), compile_kwargs={"literal_binds": True}
        )
    )
    async with headwater.postgres.connection() as connection:
        if analyzed == "empty":
            await connection.execute("analyze ledger.accounts")
        await connection.execute(
            "insert into ledger.accounts (owner_kind, owner_id, asset_id, purpose)"
            " select 'user', uuidv7(), a.id, 'main' from ledger.assets a cross join generate_series(1, 5000)"
            " where a.code = 'PLAN'"
        )
        if analyzed == "full":
            await connection.execute("analyze ledger.accounts")
        plan = "\n".join(row[0] for row in await connection.fetch(f"explain {statement}"))
    assert "accounts_owner_kind_owner_id_asset_id_purpose_key" in plan
    assert "accounts_asset_id_idx" not in plan
