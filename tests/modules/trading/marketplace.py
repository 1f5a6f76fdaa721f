"""A marketplace for tests: people with money and tokens, commands in batches, and what must be true afterwards."""

from __future__ import annotations

from collections.abc import Mapping
from uuid import UUID, uuid4

from sqlalchemy import select

from headwater.kernel.lifecycle import Headwater
from headwater.kernel.queries import NamedQuery, Queries
from headwater.modules.blockchain.models import Asset, ChainUser
from headwater.modules.identity.models import User
from headwater.modules.ledger.proof import verify
from headwater.modules.ledger.repository import LedgerRepository, Move
from headwater.modules.trading.commands import Cancel, Outcome, Place, columns_of
from headwater.modules.trading.markets import MarketRepository, token_of
from headwater.modules.trading.models import Order, Settlement, Side, Trade
from headwater.modules.trading.repository import QUERIES as TRADING_QUERIES
from headwater.modules.trading.repository import TradingRepository

BOOKS: Queries = Queries.parse(
    """
-- name: unequal_sums
-- Assets of the ledger of which more or less is owned than was issued.
select s.code, sum(a.balance) from ledger.accounts a join ledger.assets s on s.id = a.asset_id
group by s.code having sum(a.balance) <> 0

-- name: negative_balances
-- Accounts that owe, though they must not.
select a.id, a.balance, a.held from ledger.accounts a
where a.credit_limit is not null and (a.balance < 0 or a.held < 0 or a.balance - a.held < - a.credit_limit)

-- name: wrong_holds
-- Accounts that hold more or less than their open orders reserve.
select a.id, a.held, coalesce(r.reserved, 0) as reserved
from ledger.accounts a
left join (
    select pay.id, sum(case o.side when 'buy' then o.price else 1 end * (o.quantity - o.filled_quantity)) as reserved
    from trading.orders o
    join trading.markets m on m.asset_id = o.asset_id
    join ledger.accounts pay on pay.owner_kind = 'user' and pay.owner_id = o.user_id and pay.purpose = 'main'
     and pay.asset_id = case o.side when 'buy' then m.money_id else m.token_id end
    where o.status in ('open', 'partially_filled')
    group by pay.id
) r on r.id = a.id
where a.held <> coalesce(r.reserved, 0)

-- name: wrong_book
-- Open orders that are not in the book as they should be, and the other way round.
select o.id, r.order_id, o.quantity - o.filled_quantity as should, r.remaining
from (select * from trading.orders where status in ('open', 'partially_filled')) o
full join trading.resting r on r.order_id = o.id
where r.order_id is null or o.id is null or r.remaining <> o.quantity - o.filled_quantity
   or r.asset_id <> o.asset_id or r.user_id <> o.user_id or r.side <> o.side
   or r.rank <> case o.side when 'sell' then o.price else - o.price end

-- name: wrong_fills
-- Orders of which more or less is filled than was traded.
select o.id, o.filled_quantity, coalesce(t.traded, 0) as traded
from trading.orders o
left join (
    select x.id, sum(x.quantity) as traded
    from (select buy_order_id as id, quantity from trading.trades
          union all select sell_order_id, quantity from trading.trades) x
    group by x.id
) t on t.id = o.id
where o.filled_quantity <> coalesce(t.traded, 0)

-- name: wrong_escrows
-- Markets whose escrow accounts hold more or less than their unsettled escrows say.
select m.asset_id, money.balance, e.amount, token.balance as tokens, e.quantity
from trading.markets m
join ledger.accounts money on money.id = m.money_escrow
join ledger.accounts token on token.id = m.token_escrow
left join (
    select t.asset_id, sum(e.amount) as amount, sum(t.quantity) as quantity
    from trading.escrows e join trading.trades t on t.id = e.trade_id
    where e.state in ('held', 'disputed') group by t.asset_id
) e on e.asset_id = m.asset_id
where money.balance <> coalesce(e.amount, 0) or token.balance <> coalesce(e.quantity, 0)

-- name: trades_without_escrow
-- Fills that did not move through an escrow, or through one of another amount or between others.
select t.id from trading.trades t
join trading.orders b on b.id = t.buy_order_id
join trading.orders s on s.id = t.sell_order_id
left join trading.escrows e on e.trade_id = t.id
where e.id is null or e.amount <> t.price * t.quantity or e.buyer_id <> b.user_id or e.seller_id <> s.user_id

-- name: wrong_stream
-- Rows that are not what the stream told last of them, and those it tells of that are not there.
with told as (
    select distinct on ("table", key) "table", key, op, new from headwater.change
    where "table" in ('trading.orders', 'trading.trades', 'trading.escrows') order by "table", key, id desc
), stored as (
    select 'trading.orders' as "table", jsonb_build_object('id', o.id) as key, to_jsonb(o) as row from trading.orders o
    union all select 'trading.trades', jsonb_build_object('id', t.id), to_jsonb(t) from trading.trades t
    union all select 'trading.escrows', jsonb_build_object('id', e.id), to_jsonb(e) from trading.escrows e
)
select "table", key, t.new, s.row
from told t full join stored s using ("table", key)
where t.op is distinct from 'd' and s.row is distinct from t.new or t.op = 'd' and s.row is not null

-- name: crossed_books
-- Markets in which a buyer bids what a seller asks, and they have not met.
select b.asset_id, b.best_bid, a.best_ask
from (select asset_id, max(- rank) as best_bid from trading.resting where side = 'buy' group by asset_id) b
join (select asset_id, min(rank) as best_ask from trading.resting where side = 'sell' group by asset_id) a
  on a.asset_id = b.asset_id
where b.best_bid >= a.best_ask
"""
)

TRACES: Queries = Queries.parse(
    """
-- name: orders
-- The orders as they stand, people and parts by their numbers.
select array_position(:people::uuid[], o.user_id), array_position(:parts::uuid[], o.asset_id), o.side::text, o.price,
       o.quantity, o.filled_quantity, o.status::text, o.cancelled_at is null, o.version
from trading.orders o where o.asset_id = any (:parts::uuid[]) order by o.created_at, o.id

-- name: book
-- What rests, and what it holds.
select array_position(:people::uuid[], r.user_id), array_position(:parts::uuid[], r.asset_id), r.side::text, r.rank,
       r.remaining, h.remaining, h.state::text
from trading.resting r join ledger.holds h on h.transfer_id = r.hold_id
where r.asset_id = any (:parts::uuid[]) order by r.number

-- name: trades
-- The trades and their escrows.
select array_position(:parts::uuid[], t.asset_id), array_position(:people::uuid[], b.user_id),
       array_position(:people::uuid[], s.user_id), t.taker_side::text, t.price, t.quantity, e.amount, e.state::text,
       e.settled_at is null, array_position(:people::uuid[], e.buyer_id), array_position(:people::uuid[], e.seller_id)
from trading.trades t
join trading.orders b on b.id = t.buy_order_id
join trading.orders s on s.id = t.sell_order_id
join trading.escrows e on e.trade_id = t.id
where t.asset_id = any (:parts::uuid[]) order by t.id

-- name: transfers
-- What moved, was held and let go, account by account, in the order of the versions of each.
with owned as (
    select a.id, concat_ws(' ', array_position(:people::uuid[], a.owner_id), array_position(:parts::uuid[], a.owner_id),
                           a.purpose, coalesce((select p.n::text from unnest(:parts::uuid[]) with ordinality p (id, n)
                                                 where s.code = 'asset:' || p.id), s.code)) as name
    from ledger.accounts a join ledger.assets s on s.id = a.asset_id
    where a.owner_id = any (:people::uuid[] || :parts::uuid[])
)
select d.name, t.debit_version, c.name, t.credit_version, t.state::text, t.amount, t.debit_balance_after,
       t.credit_balance_after, t.released, t.pending_id is null,
       exists (select from trading.trades x where x.id = t.id), exists (select from trading.escrows x where x.id = t.id)
from ledger.transfers t
join owned d on d.id = t.debit_account_id
join owned c on c.id = t.credit_account_id
order by d.name, t.debit_version

-- name: changes
-- What the stream was told of the orders, of the trades and escrows, and of the transfers of these people.
select c."table", c.op::text, c.new ->> 'version', c.new ->> 'status', c.old ->> 'version', c.old ->> 'status',
       c.new ->> 'price', c.new ->> 'quantity', c.new ->> 'amount', c.new ->> 'state', c.context::text
from headwater.change c
where (c.new ->> 'asset_id')::uuid = any (:parts::uuid[]) or (c.new ->> 'buyer_id')::uuid = any (:people::uuid[])
   or (c.new ->> 'debit_account_id')::bigint in (select id from ledger.accounts where owner_id = any (:people::uuid[]))
order by c."table", c.xid, c.new ->> 'price', c.new ->> 'amount', c.new ->> 'quantity', c.new ->> 'version'
"""
)


class Marketplace:
    """People, parts, and the verbs of trading, each call in a transaction of its own."""

    def __init__(self, headwater: Headwater, people: list[UUID], parts: list[UUID]) -> None:
        self.headwater = headwater
        self.people = people
        self.parts = parts
        self.trading = headwater.repository(TradingRepository)
        self.ledger = headwater.repository(LedgerRepository)
        self.markets = headwater.repository(MarketRepository)

    async def found(self, people: int, parts: int) -> Marketplace:
        """A marketplace of other people and parts, beside this one."""
        users, assets = self.headwater.repository(User), self.headwater.repository(Asset)
        async with self.headwater.transaction() as tx:
            new = [(await users.create(tx, email=f"{uuid4()}@example.org")).id for _ in range(people)]
            await self.headwater.repository(ChainUser).create(tx, user_id=new[0], wallet_address=str(new[0]))
            made = [
                await assets.create(tx, asset_type="actuator", issuer_id=new[0], name="Drive", symbol=str(uuid4())[:32])
                for _ in range(parts)
            ]
        return Marketplace(self.headwater, new, [asset.id for asset in made])

    async def open(self, settlement: Settlement) -> None:
        """Open the markets of all parts."""
        async with self.headwater.transaction() as tx:
            for asset_id in self.parts:
                await self.markets.open_market(tx, asset_id, settlement=settlement)

    async def fund(self, money: int = 10**9, tokens: int = 10**6) -> Marketplace:
        """Everybody gets money, and tokens of every part."""
        everybody = dict.fromkeys(self.people, money)
        await self.endow(everybody, {(user_id, part): tokens for user_id in self.people for part in self.parts})
        return self

    async def give(self, user_id: UUID, money: int) -> None:
        """Issue money to somebody."""
        await self.endow({user_id: money}, {})

    async def give_tokens(self, user_id: UUID, asset_id: UUID, tokens: int) -> None:
        """Issue tokens to somebody."""
        await self.endow({}, {(user_id, asset_id): tokens})

    async def endow(self, money: Mapping[UUID, int], tokens: Mapping[tuple[UUID, UUID], int]) -> None:
        """Issue money and tokens to many, in one transaction."""
        wanted = [("USD", money)] + [
            (token_of(part), {user: n for (user, asset), n in tokens.items() if asset == part})
            for part in dict.fromkeys(asset for _, asset in tokens)
        ]
        async with self.headwater.transaction() as tx:
            moves: list[Move] = []
            for code, amounts in wanted:
                await self.ledger.open_asset(tx, code, scale=2 if code == "USD" else 0)
                issuance = await self.ledger.account(tx, "system", None, code, purpose="issuance", credit_limit=None)
                owners = await self.ledger.accounts(tx, "user", amounts, code) if amounts else {}
                moves += [Move(debit=issuance.id, credit=owners[user].id, amount=n) for user, n in amounts.items() if n]
            for receipt in await self.ledger.post(tx, moves):
                receipt.or_raise()

    async def run(self, *commands: Place | Cancel) -> list[Outcome]:
        return await self.headwater.run(lambda tx: self.trading.run(tx, commands))

    async def run_as_batch(self, *commands: Place | Cancel) -> list[Outcome]:
        """What `run` does, one command through the door of batches too."""
        outcomes: list[Outcome] = await self.headwater.run(
            lambda tx: tx.fetch(TRADING_QUERIES["run"], into=Outcome, **columns_of(commands))
        )
        return outcomes

    async def place(
        self, user: int, side: Side = Side.BUY, price: int = 100, quantity: int = 10, *, part: int = 0
    ) -> Order:
        async with self.headwater.transaction() as tx:
            return await self.trading.place_order(
                tx, user_id=self.people[user], asset_id=self.parts[part], side=side, price=price, quantity=quantity
            )

    async def cancel(self, order_id: UUID, version: int | None = None) -> Order:
        async with self.headwater.transaction() as tx:
            return await self.trading.cancel_order(tx, order_id, version=version)

    async def money(self, user: int) -> tuple[int, int]:
        """Balance and what is held of it."""
        account = await self.ledger.find_account("user", self.people[user], "USD", tx=self.headwater.postgres)
        return (account.balance, account.held) if account is not None else (0, 0)

    async def tokens(self, user: int, part: int = 0) -> tuple[int, int]:
        """Balance and what is held of it."""
        code = token_of(self.parts[part])
        account = await self.ledger.find_account("user", self.people[user], code, tx=self.headwater.postgres)
        return (account.balance, account.held) if account is not None else (0, 0)

    async def trades(self) -> list[Trade]:
        """The trades of all parts here, in the order they happened."""
        return list(
            await self.headwater.postgres.fetch(select(Trade).where(Trade.asset_id.in_(self.parts)).order_by(Trade.id))
        )

    async def traces(self) -> dict[str, list[tuple[object, ...]]]:
        """All that commands left here, without ids and times: what two marketplaces can be compared by."""
        found = {}
        async with self.headwater.postgres.connection() as connection:
            for name, query in TRACES.items():
                assert isinstance(query, NamedQuery)
                values = {"people": self.people, "parts": self.parts}
                arguments = query.arguments({key: values[key] for key in query.parameters})
                found[name] = [tuple(row) for row in await connection.fetch(query.sql, *arguments)]
        return found

    async def prove(self) -> None:
        """The audit, and the ledger's own proof: versions, balances, holds and chains recomputed from its history."""
        await self.audit()
        report = await verify(self.headwater.postgres)
        assert not report.faults, report.faults

    async def audit(self) -> None:
        """What must be true after any sequence of commands, whoever ran them."""
        for query in BOOKS.values():
            assert isinstance(query, NamedQuery)
            found = await self.headwater.postgres.fetch(query)
            assert not found, f"{query.name}: {found[:5]}"
