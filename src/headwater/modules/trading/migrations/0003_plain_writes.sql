-- Orders written past the verbs, in plain SQL. What such a statement says of an order holds for its money too: an open
-- order that is inserted is placed (reserved, matched, or the statement is refused), one that is cancelled or deleted
-- gives its reservation back, and what the matcher alone may say of a resting order cannot be said by others.
--
-- Such a writer has locked the order before the market, the matcher the market before the order: if they meet, PostgreSQL
-- ends one of them with a deadlock, and its caller runs again. The verbs never meet so.
create function trading.orders_inserted() returns trigger
language plpgsql
set search_path = pg_catalog, pg_temp
as $function$
declare
    refused record;
begin
    select r.outcome, e.user_id, e.asset_id into refused
      from (select array_agg('enter'::text order by w.created_at, w.id) as actions,
                   array_agg(w.id order by w.created_at, w.id) as ids,
                   array_agg(null::bigint) as versions,
                   array_agg(w.user_id order by w.created_at, w.id) as users,
                   array_agg(w.asset_id order by w.created_at, w.id) as assets,
                   array_agg(w.side order by w.created_at, w.id) as sides,
                   array_agg(w.price order by w.created_at, w.id) as prices,
                   array_agg(w.quantity - w.filled_quantity order by w.created_at, w.id) as quantities
              from written w where w.status in ('open', 'partially_filled')) a
     cross join trading.run(a.actions, a.ids, a.versions, a.users, a.assets, a.sides, a.prices, a.quantities)
           with ordinality r
     cross join lateral (select a.users[r.ordinality] as user_id, a.assets[r.ordinality] as asset_id) e
     where a.actions is not null and r.outcome not in ('open', 'partially_filled', 'filled', 'cancelled')
     limit 1;
    if found then
        raise exception 'trading.orders: the user % cannot place an order for %: %',
            refused.user_id, refused.asset_id, replace(refused.outcome, '_', ' ')
            using hint = 'Credit the account of the user in the ledger first.';
    end if;
    return null;
end
$function$;

-- next
create function trading.orders_updated() returns trigger
language plpgsql
set search_path = pg_catalog, pg_temp
as $function$
declare
    wrong uuid;
begin
    select w.id into wrong from written w
      join before b on b.id = w.id
      left join trading.resting r on r.order_id = w.id
     where case when r.order_id is null then w.status in ('open', 'partially_filled')
                else (w.user_id, w.asset_id, w.side, w.price, w.quantity, w.filled_quantity)
                     is distinct from (b.user_id, b.asset_id, b.side, b.price, b.quantity, b.filled_quantity)
                     or w.status is distinct from b.status and w.status <> 'cancelled' end
     limit 1;
    if found then
        raise exception 'trading.orders: the order % rests in the book, or would: only the matcher changes what it says', wrong
            using hint = 'Cancel it and place another one.';
    end if;
    perform trading.forget((select array_agg(w.id) from written w where w.status = 'cancelled'));
    return null;
end
$function$;

-- next
create function trading.orders_deleted() returns trigger
language plpgsql
set search_path = pg_catalog, pg_temp
as $function$
begin
    perform trading.forget((select array_agg(b.id) from before b));
    return null;
end
$function$;

-- next
-- Takes these orders out of the book, those that are in it, and gives back what they reserve.
create function trading.forget(order_ids uuid[]) returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $function$
declare
    holds uuid[];
    statuses smallint[];
begin
    if order_ids is null or not exists (select from trading.resting r where r.order_id = any (order_ids)) then
        return;
    end if;
    perform from trading.markets m where m.asset_id in (select r.asset_id from trading.resting r where r.order_id = any (order_ids))
      order by m.asset_id for no key update;
    update trading.markets m set batches = m.batches + 1
     where m.asset_id in (select r.asset_id from trading.resting r where r.order_id = any (order_ids));
    with gone as (delete from trading.resting r where r.order_id = any (order_ids) returning r.hold_id)
    select array_agg(g.hold_id) into holds from gone g;
    if holds is null then
        return;
    end if;
    select p.statuses into statuses
      from ledger.post(
          (select array_agg(uuidv7()) from unnest(holds)), array_fill(4::smallint, array[cardinality(holds)]),
          array_fill(null::bigint, array[cardinality(holds)]), array_fill(null::bigint, array[cardinality(holds)]),
          array_to_string(array_fill(0, array[cardinality(holds)]), ','),
          array_fill(0::smallint, array[cardinality(holds)]), holds, null, null, null) p;
    if statuses <> array_fill(0::smallint, array[cardinality(holds)]) then
        raise exception 'trading.forget: the ledger did not release what was held, with the statuses %', statuses
            using errcode = 'data_corrupted';
    end if;
end
$function$;

-- next
create trigger orders_inserted after insert on trading.orders referencing new table as written
for each statement when (current_setting('headwater.matching', true) is distinct from 'yes') execute function trading.orders_inserted();

-- next
create trigger orders_updated after update on trading.orders referencing old table as before new table as written
for each statement when (current_setting('headwater.matching', true) is distinct from 'yes') execute function trading.orders_updated();

-- next
create trigger orders_deleted after delete on trading.orders referencing old table as before
for each statement execute function trading.orders_deleted();
