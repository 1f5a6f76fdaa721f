-- Opens the market of an asset, once: its row, which is the lock of its book, and the two accounts of its escrow.
-- The tokens of an asset are counted in the ledger as `asset:<id>`. An unknown asset opens nothing.
create function trading.open_market(
    of_asset uuid, in_currency text default 'USD', settle trading.settlement default 'immediate'
) returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $function$
declare
    money integer;
    token integer;
begin
    if not exists (select from blockchain.assets a where a.id = of_asset) then
        return;
    end if;
    insert into ledger.assets (code, scale) values (in_currency, 2), ('asset:' || of_asset, 0)
    on conflict (code) do nothing;
    select a.id into strict money from ledger.assets a where a.code = in_currency;
    select a.id into strict token from ledger.assets a where a.code = 'asset:' || of_asset;
    insert into ledger.accounts (asset_id, owner_kind, owner_id, purpose, credit_limit)
    values (money, 'market', of_asset, 'escrow', 0), (token, 'market', of_asset, 'escrow', 0)
    on conflict (owner_kind, owner_id, asset_id, purpose) do nothing;
    insert into trading.markets (asset_id, currency, settlement, money_id, token_id, money_escrow, token_escrow)
    select of_asset, in_currency, settle, money, token, cash.id, tokens.id
      from ledger.accounts cash, ledger.accounts tokens
     where cash.owner_kind = 'market' and cash.owner_id = of_asset and cash.asset_id = money and cash.purpose = 'escrow'
       and tokens.owner_kind = 'market' and tokens.owner_id = of_asset and tokens.asset_id = token
       and tokens.purpose = 'escrow'
    on conflict (asset_id) do nothing;
end
$function$;

-- next
-- The matcher: price-time priority in the database, with settlement in the ledger. One call runs a batch of commands.
--
-- Locks are taken in one order by everybody, so that markets that settle at once never wait for each other in a ring:
-- first the markets (by asset), then every account of the ledger that the batch can touch (by account), all at once.
-- Which accounts these are is known before the first match: those of the commands, of the orders they cancel, and of
-- the orders in the book that the batch can reach. Each batch changes the row of its market, so that a caller in
-- REPEATABLE READ or SERIALIZABLE who would match against an old book fails with a serialization failure instead.
--
-- The batch is decided against the book and against what each account can spend, both under lock. Then orders, trades
-- and escrows are written once each, and the ledger is called once. An order that comes and goes within one batch
-- reserves nothing in the ledger; what rests at its end does, by one hold per order.
--
-- The settings of the function pin the plans: a generic plan that read the whole book and sorted it for each order cost
-- a factor of twenty, once autoanalyze had seen an empty table.
--
-- actions: place (a new order), enter (an order that somebody has inserted into trading.orders), cancel.
-- outcomes: open, partially_filled, filled, cancelled (on demand, or because an order met one of its own user);
-- refused: insufficient_funds, no_user, no_asset, no_order, not_open, other_version.
create function trading.match(
    in actions text[],
    in given_ids uuid[],               -- cancel, enter: which order
    in wanted_versions bigint[],       -- cancel: only if the order has this version; null: whichever it has
    in given_users uuid[],             -- place, enter: these and all that follow
    in given_assets uuid[],
    in given_sides trading.order_side[],
    in given_prices numeric[],
    in given_quantities numeric[],     -- enter: what is still to be filled
    out outcomes text[],
    out ids uuid[],                    -- the order of each command
    -- what the ledger is to do: 1 move, 2 hold, 3 post a hold, 4 void a hold
    out moves integer,
    out move_ids uuid[],
    out move_kinds smallint[],
    out move_debits bigint[],
    out move_credits bigint[],
    out move_amounts text[],
    out move_flags smallint[],
    out move_holds uuid[],
    out refers boolean                 -- whether some of it refers to holds
)
language plpgsql
set search_path = pg_catalog, pg_temp
set enable_seqscan = off
set enable_bitmapscan = off
set enable_sort = off
set plan_cache_mode = force_generic_plan
as $function$
#variable_conflict use_column
declare
    commands constant integer := cardinality(actions);
    cancelling uuid[];
    involved uuid[];                -- the assets of the commands, sorted
    markets uuid[];                 -- those with a market, sorted, and of each, in this order:
    money_escrows bigint[];         -- the accounts of its escrow, and whether it settles at once
    token_escrows bigint[];
    at_once boolean[];
    market_at integer;
    pays bigint[];                  -- per command that places: the account its order is paid from,
    receives bigint[];              -- and the one its proceeds go to
    touched bigint[];               -- every account to lock
    accounts bigint[];              -- the same, sorted
    spendable numeric[];            -- what each of them can spend now
    lacking boolean;
    pays_at integer;
    receives_at integer;
    maker_at integer;
    reach record;
    reachable numeric;
    maker record;
    gone trading.resting;
    buying boolean;
    other trading.order_side;
    limit_price numeric;
    limit_rank numeric;
    need numeric;
    held numeric;
    remaining numeric;
    fill numeric;
    value numeric;
    met_oneself boolean;
    number bigint;
    new_at integer;
    money_escrow bigint;
    token_escrow bigint;
    settled boolean;
    -- orders placed by this batch
    placed integer := 0;
    new_ids uuid[] := '{}';
    new_numbers bigint[] := '{}';
    new_commands integer[] := '{}';
    new_holds uuid[] := '{}';
    new_filled numeric[] := '{}';
    new_cancelled boolean[] := '{}';
    -- changes of orders that were there before
    changes integer := 0;
    changed_ids uuid[] := '{}';
    changed_by numeric[] := '{}';
    changed_cancelled boolean[] := '{}';
    -- fills
    fills integer := 0;
    fill_ids uuid[] := '{}';
    fill_escrows uuid[] := '{}';
    fill_assets uuid[] := '{}';
    fill_buys uuid[] := '{}';
    fill_sells uuid[] := '{}';
    fill_sides trading.order_side[] := '{}';
    fill_prices numeric[] := '{}';
    fill_quantities numeric[] := '{}';
    fill_buyers uuid[] := '{}';
    fill_sellers uuid[] := '{}';
    fill_settled boolean[] := '{}';
begin
    outcomes := '{}';
    ids := '{}';
    moves := 0;
    move_ids := '{}';
    move_kinds := '{}';
    move_debits := '{}';
    move_credits := '{}';
    move_amounts := '{}';
    move_flags := '{}';
    move_holds := '{}';
    refers := false;

    -- 1. The markets, in order; those of unknown assets are never there. The first order for an asset opens its market.
    select array_agg(distinct a) into involved from unnest(given_assets) a where a is not null;
    if array_position(actions, 'cancel') is not null then
        cancelling := array_remove(given_ids, null);
        select array_agg(distinct a) into involved from (
            select unnest(involved) union all
            select o.asset_id from trading.orders o where o.id = any (cancelling)
        ) as those (a);
    end if;
    --    Who opens one has locked no other yet: the new row is a lock, too.
    for attempt in 1 .. 2 loop
        if cardinality(involved) = 1 then
            update trading.markets m set batches = m.batches + 1 where m.asset_id = involved[1]
            returning array[m.asset_id], array[m.money_escrow], array[m.token_escrow], array[m.settlement = 'immediate']
            into markets, money_escrows, token_escrows, at_once;
        elsif attempt = 1 and (select count(*) from trading.markets m where m.asset_id = any (involved))
                              < cardinality(involved) then
            select array_agg(m.asset_id) into markets from trading.markets m where m.asset_id = any (involved);
        else
            select array_agg(m.asset_id), array_agg(m.money_escrow), array_agg(m.token_escrow),
                   array_agg(m.settlement = 'immediate')
              into markets, money_escrows, token_escrows, at_once
              from (select * from trading.markets m where m.asset_id = any (involved)
                     order by m.asset_id for no key update) m;
            update trading.markets m set batches = m.batches + 1 where m.asset_id = any (markets);
        end if;
        exit when attempt = 2 or cardinality(markets) = cardinality(involved);
        perform trading.open_market(a) from unnest(involved) a where array_position(markets, a) is null;
    end loop;

    -- 2. The accounts of those who place orders; who has none yet gets them.
    for attempt in 1 .. 2 loop
        select array_agg(case c.side when 'buy' then cash.id else token.id end order by c.n),
               array_agg(case c.side when 'buy' then token.id else cash.id end order by c.n),
               bool_or(m.asset_id is not null and (cash.id is null or token.id is null))
          into pays, receives, lacking
          from unnest(given_users, given_assets, given_sides) with ordinality c (user_id, asset_id, side, n)
          left join trading.markets m on m.asset_id = c.asset_id
          left join lateral (  -- OFFSET keeps it a look into the index, row by row
              select a.id from ledger.accounts a where a.owner_kind = 'user' and a.owner_id = c.user_id
                 and a.asset_id = m.money_id and a.purpose = 'main' offset 0) cash on true
          left join lateral (
              select a.id from ledger.accounts a where a.owner_kind = 'user' and a.owner_id = c.user_id
                 and a.asset_id = m.token_id and a.purpose = 'main' offset 0) token on true;
        exit when attempt = 2 or not lacking;
        insert into ledger.accounts (asset_id, owner_kind, owner_id, purpose, credit_limit)
        select distinct a.asset_id, 'user', u.id, 'main', 0
          from unnest(given_users, given_assets) c (user_id, asset_id)
          join public.users u on u.id = c.user_id
          join trading.markets m on m.asset_id = c.asset_id
          cross join lateral (values (m.money_id), (m.token_id)) a (asset_id)
         order by 3, 1
        on conflict (owner_kind, owner_id, asset_id, purpose) do nothing;
    end loop;

    -- 3. What the batch can touch: its own accounts, those of the orders it cancels, those of the markets, and those of
    --    the orders it can reach in the book. A batch that buys n units reaches the orders before which less than n
    --    units stand: nobody passes over an order, except over one that is cancelled.
    touched := array_cat(array_cat(pays, receives), array_cat(money_escrows, token_escrows));
    if cancelling is not null then
        for gone in select * from trading.resting r where r.order_id = any (cancelling) loop
            touched := array_append(touched, gone.pays);
        end loop;
    end if;
    for reach in
        select c.asset_id, case c.side when 'buy' then 'sell' else 'buy' end::trading.order_side as side,
               sum(c.quantity) as quantity, max(case c.side when 'buy' then c.price else - c.price end) as limit_rank
          from unnest(given_assets, given_sides, given_prices, given_quantities) c (asset_id, side, price, quantity)
         where c.asset_id is not null group by c.asset_id, c.side
    loop
        reachable := reach.quantity;
        for maker in
            select r.order_id, r.remaining, r.pays, r.receives from trading.resting r
             where r.asset_id = reach.asset_id and r.side = reach.side and r.rank <= reach.limit_rank
             order by r.asset_id, r.side, r.rank, r.number
        loop
            exit when reachable <= 0;
            touched := array_append(touched, maker.pays);
            touched := array_append(touched, maker.receives);
            if cancelling is null or maker.order_id <> all (cancelling) then
                reachable := reachable - maker.remaining;
            end if;
        end loop;
    end loop;

    -- 4. Lock these accounts, and see what each can spend, now that nobody else can spend it.
    select array_agg(a.id), array_agg(case when a.closed_at is not null then 0 when a.credit_limit is null then 'infinity'
                                      else a.balance - a.held + a.credit_limit end)
      into accounts, spendable
      from (select * from ledger.accounts a where a.id = any (touched) order by a.id for no key update) a;

    -- 5. Decide, one by one.
    for i in 1 .. commands loop
        ids[i] := null;
        if actions[i] = 'cancel' then
            ids[i] := given_ids[i];
            if wanted_versions[i] is not null
               and exists (select from trading.resting r where r.order_id = given_ids[i])
               and (given_ids[i] = any (changed_ids)
                    or exists (select from trading.orders o
                                where o.id = given_ids[i] and o.version <> wanted_versions[i])) then
                outcomes[i] := 'other_version';
                continue;
            end if;
            delete from trading.resting r where r.order_id = given_ids[i] returning * into gone;
            if not found then
                outcomes[i] := case when exists (select from trading.orders o where o.id = given_ids[i])
                                    then 'not_open' else 'no_order' end;
                continue;
            end if;
            outcomes[i] := 'cancelled';
            changes := changes + 1;
            changed_ids[changes] := gone.order_id;
            changed_by[changes] := 0;
            changed_cancelled[changes] := true;
            moves := moves + 1;
            move_ids[moves] := uuidv7();
            move_kinds[moves] := 4;
            move_debits[moves] := null;
            move_credits[moves] := null;
            move_amounts[moves] := '0';
            move_flags[moves] := 0;
            move_holds[moves] := gone.hold_id;
            refers := true;
            pays_at := width_bucket(gone.pays, accounts);
            spendable[pays_at] := spendable[pays_at]
                + case gone.side when 'buy' then - gone.rank * gone.remaining else gone.remaining end;
            continue;
        end if;

        -- 5a. An order: can it be paid?
        market_at := array_position(markets, given_assets[i]);
        if market_at is null then
            outcomes[i] := 'no_asset';
            continue;
        end if;
        if pays[i] is null or receives[i] is null then
            outcomes[i] := 'no_user';
            continue;
        end if;
        buying := given_sides[i] = 'buy';
        limit_price := given_prices[i];
        remaining := given_quantities[i];
        need := case when buying then limit_price * remaining else remaining end;
        pays_at := width_bucket(pays[i], accounts);
        receives_at := width_bucket(receives[i], accounts);
        if spendable[pays_at] < need then  -- unless a hold is over that nobody has noticed
            select a.held into held from ledger.accounts a where a.id = pays[i];
            if held > 0 and ledger.expire_of(pays[i : i]) > 0 then
                select spendable[pays_at] + held - a.held into strict spendable[pays_at]
                  from ledger.accounts a where a.id = pays[i];
            end if;
        end if;
        if spendable[pays_at] < need then
            outcomes[i] := 'insufficient_funds';
            continue;
        end if;
        spendable[pays_at] := spendable[pays_at] - need;
        money_escrow := money_escrows[market_at];
        token_escrow := token_escrows[market_at];
        settled := at_once[market_at];
        number := nextval('trading.order_number');
        placed := placed + 1;
        if actions[i] = 'enter' then
            new_ids[placed] := given_ids[i];
        else
            new_ids[placed] := uuidv7();
        end if;
        ids[i] := new_ids[placed];
        new_numbers[placed] := number;
        new_commands[placed] := i;
        new_filled[placed] := 0;
        new_cancelled[placed] := false;
        new_holds[placed] := null;

        -- 5b. Meet the other side: the best price first, then who came first. The one that waited names the price.
        met_oneself := false;
        other := case when buying then 'sell' else 'buy' end;
        limit_rank := case when buying then limit_price else - limit_price end;
        for maker in
            select r.* from trading.resting r
             where r.asset_id = given_assets[i] and r.side = other and r.rank <= limit_rank
             order by r.asset_id, r.side, r.rank, r.number
        loop
            exit when remaining = 0;
            if maker.user_id = given_users[i] then
                met_oneself := true;  -- nobody trades with themselves: what is left of the newer order goes
                exit;
            end if;
            fill := least(remaining, maker.remaining);
            value := abs(maker.rank) * fill;
            remaining := remaining - fill;
            if fill = maker.remaining then
                delete from trading.resting r where r.order_id = maker.order_id;
            else
                update trading.resting r set remaining = r.remaining - fill where r.order_id = maker.order_id;
            end if;
            new_filled[placed] := new_filled[placed] + fill;
            new_at := width_bucket(maker.number, new_numbers);
            if new_at > 0 and new_numbers[new_at] = maker.number then
                new_filled[new_at] := new_filled[new_at] + fill;
            else
                new_at := 0;
                changes := changes + 1;
                changed_ids[changes] := maker.order_id;
                changed_by[changes] := fill;
                changed_cancelled[changes] := false;
            end if;

            fills := fills + 1;
            fill_ids[fills] := uuidv7();
            fill_escrows[fills] := uuidv7();
            fill_assets[fills] := given_assets[i];
            fill_sides[fills] := given_sides[i];
            fill_prices[fills] := abs(maker.rank);
            fill_quantities[fills] := fill;
            fill_settled[fills] := settled;
            if buying then
                fill_buys[fills] := new_ids[placed];
                fill_buyers[fills] := given_users[i];
                fill_sells[fills] := maker.order_id;
                fill_sellers[fills] := maker.user_id;
                spendable[pays_at] := spendable[pays_at] + (limit_price - maker.rank) * fill;
            else
                fill_buys[fills] := maker.order_id;
                fill_buyers[fills] := maker.user_id;
                fill_sells[fills] := new_ids[placed];
                fill_sellers[fills] := given_users[i];
            end if;

            -- The waiting side pays out of its hold, unless its order is as new as this batch and holds nothing yet.
            moves := moves + 1;
            move_ids[moves] := uuidv7();
            move_amounts[moves] := case when buying then fill else value end;
            if new_at = 0 then
                move_kinds[moves] := 3;
                move_flags[moves] := 8;
                move_debits[moves] := null;
                move_credits[moves] := null;
                move_holds[moves] := maker.hold_id;
                refers := true;
            else
                move_kinds[moves] := 1;
                move_flags[moves] := 0;
                move_holds[moves] := null;
                move_debits[moves] := maker.pays;
                move_credits[moves] := case when buying then token_escrow else money_escrow end;
            end if;
            -- The other side pays now.
            moves := moves + 1;
            move_ids[moves] := uuidv7();
            move_kinds[moves] := 1;
            move_flags[moves] := 0;
            move_holds[moves] := null;
            move_debits[moves] := pays[i];
            move_credits[moves] := case when buying then money_escrow else token_escrow end;
            move_amounts[moves] := case when buying then value else fill end;
            if settled then
                -- Out of escrow again: the money under the escrow's id, the tokens under the trade's.
                moves := moves + 1;
                move_ids[moves] := fill_escrows[fills];
                move_kinds[moves] := 1;
                move_flags[moves] := 0;
                move_holds[moves] := null;
                move_debits[moves] := money_escrow;
                move_credits[moves] := case when buying then maker.receives else receives[i] end;
                move_amounts[moves] := value;
                moves := moves + 1;
                move_ids[moves] := fill_ids[fills];
                move_kinds[moves] := 1;
                move_flags[moves] := 0;
                move_holds[moves] := null;
                move_debits[moves] := token_escrow;
                move_credits[moves] := case when buying then receives[i] else maker.receives end;
                move_amounts[moves] := fill;
                spendable[receives_at] := spendable[receives_at] + case when buying then fill else value end;
                maker_at := width_bucket(maker.receives, accounts);
                spendable[maker_at] := spendable[maker_at] + case when buying then value else fill end;
            end if;
        end loop;

        -- 5c. What is left rests in the book, or goes.
        if remaining > 0 and met_oneself then
            new_cancelled[placed] := true;
            spendable[pays_at] := spendable[pays_at] + case when buying then limit_price * remaining else remaining end;
        elsif remaining > 0 then
            new_holds[placed] := uuidv7();
            insert into trading.resting (order_id, asset_id, side, rank, number, user_id, remaining, hold_id, pays, receives)
            values (new_ids[placed], given_assets[i], given_sides[i], - limit_rank, number,
                    given_users[i], remaining, new_holds[placed], pays[i], receives[i]);
        end if;
    end loop;

    -- 6. Write what was decided: orders, trades and escrows once each.
    for k in 1 .. placed loop
        remaining := given_quantities[new_commands[k]] - new_filled[k];
        outcomes[new_commands[k]] := case when new_cancelled[k] then 'cancelled' when remaining = 0 then 'filled'
                                          when new_filled[k] > 0 then 'partially_filled' else 'open' end;
        if remaining > 0 and not new_cancelled[k] then
            buying := given_sides[new_commands[k]] = 'buy';
            market_at := array_position(markets, given_assets[new_commands[k]]);
            moves := moves + 1;
            move_ids[moves] := new_holds[k];
            move_kinds[moves] := 2;
            move_flags[moves] := 0;
            move_holds[moves] := null;
            move_debits[moves] := pays[new_commands[k]];
            move_credits[moves] := case when buying then money_escrows[market_at] else token_escrows[market_at] end;
            move_amounts[moves] := case when buying then given_prices[new_commands[k]] * remaining else remaining end;
        end if;
    end loop;
    perform set_config('headwater.matching', 'yes', true);  -- these are not plain writes
    if array_position(actions, 'place') is not null then
        insert into trading.orders (id, user_id, asset_id, side, price, quantity, filled_quantity, status, cancelled_at)
        select n.id, given_users[n.command], given_assets[n.command], given_sides[n.command], given_prices[n.command],
               given_quantities[n.command], n.filled, outcomes[n.command]::trading.order_status,
               case when n.cancelled then now() end
          from unnest(new_ids, new_commands, new_filled, new_cancelled) n (id, command, filled, cancelled)
         where actions[n.command] = 'place';
    end if;
    for k in 1 .. placed loop
        if actions[new_commands[k]] = 'enter' and (new_filled[k] > 0 or new_cancelled[k]) then
            changes := changes + 1;
            changed_ids[changes] := new_ids[k];
            changed_by[changes] := new_filled[k];
            changed_cancelled[changes] := new_cancelled[k];
        end if;
    end loop;
    if changes > 0 then
        update trading.orders o
           set filled_quantity = o.filled_quantity + c.filled,
               status = case when c.cancelled then 'cancelled' when o.filled_quantity + c.filled = o.quantity
                             then 'filled' else 'partially_filled' end::trading.order_status,
               cancelled_at = case when c.cancelled then now() end, updated_at = now(), version = o.version + 1
          from (select e.id, sum(e.filled) as filled, bool_or(e.cancelled) as cancelled
                  from unnest(changed_ids, changed_by, changed_cancelled) e (id, filled, cancelled)
                 group by e.id) c
         where o.id = c.id;
    end if;
    perform set_config('headwater.matching', '', true);
    if fills > 0 then
        insert into trading.trades (id, asset_id, buy_order_id, sell_order_id, taker_side, price, quantity)
        select * from unnest(fill_ids, fill_assets, fill_buys, fill_sells, fill_sides, fill_prices, fill_quantities);
        insert into trading.escrows (id, trade_id, buyer_id, seller_id, amount, state, settled_at)
        select f.id, f.trade, f.buyer, f.seller, f.price * f.quantity,
               case when f.settled then 'released' else 'held' end::trading.escrow_state,
               case when f.settled then now() end
          from unnest(fill_escrows, fill_ids, fill_buyers, fill_sellers, fill_prices, fill_quantities, fill_settled)
               f (id, trade, buyer, seller, price, quantity, settled);
    end if;
end
$function$;

-- next
-- Runs a batch of commands: decides them, writes what was decided, and settles it in the ledger. Returns the outcome of
-- each, in their order, with its order as it stands then. Apart from trading.match, whose settings the functions of the
-- ledger must not see.
create function trading.run(
    actions text[], given_ids uuid[], wanted_versions bigint[], given_users uuid[], given_assets uuid[],
    given_sides trading.order_side[], given_prices numeric[], given_quantities numeric[]
) returns table (
    outcome text,
    id uuid, user_id uuid, asset_id uuid, side trading.order_side, price numeric, quantity numeric,
    filled_quantity numeric, status trading.order_status, cancelled_at timestamptz, created_at timestamptz,
    updated_at timestamptz, version bigint
)
language plpgsql
set search_path = pg_catalog, pg_temp
set enable_seqscan = off
set enable_bitmapscan = off
as $function$
#variable_conflict use_column
declare
    decided record;
    answers smallint[];
begin
    if actions is null or cardinality(actions) = 0 then
        return;
    end if;
    select * into decided from trading.match(
        actions, given_ids, wanted_versions, given_users, given_assets, given_sides, given_prices, given_quantities
    );
    -- The ledger cannot refuse what was decided under its locks; if it does, nothing of this happened.
    if decided.moves > 0 then
        select p.statuses into answers from ledger.post(
            decided.move_ids, decided.move_kinds, decided.move_debits, decided.move_credits,
            array_to_string(decided.move_amounts, ','), decided.move_flags,
            case when decided.refers then decided.move_holds end, null, null, null
        ) p;
        if answers <> array_fill(0::smallint, array[decided.moves]) then
            raise exception 'trading.run: the ledger refused to settle, with the statuses %', answers
                using errcode = 'data_corrupted';
        end if;
    end if;
    return query
        select c.outcome, o.*
          from unnest(decided.outcomes, decided.ids) with ordinality c (outcome, id, n)
          left join lateral (
              select o.id, o.user_id, o.asset_id, o.side, o.price, o.quantity, o.filled_quantity, o.status,
                     o.cancelled_at, o.created_at, o.updated_at, o.version
                from trading.orders o where o.id = c.id offset 0) o on true
         order by c.n;
end
$function$;
