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
    remaining numeric := given_quantity;
    market record;
    pays bigint;
    receives bigint;
    maker trading.resting;
    fill numeric;
    makers trading.resting[];      -- those it meets, and how much of each
    fills numeric[];
    met uuid[];
    touched bigint[];
    alone boolean := true;         -- whether it meets none of its own user, and can be decided here
    locked record;
    answer record;
    hold uuid;
    trades uuid[];
    escrows uuid[];
    legs integer;
    own_at integer;                -- the places of accounts among those that are locked
    other_at integer;
    pays_at integer;
    receives_at integer;
    paid numeric;
    got numeric;
    move_ids uuid[];
    move_kinds smallint[];
    move_debits integer[];
    move_credits integer[];
    move_amounts numeric[];
    move_holds uuid[];
begin
    if given_price < 1 or given_price <> trunc(given_price) or given_quantity < 1
       or given_quantity <> trunc(given_quantity) or given_price * given_quantity >= 1e38 then
        perform trading.refuse_order(given_price, given_quantity);
    end if;
    -- 1. The market, and the accounts; what the order pays goes into `own` escrow, what it gets comes from the `other`.
    update trading.markets m set batches = m.batches + 1 where m.asset_id = given_asset
    returning case when buying then m.money_escrow else m.token_escrow end as own,
              case when buying then m.token_escrow else m.money_escrow end as other,
              m.settlement = 'immediate' as at_once,
              (select array[max(a.id) filter (where a.asset_id = case when buying then m.money_id else m.token_id end),
                            max(a.id) filter (where a.asset_id = case when buying then m.token_id else m.money_id end)]
                 from ledger.accounts a
                where a.owner_kind = 'user' and a.owner_id = given_user and a.purpose = 'main') as accounts
         into market;
    pays := market.accounts[1];
    receives := market.accounts[2];

    -- 2. Whom it meets: the best price first, then who came first.
    for maker in
        select r.* from trading.resting r
         where r.asset_id = given_asset and r.side = (case when buying then 'sell' else 'buy' end)::trading.order_side
           and r.rank <= limit_rank
         order by r.asset_id, r.side, r.rank, r.number
    loop
        exit when remaining = 0;
        alone := maker.user_id <> given_user;
        exit when not alone;
        fill := least(remaining, maker.remaining);
        remaining := remaining - fill;
        makers := array_append(makers, maker);
        fills := array_append(fills, fill);
        met := array_append(met, maker.order_id);
        touched := touched || array[maker.pays, maker.receives];
    end loop;
    alone := alone and pays is not null and receives is not null;
    if fills is not null and alone then  -- else trading.run locks, which may have more to lock: all at once, in order
        select array_agg(a.id) as accounts, bool_or(
                   a.id = pays and a.closed_at is null
                   and (a.credit_limit is null or a.balance - a.held + a.credit_limit
                        >= case when buying then given_price * given_quantity else given_quantity end)) as possible
          into locked
          from (select * from ledger.accounts a
                 where a.id = any (touched || array[pays, receives, market.own, market.other])
                 order by a.id for no key update) a;
        alone := locked.possible;
    end if;
    if not alone then
        select r.outcome, row(r.id, r.user_id, r.asset_id, r.side, r.price, r.quantity, r.filled_quantity, r.status,
                              r.cancelled_at, r.created_at, r.updated_at, r.version)::trading.orders as made
          into answer
          from trading.run(array['place'], array[null::uuid], array[null::bigint], array[given_user], array[given_asset],
                           array[given_side], array[given_price], array[given_quantity]) r;
        outcome := answer.outcome;
        made := answer.made;
        return;
    end if;

    -- 3. It meets nobody, and rests.
    if fills is null then
        hold := uuidv7();
        if not ledger.reserve(hold, pays, market.own,
                              case when buying then given_price * given_quantity else given_quantity end) then
            outcome := 'insufficient_funds';
            return;
        end if;
        insert into trading.orders (user_id, asset_id, side, price, quantity)
        values (given_user, given_asset, given_side, given_price, given_quantity) returning * into made;
        insert into trading.resting (order_id, asset_id, side, rank, number, user_id, remaining, hold_id, pays, receives)
        values (made.id, given_asset, given_side, - limit_rank, nextval('trading.order_number'), given_user, given_quantity,
                hold, pays, receives);
        insert into headwater.change ("table", op, key, new, context)
        values ('trading.orders', 'i', jsonb_build_object('id', made.id), to_jsonb(made),
                case when current_setting('headwater.context', true) <> '' then headwater.said() end);
        outcome := 'open';
        return;
    end if;

    -- 4. It is filled: what the ledger is to do, as ledger.settle takes it. The waiting side pays out of its hold, the
    --    other one now; in a market that settles at once both leave the escrow again, the money under the escrow's id,
    --    the tokens under the trade's.
    legs := case when market.at_once then 4 else 2 end;
    own_at := width_bucket(market.own, locked.accounts);
    other_at := width_bucket(market.other, locked.accounts);
    pays_at := width_bucket(pays, locked.accounts);
    receives_at := width_bucket(receives, locked.accounts);
    for n in 1 .. cardinality(fills) loop
        maker := makers[n];
        trades[n] := uuidv7();
        escrows[n] := uuidv7();
        paid := case when buying then maker.rank * fills[n] else fills[n] end;
        got := case when buying then fills[n] else - maker.rank * fills[n] end;
        move_ids := move_ids || (array[uuidv7(), uuidv7(), case when buying then escrows[n] else trades[n] end,
                                       case when buying then trades[n] else escrows[n] end])[: legs];
        move_kinds := move_kinds || ('{3,1,1,1}'::smallint[])[: legs];
        move_debits := move_debits || (array[width_bucket(maker.pays, locked.accounts), pays_at, own_at, other_at])[: legs];
        move_credits := move_credits || (array[other_at, own_at, width_bucket(maker.receives, locked.accounts),
                                               receives_at])[: legs];
        move_amounts := move_amounts || (array[got, paid, paid, got])[: legs];
        move_holds := move_holds || (array[maker.hold_id, null, null, null])[: legs];
    end loop;
    if remaining > 0 then
        hold := uuidv7();
        move_ids := array_append(move_ids, hold);
        move_kinds := array_append(move_kinds, 2::smallint);
        move_debits := array_append(move_debits, pays_at);
        move_credits := array_append(move_credits, own_at);
        move_amounts := array_append(move_amounts, case when buying then given_price * remaining else remaining end);
        move_holds := array_append(move_holds, null);
    end if;

    -- 5. Write: the order, the book, and with the other rows what the stream tells of all of them.
    outcome := case when remaining = 0 then 'filled' else 'partially_filled' end;
    insert into trading.orders (user_id, asset_id, side, price, quantity, filled_quantity, status)
    values (given_user, given_asset, given_side, given_price, given_quantity, given_quantity - remaining,
            outcome::trading.order_status) returning * into made;
    if fill < maker.remaining then  -- the last one is not used up
        update trading.resting r set remaining = r.remaining - fill where r.order_id = maker.order_id;
        delete from trading.resting r where r.order_id = any (trim_array(met, 1));
    else
        delete from trading.resting r where r.order_id = any (met);
    end if;
    if remaining > 0 then
        insert into trading.resting (order_id, asset_id, side, rank, number, user_id, remaining, hold_id, pays, receives)
        values (made.id, given_asset, given_side, - limit_rank, nextval('trading.order_number'), given_user, remaining,
                hold, pays, receives);
    end if;
    with f as (
        select f.order_id, f.user_id, abs(f.rank) as price, f.fill, f.trade, f.escrow
          from unnest(makers, fills, trades, escrows)
               f (order_id, asset_id, side, rank, number, user_id, remaining, hold_id, pays, receives, fill, trade, escrow)
    ), filled as (
        update trading.orders o
           set filled_quantity = o.filled_quantity + f.fill,
               status = case when o.filled_quantity + f.fill = o.quantity then 'filled' else 'partially_filled'
                        end::trading.order_status,
               updated_at = now(), version = o.version + 1
          from f where o.id = f.order_id and o.id = any (met)
        returning o.id, to_jsonb(new.*) as after, to_jsonb(old.*) as before
    ), traded as (
        insert into trading.trades (id, asset_id, buy_order_id, sell_order_id, taker_side, price, quantity)
        select f.trade, given_asset, case when buying then made.id else f.order_id end,
               case when buying then f.order_id else made.id end, given_side, f.price, f.fill from f
        returning *
    ), escrowed as (
        insert into trading.escrows (id, trade_id, buyer_id, seller_id, amount, state, settled_at)
        select f.escrow, f.trade, case when buying then given_user else f.user_id end,
               case when buying then f.user_id else given_user end, f.price * f.fill,
               case when market.at_once then 'released' else 'held' end::trading.escrow_state,
               case when market.at_once then now() end from f
        returning *
    )
    insert into headwater.change ("table", op, key, new, old, context)
    select c.name, c.op, jsonb_build_object('id', c.id), c.new, c.old,
           case when current_setting('headwater.context', true) <> '' then headwater.said() end
      from (select 'trading.orders' as name, 'i'::"char" as op, made.id, to_jsonb(made) as new, null::jsonb as old
            union all select 'trading.orders', 'u', o.id, o.after, o.before from filled o
            union all select 'trading.trades', 'i', t.id, to_jsonb(t.*), null from traded t
            union all select 'trading.escrows', 'i', e.id, to_jsonb(e.*), null from escrowed e) c;
    perform ledger.settle(locked.accounts, move_ids, move_kinds, move_debits, move_credits, move_amounts, move_holds);
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
