"""Client-side matching: what one writes by hand: one transaction per order, a lock on the market, a query per step.

It keeps balances and what is held of them, orders and trades. It has no ledger, no escrow, no history of balances and
no change stream: it does less than what it is compared with.
"""

from __future__ import annotations

from uuid import UUID

import asyncpg

_TABLES = """
create schema client_side;
create table client_side.markets (id bigint primary key);
create table client_side.balances (
    user_id uuid primary key, money numeric not null, money_held numeric not null default 0,
    tokens numeric not null, tokens_held numeric not null default 0
);
create table client_side.orders (
    id uuid primary key default uuidv7(), user_id uuid not null, buying boolean not null, price numeric not null,
    quantity numeric not null, remaining numeric not null, open boolean not null, created_at timestamptz default now()
);
create index on client_side.orders (buying, price, id) where open;
create table client_side.trades (
    id uuid primary key default uuidv7(), buy_order_id uuid not null, sell_order_id uuid not null,
    price numeric not null, quantity numeric not null, executed_at timestamptz default now()
);
insert into client_side.markets values (1);
"""
_MARKET = "select id from client_side.markets where id = 1 for update"
_RESERVE_MONEY = """
update client_side.balances set money_held = money_held + $2 where user_id = $1 and money - money_held >= $2
"""
_RESERVE_TOKENS = """
update client_side.balances set tokens_held = tokens_held + $2 where user_id = $1 and tokens - tokens_held >= $2
"""
_BEST_ASK = """
select id, user_id, price, remaining from client_side.orders
where open and not buying and price <= $1 order by price, id limit 1
"""
_BEST_BID = """
select id, user_id, price, remaining from client_side.orders
where open and buying and price >= $1 order by price desc, id limit 1
"""
_ORDER = """
insert into client_side.orders (user_id, buying, price, quantity, remaining, open) values ($1, $2, $3, $4, $4, true)
returning id
"""
_FILL = "update client_side.orders set remaining = remaining - $2, open = remaining > $2 where id = $1"
_TRADE = "insert into client_side.trades (buy_order_id, sell_order_id, price, quantity) values ($1, $2, $3, $4)"
_BUYER = """
update client_side.balances set money = money - $2, money_held = money_held - $3, tokens = tokens + $4
where user_id = $1
"""
_SELLER = """
update client_side.balances set tokens = tokens - $2, tokens_held = tokens_held - $2, money = money + $3
where user_id = $1
"""
_CLOSE = "update client_side.orders set open = false where id = $1 and open returning user_id, buying, price, remaining"
_FREE_MONEY = "update client_side.balances set money_held = money_held - $2 where user_id = $1"
_FREE_TOKENS = "update client_side.balances set tokens_held = tokens_held - $2 where user_id = $1"


class ClientSideMatching:
    """One market on one connection."""

    def __init__(self, connection: asyncpg.Connection) -> None:
        self._connection = connection

    @classmethod
    async def open(cls, dsn: str, users: list[UUID], money: int, tokens: int) -> ClientSideMatching:
        """Tables, and a balance for everybody."""
        connection = await asyncpg.connect(dsn)
        await connection.execute(_TABLES)
        await connection.executemany(
            "insert into client_side.balances (user_id, money, tokens) values ($1, $2, $3)",
            [(user, money, tokens) for user in users],
        )
        return cls(connection)

    async def close(self) -> None:
        await self._connection.close()

    async def place(self, user_id: UUID, buying: bool, price: int, quantity: int) -> UUID | None:
        """Place an order; its id when some of it rests."""
        run = self._connection
        async with run.transaction():
            await run.fetchval(_MARKET)
            reserve, need = (_RESERVE_MONEY, price * quantity) if buying else (_RESERVE_TOKENS, quantity)
            if (await run.execute(reserve, user_id, need)) == "UPDATE 0":
                return None
            order_id: UUID = await run.fetchval(_ORDER, user_id, buying, price, quantity)
            left = quantity
            while left:
                best = await run.fetchrow(_BEST_ASK if buying else _BEST_BID, price)
                if best is None or best["user_id"] == user_id:
                    break
                filled, at = min(left, int(best["remaining"])), int(best["price"])
                left -= filled
                await run.execute(_FILL, best["id"], filled)
                await run.execute(_FILL, order_id, filled)
                buy, sell = (order_id, best["id"]) if buying else (best["id"], order_id)
                buyer, seller = (user_id, best["user_id"]) if buying else (best["user_id"], user_id)
                await run.execute(_TRADE, buy, sell, at, filled)
                await run.execute(_BUYER, buyer, at * filled, (price if buying else at) * filled, filled)
                await run.execute(_SELLER, seller, filled, at * filled)
            return order_id if left else None

    async def cancel(self, order_id: UUID) -> None:
        """Cancel what is left of an order."""
        run = self._connection
        async with run.transaction():
            await run.fetchval(_MARKET)
            gone = await run.fetchrow(_CLOSE, order_id)
            if gone is not None:
                if gone["buying"]:
                    await run.execute(_FREE_MONEY, gone["user_id"], gone["price"] * gone["remaining"])
                else:
                    await run.execute(_FREE_TOKENS, gone["user_id"], gone["remaining"])
