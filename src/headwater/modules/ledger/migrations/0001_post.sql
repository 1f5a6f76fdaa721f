-- What was asked, as a digest: a refusal is remembered by it.
create function ledger.body_of(
    kind smallint, debit bigint, credit bigint, amount numeric, flags smallint, refers uuid, reference text, metadata jsonb
) returns uuid language plpgsql stable
set search_path = pg_catalog, pg_temp
as $function$
begin
    return md5(record_send(row(kind, debit, credit, amount, flags & 14, refers, reference, metadata)))::uuid;
end
$function$;

-- next
-- The open holds of these accounts whose time is over are released. The caller has locked the accounts.
-- Returns how many.
create function ledger.expire_of(accounts bigint[]) returns bigint
language plpgsql security definer
set search_path = pg_catalog, pg_temp set enable_seqscan = off
as $function$
declare
    late record;
    held record;
    told bigint := 0;
    fresh uuid;
    said bytea;
    at timestamptz;
    xid bigint := pg_current_xact_id()::text::bigint;
begin
    for late in
        select h.transfer_id, h.debit_account_id, h.credit_account_id, h.remaining
          from ledger.holds h
         where h.debit_account_id = any (accounts) and h.state = 'pending' and h.expires_at <= clock_timestamp()
         order by h.debit_account_id, h.expires_at, h.transfer_id
    loop
        fresh := uuidv7();
        select a.balance, a.version, a.head, a.moved_at into held
          from ledger.accounts a where a.id = late.debit_account_id;
        at := greatest(clock_timestamp(), held.moved_at);
        insert into headwater.change ("table", op, key, new, context)
        values ('ledger.transfers', 'i', jsonb_build_object('id', fresh),
                jsonb_build_object('id', fresh, 'debit_account_id', late.debit_account_id,
                                   'credit_account_id', late.credit_account_id), ledger.context());
        said := ledger.words(
            fresh, late.debit_account_id, late.credit_account_id, held.version + 1, null, at, xid, late.remaining,
            record_send(row('expired'::text, late.remaining, late.transfer_id, null::uuid, null::text, null::jsonb)));
        insert into ledger.transfers values (
            fresh, late.debit_account_id, late.credit_account_id, held.version + 1, null, at, xid, 'expired',
            ledger.checksum_of(said), late.remaining, held.balance, null, late.remaining, late.transfer_id, null, null, null
        );
        update ledger.accounts a
           set held = a.held - late.remaining, version = held.version + 1, moved_at = at,
               head = ledger.head_after(held.head, ledger.entry(said), held.version + 1)
         where a.id = late.debit_account_id;
        update ledger.holds h set remaining = 0, state = 'expired' where h.transfer_id = late.transfer_id;
        told := told + 1;
    end loop;
    return told;
end
$function$;

-- next
-- Release what is overdue, at most `most` holds, the accounts in the order of their ids. Returns how many.
create function ledger.expire(most bigint) returns bigint
language plpgsql security definer
set search_path = pg_catalog, pg_temp set enable_seqscan = off
as $function$
declare
    late bigint[];
begin
    select array_agg(distinct found.debit_account_id) into late from (
        select h.debit_account_id from ledger.holds h
         where h.state = 'pending' and h.expires_at <= statement_timestamp()
         order by h.expires_at limit most
    ) found;
    if late is null then
        return 0;
    end if;
    perform a.id from ledger.accounts a where a.id = any (late) order by a.id for no key update;
    return ledger.expire_of(late);
end
$function$;

-- next
-- ledger.post: many commands, in the order given, each with one status; all in one call.
--
-- kinds: 1 move, 2 hold, 3 post a hold, 4 void a hold, 5 reverse a transfer.
-- flags: 1 linked with the next, 2 up to what the debit account has, 4 up to what the credit account owes,
--        8 the rest stays held.
-- amounts: whole numbers, joined by commas (one text is read faster than an array of numerics); 0: all of it.
-- refers: the hold (3, 4) or the transfer (5). An array that nobody needs is null.
-- statuses: 0 done, 1 the id belongs to another body, 2 exceeds the balance, 3 no such account, 4 two assets,
--        5 one account, 6 closed, 7 no such hold or transfer, 8 already posted, 9 already voided, 10 expired,
--        11 exceeds what is held, 12 linked to one that was refused, 13 too large, 14 nothing to move,
--        15 already reversed, 16 cannot be reversed.
--
-- Locks: first every account that will change, in the order of ids, by one statement. Whoever decides about an id, a
-- hold or a reversal has locked its accounts, so that what is read after that is final (READ COMMITTED: each statement
-- sees what was committed before it). In REPEATABLE READ and SERIALIZABLE the lock itself fails when an account has
-- changed since, and the caller runs again.
-- Settings: see ledger.transfer; nested loops and merges are off because the statements join arrays whose length the
-- planner does not know, and each statement is bounded by `= any (array)` on an index. Accounts are changed by their
-- place in the table, which the lock told and keeps: a second look into the index costs a tenth of a call.
create function ledger.post(
    in ids uuid[], in kinds smallint[], in debits bigint[], in credits bigint[], in amounts text, in flags smallint[],
    in refers uuid[], in expiries timestamptz[], in remarks text[], in extras jsonb[],
    out statuses smallint[], out moved text, out debit_balances text, out credit_balances text, out repeats boolean[]
)
language plpgsql security definer
set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_generic_plan
set enable_seqscan = off set enable_bitmapscan = off set enable_nestloop = off set enable_mergejoin = off
as $function$
declare
    n int := cardinality(ids);
    wanted numeric[] := string_to_array(amounts, ',')::numeric[];
    asked_debits bigint[] := debits;
    asked_credits bigint[] := credits;
    plain boolean := not (2 = any (kinds) or 3 = any (kinds) or 4 = any (kinds));
    touched bigint[];
    -- The accounts, by place in these arrays.
    a_id bigint[];
    a_row tid[];
    a_asset int[];
    a_limit numeric[];
    a_balance numeric[];
    a_held numeric[];
    a_version bigint[];
    a_head bytea[];
    a_closed boolean[];
    a_before bigint[];
    late timestamptz;
    any_held boolean;
    debit_at int[];
    credit_at int[];
    -- Answers given before, and ids that appear twice in this call.
    known ledger.transfers[];
    known_at int[];
    refused ledger.refusals[];
    refused_at int[];
    first_at int[];
    before_at int[];
    r ledger.transfers;
    -- The holds, by place; those of this call are appended.
    h_id uuid[];
    h_debit bigint[];
    h_credit bigint[];
    h_remaining numeric[];
    h_state smallint[];
    h_expires timestamptz[];
    h_changed boolean[];
    h_before int;
    hold_at int[];
    made_by int[];
    made_at int[];
    reversed uuid[];
    originals ledger.transfers[];
    original_at int[];
    -- What is written.
    o_debit_version bigint[];
    o_credit_version bigint[];
    o_amount numeric[];
    o_debit_balance numeric[];
    o_credit_balance numeric[];
    o_state text[];
    o_released numeric[];
    o_checksum integer[];
    at timestamptz;
    xid bigint := pg_current_xact_id()::text::bigint;
    -- A chain under way, and what to return to if it fails.
    chain int := 0;
    chain_new boolean;
    chain_old boolean;
    chain_failed boolean;
    s_balance numeric[];
    s_held numeric[];
    s_version bigint[];
    s_head bytea[];
    s_remaining numeric[];
    s_state smallint[];
    s_reversed uuid[];
    first int := 1;
    i int;
    j int;
    k smallint;
    flag smallint;
    st smallint;
    again boolean;
    d int;
    c int;
    h int;
    amount numeric;
    freed numeric;
    said bytea;
    said_by jsonb := ledger.context();
    expected bigint := 0;
    no_count bigint := 0;
begin
    if n is null or n = 0 then
        return;
    end if;
    if cardinality(kinds) <> n or cardinality(debits) <> n or cardinality(credits) <> n or cardinality(wanted) <> n
       or cardinality(flags) <> n or cardinality(refers) <> n or cardinality(expiries) <> n
       or cardinality(remarks) <> n or cardinality(extras) <> n or array_position(ids, null) is not null
       or array_position(wanted, null) is not null then
        raise exception 'ledger.post: the arrays must be of one length, ids and amounts without nulls'
            using errcode = 'invalid_parameter_value';
    end if;
    if flags[n] & 1 <> 0 then
        raise exception 'ledger.post: the last command is linked with a next one' using errcode = 'invalid_parameter_value';
    end if;

    -- 1. Commands that refer to a hold or a transfer concern its accounts.
    if refers is not null then
        select array_agg(case when x.kind < 3 then x.debit when x.kind = 5 then t.credit_account_id
                              else coalesce(t.debit_account_id, own.debit) end order by x.at),
               array_agg(case when x.kind < 3 then x.credit when x.kind = 5 then t.debit_account_id
                              else coalesce(t.credit_account_id, own.credit) end order by x.at),
               array_agg(own.at order by x.at)
          into debits, credits, made_by
          from unnest(kinds, asked_debits, asked_credits, refers) with ordinality x(kind, debit, credit, refer, at)
          left join (select id, debit_account_id, credit_account_id from ledger.transfers where id = any (refers)) t
            on t.id = x.refer
          left join (select distinct on (o.id) o.id, o.debit, o.credit, o.at
                       from unnest(ids, kinds, asked_debits, asked_credits) with ordinality o(id, kind, debit, credit, at)
                      where o.kind = 2 order by o.id, o.at) own
            on own.id = x.refer and x.kind in (3, 4) and own.at < x.at;
    end if;

    -- 2. Lock the accounts. A hold and its end without a movement leave the credit account alone: it is only read.
    if plain then
        touched := debits || credits;
    else
        select array_agg(x.id) into touched from (
            select u.id from unnest(debits) u(id)
            union all
            select u.id from unnest(credits, kinds) u(id, kind) where u.kind not in (2, 4)
        ) x;
    end if;
    select array_agg(x.id), array_agg(x.asset_id), array_agg(x.credit_limit), array_agg(x.balance), array_agg(x.held),
           array_agg(x.version), array_agg(x.head), array_agg(x.closed_at is not null), max(x.moved_at), bool_or(x.held > 0),
           array_agg(x.ctid)
      into a_id, a_asset, a_limit, a_balance, a_held, a_version, a_head, a_closed, late, any_held, a_row
      from (select a.ctid, a.id, a.asset_id, a.credit_limit, a.balance, a.held, a.version, a.head, a.closed_at, a.moved_at
              from ledger.accounts a where a.id = any (touched) order by a.id for no key update) x;
    if any_held and ledger.expire_of(a_id) > 0 then
        select array_agg(x.id), array_agg(x.held), array_agg(x.version), array_agg(x.head), max(x.moved_at),
               array_agg(x.ctid)
          into a_id, a_held, a_version, a_head, late, a_row
          from (select a.ctid, a.id, a.held, a.version, a.head, a.moved_at
                  from ledger.accounts a where a.id = any (a_id) order by a.id) x;
    end if;
    a_before := a_version;
    if not plain then
        select a_id || array_agg(x.id), a_asset || array_agg(x.asset_id), a_limit || array_agg(x.credit_limit),
               a_balance || array_agg(x.balance), a_held || array_agg(x.held), a_version || array_agg(x.version),
               a_head || array_agg(x.head), a_closed || array_agg(x.closed_at is not null),
               a_before || array_agg(x.version)
          into a_id, a_asset, a_limit, a_balance, a_held, a_version, a_head, a_closed, a_before
          from (select a.id, a.asset_id, a.credit_limit, a.balance, a.held, a.version, a.head, a.closed_at
                  from ledger.accounts a
                 where a.id = any (credits) and a.id <> all (coalesce(a_id, '{}')) order by a.id) x;
    end if;
    select array_agg(p.at order by x.at), array_agg(q.at order by x.at) into debit_at, credit_at
      from unnest(debits, credits) with ordinality x(debit, credit, at)
      left join unnest(a_id) with ordinality p(id, at) on p.id = x.debit
      left join unnest(a_id) with ordinality q(id, at) on q.id = x.credit;

    -- 3. What was answered before, and ids that appear twice.
    select array_agg(t) into known from ledger.transfers t where t.id = any (ids);
    if known is not null then
        select array_agg(f.at order by x.at) into known_at
          from unnest(ids) with ordinality x(id, at)
          left join (select e.id, e.ordinality as at from unnest(known) with ordinality e) f on f.id = x.id;
    end if;
    select array_agg(t) into refused from ledger.refusals t where t.id = any (ids);
    if refused is not null then
        select array_agg(f.at order by x.at) into refused_at
          from unnest(ids) with ordinality x(id, at)
          left join (select e.id, e.ordinality as at from unnest(refused) with ordinality e) f on f.id = x.id;
    end if;
    if n > 1 and (select count(distinct u.id) from unnest(ids) u(id)) < n then
        select array_agg(x.first order by x.at), array_agg(x.before order by x.at) into first_at, before_at
          from (select u.at, min(u.at) over (partition by u.id) as first,
                       lag(u.at) over (partition by u.id order by u.at) as before
                  from unnest(ids) with ordinality u(id, at)) x;
    end if;

    -- 4. The holds and transfers that are referred to, as they stand now.
    if refers is not null then
        select array_agg(x.transfer_id), array_agg(x.debit_account_id), array_agg(x.credit_account_id),
               array_agg(x.remaining), array_agg(case x.state when 'pending' then 0::smallint when 'posted' then 1::smallint
                                                 when 'voided' then 2::smallint else 3::smallint end),
               array_agg(x.expires_at), array_agg(false)
          into h_id, h_debit, h_credit, h_remaining, h_state, h_expires, h_changed
          from ledger.holds x where x.transfer_id = any (refers);
        select array_agg(f.at order by x.at) into hold_at
          from unnest(refers) with ordinality x(id, at)
          left join unnest(h_id) with ordinality f(id, at) on f.id = x.id;
        if 5 = any (kinds) then
            select array_agg(t) into originals from ledger.transfers t where t.id = any (refers);
            select array_agg(f.at order by x.at) into original_at
              from unnest(refers) with ordinality x(id, at)
              left join (select e.id, e.ordinality as at from unnest(originals) with ordinality e) f on f.id = x.id;
            select array_agg(v.transfer_id) into reversed from ledger.reversals v where v.transfer_id = any (refers);
        end if;
    end if;
    h_before := coalesce(cardinality(h_id), 0);

    at := greatest(clock_timestamp(), late);
    statuses := array_fill(0::smallint, array[n]);
    repeats := array_fill(false, array[n]);
    o_amount := array_fill(0::numeric, array[n]);
    o_debit_balance := array_fill(null::numeric, array[n]);
    o_credit_balance := o_debit_balance;
    o_released := o_debit_balance;
    o_debit_version := array_fill(null::bigint, array[n]);
    o_credit_version := o_debit_version;
    o_state := array_fill(null::text, array[n]);
    o_checksum := array_fill(0, array[n]);
    if not plain then
        made_at := array_fill(null::int, array[n]);
    end if;

    -- 5. Decide, one by one: each sees the effects of those before it.
    -- Plain movements that nothing speaks against take a short way. PL/pgSQL prepares each expression anew in each
    -- transaction, and the long way has four times as many; the first command that is not plain goes on there.
    if 1 = all (kinds) and 0 = all (flags) and known is null and refused is null and first_at is null then
        while first <= n loop
            d := debit_at[first];
            c := credit_at[first];
            amount := wanted[first];
            exit when d is null or c is null or d = c or a_asset[d] <> a_asset[c] or a_closed[d] or a_closed[c]
                   or amount < 1 or amount >= 1e38 or amount <> trunc(amount)
                   or a_balance[d] - a_held[d] + a_limit[d] < amount
                   or a_balance[d] - amount <= -1e38 or a_balance[c] + amount >= 1e38;
            a_version[d] := a_version[d] + 1;
            a_version[c] := a_version[c] + 1;
            a_balance[d] := a_balance[d] - amount;
            a_balance[c] := a_balance[c] + amount;
            o_debit_version[first] := a_version[d];
            o_credit_version[first] := a_version[c];
            o_debit_balance[first] := a_balance[d];
            o_credit_balance[first] := a_balance[c];
            o_amount[first] := amount;
            o_state[first] := 'posted';
            said := ledger.words(
                ids[first], debits[first], credits[first], a_version[d], a_version[c], at, xid, amount,
                case when num_nonnulls(remarks[first], extras[first]) > 0
                     then record_send(row('posted'::text, null::numeric, null::uuid, null::uuid, remarks[first],
                                          extras[first])) end);
            o_checksum[first] := crc32c(said) - 2147483648;
            a_head[d] := ledger.head_after(a_head[d], ledger.entry(said), a_version[d]);
            a_head[c] := ledger.head_after(a_head[c], uuid_send(ids[first]), a_version[c]);
            first := first + 1;
        end loop;
        expected := first - 1;
    end if;
    for i in first .. n loop
        k := kinds[i];
        flag := flags[i];
        st := 0;
        again := false;
        amount := wanted[i];
        d := debit_at[i];
        c := credit_at[i];
        if k not between 1 and 5 or amount < 0 or amount >= 1e38 or amount <> trunc(amount)
           or amount = 0 and k < 3 or k < 3 and (asked_debits[i] is null or asked_credits[i] is null) then
            raise exception 'ledger.post: command % is malformed', i using errcode = 'invalid_parameter_value';
        end if;
        if chain = 0 and flag & 1 <> 0 then
            chain := i;
            chain_new := false;
            chain_old := false;
            chain_failed := false;
            s_balance := a_balance;
            s_held := a_held;
            s_version := a_version;
            s_head := a_head;
            s_remaining := h_remaining;
            s_state := h_state;
            s_reversed := reversed;
        end if;

        -- 5a. An id that has its answer.
        if chain > 0 and before_at is not null and before_at[i] >= chain then
            st := 1;  -- twice inside one chain: what would be linked to what?
        elsif known_at is not null and known_at[i] is not null then
            r := known[known_at[i]];
            if (case k
                   when 1 then r.state = 'posted' and r.pending_id is null and r.reverses_id is null
                   when 2 then r.state = 'pending'
                   when 3 then r.state = 'posted' and r.pending_id = refers[i]
                   when 4 then r.state = 'voided' and r.pending_id = refers[i]
                   else r.reverses_id = refers[i]
               end)
               and (k > 2 or r.debit_account_id = asked_debits[i] and r.credit_account_id = asked_credits[i])
               and (r.amount = amount or amount = 0 or flag & 6 <> 0 and r.amount < amount)
               and r.reference is not distinct from (case when remarks is not null then remarks[i] end)
               and r.metadata is not distinct from (case when extras is not null then extras[i] end) then
                again := true;
                o_amount[i] := r.amount;
                o_debit_balance[i] := r.debit_balance_after;
                o_credit_balance[i] := r.credit_balance_after;
            else
                st := 1;
            end if;
        elsif refused_at is not null and refused_at[i] is not null then
            if (refused[refused_at[i]]).body = ledger.body_of(
                   k, asked_debits[i], asked_credits[i], amount, flag,
                   case when refers is not null then refers[i] end, case when remarks is not null then remarks[i] end,
                   case when extras is not null then extras[i] end) then
                again := true;
                st := (refused[refused_at[i]]).status;
            else
                st := 1;
            end if;
        elsif first_at is not null and first_at[i] < i then
            j := first_at[i];
            if kinds[j] = k and asked_debits[j] is not distinct from asked_debits[i]
               and asked_credits[j] is not distinct from asked_credits[i] and wanted[j] = amount
               and flags[j] & 14 = flag & 14
               and (refers is null or refers[j] is not distinct from refers[i])
               and (remarks is null or remarks[j] is not distinct from remarks[i])
               and (extras is null or extras[j] is not distinct from extras[i]) then
                again := true;
                st := statuses[j];
                o_amount[i] := o_amount[j];
                o_debit_balance[i] := o_debit_balance[j];
                o_credit_balance[i] := o_credit_balance[j];
            else
                st := 1;
            end if;

        -- 5b. A new one.
        elsif chain > 0 and (chain_failed or chain_old) then
            st := 12;
        elsif k = 3 or k = 4 then
            h := coalesce(made_at[made_by[i]], hold_at[i]);  -- made by this call, or there before, though it was asked for again
            if h is null or h_state[h] is null then
                st := 7;
            elsif (a_closed[d] or a_closed[c]) and k = 3 then
                st := 6;
            elsif h_state[h] > 0 then
                st := 7 + h_state[h];
            else
                freed := h_remaining[h];
                if amount = 0 then
                    amount := freed;
                end if;
                if k = 4 then
                    amount := freed;
                elsif amount > freed then
                    st := 11;
                elsif flag & 8 <> 0 then
                    freed := amount;
                end if;
                if st = 0 and k = 3 and (a_balance[d] - amount <= -1e38 or a_balance[c] + amount >= 1e38) then
                    st := 13;
                end if;
            end if;
        elsif k = 5 and (debits[i] is null or refers[i] is null) then
            st := 7;
        elsif debits[i] = credits[i] then
            st := 5;
        elsif d is null or c is null then
            st := 3;
        elsif a_asset[d] <> a_asset[c] then
            st := 4;
        elsif a_closed[d] or a_closed[c] then
            st := 6;
        else
            if k = 5 then
                r := originals[original_at[i]];
                if original_at[i] is null then
                    st := 7;
                elsif r.state <> 'posted' then
                    st := 16;
                elsif reversed is not null and refers[i] = any (reversed) then
                    st := 15;
                elsif amount <> 0 and amount <> r.amount then
                    st := 16;
                end if;
                amount := r.amount;
            end if;
            if st = 0 then
                if flag & 2 <> 0 and a_limit[d] is not null then
                    amount := least(amount, a_balance[d] - a_held[d] + a_limit[d]);
                end if;
                if flag & 4 <> 0 then
                    amount := least(amount, - a_balance[c]);
                end if;
                if amount < 1 then
                    st := 14;
                elsif a_limit[d] is not null and a_balance[d] - a_held[d] + a_limit[d] < amount then
                    st := 2;
                elsif a_balance[d] - amount <= -1e38 or a_balance[c] + amount >= 1e38
                      or k = 2 and a_held[d] + amount >= 1e38 then
                    st := 13;
                end if;
            end if;
        end if;

        -- 5c. Its effect.
        statuses[i] := st;
        repeats[i] := again;
        if st = 0 and not again then
            a_version[d] := a_version[d] + 1;
            o_debit_version[i] := a_version[d];
            o_amount[i] := amount;
            case k
                when 2 then
                    a_held[d] := a_held[d] + amount;
                    o_state[i] := 'pending';
                    h_id := h_id || ids[i];
                    h_debit := h_debit || debits[i];
                    h_credit := h_credit || credits[i];
                    h_remaining := h_remaining || amount;
                    h_state := h_state || 0::smallint;
                    h_expires := h_expires || (case when expiries is not null then expiries[i] end);
                    h_changed := h_changed || true;
                    made_at[i] := cardinality(h_id);
                when 4 then
                    a_held[d] := a_held[d] - freed;
                    o_state[i] := 'voided';
                else
                    if k = 3 then
                        a_held[d] := a_held[d] - freed;
                    end if;
                    a_balance[d] := a_balance[d] - amount;
                    a_balance[c] := a_balance[c] + amount;
                    a_version[c] := a_version[c] + 1;
                    o_credit_version[i] := a_version[c];
                    o_credit_balance[i] := a_balance[c];
                    o_state[i] := 'posted';
            end case;
            if k = 3 or k = 4 then
                h_remaining[h] := h_remaining[h] - freed;
                h_state[h] := case when h_remaining[h] > 0 then 0 when k = 3 then 1 else 2 end;
                h_changed[h] := true;
                o_released[i] := freed;
            elsif k = 5 then
                reversed := reversed || refers[i];
            end if;
            o_debit_balance[i] := a_balance[d];
            said := ledger.words(
                ids[i], debits[i], credits[i], a_version[d], o_credit_version[i], at, xid, amount,
                case when k > 1 or num_nonnulls(remarks[i], extras[i]) > 0
                     then record_send(row(o_state[i], o_released[i], case when k = 3 or k = 4 then refers[i] end,
                                          case when k = 5 then refers[i] end, remarks[i], extras[i])) end);
            o_checksum[i] := crc32c(said) - 2147483648;
            a_head[d] := ledger.head_after(a_head[d], ledger.entry(said), a_version[d]);
            if o_credit_version[i] is not null then
                a_head[c] := ledger.head_after(a_head[c], uuid_send(ids[i]), a_version[c]);
            end if;
            expected := expected + 1;
        elsif st > 1 and not again then
            no_count := no_count + 1;
        end if;

        -- 5d. A chain is one: all or nothing, wholly new or wholly repeated.
        if chain > 0 then
            if again and st = 0 then
                chain_old := true;
            elsif st = 0 then
                chain_new := true;
            end if;
            if not chain_failed and (st <> 0 or chain_old and chain_new) then
                chain_failed := true;
                a_balance := s_balance;
                a_held := s_held;
                a_version := s_version;
                a_head := s_head;
                h_remaining := s_remaining;
                h_state := s_state;
                reversed := s_reversed;
                if cardinality(h_id) > coalesce(cardinality(s_remaining), 0) then
                    j := coalesce(cardinality(s_remaining), 0);
                    h_id := h_id[1 : j];
                    h_debit := h_debit[1 : j];
                    h_credit := h_credit[1 : j];
                    h_expires := h_expires[1 : j];
                    h_changed := h_changed[1 : j];
                end if;
                for j in chain .. i loop
                    if statuses[j] = 0 and not repeats[j] then
                        statuses[j] := 12;
                        o_amount[j] := 0;
                        o_state[j] := null;
                        o_credit_balance[j] := null;
                        o_debit_balance[j] := null;
                        if not plain then
                            made_at[j] := null;
                        end if;
                        expected := expected - 1;
                        no_count := no_count + 1;
                    end if;
                end loop;
            end if;
            if flag & 1 = 0 then
                chain := 0;
            end if;
        end if;
    end loop;

    -- 6. Write. An id that another call, with other accounts, took meanwhile is refused by the primary key.
    if expected > 0 then
        with told as (
        insert into ledger.transfers
        select x.id, x.debit, x.credit, x.debit_version, x.credit_version, at, xid, x.state::ledger.transfer_state,
               x.checksum, x.amount, x.debit_balance, x.credit_balance, x.released,
               case when x.kind in (3, 4) then x.refer end, case when x.kind = 5 then x.refer end, x.remark, x.extra
          from unnest(ids, debits, credits, o_debit_version, o_credit_version, o_state, o_amount, o_debit_balance,
                      o_credit_balance, o_released, o_checksum, kinds, refers, remarks, extras)
               x(id, debit, credit, debit_version, credit_version, state, amount, debit_balance,
                 credit_balance, released, checksum, kind, refer, remark, extra)
         where x.state is not null
        returning id, debit_account_id, credit_account_id
        )
        insert into headwater.change ("table", op, key, new, context)
        select 'ledger.transfers', 'i', jsonb_build_object('id', t.id),
               jsonb_build_object('id', t.id, 'debit_account_id', t.debit_account_id,
                                  'credit_account_id', t.credit_account_id), said_by
          from told t;
        update ledger.accounts a
           set balance = x.balance, held = x.held, version = x.version, head = x.head, moved_at = at
          from unnest(a_id, a_balance, a_held, a_version, a_head, a_before)
               x(id, balance, held, version, head, before)
         where a.id = x.id and a.ctid = any (a_row) and x.version <> x.before;
        get diagnostics d = row_count;
        if d <> (select count(*) from unnest(a_version, a_before) x(version, before) where x.version <> x.before) then
            raise exception 'ledger.post: a locked account is not where it was' using errcode = 'serialization_failure';
        end if;
        if h_id is not null then
            if cardinality(h_id) > h_before then
                insert into ledger.holds (transfer_id, debit_account_id, credit_account_id, remaining, state, expires_at)
                select x.id, x.debit, x.credit, x.remaining,
                       ('{pending,posted,voided,expired}'::ledger.transfer_state[])[x.state + 1], x.expires
                  from unnest(h_id[h_before + 1 :], h_debit[h_before + 1 :], h_credit[h_before + 1 :],
                              h_remaining[h_before + 1 :], h_state[h_before + 1 :], h_expires[h_before + 1 :])
                       x(id, debit, credit, remaining, state, expires);
            end if;
            if h_before > 0 then
                update ledger.holds t
                   set remaining = x.remaining,
                       state = ('{pending,posted,voided,expired}'::ledger.transfer_state[])[x.state + 1]
                  from unnest(h_id[1 : h_before], h_remaining, h_state, h_changed) x(id, remaining, state, changed)
                 where t.transfer_id = x.id and t.transfer_id = any (h_id) and x.changed;
            end if;
        end if;
    end if;
    if 5 = any (kinds) then
        insert into ledger.reversals (transfer_id, reversed_by)
        select x.refer, x.id from unnest(ids, kinds, refers, o_state) x(id, kind, refer, state)
         where x.kind = 5 and x.state is not null;
    end if;
    if no_count > 0 then
        insert into ledger.refusals (id, status, body)
        select x.id, x.status,
               ledger.body_of(x.kind, x.debit, x.credit, x.amount, x.flag, x.refer, x.remark, x.extra)
          from unnest(ids, statuses, kinds, asked_debits, asked_credits, wanted, flags, refers, remarks, extras, repeats)
               x(id, status, kind, debit, credit, amount, flag, refer, remark, extra, again)
         where x.status > 1 and not x.again
            on conflict do nothing;
    end if;

    moved := array_to_string(o_amount, ',');
    debit_balances := array_to_string(o_debit_balance, ',', '');
    credit_balances := array_to_string(o_credit_balance, ',', '');
end
$function$;
