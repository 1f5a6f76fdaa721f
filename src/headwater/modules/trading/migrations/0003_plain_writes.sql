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
    if current_setting('headwater.matching', true) = 'yes' then
        return null;
    end if;
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
    if current_setting('headwater.matching', true) = 'yes' then
        return null;
    end if;
    select b.id into wrong from before b where not exists (select from written w where w.id = b.id) limit 1;
    if found then
        raise exception 'trading.orders: the order % keeps its id', wrong using errcode = 'object_not_in_prerequisite_state';
    end if;
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
declare
    traded uuid;
begin
    select b.id into traded from before b
     where exists (select from trading.trades t where t.buy_order_id = b.id)
        or exists (select from trading.trades t where t.sell_order_id = b.id) limit 1;
    if found then
        raise exception 'trading.orders: the order % was filled, and trades refer to it', traded
            using errcode = 'foreign_key_violation', schema = 'trading', table = 'trades',
                  constraint = 'trades_order_fkey', hint = 'Cancel what is left of it.';
    end if;
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
for each statement execute function trading.orders_inserted();

-- next
create trigger orders_updated after update on trading.orders referencing old table as before new table as written
for each statement execute function trading.orders_updated();

-- next
create trigger orders_deleted after delete on trading.orders referencing old table as before
for each statement execute function trading.orders_deleted();

-- next
-- What a foreign key would say of trades and escrows that somebody else than the matcher writes.
create function trading.refer() returns trigger
language plpgsql
set search_path = pg_catalog, pg_temp
as $function$
declare
    missing text;
begin
    if tg_table_name = 'trades' then
        missing := case
            when not exists (select from blockchain.assets a where a.id = new.asset_id) then 'asset_id'
            when not exists (select from trading.orders o where o.id = new.buy_order_id) then 'buy_order_id'
            when not exists (select from trading.orders o where o.id = new.sell_order_id) then 'sell_order_id' end;
    else
        missing := case
            when new.trade_id is not null and not exists (select from trading.trades t where t.id = new.trade_id)
                then 'trade_id'
            when not exists (select from public.users u where u.id = new.buyer_id) then 'buyer_id'
            when not exists (select from public.users u where u.id = new.seller_id) then 'seller_id' end;
    end if;
    if missing is not null then
        raise exception 'trading.%: % refers to nothing', tg_table_name, missing
            using errcode = 'foreign_key_violation', schema = 'trading', table = tg_table_name,
                  constraint = tg_table_name || '_' || missing || '_fkey';
    end if;
    return new;
end
$function$;

-- next
create trigger trades_refer before insert or update of asset_id, buy_order_id, sell_order_id on trading.trades
for each row when (current_setting('headwater.matching', true) is distinct from 'yes') execute function trading.refer();

-- next
create trigger escrows_refer before insert or update of trade_id, buyer_id, seller_id on trading.escrows
for each row when (current_setting('headwater.matching', true) is distinct from 'yes') execute function trading.refer();
