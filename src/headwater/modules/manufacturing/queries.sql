-- name: progress
-- How far an order is: its milestones and what they are worth, in all and passed. No row: no such order.
-- percent is cut off after two decimals, never rounded up: 100 means that everything has passed. div() is exact, where
-- a plain division of long amounts rounds before it could be cut off.
select o.id as order_id,
       o.status,
       count(m.id) as milestones,
       count(m.id) filter (where m.status = 'passed') as milestones_passed,
       coalesce(sum(m.amount), 0) as amount,
       coalesce(sum(m.amount) filter (where m.status = 'passed'), 0) as amount_passed,
       coalesce(
           div(10000 * coalesce(sum(m.amount) filter (where m.status = 'passed'), 0), sum(m.amount)) / 100, 0
       )::float8 as percent
from manufacturing.orders as o
left join manufacturing.milestones as m on m.order_id = o.id
where o.id = :order_id::uuid
group by o.id

-- name: payments
-- Where the money of an order is: by its milestones, and in its escrow account. No row: no such order.
-- The account is looked up by its owner and not by its asset (`+ 0`), whatever the statistics say.
select o.id as order_id,
       o.currency,
       coalesce(sum(m.amount) filter (where m.payment = 'due' and m.status <> 'cancelled'), 0) as due,
       coalesce(sum(m.amount) filter (where m.payment = 'held'), 0) as held,
       coalesce(sum(m.amount) filter (where m.payment = 'paid'), 0) as paid,
       coalesce(sum(m.amount) filter (where m.payment = 'refunded'), 0) as refunded,
       coalesce((
           select a.balance from ledger.accounts as a
           where a.owner_kind = 'manufacturing' and a.owner_id = o.id and a.purpose = 'escrow'
             and a.asset_id + 0 = (select s.id from ledger.assets as s where s.code = o.currency)
       ), 0) as escrow
from manufacturing.orders as o
left join manufacturing.milestones as m on m.order_id = o.id
where o.id = :order_id::uuid
group by o.id

-- name: milestone_states
-- How many milestones an order has, the last position, and how many of them block each step of the order.
select count(*) as milestones,
       coalesce(max(position), 0) as last_position,
       count(*) filter (where status not in ('completed', 'passed')) as unfinished,
       count(*) filter (where status <> 'passed') as not_passed
from manufacturing.milestones
where order_id = :order_id::uuid

-- name: statistics
-- Production in one row: orders and milestones by status, inspections, what is late, how long an order takes.
select o.*,
       m.*,
       i.*,
       case when i.inspections > 0
           then div(10000 * i.inspections_passed::numeric, i.inspections) / 100 else 0 end::float8 as pass_rate_percent
from (
    select count(*) as orders,
           count(*) filter (where status = 'pending') as orders_pending,
           count(*) filter (where status = 'in_production') as orders_in_production,
           count(*) filter (where status = 'quality_check') as orders_quality_check,
           count(*) filter (where status = 'completed') as orders_completed,
           count(*) filter (where status = 'cancelled') as orders_cancelled,
           coalesce(sum(quantity) filter (where status = 'completed'), 0) as parts_completed,
           coalesce(extract(epoch from avg(completed_at - started_at)), 0)::float8 as production_seconds_average
    from manufacturing.orders
) as o
cross join (
    select count(*) as milestones,
           count(*) filter (where status = 'passed') as milestones_passed,
           count(*) filter (
               where status in ('pending', 'in_progress', 'failed') and due_at < statement_timestamp()
           ) as milestones_overdue,
           coalesce(sum(amount) filter (where status <> 'cancelled'), 0) as amount,
           coalesce(sum(amount) filter (where status = 'passed'), 0) as amount_passed
    from manufacturing.milestones
) as m
cross join (
    select count(*) as inspections,
           count(*) filter (where result = 'passed') as inspections_passed,
           count(*) filter (where result = 'failed') as inspections_failed
    from manufacturing.quality_assurance
) as i
