-- name: run
-- Run a batch of commands against their markets. Rows: the outcome of each, in their order, and its order.
select outcome, id, user_id, asset_id, side, price, quantity, filled_quantity, status, cancelled_at, created_at,
       updated_at, version
from trading.run(
    :actions::text[], :given_ids::uuid[], :wanted_versions::bigint[], :given_users::uuid[], :given_assets::uuid[],
    :given_sides::trading.order_side[], :given_prices::numeric[], :given_quantities::numeric[]
)

-- name: place
-- One order by itself. One row, as those of `run`.
select p.outcome, (p.made).id, (p.made).user_id, (p.made).asset_id, (p.made).side, (p.made).price, (p.made).quantity,
       (p.made).filled_quantity, (p.made).status, (p.made).cancelled_at, (p.made).created_at, (p.made).updated_at,
       (p.made).version
from trading.place(
    :user_id::uuid, :asset_id::uuid, :side::trading.order_side, :price::numeric, :quantity::numeric
) as p

-- name: cancel
-- One cancel by itself. One row, as those of `run`.
select c.outcome, (c.made).id, (c.made).user_id, (c.made).asset_id, (c.made).side, (c.made).price, (c.made).quantity,
       (c.made).filled_quantity, (c.made).status, (c.made).cancelled_at, (c.made).created_at, (c.made).updated_at,
       (c.made).version
from trading.cancel(:order_id::uuid, :version::bigint) as c

-- name: open_market
-- Open the market of an asset if it is not; an unknown asset opens nothing.
select trading.open_market(:asset_id::uuid, :currency::text, :settlement::trading.settlement)

-- name: escrow_accounts
-- Where the money and the tokens of an escrow lie in the ledger, and where each party wants to have them.
-- The accounts are looked up one by one, so that no plan can begin with them: joined, and before the first ANALYZE, they
-- were read a hundred thousand times. `+ 0` leaves the index of all accounts of an asset aside.
select w.trade_id, w.quantity, w.money_escrow, w.token_escrow,
       (select a.id from ledger.accounts as a where a.owner_kind = 'user' and a.owner_id = w.buyer_id
           and a.asset_id + 0 = w.money_id and a.purpose = 'main') as buyer_money,
       (select a.id from ledger.accounts as a where a.owner_kind = 'user' and a.owner_id = w.seller_id
           and a.asset_id + 0 = w.money_id and a.purpose = 'main') as seller_money,
       (select a.id from ledger.accounts as a where a.owner_kind = 'user' and a.owner_id = w.buyer_id
           and a.asset_id + 0 = w.token_id and a.purpose = 'main') as buyer_tokens,
       (select a.id from ledger.accounts as a where a.owner_kind = 'user' and a.owner_id = w.seller_id
           and a.asset_id + 0 = w.token_id and a.purpose = 'main') as seller_tokens
from (
    select e.trade_id, e.buyer_id, e.seller_id, t.quantity, m.money_escrow, m.token_escrow, m.money_id, m.token_id
    from trading.escrows as e
    join trading.trades as t on t.id = e.trade_id
    join trading.markets as m on m.asset_id = t.asset_id
    where e.id = :escrow_id::uuid
) as w

-- name: asset_exists
-- Whether there is such an asset.
select exists (select from blockchain.assets where id = :asset_id::uuid)

-- name: user_exists
-- Whether there is such a user.
select exists (select from public.users where id = :user_id::uuid)

-- name: order_book
-- The price levels of one asset, best first on each side, at most :depth a side. resting_priority_idx gives them in
-- order, so that a deep book costs only the levels shown. Rows: side, price, quantity (still to fill), orders.
(
    select side, - rank as price, sum(remaining) as quantity, count(*) as orders
    from trading.resting
    where asset_id = :asset_id::uuid and side = 'buy'
    group by side, rank
    order by rank
    limit :depth::int
)
union all
(
    select side, rank as price, sum(remaining) as quantity, count(*) as orders
    from trading.resting
    where asset_id = :asset_id::uuid and side = 'sell'
    group by side, rank
    order by rank
    limit :depth::int
)

-- name: market_totals
-- The whole market in one row: orders by status, and what was traded.
select o.*, t.*
from (
    select count(*) filter (where status = 'open') as orders_open,
           count(*) filter (where status = 'partially_filled') as orders_partially_filled,
           count(*) filter (where status = 'filled') as orders_filled,
           count(*) filter (where status = 'cancelled') as orders_cancelled
    from trading.orders
) as o
cross join (
    select count(*) as trades, coalesce(sum(price * quantity), 0) as traded_value
    from trading.trades
) as t

-- name: markets
-- The assets with a book or a history, the most traded first, with the best prices and the last one.
with book as (
    select asset_id,
           count(*) as resting_orders,
           max(- rank) filter (where side = 'buy') as best_bid,
           min(rank) filter (where side = 'sell') as best_ask
    from trading.resting
    group by asset_id
), history as (
    select asset_id,
           count(*) as trades,
           sum(quantity) as traded_quantity,
           sum(price * quantity) as traded_value
    from trading.trades
    group by asset_id
)
select a.id as asset_id,
       a.symbol,
       a.name,
       coalesce(b.resting_orders, 0) as resting_orders,
       b.best_bid,
       b.best_ask,
       b.best_ask - b.best_bid as spread,
       (
           select t.price from trading.trades as t
           where t.asset_id = a.id
           order by t.executed_at desc, t.id desc
           limit 1
       ) as last_price,
       coalesce(h.trades, 0) as trades,
       coalesce(h.traded_quantity, 0) as traded_quantity,
       coalesce(h.traded_value, 0) as traded_value
from book as b
full join history as h using (asset_id)
join blockchain.assets as a on a.id = asset_id
order by traded_value desc, resting_orders desc, a.id
limit :limit::int
