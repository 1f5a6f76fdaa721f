-- name: order_book
-- The price levels of one asset, best first on each side, at most :depth a side. orders_book_idx gives them in order,
-- so that a deep book costs only the levels shown. Rows: side, price, quantity (still to fill), orders.
(
    select side, price, sum(quantity - filled_quantity) as quantity, count(*) as orders
    from trading.orders
    where asset_id = :asset_id::uuid and side = 'buy' and status in ('open', 'partially_filled')
    group by side, price
    order by price desc
    limit :depth::int
)
union all
(
    select side, price, sum(quantity - filled_quantity) as quantity, count(*) as orders
    from trading.orders
    where asset_id = :asset_id::uuid and side = 'sell' and status in ('open', 'partially_filled')
    group by side, price
    order by price
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
           max(price) filter (where side = 'buy') as best_bid,
           min(price) filter (where side = 'sell') as best_ask
    from trading.orders
    where status in ('open', 'partially_filled')
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
