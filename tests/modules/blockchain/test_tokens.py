"""FODI: every unit is accounted for, by verbs and by plain SQL, one at a time and many at once, also when killed."""

from __future__ import annotations

import asyncio
import random
import sys
from collections.abc import AsyncIterator
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import pytest
import pytest_asyncio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from headwater.kernel.errors import (
    AlreadyExists,
    HeadwaterError,
    InvalidValue,
    MissingReference,
    NotFound,
    ProgrammingError,
    StateConflict,
)
from headwater.kernel.lifecycle import Headwater
from headwater.kernel.translation import BROKEN
from headwater.modules.blockchain.keypairs import Keypair
from headwater.modules.blockchain.models import (
    TokenTransaction,
    TokenTransactionType,
    TransactionStatus,
)
from headwater.modules.blockchain.repository import TokenRepository, WalletRepository
from headwater.modules.blockchain.seeds import tx_hash_of
from headwater.modules.ledger.proof import verify

PLAIN = "INSERT INTO blockchain.fodi_transactions (tx_id, from_address, to_address, amount, tx_type) VALUES "


@pytest.fixture
def tokens(headwater: Headwater) -> TokenRepository:
    return headwater.repository(TokenRepository)


@pytest_asyncio.fixture
async def connection(database: str, headwater: Headwater) -> AsyncIterator[asyncpg.Connection]:
    """Somebody who knows SQL and nothing of Headwater."""
    opened = await asyncpg.connect(database)
    yield opened
    await opened.close()


@pytest_asyncio.fixture
async def addresses(headwater: Headwater, people: list[UUID], tokens: TokenRepository) -> list[str]:
    """Three wallets, of which the first has 1,000 units."""
    wallets = headwater.repository(WalletRepository)
    made = [await wallets.watch_wallet(headwater.autocommit, user_id=p, public_key=_address()) for p in people]
    async with headwater.transaction() as tx:
        await tokens.mint(tx, tx_id="the first thousand", to_address=made[0].public_key, amount=1_000)
    return [wallet.public_key for wallet in made]


def _address() -> str:
    return Keypair.make().address


async def _balances(connection: asyncpg.Connection) -> dict[str, int]:
    """What the wallets say, which must be what the ledger says, and together the supply."""
    rows = await connection.fetch(
        """
        select w.public_key, w.balance, a.balance as in_ledger, a.held,
               coalesce((select sum(t.amount) filter (where t.status = 'pending' and t.from_wallet_id = w.id)
                           from blockchain.fodi_transactions t where t.from_wallet_id = w.id), 0) as pending,
               coalesce((select sum(case when t.to_wallet_id = w.id then t.amount else - t.amount end)
                           from blockchain.fodi_transactions t
                          where t.status = 'confirmed' and w.id in (t.from_wallet_id, t.to_wallet_id)), 0) as moved
          from blockchain.wallets w
          join ledger.accounts a on a.owner_kind = 'wallet' and a.owner_id = w.id and a.purpose = 'main'
        """
    )
    assert len(rows) == await connection.fetchval("select count(*) from blockchain.wallets")
    for row in rows:
        assert row["balance"] == row["in_ledger"] == row["moved"], row
        assert row["held"] == row["pending"], row
    issued = await connection.fetchval("select - balance from ledger.accounts where owner_kind = 'system'")
    assert sum(row["balance"] for row in rows) == issued
    return {row["public_key"]: row["balance"] for row in rows}


# -- one at a time ----------------------------------------------------------------------------------------------------


async def test_a_transfer_is_held_when_it_is_made_and_moves_when_it_is_confirmed(
    headwater: Headwater, tokens: TokenRepository, addresses: list[str], people: list[UUID], connection: Any
) -> None:
    one, two, _ = addresses
    wallets = headwater.repository(WalletRepository)
    async with headwater.transaction() as tx:
        made = await tokens.create_transaction(tx, tx_id="t1", from_address=one, to_address=two, amount=400)
    assert (made.status, made.tx_type, made.confirmed_at) == (
        TransactionStatus.PENDING,
        TokenTransactionType.TRANSFER,
        None,
    )
    held = await wallets.balance_of(people[0])
    assert (held.wallets, held.balance, held.held, held.available) == (1, 1_000, 400, 600)
    assert await wallets.get_wallet_balance(people[1]) == 0
    async with headwater.transaction() as tx:
        confirmed = await tokens.confirm(tx, "t1", blockchain_tx=tx_hash_of(1))
    assert (confirmed.status, confirmed.blockchain_tx) == (TransactionStatus.CONFIRMED, tx_hash_of(1))
    assert confirmed.confirmed_at is not None
    assert (await wallets.get_wallet_balance(people[0]), await wallets.get_wallet_balance(people[1])) == (600, 400)
    assert await _balances(connection) == dict(zip(addresses, (600, 400, 0), strict=True))
    assert (await tokens.transactions_of(made.to_wallet_id or people[0])).items == (confirmed,)


async def test_a_transfer_that_failed_gives_back_what_it_held(
    headwater: Headwater, tokens: TokenRepository, addresses: list[str], people: list[UUID], connection: Any
) -> None:
    one, two, _ = addresses
    async with headwater.transaction() as tx:
        await tokens.create_transaction(tx, tx_id="t1", from_address=one, to_address=two, amount=1_000)
        with pytest.raises(StateConflict, match="t2 needs 1 units of FODI and the sender can spend 0"):
            async with tx.savepoint():
                await tokens.create_transaction(tx, tx_id="t2", from_address=one, to_address=two, amount=1)
        assert (await tokens.fail(tx, "t1")).status is TransactionStatus.FAILED
        await tokens.create_transaction(tx, tx_id="t2", from_address=one, to_address=two, amount=1)
    assert (await headwater.repository(WalletRepository).balance_of(people[0])).available == 999
    await _balances(connection)


async def test_the_end_of_a_transaction_is_final_and_may_be_told_twice(
    headwater: Headwater, tokens: TokenRepository, addresses: list[str], connection: Any
) -> None:
    one, two, _ = addresses
    async with headwater.transaction() as tx:
        for tx_id in ("good", "bad"):
            await tokens.create_transaction(tx, tx_id=tx_id, from_address=one, to_address=two, amount=10)
        good, bad = await tokens.confirm(tx, "good"), await tokens.fail(tx, "bad")
        assert (await tokens.confirm(tx, "good"), await tokens.fail(tx, "bad")) == (good, bad)
        with pytest.raises(StateConflict, match="good is confirmed"):
            await tokens.fail(tx, "good")
        with pytest.raises(StateConflict, match="bad is failed"):
            await tokens.confirm(tx, "bad")
        with pytest.raises(NotFound):
            await tokens.confirm(tx, "unknown")
    assert (await _balances(connection))[two] == 10


async def test_the_same_tx_id_is_one_transaction(
    headwater: Headwater, tokens: TokenRepository, addresses: list[str], connection: Any
) -> None:
    one, two, three = addresses
    async with headwater.transaction() as tx:
        made = await tokens.create_transaction(tx, tx_id="t1", from_address=one, to_address=two, amount=10)
        again = await tokens.create_transaction(tx, tx_id="t1", from_address=one, to_address=two, amount=10)
        assert again == made
        for other in ({"amount": 11}, {"to_address": three}, {"tx_type": TokenTransactionType.REWARD}):
            body: dict[str, Any] = {"from_address": one, "to_address": two, "amount": 10} | other
            with pytest.raises(AlreadyExists, match="stands for another transaction"):
                await tokens.create_transaction(tx, tx_id="t1", **body)
        await tokens.confirm(tx, "t1")
        assert (
            await tokens.create_transaction(tx, tx_id="t1", from_address=one, to_address=two, amount=10)
        ).status is (TransactionStatus.CONFIRMED)
        for _ in range(3):
            await tokens.mint(tx, tx_id="m", to_address=three, amount=5)
            await tokens.burn(tx, tx_id="b", from_address=one, amount=7)
    assert await _balances(connection) == {one: 983, two: 10, three: 5}
    assert await tokens.total_supply() == 998


async def test_rewards_come_from_the_issuer_or_from_a_wallet_once_per_order(
    headwater: Headwater, tokens: TokenRepository, addresses: list[str], people: list[UUID], connection: Any
) -> None:
    async with headwater.transaction() as tx:
        first = await tokens.reward(tx, user_id=people[1], amount=50, reason="first order", order_id=7)
        assert await tokens.reward(tx, user_id=people[1], amount=50, reason="first order", order_id=7) == first
        with pytest.raises(AlreadyExists):
            await tokens.reward(tx, user_id=people[1], amount=51, reason="first order", order_id=7)
        await tokens.reward(tx, user_id=people[1], amount=5, reason="a gift", from_address=addresses[0])
        await tokens.reward(tx, user_id=people[1], amount=5, reason="a gift", from_address=addresses[0])
    assert (first.order_id, first.amount, first.reason) == (7, 50, "first order")
    assert (await tokens.by_tx_id(first.tx_id or "")).tx_type is TokenTransactionType.REWARD
    assert [reward.amount for reward in (await tokens.rewards_of(people[1])).items] == [5, 5, 50]
    assert await _balances(connection) == dict(zip(addresses, (990, 60, 0), strict=True))
    assert await tokens.total_supply() == 1_050


async def test_a_user_without_a_wallet_is_not_rewarded(headwater: Headwater, tokens: TokenRepository) -> None:
    async with headwater.transaction() as tx:
        with pytest.raises(StateConflict, match="has no wallet"):
            await tokens.reward(tx, user_id=uuid4(), amount=1, reason="x")


async def test_what_cannot_be_is_refused_and_moves_nothing(
    headwater: Headwater, tokens: TokenRepository, addresses: list[str], connection: Any
) -> None:
    one, two, _ = addresses
    known, before = {"from_address": one, "to_address": two, "amount": 1}, await _balances(connection)
    wrong: list[tuple[dict[str, Any], type[HeadwaterError], str]] = [
        ({"amount": 0}, InvalidValue, "not an amount"),
        ({"amount": 2**63}, InvalidValue, "not an amount"),
        ({"amount": 1_001}, StateConflict, "needs 1001 units of FODI and the sender can spend 1000"),
        ({"from_address": "nobody"}, MissingReference, "no wallet has the address that it comes from"),
        ({"to_address": "nobody"}, MissingReference, "no wallet has the address that it goes to"),
        ({"to_address": None}, MissingReference, "goes to"),
        ({"to_address": one}, InvalidValue, "the same wallet"),
        ({"tx_id": ""}, InvalidValue, "tx_id"),
        ({"tx_id": "x" * 256}, InvalidValue, "256 characters"),
    ]
    for change, error, said in wrong:
        with pytest.raises(error, match=said):
            async with headwater.transaction() as tx:
                await tokens.create_transaction(tx, **({"tx_id": "t"} | known | change))
    with pytest.raises(ProgrammingError):
        await tokens.create_transaction(headwater.autocommit, tx_id="t", **known)  # type: ignore[arg-type]
    assert await _balances(connection) == before
    assert await tokens.count() == 1


# -- plain SQL --------------------------------------------------------------------------------------------------------


async def test_the_plain_insert_of_the_mission_is_a_pending_transfer(
    headwater: Headwater, tokens: TokenRepository, addresses: list[str], connection: asyncpg.Connection
) -> None:
    one, two, _ = addresses
    await connection.execute(PLAIN + "('plain', $1, $2, 300, 'transfer')", one, two)
    row = await connection.fetchrow("select * from blockchain.fodi_transactions where tx_id = 'plain'")
    assert (row["status"], row["confirmed_at"]) == ("pending", None)
    assert (await _balances(connection))[one] == 1_000
    with pytest.raises(asyncpg.ObjectNotInPrerequisiteStateError, match="the sender can spend 700"):
        await connection.execute(PLAIN + "('more', $1, $2, 701, 'transfer')", one, two)
    await connection.execute("update blockchain.fodi_transactions set status = 'confirmed' where tx_id = 'plain'")
    assert await _balances(connection) == dict(zip(addresses, (700, 300, 0), strict=True))
    assert (await tokens.by_tx_id("plain")).confirmed_at is not None


async def test_mint_burn_and_reward_work_as_plain_sql_with_any_counterpart(
    addresses: list[str], connection: asyncpg.Connection
) -> None:
    one, two, three = addresses
    await connection.execute(
        "insert into blockchain.fodi_transactions (tx_id, from_address, to_address, amount, tx_type, status) values"
        " ('m', 'system', $2, 70, 'mint', 'confirmed'), ('b', $1, 'nowhere', 100, 'burn', 'confirmed'),"
        " ('r', 'treasury', $3, 5, 'reward', 'confirmed'), ('p', null, $3, 9, 'mint', 'pending'),"
        " ('f', $1, $2, 5000, 'transfer', 'failed')",
        one,
        two,
        three,
    )
    assert await connection.fetchval("select held from ledger.accounts where owner_kind = 'system'") == 9
    assert await _balances(connection) == {one: 900, two: 70, three: 5}


async def test_a_statement_of_many_rows_is_booked_in_order_as_one(
    addresses: list[str], connection: asyncpg.Connection
) -> None:
    """The second transfer spends what the first has brought, and one that cannot be ends the whole statement."""
    one, two, three = addresses
    insert = (
        "insert into blockchain.fodi_transactions (tx_id, from_address, to_address, amount, tx_type, status) values "
    )
    await connection.execute(
        insert + "('a', $1, $2, 1000, 'transfer', 'confirmed'), ('b', $2, $3, 900, 'transfer', 'confirmed')",
        one,
        two,
        three,
    )
    assert await _balances(connection) == {one: 0, two: 100, three: 900}
    with pytest.raises(asyncpg.ObjectNotInPrerequisiteStateError, match="d needs 101"):
        await connection.execute(
            insert + "('c', $2, $1, 50, 'transfer', 'confirmed'), ('d', $2, $3, 101, 'transfer', 'confirmed')",
            one,
            two,
            three,
        )
    assert await _balances(connection) == {one: 0, two: 100, three: 900}
    records = [(f"copied {n}", three, one, 1, "transfer") for n in range(200)]
    await connection.copy_records_to_table(
        "fodi_transactions",
        schema_name="blockchain",
        columns=["tx_id", "from_address", "to_address", "amount", "tx_type"],
        records=records,
    )
    await connection.execute("update blockchain.fodi_transactions set status = 'confirmed' where status = 'pending'")
    assert await _balances(connection) == {one: 200, two: 100, three: 700}


async def test_a_tx_id_that_is_there_already_books_nothing(
    addresses: list[str], connection: asyncpg.Connection
) -> None:
    one, two, _ = addresses
    for _ in range(2):
        await connection.execute(PLAIN + "('t', $1, $2, 300, 'transfer') on conflict (tx_id) do nothing", one, two)
    with pytest.raises(asyncpg.UniqueViolationError):
        await connection.execute(PLAIN + "('t', $1, $2, 300, 'transfer')", one, two)
    await _balances(connection)


@pytest.mark.parametrize(
    "change",
    ["amount = 1", "to_address = 'x'", "tx_id = 'x'", "tx_type = 'burn'", "status = 'failed'", "status = 'pending'"],
)
async def test_history_is_not_rewritten(addresses: list[str], connection: asyncpg.Connection, change: str) -> None:
    with pytest.raises(asyncpg.PostgresError):
        await connection.execute(f"update blockchain.fodi_transactions set {change}")
    with pytest.raises(asyncpg.ObjectNotInPrerequisiteStateError):
        await connection.execute("truncate blockchain.fodi_transactions cascade")
    await _balances(connection)


async def test_a_balance_follows_the_ledger_when_somebody_uses_the_ledger_itself(
    addresses: list[str], connection: asyncpg.Connection
) -> None:
    one, two, _ = addresses
    await connection.execute(
        "select ledger.transfer(gen_random_uuid(), blockchain.fodi_account(a.id), blockchain.fodi_account(b.id), 123,"
        " 0::smallint, null, null) from blockchain.wallets a, blockchain.wallets b"
        " where a.public_key = $1 and b.public_key = $2",
        one,
        two,
    )
    rows = dict(await connection.fetch("select public_key, balance from blockchain.wallets where balance > 0"))
    assert rows == {one: 877, two: 123}


async def test_rows_that_a_restore_copies_are_not_booked_again(
    addresses: list[str], connection: asyncpg.Connection
) -> None:
    before = await connection.fetch("select * from ledger.transfers")
    (row,) = await connection.fetch("select * from blockchain.fodi_transactions")
    async with connection.transaction():
        await connection.execute("set local session_replication_role = replica")
        await connection.execute("delete from blockchain.fodi_transactions")
        await connection.copy_records_to_table("fodi_transactions", schema_name="blockchain", records=[tuple(row)])
    assert await connection.fetch("select * from ledger.transfers") == before
    assert await connection.fetch("select * from blockchain.fodi_transactions") == [row]
    await _balances(connection)


# -- many at once -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("isolation", ["read committed", "repeatable read", "serializable"])
async def test_spenders_of_one_wallet_spend_no_unit_twice(
    headwater: Headwater, tokens: TokenRepository, addresses: list[str], connection: Any, isolation: Any
) -> None:
    one, two, three = addresses

    async def spend(n: int) -> bool:
        async def work(tx: Any) -> None:
            await tokens.create_transaction(
                tx, tx_id=f"t{n}", from_address=one, to_address=(two, three)[n % 2], amount=150
            )
            await tokens.confirm(tx, f"t{n}")

        try:
            await headwater.run(work, isolation=isolation, attempts_max=60)
        except StateConflict:
            return False
        return True

    assert sum(await asyncio.gather(*(spend(n) for n in range(30)))) == 6
    balances = await _balances(connection)
    assert balances[one] == 100
    assert balances[two] + balances[three] == 900


async def test_one_tx_id_sent_by_many_at_once_is_one_transaction(
    headwater: Headwater, tokens: TokenRepository, addresses: list[str], connection: asyncpg.Connection
) -> None:
    one, two, _ = addresses

    async def send() -> TokenTransaction:
        return await headwater.run(
            lambda tx: tokens.create_transaction(tx, tx_id="t", from_address=one, to_address=two, amount=600)
        )

    assert len({made.id for made in await asyncio.gather(*(send() for _ in range(12)))}) == 1
    outcomes = await asyncio.gather(
        *(headwater.run(lambda tx: tokens.confirm(tx, "t")) for _ in range(6)),
        *(headwater.run(lambda tx: tokens.fail(tx, "t")) for _ in range(6)),
        return_exceptions=True,
    )
    ends = {one.status for one in outcomes if isinstance(one, TokenTransaction)}
    assert len(ends) == 1
    assert all(isinstance(one, (TokenTransaction, StateConflict)) for one in outcomes)
    await _balances(connection)


async def test_wallets_that_pay_each_other_never_wait_for_each_other(
    headwater: Headwater, tokens: TokenRepository, addresses: list[str], connection: asyncpg.Connection
) -> None:
    """Opposite directions at once, in read committed without a retry: a deadlock would be an error."""
    one, two, _ = addresses
    async with headwater.transaction() as tx:
        await tokens.mint(tx, tx_id="m", to_address=two, amount=1_000)

    async def pay(n: int) -> None:
        async with headwater.transaction() as tx:
            there = (one, two) if n % 2 else (two, one)
            await tokens.create_transaction(tx, tx_id=f"t{n}", from_address=there[0], to_address=there[1], amount=1)
        async with headwater.transaction() as tx:
            await tokens.confirm(tx, f"t{n}")

    await asyncio.gather(*(pay(n) for n in range(60)))
    assert await _balances(connection) == dict(zip(addresses, (1_000, 1_000, 0), strict=True))


async def test_an_ended_backend_leaves_all_or_nothing(
    database: str, headwater: Headwater, addresses: list[str], connection: asyncpg.Connection
) -> None:
    """Between the insert, the confirmation and the commit: neither side has happened."""
    one, two, _ = addresses
    for steps in (1, 2):
        victim = await asyncpg.connect(database)
        await victim.execute("begin")
        await victim.execute(PLAIN + "('t', $1, $2, 300, 'transfer')", one, two)
        if steps == 2:
            await victim.execute("update blockchain.fodi_transactions set status = 'confirmed' where tx_id = 't'")
        await connection.execute("select pg_terminate_backend($1)", victim.get_server_pid())
        with pytest.raises((asyncpg.PostgresError, asyncpg.InterfaceError, *BROKEN)):
            await victim.execute("commit")
        assert await _balances(connection) == dict(zip(addresses, (1_000, 0, 0), strict=True))
        assert await connection.fetchval("select count(*) from blockchain.fodi_transactions") == 1


_WRITER = """
import asyncio, asyncpg, sys
async def main(database, one, two, who):
    connection = await asyncpg.connect(database, server_settings={"application_name": "writer"})
    for n in range(1_000):
        await connection.execute(
            "insert into blockchain.fodi_transactions (tx_id, from_address, to_address, amount, tx_type)"
            " values ($1, $2, $3, 1, 'transfer')", f"{who} {n}", one, two)
        print(f"pending {who} {n}", flush=True)
        await connection.execute(
            "update blockchain.fodi_transactions set status = 'confirmed' where tx_id = $1", f"{who} {n}")
        print(f"confirmed {who} {n}", flush=True)
asyncio.run(main(*sys.argv[1:]))
"""


async def test_writers_killed_at_any_moment_lose_nothing_they_were_told_of(
    database: str, headwater: Headwater, addresses: list[str], connection: asyncpg.Connection
) -> None:
    """kill -9 of clients, after as many answers as it happens to be: what was answered is there, and all adds up."""
    one, two, _ = addresses
    told: dict[str, str] = {}
    chance = random.Random(4)

    async def write_until_killed(who: int) -> None:
        writer = await asyncio.create_subprocess_exec(
            sys.executable, "-c", _WRITER, database, *((one, two) if who % 2 else (two, one)), str(who),
            stdout=asyncio.subprocess.PIPE,
        )  # fmt: skip
        assert writer.stdout is not None
        for _ in range(chance.randrange(3, 60)):
            status, _, tx_id = (await writer.stdout.readline()).decode().strip().partition(" ")
            told[tx_id] = status
        writer.kill()
        for line in (await writer.stdout.read()).decode().splitlines():  # told before it died
            status, _, tx_id = line.partition(" ")
            told[tx_id] = status
        await writer.wait()

    async with headwater.transaction() as tx:
        await headwater.repository(TokenRepository).mint(tx, tx_id="for two", to_address=two, amount=1_000)
    await asyncio.gather(*(write_until_killed(who) for who in range(6)))
    alive = "select count(*) from pg_stat_activity where application_name = 'writer'"
    while await connection.fetchval(alive):  # what they were saying when they died is still being done
        pass
    rows = dict(
        await connection.fetch(
            "select tx_id, status::text from blockchain.fodi_transactions where tx_type = 'transfer'"
        )
    )
    assert told.keys() <= rows.keys()
    assert all(rows[tx_id] == "confirmed" for tx_id, status in told.items() if status == "confirmed")
    assert len(rows) - len(told) <= 6, "one that was never answered for each writer, at most"
    assert sum((await _balances(connection)).values()) == 2_000
    assert (await verify(headwater.postgres)).faults == []


# -- any sequence -----------------------------------------------------------------------------------------------------

_NAMES = st.integers(0, 2)
_AMOUNTS = st.integers(1, 700)
_STEPS = st.lists(
    st.one_of(
        st.tuples(st.sampled_from(["transfer", "reward", "pay"]), _NAMES, _NAMES, _AMOUNTS),
        st.tuples(st.sampled_from(["mint", "burn", "held burn"]), _NAMES, _NAMES, _AMOUNTS),
        st.tuples(st.sampled_from(["confirm", "fail", "rollback", "ledger"]), _NAMES, _NAMES, _AMOUNTS),
    ),
    min_size=1,
    max_size=15,
)


async def test_after_any_sequence_of_operations_every_balance_is_the_ledgers(
    headwater: Headwater, addresses: list[str], connection: asyncpg.Connection
) -> None:
    """Plain SQL against a model of twenty lines; the wallets, the ledger and the history agree after each step."""
    loop = asyncio.get_running_loop()
    number = 0

    async def play(steps: list[tuple[str, int, int, int]]) -> None:
        nonlocal number
        has = dict(await connection.fetch("select public_key, balance from blockchain.wallets"))
        held = dict.fromkeys(addresses, 0)
        pending: list[tuple[str, str, str | None, int]] = []
        for what, a, b, amount in steps:
            number += 1
            tx_id, one, two = f"n{number}", addresses[a], addresses[b]
            free = has[one] - held[one]
            kind = {"held burn": "burn", "pay": "transfer"}.get(what, what)
            status = "pending" if what in ("transfer", "held burn") else "confirmed"
            if what in ("confirm", "fail"):
                if pending:
                    tx_id, source, target, amount = pending.pop(amount % len(pending))
                    await connection.execute(
                        "update blockchain.fodi_transactions set status = $2::text::blockchain.transaction_status"
                        " where tx_id = $1",
                        tx_id,
                        f"{what}ed",
                    )
                    held[source] -= amount
                    if what == "confirm":
                        has[source] -= amount
                        if target is not None:
                            has[target] += amount
            elif what in ("rollback", "ledger"):
                await connection.execute("begin")
                await connection.execute(
                    "insert into blockchain.fodi_transactions (tx_id, to_address, amount, tx_type, status)"
                    " values ($1, $2, $3, 'mint', 'confirmed')",
                    tx_id,
                    one,
                    amount,
                )
                await connection.execute("rollback")
            else:
                sends, receives = kind != "mint" and kind != "reward", kind != "burn"
                possible = (not sends or free >= amount) and not (sends and receives and one == two)
                if kind == "reward":  # from a wallet, or from the issuer when the sender is nobody
                    possible = one == two or free >= amount
                try:
                    await connection.execute(
                        "insert into blockchain.fodi_transactions"
                        " (tx_id, from_address, to_address, amount, tx_type, status) values"
                        " ($1, $2, $3, $4, $5::text::blockchain.fodi_transaction_type,"
                        " $6::text::blockchain.transaction_status)",
                        tx_id,
                        "issuer" if kind == "mint" or (kind == "reward" and one == two) else one,
                        two if receives else "nobody",
                        amount,
                        kind,
                        status,
                    )
                except (asyncpg.ObjectNotInPrerequisiteStateError, asyncpg.CheckViolationError):
                    assert not possible, (what, one, two, amount, has, held)
                else:
                    assert possible, (what, one, two, amount, has, held)
                    from_wallet = sends or (kind == "reward" and one != two)
                    if status == "pending":
                        held[one] += amount
                        pending.append((tx_id, one, two if receives else None, amount))
                    else:
                        if from_wallet:
                            has[one] -= amount
                        if receives:
                            has[two] += amount
            assert await _balances(connection) == has
        await connection.execute("update blockchain.fodi_transactions set status = 'failed' where status = 'pending'")
        assert await _balances(connection) == has

    @settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
    @given(_STEPS)
    def sequence(steps: list[tuple[str, int, int, int]]) -> None:
        asyncio.run_coroutine_threadsafe(play(steps), loop).result()

    await asyncio.to_thread(sequence)
    assert (await verify(headwater.postgres)).faults == []
