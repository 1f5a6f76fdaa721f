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
    select of_asset, in_currency, settle, money, token,
           (select a.id from ledger.accounts a where a.owner_kind = 'market' and a.owner_id = of_asset
               and a.asset_id + 0 = money and a.purpose = 'escrow'),
           (select a.id from ledger.accounts a where a.owner_kind = 'market' and a.owner_id = of_asset
               and a.asset_id + 0 = token and a.purpose = 'escrow')
    on conflict (asset_id) do nothing;
end
$function$;

-- next
-- What is wrong with the price and the quantity of an order, as the constraints of trading.orders call it. The matcher asks
-- before it decides; whole numbers are meant by all three.
create function trading.refuse_order(price numeric, quantity numeric) returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $function$
declare
    rule text := case when price < 1 or price <> trunc(price) then 'orders_price_check'
                      when quantity < 1 or quantity <> trunc(quantity) then 'orders_quantity_check'
                      else 'orders_value_check' end;
begin
    raise exception 'trading.orders: an order of % for % each violates check constraint "%"', quantity, price, rule
        using errcode = 'check_violation', schema = 'trading', table = 'orders', constraint = rule;
end
$function$;

-- next
-- The matcher: price-time priority in the database, with settlement in the ledger. One call runs a batch of commands
-- and returns the outcome of each, in their order, with its order as it stands then.
--
-- Locks are taken in one order by everybody, so that markets that settle at once never wait for each other in a ring:
-- first the markets (by asset), then every account of the ledger that the batch can touch (by account), all at once.
-- Which accounts these are is known before the first match: those of the commands, of the orders they cancel, and of
-- the orders in the book that the batch can reach. Each batch changes the row of its market, so that a caller in
-- REPEATABLE READ or SERIALIZABLE who would match against an old book fails with a serialization failure instead.
--
-- The batch is decided against the book and against what each account can spend, both under lock. Then orders, trades,
-- escrows and what the stream tells of them are written by one statement each, and the ledger is called once. An order
-- that comes and goes within one batch reserves nothing in the ledger; what rests at its end does, by one hold per order.
-- What is written here passes by the row triggers of the stream and those of plain writes (`headwater.matching`).
--
-- Ids are counted up from one random id per batch: drawing each costs more than all that is said about it.
--
-- The settings of the function pin the plans: a generic plan that read the whole book and sorted it for each order cost
-- a factor of twenty, once autoanalyze had seen an empty table. What is looked up row by row is LATERAL with an OFFSET;
-- what is joined by hash is bounded by `= any (array)` on an index.
--
-- actions: place (a new order), enter (an order that somebody has inserted into trading.orders), cancel.
-- outcomes: open, partially_filled, filled, cancelled (on demand, or because an order met one of its own user);
-- refused: insufficient_funds, no_user, no_asset, no_order, not_open, other_version.
create function trading.run(
    actions text[],
    given_ids uuid[],                  -- cancel, enter: which order
    wanted_versions bigint[],          -- cancel: only if the order has this version; null: whichever it has
    given_users uuid[],                -- place, enter: these and all that follow
    given_assets uuid[],
    given_sides trading.order_side[],
    given_prices numeric[],
    given_quantities numeric[]         -- enter: what is still to be filled
) returns table (
    outcome text,
    id uuid, user_id uuid, asset_id uuid, side trading.order_side, price numeric, quantity numeric,
    filled_quantity numeric, status trading.order_status, cancelled_at timestamptz, created_at timestamptz,
    updated_at timestamptz, version bigint
)
language plpgsql security definer
set search_path = pg_catalog, pg_temp
set headwater.matching = 'yes'
set enable_seqscan = off
set enable_bitmapscan = off
set enable_sort = off
set enable_nestloop = off
set enable_mergejoin = off
set plan_cache_mode = force_generic_plan
as $function$
#variable_conflict use_column
declare
    commands constant integer := coalesce(cardinality(actions), 0);
    cancels boolean := 'cancel' = any (actions);
    enters boolean := 'enter' = any (actions);
    places boolean := 'place' = any (actions);
    outcomes text[];
    ids uuid[];                    -- the order of each command
    -- New ids: `fresh` and a number that counts up.
    fresh text;
    counter bigint;
    cancelling uuid[];
    involved uuid[];                -- the assets of the commands, sorted
    markets uuid[];                 -- those with a market, sorted, and of each, in this order:
    money_escrows bigint[];         -- the accounts of its escrow, and whether it settles at once
    token_escrows bigint[];
    at_once boolean[];
    money_ids integer[];            -- and what it trades, as the ledger calls it
    token_ids integer[];
    market_of integer[];            -- per command that places: the place of its market in these
    market_at integer;
    pays bigint[];                  -- per command that places: the account its order is paid from,
    receives bigint[];              -- and the one its proceeds go to
    touched bigint[];               -- every account to lock
    -- A field of a record is passed on as it lies; a variable that is an array would be copied at each look into it.
    locked record;                  -- `accounts`: the same, sorted
    spendable numeric[];            -- what each of them can spend now
    lacking boolean;
    pays_at integer;
    receives_at integer;
    maker_pays_at integer;
    maker_receives_at integer;
    money_at integer;
    token_at integer;
    buying boolean;
    limit_price numeric;
    limit_rank numeric;
    need numeric;
    held numeric;
    remaining numeric;
    fill numeric;
    value numeric;
    met_oneself boolean;
    settled boolean;
    said jsonb;
    i integer;
    e integer;
    p integer;
    low integer;
    high integer;
    -- Orders that rest, or that this batch places: first those that it cancels, then those that it can reach, then new
    -- ones. What is left of each; `was`: at the beginning, 0 for a new one.
    entries integer := 0;
    cancelled_entries integer;
    cancel_of integer[];            -- per command that cancels: the entry
    going record;
    maker trading.resting;
    e_order uuid[];
    e_user uuid[];
    e_book integer[];
    e_rank numeric[];
    e_number bigint[];
    e_left numeric[];
    e_was numeric[];
    e_filled numeric[];
    e_cancelled boolean[];
    e_hold uuid[];
    e_pays bigint[];
    e_receives bigint[];
    e_command integer[];
    -- The books, one of the buys (2 m - 1) and one of the sells (2 m) of each market m: entries, the best first, one
    -- book after the other, and the place of the first and the last of each. Only what the batch can reach is in them.
    wanted numeric[];               -- how much it wants of a book at most, and up to which rank
    wanted_rank numeric[];
    book integer[];
    heads integer[];
    tails integer[];
    placed integer := 0;
    changed boolean := false;
    taken boolean := false;
    -- fills
    fills integer := 0;
    fill_ids uuid[];
    fill_escrows uuid[];
    fill_assets uuid[];
    fill_buys uuid[];
    fill_sells uuid[];
    fill_sides trading.order_side[];
    fill_prices numeric[];
    fill_quantities numeric[];
    fill_buyers uuid[];
    fill_sellers uuid[];
    fill_settled boolean[];
    -- what the ledger is to do, as ledger.settle takes it
    moves integer := 0;
    move_ids uuid[];
    move_kinds smallint[];
    move_debits integer[];
    move_credits integer[];
    move_amounts numeric[];
    move_holds uuid[];
begin
    if commands = 0 then
        return;
    end if;
    if places or enters then
        perform trading.refuse_order(c.price, c.quantity)
           from unnest(given_prices, given_quantities) c (price, quantity)
          where c.price < 1 or c.price <> trunc(c.price) or c.quantity < 1 or c.quantity <> trunc(c.quantity)
             or c.price * c.quantity >= 1e38
          limit 1;
    end if;
    fresh := uuidv7()::text;
    counter := ('x' || right(fresh, 12))::bit(48)::bigint & 70368744177663;  -- room above: it does not run over
    fresh := left(fresh, 24);

    -- 1. The markets, in order; those of unknown assets are never there. The first order for an asset opens its market.
    if cancels then
        cancelling := array_remove(given_ids, null);
        select array_agg(distinct a) into involved from (
            select unnest(given_assets) union all
            select o.asset_id from trading.orders o where o.id = any (cancelling)
        ) as those (a) where a is not null;
    elsif commands = 1 then
        involved := given_assets;
    else
        select array_agg(distinct a) into involved from unnest(given_assets) a where a is not null;
    end if;
    --    Who opens one has locked no other yet: the new row is a lock, too.
    for attempt in 1 .. 2 loop
        if cardinality(involved) = 1 then
            update trading.markets m set batches = m.batches + 1 where m.asset_id = involved[1]
            returning array[m.asset_id], array[m.money_escrow], array[m.token_escrow], array[m.settlement = 'immediate'],
                      array[m.money_id], array[m.token_id]
            into markets, money_escrows, token_escrows, at_once, money_ids, token_ids;
        elsif attempt = 1 and (select count(*) from trading.markets m where m.asset_id = any (involved))
                              < cardinality(involved) then
            select array_agg(m.asset_id) into markets from trading.markets m where m.asset_id = any (involved);
        else
            select array_agg(m.asset_id), array_agg(m.money_escrow), array_agg(m.token_escrow),
                   array_agg(m.settlement = 'immediate'), array_agg(m.money_id), array_agg(m.token_id)
              into markets, money_escrows, token_escrows, at_once, money_ids, token_ids
              from (select * from trading.markets m where m.asset_id = any (involved)
                     order by m.asset_id for no key update) m;
            update trading.markets m set batches = m.batches + 1 where m.asset_id = any (markets);
        end if;
        exit when attempt = 2 or involved is null or cardinality(markets) = cardinality(involved);
        perform trading.open_market(a) from unnest(involved) a where array_position(markets, a) is null;
    end loop;

    -- 2. The accounts of those who place orders; who has none yet gets them.
    if places or enters then
        for attempt in 1 .. 2 loop
            select array_agg(case c.side when 'buy' then own.money else own.token end order by c.n),
                   array_agg(case c.side when 'buy' then own.token else own.money end order by c.n),
                   bool_or(m.at is not null and (own.money is null or own.token is null))
              into pays, receives, lacking
              from unnest(given_users, given_assets, given_sides) with ordinality c (user_id, asset_id, side, n)
             cross join lateral (select array_position(markets, c.asset_id) as at offset 0) m
             cross join lateral (  -- a look into the index, row by row: a user has few accounts
                  select max(a.id) filter (where a.asset_id = money_ids[m.at]) as money,
                         max(a.id) filter (where a.asset_id = token_ids[m.at]) as token
                    from ledger.accounts a
                   where a.owner_kind = 'user' and a.owner_id = c.user_id and a.purpose = 'main' offset 0) own;
            exit when attempt = 2 or not lacking;
            insert into ledger.accounts (asset_id, owner_kind, owner_id, purpose, credit_limit)
            select distinct a.asset_id, 'user', u.id, 'main', 0
              from unnest(given_users, given_assets) c (user_id, asset_id)
              cross join lateral (select u.id from public.users u where u.id = c.user_id offset 0) u
              cross join lateral (select * from trading.markets m where m.asset_id = c.asset_id offset 0) m
              cross join lateral (values (m.money_id), (m.token_id)) a (asset_id)
             order by 3, 1
            on conflict (owner_kind, owner_id, asset_id, purpose) do nothing;
        end loop;
    end if;

    -- 3. What the batch can touch: its own accounts, those of the orders it cancels, those of the markets, and those of
    --    the orders it can reach in the book. A batch that buys n units reaches the orders before which less than n
    --    units stand: nobody passes over an order, except over one that is cancelled.
    touched := pays || receives || money_escrows || token_escrows;
    if cancels then
        for going in
            select r.*, c.places
              from (select id, array_agg(n) as places from unnest(given_ids) with ordinality u (id, n) group by id) c
              join trading.resting r on r.order_id = c.id
             where r.order_id = any (cancelling)
        loop
            entries := entries + 1;
            e_order[entries] := going.order_id;
            e_user[entries] := going.user_id;
            e_book[entries] := 2 * array_position(markets, going.asset_id) - (going.side = 'buy')::integer;
            e_rank[entries] := going.rank;
            e_left[entries] := going.remaining;
            e_hold[entries] := going.hold_id;
            e_pays[entries] := going.pays;
            e_receives[entries] := going.receives;
            e_number[entries] := null;
            e_filled[entries] := null;
            e_cancelled[entries] := null;
            e_command[entries] := null;
            touched := array_append(touched, going.pays);
            foreach p in array going.places loop
                cancel_of[p] := entries;
            end loop;
        end loop;
    end if;
    cancelled_entries := entries;
    for i in 1 .. commands loop
        market_at := array_position(markets, given_assets[i]);
        market_of[i] := market_at;
        if market_at is not null then
            buying := given_sides[i] = 'buy';
            p := 2 * market_at - (not buying)::integer;
            wanted[p] := coalesce(wanted[p], 0) + given_quantities[i];
            wanted_rank[p] := greatest(wanted_rank[p], case when buying then given_prices[i] else - given_prices[i] end);
        end if;
    end loop;
    for b in 1 .. 2 * coalesce(cardinality(markets), 0) loop
        continue when wanted[b] is null;
        remaining := wanted[b];
        heads[b] := coalesce(cardinality(book), 0) + 1;
        for maker in
            select r.* from trading.resting r
             where r.asset_id = markets[(b + 1) / 2] and r.side = (case when b & 1 = 1 then 'buy' else 'sell' end)::trading.order_side
               and r.rank <= wanted_rank[b]
             order by r.asset_id, r.side, r.rank, r.number
        loop
            exit when remaining <= 0;
            e := null;
            if cancelled_entries > 0 and maker.order_id = any (cancelling) then
                e := array_position(e_order, maker.order_id);
            end if;
            if e is null then
                entries := entries + 1;
                e := entries;
                e_order[e] := maker.order_id;
                e_user[e] := maker.user_id;
                e_book[e] := b;
                e_rank[e] := maker.rank;
                e_left[e] := maker.remaining;
                e_hold[e] := maker.hold_id;
                e_pays[e] := maker.pays;
                e_receives[e] := maker.receives;
                e_number[e] := null;
                e_filled[e] := null;
                e_cancelled[e] := null;
                e_command[e] := null;
                remaining := remaining - maker.remaining;
                touched := array_append(touched, maker.pays);
            end if;
            touched := array_append(touched, maker.receives);
            book := array_append(book, e);
        end loop;
        tails[b] := coalesce(cardinality(book), 0);
    end loop;
    e_was := e_left;

    -- 4. Lock these accounts, and see what each can spend, now that nobody else can spend it.
    select array_agg(a.id) as accounts,
           array_agg(case when a.closed_at is not null then 0 when a.credit_limit is null then 'infinity'
                     else a.balance - a.held + a.credit_limit end) as spendable
      into locked
      from (select * from ledger.accounts a where a.id = any (touched) order by a.id for no key update) a;
    spendable := locked.spendable;

    -- 5. Decide, one by one.
    for i in 1 .. commands loop
        ids[i] := null;
        outcomes[i] := null;
        if actions[i] = 'cancel' then
            ids[i] := given_ids[i];
            e := cancel_of[i];
            if e is null or e_left[e] = 0 then
                outcomes[i] := case when exists (select from trading.orders o where o.id = given_ids[i])
                                    then 'not_open' else 'no_order' end;
                continue;
            end if;
            if wanted_versions[i] is not null and (e_filled[e] > 0 or exists (
                   select from trading.orders o where o.id = given_ids[i] and o.version <> wanted_versions[i])) then
                outcomes[i] := 'other_version';
                continue;
            end if;
            outcomes[i] := 'cancelled';
            changed := true;
            taken := true;
            e_cancelled[e] := true;
            market_at := (e_book[e] + 1) / 2;
            buying := e_book[e] & 1 = 1;
            pays_at := width_bucket(e_pays[e], locked.accounts);
            value := case when buying then - e_rank[e] * e_left[e] else e_left[e] end;
            e_left[e] := 0;
            spendable[pays_at] := spendable[pays_at] + value;
            moves := moves + 1;
            counter := counter + 1;
            move_ids[moves] := (fresh || lpad(to_hex(counter), 12, '0'))::uuid;
            move_kinds[moves] := 4;
            move_debits[moves] := pays_at;
            move_credits[moves] := width_bucket(case when buying then money_escrows[market_at]
                                                else token_escrows[market_at] end, locked.accounts);
            move_amounts[moves] := value;
            move_holds[moves] := e_hold[e];
            continue;
        end if;

        -- 5a. An order: can it be paid?
        market_at := market_of[i];
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
        pays_at := width_bucket(pays[i], locked.accounts);
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
        placed := placed + 1;
        if actions[i] = 'enter' then
            ids[i] := given_ids[i];
        else
            counter := counter + 1;
            ids[i] := (fresh || lpad(to_hex(counter), 12, '0'))::uuid;
        end if;

        -- 5b. Meet the other side: the best price first, then who came first. The one that waited names the price.
        met_oneself := false;
        limit_rank := case when buying then limit_price else - limit_price end;
        p := 2 * market_at - (not buying)::integer;
        if heads[p] <= tails[p] then
            receives_at := width_bucket(receives[i], locked.accounts);
            money_at := width_bucket(money_escrows[market_at], locked.accounts);
            token_at := width_bucket(token_escrows[market_at], locked.accounts);
            settled := at_once[market_at];
        end if;
        while remaining > 0 and heads[p] <= tails[p] loop
            e := book[heads[p]];
            if e_left[e] = 0 then
                heads[p] := heads[p] + 1;
                continue;
            end if;
            exit when e_rank[e] > limit_rank;
            if e_user[e] = given_users[i] then
                met_oneself := true;  -- nobody trades with themselves: what is left of the newer order goes
                exit;
            end if;
            fill := least(remaining, e_left[e]);
            value := abs(e_rank[e]) * fill;
            remaining := remaining - fill;
            e_left[e] := e_left[e] - fill;
            e_filled[e] := coalesce(e_filled[e], 0) + fill;

            fills := fills + 1;
            counter := counter + 4;
            fill_ids[fills] := (fresh || lpad(to_hex(counter - 3), 12, '0'))::uuid;
            fill_escrows[fills] := (fresh || lpad(to_hex(counter - 2), 12, '0'))::uuid;
            fill_assets[fills] := given_assets[i];
            fill_sides[fills] := given_sides[i];
            fill_prices[fills] := abs(e_rank[e]);
            fill_quantities[fills] := fill;
            fill_settled[fills] := settled;
            if buying then
                fill_buys[fills] := ids[i];
                fill_buyers[fills] := given_users[i];
                fill_sells[fills] := e_order[e];
                fill_sellers[fills] := e_user[e];
                spendable[pays_at] := spendable[pays_at] + (limit_price - e_rank[e]) * fill;
            else
                fill_buys[fills] := e_order[e];
                fill_buyers[fills] := e_user[e];
                fill_sells[fills] := ids[i];
                fill_sellers[fills] := given_users[i];
            end if;

            -- The waiting side pays out of its hold, unless its order is as new as this batch and holds nothing yet.
            moves := moves + 1;
            move_ids[moves] := (fresh || lpad(to_hex(counter - 1), 12, '0'))::uuid;
            if e_command[e] is null then
                changed := true;
                taken := taken or e_left[e] = 0;
                move_kinds[moves] := 3;
                move_holds[moves] := e_hold[e];
            else
                move_kinds[moves] := 1;
                move_holds[moves] := null;
            end if;
            move_debits[moves] := width_bucket(e_pays[e], locked.accounts);
            move_credits[moves] := case when buying then token_at else money_at end;
            move_amounts[moves] := case when buying then fill else value end;
            -- The other side pays now.
            moves := moves + 1;
            move_ids[moves] := (fresh || lpad(to_hex(counter), 12, '0'))::uuid;
            move_kinds[moves] := 1;
            move_holds[moves] := null;
            move_debits[moves] := pays_at;
            move_credits[moves] := case when buying then money_at else token_at end;
            move_amounts[moves] := case when buying then value else fill end;
            if settled then
                -- Out of escrow again: the money under the escrow's id, the tokens under the trade's.
                maker_receives_at := width_bucket(e_receives[e], locked.accounts);
                moves := moves + 1;
                move_ids[moves] := fill_escrows[fills];
                move_kinds[moves] := 1;
                move_holds[moves] := null;
                move_debits[moves] := money_at;
                move_credits[moves] := case when buying then maker_receives_at else receives_at end;
                move_amounts[moves] := value;
                moves := moves + 1;
                move_ids[moves] := fill_ids[fills];
                move_kinds[moves] := 1;
                move_holds[moves] := null;
                move_debits[moves] := token_at;
                move_credits[moves] := case when buying then receives_at else maker_receives_at end;
                move_amounts[moves] := fill;
                spendable[receives_at] := spendable[receives_at] + case when buying then fill else value end;
                spendable[maker_receives_at] := spendable[maker_receives_at]
                    + case when buying then value else fill end;
            end if;
        end loop;

        -- 5c. What is left rests in the book, or goes.
        entries := entries + 1;
        e_order[entries] := ids[i];
        e_command[entries] := i;
        e_filled[entries] := given_quantities[i] - remaining;
        e_was[entries] := 0;
        e_left[entries] := remaining;
        e_cancelled[entries] := null;
        e_number[entries] := null;
        e_rank[entries] := null;
        e_user[entries] := null;
        e_hold[entries] := null;
        e_pays[entries] := null;
        e_receives[entries] := null;
        if remaining > 0 and met_oneself then
            e_left[entries] := 0;
            e_cancelled[entries] := true;
            spendable[pays_at] := spendable[pays_at] + case when buying then limit_price * remaining else remaining end;
        elsif remaining > 0 then
            e_number[entries] := nextval('trading.order_number');
            e_rank[entries] := - limit_rank;
            e_user[entries] := given_users[i];
            e_pays[entries] := pays[i];
            e_receives[entries] := receives[i];
            -- Into its book, behind those of its price, if a later order can reach it there.
            p := 2 * market_at - buying::integer;
            if i < commands and wanted_rank[p] >= - limit_rank then
                low := heads[p];
                high := tails[p] + 1;
                while low < high loop
                    e := (low + high) / 2;
                    if e_rank[book[e]] <= - limit_rank then
                        low := e + 1;
                    else
                        high := e;
                    end if;
                end loop;
                book := book[: low - 1] || entries || book[low :];
                tails[p] := tails[p] + 1;
                for b in p + 1 .. 2 * cardinality(markets) loop
                    heads[b] := heads[b] + 1;
                    tails[b] := tails[b] + 1;
                end loop;
            end if;
        end if;
    end loop;

    -- 6. Write what was decided: the book, orders, trades and escrows once each, and what the stream tells of them.
    if placed > 0 then
        for e in entries - placed + 1 .. entries loop
            i := e_command[e];
            outcomes[i] := case when e_cancelled[e] then 'cancelled' when e_left[e] = 0 then 'filled'
                                when e_filled[e] > 0 then 'partially_filled' else 'open' end;
            if e_left[e] > 0 then
                buying := given_sides[i] = 'buy';
                market_at := market_of[i];
                counter := counter + 1;
                e_hold[e] := (fresh || lpad(to_hex(counter), 12, '0'))::uuid;
                moves := moves + 1;
                move_ids[moves] := e_hold[e];
                move_kinds[moves] := 2;
                move_holds[moves] := null;
                move_debits[moves] := width_bucket(pays[i], locked.accounts);
                move_credits[moves] := width_bucket(case when buying then money_escrows[market_at]
                                                    else token_escrows[market_at] end, locked.accounts);
                move_amounts[moves] := case when buying then given_prices[i] * e_left[e] else e_left[e] end;
            end if;
        end loop;
    end if;
    if placed > 0 or changed then
        said := headwater.said();
        if taken then
            delete from trading.resting r
             where r.order_id = any (array(
                   select n.order_id from unnest(e_order, e_left, e_was) n (order_id, remaining, was)
                    where n.was > 0 and n.remaining = 0));
        end if;
        if fills > 0 then
            update trading.resting r set remaining = n.remaining
              from unnest(e_order, e_left, e_was) n (order_id, remaining, was)
             where r.order_id = n.order_id and n.remaining > 0 and n.remaining < n.was
               and r.order_id = any (e_order);  -- bounds every plan, as below
        end if;
        if placed > 0 then
            insert into trading.resting (order_id, asset_id, side, rank, number, user_id, remaining, hold_id, pays, receives)
            select n.order_id, given_assets[n.command], given_sides[n.command], n.rank, n.number, n.user_id, n.remaining,
                   n.hold_id, n.pays, n.receives
              from unnest(e_order, e_command, e_rank, e_number, e_user, e_left, e_hold, e_pays, e_receives)
                   n (order_id, command, rank, number, user_id, remaining, hold_id, pays, receives)
             where n.command is not null and n.remaining > 0;
            if places then
                with told as (
                    insert into trading.orders (id, user_id, asset_id, side, price, quantity, filled_quantity, status,
                                                cancelled_at)
                    select n.id, given_users[n.command], given_assets[n.command], given_sides[n.command],
                           given_prices[n.command], given_quantities[n.command], n.filled,
                           outcomes[n.command]::trading.order_status, case when n.cancelled then now() end
                      from unnest(e_order, e_command, e_filled, e_cancelled) n (id, command, filled, cancelled)
                     where actions[n.command] = 'place'
                    returning *
                )
                insert into headwater.change ("table", op, key, new, context)
                select 'trading.orders', 'i', jsonb_build_object('id', t.id), to_jsonb(t.*), said from told t;
            end if;
        end if;
        if changed or enters then
            with told as (
                update trading.orders o
                   set filled_quantity = o.filled_quantity + n.filled,
                       status = case when n.cancelled then 'cancelled' when o.filled_quantity + n.filled = o.quantity
                                     then 'filled' else 'partially_filled' end::trading.order_status,
                       cancelled_at = case when n.cancelled then now() end, updated_at = now(), version = o.version + 1
                  from (select u.id, coalesce(u.filled, 0) as filled, u.cancelled
                          from unnest(e_order, e_command, e_filled, e_cancelled) u (id, command, filled, cancelled)
                         where (u.command is null or actions[u.command] = 'enter') and (u.filled > 0 or u.cancelled)) n
                 where o.id = n.id and o.id = any (e_order)
                returning o.id, to_jsonb(new.*) as after, to_jsonb(old.*) as before
            )
            insert into headwater.change ("table", op, key, new, old, context)
            select 'trading.orders', 'u', jsonb_build_object('id', t.id), t.after, t.before, said from told t;
        end if;
        if fills > 0 then
            with told as (
                insert into trading.trades (id, asset_id, buy_order_id, sell_order_id, taker_side, price, quantity)
                select * from unnest(fill_ids, fill_assets, fill_buys, fill_sells, fill_sides, fill_prices,
                                     fill_quantities)
                returning *
            )
            insert into headwater.change ("table", op, key, new, context)
            select 'trading.trades', 'i', jsonb_build_object('id', t.id), to_jsonb(t.*), said from told t;
            with told as (
                insert into trading.escrows (id, trade_id, buyer_id, seller_id, amount, state, settled_at)
                select f.id, f.trade, f.buyer, f.seller, f.price * f.quantity,
                       case when f.settled then 'released' else 'held' end::trading.escrow_state,
                       case when f.settled then now() end
                  from unnest(fill_escrows, fill_ids, fill_buyers, fill_sellers, fill_prices, fill_quantities,
                              fill_settled) f (id, trade, buyer, seller, price, quantity, settled)
                returning *
            )
            insert into headwater.change ("table", op, key, new, context)
            select 'trading.escrows', 'i', jsonb_build_object('id', t.id), to_jsonb(t.*), said from told t;
        end if;
        -- The ledger cannot refuse what was decided under its locks; if it does, it raises, and nothing of this happened.
        if moves > 0 then
            perform ledger.settle(locked.accounts, move_ids, move_kinds, move_debits, move_credits, move_amounts, move_holds);
        end if;
    end if;
    return query
        select c.outcome, o.*
          from unnest(outcomes, ids) with ordinality c (outcome, id, n)
          left join lateral (
              select o.id, o.user_id, o.asset_id, o.side, o.price, o.quantity, o.filled_quantity, o.status,
                     o.cancelled_at, o.created_at, o.updated_at, o.version
                from trading.orders o where o.id = c.id offset 0) o on true
         order by c.n;
end
$function$;

-- next
-- What the matcher writes, it tells the stream itself, set by set: of these tables, the row triggers tell the rest.
do $$
declare
    name text;
begin
    foreach name in array array['orders', 'trades', 'escrows'] loop
        execute format('drop trigger headwater_change on trading.%I', name);
        execute format('create trigger headwater_change after insert or update or delete on trading.%I for each row '
                       'when (current_setting(''headwater.matching'', true) is distinct from ''yes'') '
                       'execute function headwater.%I()', name, 'capture trading.' || name);
        execute format('alter table trading.%I enable always trigger headwater_change', name);
    end loop;
end
$$;
