-- One command by itself: the short way of what trading.run does with batches, with the same outcomes, trades, transfers
-- and changes. A test holds both against one reference. What is rare (a market or an account that is not there yet, an
-- order that meets one of its own user) is handed to trading.run before anything is written.
--
-- PL/pgSQL prepares each expression anew in each transaction (some 2 us), and a statement costs what it opens (some 20 us
-- and 10 for each table): a command alone is what its statements cost, so there are few, and none over arrays.
--
-- Locks: the market, then the accounts, as in trading.run; an order that only rests needs one account.
create function trading.place(
    in given_user uuid, in given_asset uuid, in given_side trading.order_side, in given_price numeric,
    in given_quantity numeric, out outcome text, out made trading.orders
)
language plpgsql security definer
set search_path = pg_catalog, pg_temp
set headwater.matching = 'yes'
set enable_seqscan = off set enable_bitmapscan = off set enable_sort = off set plan_cache_mode = force_generic_plan
as $function$
declare
    buying boolean := given_side = 'buy';
    limit_rank numeric := case when buying then given_price else - given_price end;
    market record;
    maker trading.resting;
    met boolean := false;
    hold uuid;
    answer record;
begin
    update trading.markets m set batches = m.batches + 1 where m.asset_id = given_asset
    returning case when buying then m.money_escrow else m.token_escrow end as escrow,
              (select a.id from ledger.accounts a where a.owner_kind = 'user' and a.owner_id = given_user
                  and a.asset_id + 0 = case when buying then m.money_id else m.token_id end and a.purpose = 'main') as pays,
              (select a.id from ledger.accounts a where a.owner_kind = 'user' and a.owner_id = given_user
                  and a.asset_id + 0 = case when buying then m.token_id else m.money_id end and a.purpose = 'main') as receives
         into market;
    for maker in
        select r.* from trading.resting r
         where r.asset_id = given_asset and r.side = (case when buying then 'sell' else 'buy' end)::trading.order_side
           and r.rank <= limit_rank
         order by r.asset_id, r.side, r.rank, r.number
    loop
        met := true;
        exit;
    end loop;
    if met or market.pays is null or market.receives is null then
        select r.outcome, row(r.id, r.user_id, r.asset_id, r.side, r.price, r.quantity, r.filled_quantity, r.status,
                              r.cancelled_at, r.created_at, r.updated_at, r.version)::trading.orders as made
          into answer
          from trading.run(array['place'], array[null::uuid], array[null::bigint], array[given_user], array[given_asset],
                           array[given_side], array[given_price], array[given_quantity]) r;
        outcome := answer.outcome;
        made := answer.made;
        return;
    end if;
    hold := uuidv7();
    if not ledger.reserve(hold, market.pays, market.escrow,
                          case when buying then given_price * given_quantity else given_quantity end) then
        outcome := 'insufficient_funds';
        return;
    end if;
    insert into trading.orders (user_id, asset_id, side, price, quantity)
    values (given_user, given_asset, given_side, given_price, given_quantity) returning * into made;
    insert into trading.resting (order_id, asset_id, side, rank, number, user_id, remaining, hold_id, pays, receives)
    values (made.id, given_asset, given_side, - limit_rank, nextval('trading.order_number'), given_user, given_quantity,
            hold, market.pays, market.receives);
    insert into headwater.change ("table", op, key, new, context)
    values ('trading.orders', 'i', jsonb_build_object('id', made.id), to_jsonb(made),
            case when current_setting('headwater.context', true) <> '' then headwater.said() end);
    outcome := 'open';
end
$function$;

-- next
create function trading.cancel(in given_id uuid, in wanted_version bigint, out outcome text, out made trading.orders)
language plpgsql security definer
set search_path = pg_catalog, pg_temp
set headwater.matching = 'yes'
set enable_seqscan = off set enable_bitmapscan = off set plan_cache_mode = force_generic_plan
as $function$
declare
    market record;
    told record;
    going trading.resting;
begin
    update trading.markets m set batches = m.batches + 1
     where m.asset_id = (select r.asset_id from trading.resting r where r.order_id = given_id)
    returning m.money_escrow, m.token_escrow into market;
    if found then
        update trading.orders o
           set status = 'cancelled', cancelled_at = now(), updated_at = now(), version = o.version + 1
         where o.id = given_id and (wanted_version is null or o.version = wanted_version)
           and o.status in ('open', 'partially_filled')
        returning old as before, new as after into told;
    end if;
    if not found then
        select * into made from trading.orders o where o.id = given_id;
        outcome := case when made.id is null then 'no_order' when made.status in ('open', 'partially_filled')
                        then 'other_version' else 'not_open' end;
        return;
    end if;
    delete from trading.resting r where r.order_id = given_id returning * into strict going;
    perform ledger.release(
        uuidv7(), going.hold_id, going.pays,
        case when going.side = 'buy' then market.money_escrow else market.token_escrow end,
        case when going.side = 'buy' then - going.rank * going.remaining else going.remaining end);
    insert into headwater.change ("table", op, key, new, old, context)
    values ('trading.orders', 'u', jsonb_build_object('id', given_id), to_jsonb(told.after), to_jsonb(told.before),
            case when current_setting('headwater.context', true) <> '' then headwater.said() end);
    outcome := 'cancelled';
    made := told.after;
end
$function$;
