"""The rules that the matcher keeps by itself hold against every other writer, with PostgreSQL's own errors."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace
from uuid import UUID, uuid4

import asyncpg
import pytest
from tests.modules.trading.marketplace import Marketplace

from headwater.kernel.errors import InvalidValue, MissingReference, StillReferenced
from headwater.modules.trading.models import Order, Settlement, Side, Trade


@dataclass
class Dealt:
    """A buy and a sell that met, their trade and its escrow; and an order that rests."""

    here: Marketplace
    buy: UUID
    sell: UUID
    trade: UUID
    escrow: UUID
    resting: UUID
    spare: UUID | None = None
    spare_order: UUID | None = None

    async def with_spares(self, database: str) -> Dealt:
        """The same with a user and an order to which nothing refers."""
        connection = await asyncpg.connect(database)
        try:
            spare, order = uuid4(), uuid4()
            await connection.execute("insert into users (id, email) values ($1, $2)", spare, f"{spare}@example.org")
            await connection.execute(
                "insert into trading.orders (id, user_id, asset_id, side, price, quantity, status, cancelled_at)"
                " select $1, user_id, asset_id, 'buy', 1, 1, 'cancelled', now() from trading.orders where id = $2",
                order,
                self.buy,
            )
        finally:
            await connection.close()
        return replace(self, spare=spare, spare_order=order)

    async def no_reference_to_nothing(self, database: str) -> None:
        """Each foreign key of trading, enforced or not, read against the table it refers to."""
        connection = await asyncpg.connect(database)
        try:
            rows = await connection.fetch(
                "select c.conname, c.conrelid::regclass as own, c.confrelid::regclass as other, a.attname as by"
                " from pg_constraint c join pg_attribute a on a.attrelid = c.conrelid and a.attnum = c.conkey[1]"
                " where c.connamespace = 'trading'::regnamespace and c.contype = 'f'"
            )
            assert len(rows) > 8
            for row in rows:
                lost = await connection.fetchval(
                    f"select count(*) from {row['own']} r where r.{row['by']} is not null"
                    f" and not exists (select from {row['other']} o where o.id = r.{row['by']})"
                )
                assert lost == 0, row["conname"]
        finally:
            await connection.close()

    async def execute(self, sql: str, *args: object) -> None:
        """Plain SQL, in which `$1` is the trade unless something else is given; the driver's own error."""
        async with self.here.headwater.postgres.connection() as connection:
            try:
                await connection.execute(sql, *(args or (self.trade,)))
            except asyncpg.PostgresError as error:
                raise Refused(error) from error


class Refused(Exception):
    """What PostgreSQL said, as (SQLSTATE, table, constraint)."""

    def __init__(self, error: asyncpg.PostgresError) -> None:
        super().__init__(str(error))
        self.said = (error.sqlstate, f"{error.schema_name}.{error.table_name}", error.constraint_name)


@pytest.fixture
async def dealt(marketplace: Marketplace) -> Dealt:
    await marketplace.fund()
    sell = await marketplace.place(1, Side.SELL, price=50, quantity=4)
    buy = await marketplace.place(0, Side.BUY, price=50, quantity=4)
    resting = await marketplace.place(0, Side.BUY, price=10, quantity=4)
    [trade] = await marketplace.trades()
    async with marketplace.headwater.postgres.connection() as connection:
        escrow = await connection.fetchval("select id from trading.escrows where trade_id = $1", trade.id)
    return Dealt(marketplace, buy.id, sell.id, trade.id, escrow, resting.id)


_COLUMNS = {
    "orders": "id, user_id, asset_id, side, price, quantity, filled_quantity, status, cancelled_at",
    "trades": "id, asset_id, buy_order_id, sell_order_id, taker_side, price, quantity",
    "escrows": "id, trade_id, buyer_id, seller_id, amount, state, settled_at",
}
_ROW_OF = {
    "orders": "select o.* from trading.orders o join trading.trades t on t.buy_order_id = o.id where t.id = $1",
    "trades": "select t.* from trading.trades t where t.id = $1",
    "escrows": "select e.*, null::uuid as unused from trading.escrows e where e.trade_id = $1",
}
_NOWHERE = "'00000000-0000-4000-8000-000000000000'"
# Which column, changed to what, breaks which constraint.
_BROKEN = {
    "orders_price_check": ("orders", {"price": "0"}),
    "orders_quantity_check": ("orders", {"quantity": "0", "filled_quantity": "0"}),
    "orders_filled_quantity_check": ("orders", {"filled_quantity": "5"}),
    "orders_value_check": ("orders", {"price": "1e38 - 1"}),
    "orders_status_check": ("orders", {"status": "'partially_filled'"}),
    "orders_cancelled_at_check": ("orders", {"cancelled_at": "now()"}),
    "orders_asset_id_fkey": ("orders", {"asset_id": _NOWHERE}),
    "orders_user_id_fkey": ("orders", {"user_id": _NOWHERE}),
    "trades_price_check": ("trades", {"price": "0"}),
    "trades_quantity_check": ("trades", {"quantity": "-1"}),
    "trades_orders_check": ("trades", {"buy_order_id": "sell_order_id"}),
    "trades_asset_id_fkey": ("trades", {"asset_id": _NOWHERE}),
    "trades_buy_order_id_fkey": ("trades", {"buy_order_id": _NOWHERE}),
    "trades_sell_order_id_fkey": ("trades", {"sell_order_id": _NOWHERE}),
    "escrows_amount_check": ("escrows", {"amount": "0"}),
    "escrows_parties_check": ("escrows", {"buyer_id": "seller_id"}),
    "escrows_settled_at_check": ("escrows", {"settled_at": "null"}),
    "escrows_trade_id_fkey": ("escrows", {"trade_id": _NOWHERE}),
    "escrows_buyer_id_fkey": ("escrows", {"buyer_id": _NOWHERE}),
    "escrows_seller_id_fkey": ("escrows", {"seller_id": _NOWHERE}),
}


def _insert(table: str, change: dict[str, str]) -> str:
    """The row of the deal once more, with another id and this change."""
    fresh = {"id": "gen_random_uuid()"} | ({"trade_id": "null"} if table == "escrows" else {}) | change
    values = ", ".join(fresh.get(name, name) for name in _COLUMNS[table].split(", "))
    return f"insert into trading.{table} ({_COLUMNS[table]}) select {values} from ({_ROW_OF[table]}) r"


def _update(table: str, change: dict[str, str]) -> str:
    sets = ", ".join(f"{name} = {value}" for name, value in change.items())
    return f"update trading.{table} set {sets} where id = (select r.id from ({_ROW_OF[table]}) r)"


async def test_each_rule_that_is_not_enforced_is_tried_here(headwater) -> None:
    async with headwater.postgres.connection() as connection:
        rows = await connection.fetch(
            "select conname from pg_constraint where connamespace = 'trading'::regnamespace and not conenforced"
        )
    assert {row["conname"] for row in rows} == set(_BROKEN) - {"orders_user_id_fkey"}


@pytest.mark.parametrize("statement", [_insert, _update])
@pytest.mark.parametrize("name", _BROKEN)
async def test_plain_sql_cannot_break_a_rule(dealt: Dealt, name: str, statement: object) -> None:
    table, change = _BROKEN[name]
    assert callable(statement)
    with pytest.raises(Refused) as refused:
        await dealt.execute(statement(table, change))
    state = "23503" if name.endswith("_fkey") else "23514"
    assert refused.value.said == (state, f"trading.{table}", name)
    await dealt.here.audit()


@pytest.mark.parametrize("table", _COLUMNS)
async def test_plain_sql_that_breaks_no_rule_is_taken(dealt: Dealt, table: str) -> None:
    """Proof that the statements above are refused for what they change."""
    await dealt.execute(_insert(table, {}))
    await dealt.execute(_update(table, {"id": "id"}))


_REMOVED = {
    "delete from trading.orders where id = (select buy_order_id from trading.trades where id = $1)": (
        "trading.trades",
        "trades_buy_order_id_fkey",
    ),
    "delete from trading.orders where id = (select sell_order_id from trading.trades where id = $1)": (
        "trading.trades",
        "trades_sell_order_id_fkey",
    ),
    "update trading.orders set id = uuidv7() where id = (select buy_order_id from trading.trades where id = $1)": (
        "trading.trades",
        "trades_buy_order_id_fkey",
    ),
    "delete from trading.trades where id = $1": ("trading.escrows", "escrows_trade_id_fkey"),
    "update trading.trades set id = uuidv7() where id = $1": ("trading.escrows", "escrows_trade_id_fkey"),
}


@pytest.mark.parametrize("sql", _REMOVED)
async def test_what_is_referred_to_stays(dealt: Dealt, sql: str) -> None:
    with pytest.raises(Refused) as refused:
        await dealt.execute(sql)
    assert refused.value.said == ("23503", *_REMOVED[sql])
    await dealt.here.audit()


async def test_users_and_assets_stay_while_an_escrow_a_trade_or_an_order_refers_to_them(headwater, dealt) -> None:
    """Each of these refers alone: the rows that refer by an enforced foreign key are moved out of the way."""
    users, part = [uuid4(), uuid4()], uuid4()
    async with headwater.postgres.connection() as connection:
        for user in users:
            await connection.execute("insert into users (id, email) values ($1, $2)", user, f"{user}@example.org")
        await connection.execute(
            "insert into blockchain.assets (id, asset_type, issuer_id, name, symbol)"
            " select $1, asset_type, issuer_id, name, $2 from blockchain.assets limit 1",
            part,
            str(part)[:20],
        )
        await connection.execute(
            "insert into trading.escrows (buyer_id, seller_id, amount) values ($1, $2, 1)", users[0], users[1]
        )
        await connection.execute("update trading.trades set asset_id = $1 where id = $2", part, dealt.trade)
    for sql, value, name in (
        ("delete from users where id = $1", users[0], "escrows_buyer_id_fkey"),
        ("delete from users where id = $1", users[1], "escrows_seller_id_fkey"),
        ("update users set id = uuidv7() where id = $1", users[1], "escrows_seller_id_fkey"),
        ("delete from blockchain.assets where id = $1", part, "trades_asset_id_fkey"),
        ("update blockchain.assets set id = uuidv7() where id = $1", part, "trades_asset_id_fkey"),
    ):
        with pytest.raises(Refused) as refused:
            await dealt.execute(sql, value)
        assert refused.value.said == ("23503", f"trading.{name.partition('_')[0]}", name)
    await dealt.execute("delete from trading.escrows where buyer_id = $1", users[0])
    for user in users:
        await dealt.execute("delete from users where id = $1", user)


async def test_an_asset_stays_while_an_order_refers_to_it_even_when_its_market_is_gone(headwater, dealt, parts) -> None:
    async with headwater.postgres.connection() as connection:
        await connection.execute("delete from trading.escrows")
        await connection.execute("delete from trading.trades")
        await connection.execute("delete from trading.markets where asset_id = $1", parts[0])
    with pytest.raises(Refused) as refused:
        await dealt.execute("delete from blockchain.assets where id = $1", parts[0])
    assert refused.value.said == ("23503", "trading.orders", "orders_asset_id_fkey")


async def test_truncate_is_refused_as_for_any_foreign_key(dealt: Dealt) -> None:
    for table in ("trading.trades", "trading.orders"):
        async with dealt.here.headwater.postgres.connection() as connection:
            with pytest.raises(asyncpg.FeatureNotSupportedError, match="referenced in a foreign key constraint"):
                await connection.execute(f"truncate {table}")


async def test_the_errors_are_translated_as_ever(headwater, dealt: Dealt, people, parts) -> None:
    orders, trades = headwater.repository(Order), headwater.repository(Trade)
    row = {"user_id": people[0], "asset_id": parts[0], "side": Side.BUY, "price": 5, "quantity": 5}
    with pytest.raises(MissingReference, match="there is no such asset") as missing:
        await orders.bulk_insert(headwater.autocommit, [row | {"asset_id": uuid4()}])
    assert missing.value.detail["columns"] == ["asset_id"]
    with pytest.raises(InvalidValue, match="orders_price_check"):
        await orders.bulk_insert(headwater.autocommit, [row | {"price": 0}])
    with pytest.raises(StillReferenced, match=r"trading\.escrows"):
        async with headwater.transaction() as tx:
            await trades.delete(tx, dealt.trade)


async def test_the_matcher_itself_takes_no_order_that_breaks_a_rule(headwater, marketplace, people, parts) -> None:
    await marketplace.fund()
    alone = "select trading.place($1, $2, 'buy', $3::numeric, $4::numeric)"
    batch = (
        "select trading.run('{place,place}', '{null,null}', '{null,null}', array[$1, $1]::uuid[],"
        " array[$2, $2]::uuid[], '{buy,buy}', array[1, $3]::numeric[], array[1, $4]::numeric[])"
    )
    async with headwater.postgres.connection() as connection:
        for sql in (alone, batch):
            for price, quantity, name in (
                (0, 1, "price"), (-1, 1, "price"), (1.5, 1, "price"), (1, 0, "quantity"), (1, 2.5, "quantity"),
                (10**20, 10**18, "value"),
            ):  # fmt: skip
                with pytest.raises(asyncpg.CheckViolationError) as refused:
                    await connection.execute(sql, people[0], parts[0], price, quantity)
                assert refused.value.constraint_name == f"orders_{name}_check"
    assert await marketplace.trading.count() == 0


# -- who refers and who removes, at the same moment --------------------------------------------------------------------


async def meet(database: str, dealt: Dealt, first: str, second: str, isolation: str) -> list[str | None]:
    """The SQLSTATE of each of two transactions that began before either wrote: the second runs into the first, which
    then commits.
    """
    sooner, later, watcher = [await asyncpg.connect(database) for _ in range(3)]
    said: list[str | None] = []
    waits = "select exists (select from pg_stat_activity where pid = $1 and wait_event_type = 'Lock')"
    try:
        for connection in (sooner, later):
            await connection.execute(f"begin isolation level {isolation}")
            await connection.execute("select count(*) from trading.orders")  # the snapshot
        await sooner.execute(first.format(**vars(dealt)))
        task = asyncio.create_task(later.execute(second.format(**vars(dealt))))
        async with asyncio.timeout(10):
            while not task.done() and not await watcher.fetchval(waits, later.get_server_pid()):
                pass
        await sooner.execute("commit")
        [outcome] = await asyncio.gather(task, return_exceptions=True)
        said.append(outcome.sqlstate if isinstance(outcome, asyncpg.PostgresError) else None)
        await later.execute("rollback" if said[-1] else "commit")
    finally:
        for connection in (sooner, later, watcher):
            await connection.close()
    return said


_ESCROW = (
    "insert into trading.escrows (trade_id, buyer_id, seller_id, amount)"
    " select null, user_id, '{spare}', 1 from trading.orders where id = '{buy}'"
)
_TRADE = (
    "insert into trading.trades (asset_id, buy_order_id, sell_order_id, taker_side, price, quantity)"
    " select asset_id, '{spare_order}', id, 'buy', 1, 1 from trading.orders where id = '{sell}'"
)
_PAIRS = {
    "an escrow and its user": (_ESCROW, "delete from users where id = '{spare}'"),
    "a trade and its order": (_TRADE, "delete from trading.orders where id = '{spare_order}'"),
}


@pytest.mark.parametrize("isolation", ["read committed", "repeatable read", "serializable"])
@pytest.mark.parametrize("referring_first", [True, False])
@pytest.mark.parametrize("pair", _PAIRS)
async def test_two_who_do_not_see_each_other_leave_no_reference_to_nothing(
    database: str, dealt: Dealt, pair: str, referring_first: bool, isolation: str
) -> None:
    dealt = await dealt.with_spares(database)
    refers, removes = _PAIRS[pair]
    first, second = (refers, removes) if referring_first else (removes, refers)
    [said] = await meet(database, dealt, first, second, isolation)
    assert said == ("23503" if isolation == "read committed" else "40001")
    await dealt.no_reference_to_nothing(database)


async def test_whoever_removes_an_order_that_has_just_been_traded_is_stopped(database: str, dealt: Dealt) -> None:
    """The matcher refers, and no trigger looks: the order that it has changed tells."""
    place = "select trading.place((select user_id from trading.orders where id = '{sell}'), asset_id, 'sell', 10, 4)"
    sells = place + " from trading.orders where id = '{resting}'"
    for isolation, state in (("read committed", "23503"), ("repeatable read", "40001")):
        spared = await dealt.with_spares(database)
        [said] = await meet(database, spared, sells, "delete from trading.orders where id = '{resting}'", isolation)
        assert said == state
        await spared.no_reference_to_nothing(database)
        await spared.here.audit()
        spared.resting = (await spared.here.place(0, Side.BUY, price=10, quantity=4)).id
        dealt.resting = spared.resting


@pytest.mark.parametrize("ordering_first", [True, False])
@pytest.mark.parametrize("isolation", ["read committed", "repeatable read", "serializable"])
async def test_an_asset_and_its_market_do_not_go_while_an_order_comes(
    database: str, dealt: Dealt, people, parts, ordering_first: bool, isolation: str
) -> None:
    """No trigger looks at what the matcher writes: the market, which it has changed, stands between the two."""
    await dealt.here.open(Settlement.IMMEDIATE)
    orders = f"select trading.place('{people[0]}', '{parts[1]}', 'buy', 1, 1)"
    removes = (
        f"delete from trading.markets where asset_id = '{parts[1]}';"
        f" delete from blockchain.assets where id = '{parts[1]}'"
    )
    first, second = (orders, removes) if ordering_first else (removes, orders)
    [said] = await meet(database, dealt, first, second, isolation)
    # An order that comes too late finds no asset, which is an answer and no error.
    assert said == ("40001" if isolation != "read committed" else "23503" if ordering_first else None)
    await dealt.no_reference_to_nothing(database)
    await dealt.here.audit()


async def test_without_the_latch_a_reference_to_nothing_is_left(database: str, dealt: Dealt) -> None:
    """Proof that the test above can fail, and what the latch is for."""
    dealt = await dealt.with_spares(database)
    async with dealt.here.headwater.postgres.connection() as connection:
        await connection.execute("delete from trading.latch")
    refers, removes = _PAIRS["an escrow and its user"]
    assert await meet(database, dealt, refers, removes, "repeatable read") == [None]
    with pytest.raises(AssertionError):
        await dealt.no_reference_to_nothing(database)
