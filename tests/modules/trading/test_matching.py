"""The matcher in the database makes the trades of the reference matcher, and the ledger always adds up."""

from __future__ import annotations

import asyncio
import random
import re
from collections.abc import Awaitable, Callable
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.modules.trading import reference
from tests.modules.trading.marketplace import Marketplace

from headwater.kernel.errors import DeadlockDetected
from headwater.kernel.lifecycle import Headwater
from headwater.kernel.queries import NamedQuery
from headwater.modules.trading.commands import Answer, Cancel, Outcome, Place, call_of
from headwater.modules.trading.models import OrderStatus, Settlement, Side
from headwater.modules.trading.repository import QUERIES

PEOPLE, PARTS = 3, 2

_places = st.builds(
    reference.Place,
    user=st.integers(0, PEOPLE - 1),
    asset=st.integers(0, PARTS - 1),
    side=st.sampled_from(["buy", "sell"]),
    price=st.integers(1, 6),
    quantity=st.integers(1, 8) | st.integers(1, 40),
)
_commands = st.lists(_places | st.builds(reference.Cancel, order=st.integers(0, 25)), min_size=1, max_size=30)
_amounts = st.lists(st.integers(0, 60) | st.just(1_000), min_size=PEOPLE, max_size=PEOPLE)


@settings(max_examples=35, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    commands=_commands,
    sizes=st.lists(st.just(1) | st.integers(1, 12), min_size=1, max_size=30),
    as_batch=st.booleans(),
    money=_amounts,
    tokens=_amounts,
    at_once=st.booleans(),
)
async def test_any_commands_in_any_batches_trade_as_the_reference_does(
    marketplace: Marketplace,
    commands: list[reference.Place | reference.Cancel],
    sizes: list[int],
    as_batch: bool,
    money: list[int],
    tokens: list[int],
    at_once: bool,
) -> None:
    here = await marketplace.found(PEOPLE, PARTS)
    await here.open(Settlement.IMMEDIATE if at_once else Settlement.ON_RELEASE)
    exchange = reference.Exchange(settles=at_once)
    exchange.money.update(enumerate(money))
    exchange.tokens.update({(user, asset): tokens[user] for user in range(PEOPLE) for asset in range(PARTS)})
    await here.endow(
        dict(zip(here.people, money, strict=True)),
        {(here.people[user], here.parts[asset]): n for (user, asset), n in exchange.tokens.items()},
    )

    ids: dict[int, UUID] = {}
    at = 0
    while at < len(commands):
        size = sizes[at % len(sizes)]
        # Whoever cancels has seen the order: one of this batch has no id yet.
        batch = [
            command
            for command in commands[at : at + size]
            if isinstance(command, reference.Place) or command.order in ids
        ]
        numbers = range(exchange.commands, exchange.commands + len(batch))
        expected = [exchange.run(command) for command in batch]
        run = here.run_as_batch if as_batch else here.run
        outcomes = await run(*(_translated(here, ids, command) for command in batch)) if batch else []
        for number, command, outcome in zip(numbers, batch, outcomes, strict=True):
            if isinstance(command, reference.Place) and outcome.id is not None:
                ids[number] = outcome.id
        # An order that the same batch filled further is told as it stands after the batch.
        for number, command, outcome, said in zip(numbers, batch, outcomes, expected, strict=True):
            placed = isinstance(command, reference.Place) and number in exchange.orders
            assert outcome.outcome.value == (exchange.orders[number].status if placed else said)
        at += size

    number_of = {order_id: number for number, order_id in ids.items()}
    assert [
        reference.Trade(number_of[t.buy_order_id], number_of[t.sell_order_id], t.taker_side.value, t.price, t.quantity)
        for t in await here.trades()
    ] == exchange.trades
    for number, order in exchange.orders.items():
        stored = await here.trading.get(ids[number])
        assert (stored.status.value, stored.filled_quantity) == (order.status, order.filled)
    for user in range(PEOPLE):
        assert await here.money(user) == (exchange.money[user], exchange.held_money(user))
        for asset in range(PARTS):
            assert await here.tokens(user, asset) == (exchange.tokens[user, asset], exchange.held_tokens(user, asset))
    await here.audit()


def _translated(here: Marketplace, ids: dict[int, UUID], command: reference.Place | reference.Cancel) -> Place | Cancel:
    if isinstance(command, reference.Cancel):
        return Cancel(order_id=ids[command.order])
    return Place(
        user_id=here.people[command.user],
        asset_id=here.parts[command.asset],
        side=Side(command.side),
        price=command.price,
        quantity=command.quantity,
    )


# -- one by one ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("settlement", Settlement)
async def test_one_command_by_itself_leaves_the_rows_that_a_batch_of_one_leaves(marketplace, settlement) -> None:
    ways = []
    for as_batch in (False, True):
        here = await (await marketplace.found(4, 2)).fund(money=9_000, tokens=60)
        await here.open(settlement)
        chance = random.Random(17)
        run = here.run_as_batch if as_batch else here.run
        answers, resting = [], []
        for _ in range(150):
            command: Place | Cancel = _random_place(chance, here.people, here.parts)
            if resting and chance.random() < 0.25:
                command = Cancel(order_id=chance.choice(resting), version=chance.choice((None, 1, 2)))
            [outcome] = await run(command)
            answers.append((outcome.outcome, outcome.filled_quantity, outcome.status, outcome.version))
            if isinstance(command, Place) and outcome.id is not None:
                resting.append(outcome.id)
        ways.append((answers, await here.traces()))
        await here.prove()
    (short, short_rows), (long, long_rows) = ways
    assert short == long
    assert {answer for answer, *_ in short} == set(Answer) - {Answer.NO_USER, Answer.NO_ASSET, Answer.NO_ORDER}
    for name, rows in short_rows.items():
        assert rows == long_rows[name], name
        assert len(rows) > 10, name


async def test_who_or_what_is_not_there_is_told_by_both_doors(marketplace) -> None:
    here = await (await marketplace.found(2, 2)).fund()
    nobody, somebody, part = uuid4(), here.people[0], here.parts[0]
    for run in (here.run, here.run_as_batch):
        for user, asset, answer in (
            (nobody, part, Answer.NO_USER),
            (somebody, nobody, Answer.NO_ASSET),
            (somebody, here.parts[1], Answer.OPEN),  # the first order opens its market
        ):
            [outcome] = await run(Place(user_id=user, asset_id=asset, side=Side.BUY, price=1, quantity=1))
            assert outcome.outcome is answer
        assert [o.outcome for o in await run(Cancel(order_id=nobody))] == [Answer.NO_ORDER]
        assert outcome.id is not None
        assert [o.outcome for o in await run(Cancel(order_id=outcome.id))] == [Answer.CANCELLED]
    await here.audit()


# -- many at once ----------------------------------------------------------------------------------------------------


async def test_markets_that_settle_at_once_with_the_same_traders_never_deadlock(marketplace, crowd) -> None:
    """No transaction is run again here: a deadlock, or a refusal of the ledger, would be raised."""
    here = await (await marketplace.found(5, 4)).fund(money=40_000, tokens=200)

    async def trade(number: int) -> None:
        chance = random.Random(number)
        mine: list[UUID] = []
        for _ in range(10):
            parts = chance.sample(here.parts, chance.choice((1, 1, 2, 4)))
            commands: list[Place | Cancel] = [
                _random_place(chance, here.people, parts) for _ in range(chance.choice((1, 1, 2, 5, 8)))
            ]
            commands += [Cancel(order_id=mine.pop()) for _ in range(min(len(mine), chance.randrange(3)))]
            async with here.headwater.transaction() as tx:
                outcomes = await here.trading.run(tx, commands)
            mine += [o.id for o in outcomes if o.id is not None and o.outcome is Answer.OPEN]

    await asyncio.gather(*(trade(number) for number in range(8)))
    assert len(await here.trades()) > 50
    await here.prove()


def _random_place(chance: random.Random, people: list[UUID], parts: list[UUID]) -> Place:
    side = chance.choice((Side.BUY, Side.SELL))
    price = 100 + chance.randrange(-10, 4) * (1 if side is Side.BUY else -1)
    return Place(
        user_id=chance.choice(people),
        asset_id=chance.choice(parts),
        side=side,
        price=price,
        quantity=chance.randrange(1, 30),
    )


async def crosswise(here: Marketplace) -> list[BaseException | None]:
    """Two markets meet the same three traders in opposite orders, while somebody holds the account both need next.

    What each of the two transactions raised.
    """
    first, last = [[here.people[n] for n in order] for order in ((0, 1, 2), (2, 1, 0))]
    waiting = "select count(*) from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'"

    async def place(part: UUID, people: list[UUID]) -> None:
        places = [Place(user_id=user, asset_id=part, side=Side.BUY, price=5, quantity=1) for user in people]
        async with here.headwater.transaction() as tx:
            await here.trading.run(tx, places)

    async with here.headwater.postgres.connection() as watcher, here.headwater.transaction() as tx:
        account = await here.ledger.find_account("user", here.people[1], "USD", tx=tx)
        assert account is not None
        await here.ledger.lock_accounts(tx, [account.id])
        tasks = [
            asyncio.create_task(place(part, people)) for part, people in zip(here.parts, (first, last), strict=True)
        ]
        async with asyncio.timeout(10):
            while await watcher.fetchval(waiting) < 2:
                pass
    outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    return list(outcomes)


async def test_traders_who_meet_crosswise_in_two_markets_wait_and_do_not_deadlock(marketplace) -> None:
    await marketplace.fund()
    await marketplace.open(Settlement.IMMEDIATE)
    assert await crosswise(marketplace) == [None, None]
    await marketplace.audit()


@pytest.mark.parametrize("isolation", ["repeatable read", "serializable"])
async def test_callers_with_a_stricter_isolation_run_again_and_stay_right(marketplace, crowd, isolation) -> None:
    here = await (await marketplace.found(3, 2)).fund(money=30_000, tokens=100)

    async def trade(number: int) -> None:
        chance = random.Random(number)
        for _ in range(5):
            commands = [_random_place(chance, here.people, here.parts[:1]) for _ in range(chance.choice((1, 3)))]
            await here.headwater.run(
                lambda tx, commands=commands: here.trading.run(tx, commands), isolation=isolation, attempts_max=100
            )

    await asyncio.gather(*(trade(number) for number in range(4)))
    assert await here.trading.count() > 0
    assert await here.trades()
    await here.prove()


# -- what the tests would find ---------------------------------------------------------------------------------------


async def mutated(headwater: Headwater, function: str, good: str, bad: str) -> None:
    """A function of the matcher with one line of it changed."""
    async with headwater.postgres.connection() as connection:
        text = await connection.fetchval("select pg_get_functiondef($1::text::regproc)", function)
        assert good in text
        await connection.execute(text.replace(good, bad))


Run = Callable[..., Awaitable[list[Outcome]]]


async def put(here: Marketplace, run: Run, user: int, side: Side, price: int, quantity: int = 5) -> Outcome:
    place = Place(user_id=here.people[user], asset_id=here.parts[0], side=side, price=price, quantity=quantity)
    [outcome] = await run(place)
    return outcome


async def status_of(here: Marketplace, outcome: Outcome) -> OrderStatus:
    assert outcome.id is not None
    return (await here.trading.get(outcome.id)).status


async def two_at_one_price(here: Marketplace, run: Run) -> None:
    first = await put(here, run, 0, Side.SELL, 100)
    await put(here, run, 1, Side.SELL, 100)
    await put(here, run, 2, Side.BUY, 100)
    assert await status_of(here, first) is OrderStatus.FILLED


async def the_better_price_first(here: Marketplace, run: Run) -> None:
    await put(here, run, 0, Side.SELL, 101)
    better = await put(here, run, 1, Side.SELL, 100)
    await put(here, run, 2, Side.BUY, 101)
    assert await status_of(here, better) is OrderStatus.FILLED


async def reserved(here: Marketplace, run: Run) -> None:
    await put(here, run, 0, Side.BUY, 100)
    await here.audit()


async def spent_once(here: Marketplace, run: Run) -> None:
    places = [
        Place(user_id=here.people[0], asset_id=here.parts[0], side=Side.BUY, price=10**8, quantity=6) for _ in range(2)
    ]
    outcomes = await run(*places) if run == here.run_as_batch else [(await run(place))[0] for place in places]
    assert [outcome.outcome for outcome in outcomes] == [Answer.OPEN, Answer.INSUFFICIENT_FUNDS]


async def not_more_than_one_has(here: Marketplace, run: Run) -> None:
    await put(here, run, 1, Side.SELL, 10**8, 11)
    assert (await put(here, run, 0, Side.BUY, 10**8, 11)).outcome is Answer.INSUFFICIENT_FUNDS


async def not_with_oneself(here: Marketplace, run: Run) -> None:
    await put(here, run, 0, Side.SELL, 100)
    await put(here, run, 0, Side.BUY, 100)
    assert await here.trades() == []


async def used_up(here: Marketplace, run: Run) -> None:
    await put(here, run, 0, Side.SELL, 100)
    await put(here, run, 1, Side.BUY, 100, 3)
    await here.audit()


async def given_back(here: Marketplace, run: Run) -> None:
    outcome = await put(here, run, 0, Side.BUY, 100)
    assert outcome.id is not None
    await run(Cancel(order_id=outcome.id))
    await here.audit()


async def as_it_was_seen(here: Marketplace, run: Run) -> None:
    outcome = await put(here, run, 0, Side.BUY, 100)
    assert outcome.id is not None
    [answer] = await run(Cancel(order_id=outcome.id, version=7))
    assert answer.outcome is Answer.OTHER_VERSION


async def never_deadlocked(here: Marketplace, run: Run) -> None:
    raised = [error for error in await crosswise(here) if error is not None]
    assert all(isinstance(error, DeadlockDetected) for error in raised)
    assert raised == []


_BOOK = "order by r.asset_id, r.side, r.rank, r.number"
_Check = Callable[[Marketplace, Run], Awaitable[None]]
_MUTATIONS: dict[str, tuple[str, str, str, _Check]] = {
    "the later of two goes first": ("trading.run", _BOOK, _BOOK + " desc", two_at_one_price),
    "the worse price goes first": (
        "trading.run", _BOOK, "order by r.rank desc, r.number", the_better_price_first,
    ),
    "a reservation is dropped": ("trading.run", "if e_left[e] > 0 then", "if false then", reserved),
    "what is reserved is not counted": (
        "trading.run", "spendable[pays_at] - need;", "spendable[pays_at];", spent_once,
    ),
    "nobody looks who is who": ("trading.run", "if e_user[e] = given_users[i] then", "if false then", not_with_oneself),
    "accounts are locked in the order of arrival": (
        "trading.run",
        "where a.id = any (touched) order by a.id for no key update",
        "where a.id = any (touched) order by array_position(touched, a.id) for no key update",
        never_deadlocked,
    ),
    "alone, the later of two goes first": ("trading.place", _BOOK, _BOOK + " desc", two_at_one_price),
    "alone, the worse price goes first": (
        "trading.place", _BOOK, "order by r.rank desc, r.number", the_better_price_first,
    ),
    "alone, a reservation is dropped": ("trading.place", "if not ledger.reserve(", "if null = (", reserved),
    "alone, what is reserved is not counted": (
        "ledger.reserve", "a.balance - a.held + a.credit_limit", "a.balance + a.credit_limit", spent_once,
    ),
    "alone, nobody looks what the taker has": (
        "trading.place", ":= locked.possible", ":= true", not_more_than_one_has,
    ),
    "alone, nobody looks who is who": (
        "trading.place", "alone := maker.user_id <> given_user;", "alone := true;", not_with_oneself,
    ),
    "alone, the last one is taken whole": ("trading.place", "if fill < maker.remaining then", "if false then", used_up),
    "alone, what is cancelled stays held": ("trading.cancel", "perform ledger.release(", "perform (", given_back),
    "alone, nobody looks at the version": ("trading.cancel", "o.version = wanted_version", "true", as_it_was_seen),
}  # fmt: skip


@pytest.mark.parametrize("name", _MUTATIONS)
async def test_a_broken_matcher_is_found(marketplace, name) -> None:
    """Each of these checks passes with the matcher as it is, and fails with one line of it changed."""
    function, good, bad, check = _MUTATIONS[name]
    await marketplace.fund()

    async def checked() -> None:
        here = await (await marketplace.found(3, 2)).fund()
        await here.open(Settlement.IMMEDIATE)
        await check(here, here.run_as_batch if function == "trading.run" else here.run)

    await checked()
    await mutated(marketplace.headwater, function, good, bad)
    with pytest.raises(Exception):  # noqa: B017  # an assertion of ours, or the database's own last line
        await checked()


# -- plans -----------------------------------------------------------------------------------------------------------

_BIG = re.compile(r"Seq Scan on (resting|orders|trades|escrows|accounts|transfers|holds)\b.*")
_UNBOUND = re.compile(
    r"(Index|Index Only|Bitmap Index) Scan using \w+ on (resting|orders|accounts|holds)\b[^\n]*\n(?!\s*Index Cond)"
)
_BOOK_READ = re.compile(r"Query Text: select r\.\* from trading\.resting r\s+where r\.asset_id = .*", re.DOTALL)


class Explained:
    """A connection on which PostgreSQL tells the plan of every statement inside a call."""

    def __init__(self, connection: asyncpg.Connection) -> None:
        self._connection = connection
        self._told: list[str] = []
        connection.add_log_listener(lambda _, message: self._told.append(message.message))

    async def plans(self, here: Marketplace, chance: random.Random) -> list[str]:
        """The plans of a batch of orders that cross the book, and of some alone: crossing, resting, cancelled."""
        self._told.clear()
        places = [_random_place(chance, here.people, here.parts[:1]) for _ in range(8)]
        rows = await self._run(places)
        for place in places:
            alone = await self._run([place])
            rows.extend(alone)
            if alone[0]["outcome"] in ("open", "partially_filled") and place is not places[-1]:
                rows.extend(await self._run([Cancel(order_id=alone[0]["id"])]))
        assert {row["outcome"] for row in rows} <= {"open", "partially_filled", "filled", "cancelled"}
        return [told for told in self._told if "Query Text" in told]

    async def _run(self, commands: list[Place | Cancel]) -> list[Any]:
        name, arguments = call_of(commands)
        query = QUERIES[name]
        assert isinstance(query, NamedQuery)
        return list(await self._connection.fetch(query.sql, *query.arguments(arguments)))

    async def execute(self, sql: str, *args: Any) -> None:
        await self._connection.execute(sql, *args)


async def test_the_plans_hold_on_empty_full_and_bloated_tables(marketplace, database) -> None:
    """In one session, so that what was planned on empty tables is what runs on full ones."""
    here = await (await marketplace.found(4, 1)).fund(money=10**12, tokens=10**9)
    connection = await asyncpg.connect(database)
    try:
        for setting in ("log_nested_statements = on", "log_min_duration = 0", "log_level = 'notice'"):
            await connection.execute("load 'auto_explain'")
            await connection.execute("set auto_explain." + setting)
        explained, chance = Explained(connection), random.Random(5)
        analyze = "analyze trading.resting, trading.orders, trading.trades, ledger.accounts, ledger.transfers"
        await explained.execute(analyze)
        for state in ("empty", "full", "full and analysed", "bloated", "bloated and analysed"):
            if state == "full":
                await _fill_book(here, 4_000)
            elif state == "bloated":
                await explained.execute(
                    "delete from trading.orders where status = 'open' and price not between 60 and 140"
                )
            elif state.endswith("analysed"):
                await explained.execute(analyze)
            plans = await explained.plans(here, chance)
            reads = [plan for plan in plans if _BOOK_READ.search(plan)]
            assert reads, state
            assert all("Index Scan using resting_priority_idx" in plan and "Sort" not in plan for plan in reads), state
            whole = [(state, hit[0], plan) for plan in plans if (hit := _BIG.search(plan) or _UNBOUND.search(plan))]
            assert not whole, whole[0]
    finally:
        await connection.close()
    await here.audit()


async def _fill_book(here: Marketplace, orders: int) -> None:
    rows = [
        {
            "user_id": here.people[n % 4],
            "asset_id": here.parts[0],
            "side": side,
            "price": 100 - 20 - n % 50 if side is Side.BUY else 100 + 20 + n % 900,
            "quantity": 5,
        }
        for n in range(orders // 2)
        for side in Side
    ]
    await here.trading.bulk_insert(here.headwater.autocommit, rows)
