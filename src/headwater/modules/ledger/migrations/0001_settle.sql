-- ledger.settle: movements that a module has decided under its own locks, all of them or none. The lean door beside
-- ledger.post: nothing is refused and remembered, a command that cannot be done raises and takes its transaction along.
--
-- accounts: every account that the commands name, sorted and without repetition; debits and credits are places in it.
-- kinds: 1 move, 2 hold, 3 post a part of a hold (the rest stays held), 4 void what is left of a hold.
-- amounts: whole numbers; of a void, what is left of the hold. holds: the hold of 3 and 4, made by an earlier call.
-- ids: new ones. One that a transfer has already is refused by the primary key.
--
-- Locks: the accounts in the order of ids, by one statement, before anything is decided. Overdue holds of others on
-- these accounts stay as they are: they are released by whoever lacks what they hold.
-- Settings: see ledger.post. What a caller has set for its own plans does not reach these.
create function ledger.settle(
    accounts bigint[], ids uuid[], kinds smallint[], debits integer[], credits integer[], amounts numeric[], holds uuid[]
) returns void
language plpgsql security definer
set search_path = pg_catalog, pg_temp
set enable_seqscan = off set enable_bitmapscan = off set enable_nestloop = off set enable_mergejoin = off
set enable_sort = on
as $function$
declare
    n integer := cardinality(ids);
    a_asset integer[];
    a_limit numeric[];
    a_balance numeric[];
    a_held numeric[];
    a_version bigint[];
    a_head bytea[];
    a_closed boolean[];
    a_before bigint[];
    o_debit_version bigint[];
    o_credit_version bigint[] := array_fill(null::bigint, array[n]);
    o_debit_balance numeric[];
    o_credit_balance numeric[] := array_fill(null::numeric, array[n]);
    o_checksum integer[];
    late timestamptz;
    at timestamptz;
    xid bigint := pg_current_xact_id()::text::bigint;
    context jsonb := ledger.context();
    posted text := 'posted';
    k smallint;
    d integer;
    c integer;
    amount numeric;
    said bytea;
    held integer := 0;
    freed integer := 0;
    freed_at integer;               -- which command, if it is one
    wrong boolean;
begin
    select array_agg(x.asset_id), array_agg(x.credit_limit), array_agg(x.balance), array_agg(x.held),
           array_agg(x.version), array_agg(x.head), array_agg(x.closed_at is not null), max(x.moved_at),
           array_agg(x.id) is distinct from accounts
      into a_asset, a_limit, a_balance, a_held, a_version, a_head, a_closed, late, wrong
      from (select a.id, a.asset_id, a.credit_limit, a.balance, a.held, a.version, a.head, a.closed_at, a.moved_at
              from ledger.accounts a where a.id = any (accounts) order by a.id for no key update) x;
    if wrong then
        raise exception 'ledger.settle: the accounts must be there, sorted, each once'
            using errcode = 'invalid_parameter_value';
    end if;
    a_before := a_version;
    at := greatest(clock_timestamp(), late);

    for i in 1 .. n loop
        k := kinds[i];
        d := debits[i];
        c := credits[i];
        amount := amounts[i];
        if d = c or a_asset[d] is null or a_asset[d] is distinct from a_asset[c] or amount is null or amount < 1
           or amount <> trunc(amount) or k not between 1 and 4 or (holds[i] is null) <> (k < 3) then
            raise exception 'ledger.settle: command % is malformed', i using errcode = 'invalid_parameter_value';
        end if;
        if k < 3 then
            wrong := a_balance[d] - a_held[d] + a_limit[d] < amount or a_closed[d] or a_closed[c];
        else
            wrong := a_held[d] < amount or k = 3 and (a_closed[d] or a_closed[c]);
            a_held[d] := a_held[d] - amount;
            freed := freed + 1;
            freed_at := i;
        end if;
        a_version[d] := a_version[d] + 1;
        o_debit_version[i] := a_version[d];
        if k = 1 or k = 3 then
            a_balance[d] := a_balance[d] - amount;
            a_balance[c] := a_balance[c] + amount;
            a_version[c] := a_version[c] + 1;
            o_credit_version[i] := a_version[c];
            o_credit_balance[i] := a_balance[c];
            if wrong or a_balance[d] <= -1e38 or a_balance[c] >= 1e38 then
                raise exception 'ledger.settle: command % cannot be done', i using errcode = 'data_corrupted';
            end if;
            o_debit_balance[i] := a_balance[d];
            said := ledger.words(
                ids[i], accounts[d], accounts[c], a_version[d], a_version[c], at, xid, amount,
                case when k = 3
                     then record_send(row(posted, amount, holds[i], null::uuid, null::text, null::jsonb)) end);
            a_head[c] := ledger.head_after(a_head[c], uuid_send(ids[i]), a_version[c]);
        else
            if k = 2 then
                a_held[d] := a_held[d] + amount;
                held := held + 1;
                wrong := wrong or a_held[d] >= 1e38;
            end if;
            if wrong then
                raise exception 'ledger.settle: command % cannot be done', i using errcode = 'data_corrupted';
            end if;
            o_debit_balance[i] := a_balance[d];
            said := ledger.words(
                ids[i], accounts[d], accounts[c], a_version[d], null, at, xid, amount,
                record_send(row(case when k = 2 then 'pending'::text else 'voided' end,
                                case when k = 4 then amount end, holds[i], null::uuid, null::text, null::jsonb)));
        end if;
        o_checksum[i] := crc32c(said) - 2147483648;
        a_head[d] := ledger.head_after(a_head[d], ledger.entry(said), a_version[d]);
    end loop;

    with told as (
        insert into ledger.transfers
        select x.id, accounts[x.debit], accounts[x.credit], x.debit_version, x.credit_version, at, xid,
               ('{posted,pending,posted,voided}'::ledger.transfer_state[])[x.kind],
               x.checksum, x.amount, x.debit_balance, x.credit_balance,
               case when x.kind > 2 then x.amount end, x.hold, null, null, null
          from unnest(ids, kinds, debits, credits, o_debit_version, o_credit_version, amounts, o_debit_balance,
                      o_credit_balance, o_checksum, holds)
               x(id, kind, debit, credit, debit_version, credit_version, amount, debit_balance, credit_balance,
                 checksum, hold)
        returning id, debit_account_id, credit_account_id
    )
    insert into headwater.change ("table", op, key, new, context)
    select 'ledger.transfers', 'i', jsonb_build_object('id', t.id),
           jsonb_build_object('id', t.id, 'debit_account_id', t.debit_account_id,
                              'credit_account_id', t.credit_account_id), context
      from told t;
    update ledger.accounts a
       set balance = x.balance, held = x.held, version = x.version, head = x.head, moved_at = at
      from unnest(accounts, a_balance, a_held, a_version, a_head, a_before)
           x(id, balance, held, version, head, before)
     where a.id = x.id and a.id = any (accounts) and x.version <> x.before;
    if held > 0 then
        insert into ledger.holds (transfer_id, debit_account_id, credit_account_id, remaining, state)
        select x.id, accounts[x.debit], accounts[x.credit], x.amount, 'pending'
          from unnest(ids, kinds, debits, credits, amounts) x(id, kind, debit, credit, amount)
         where x.kind = 2;
    end if;
    if freed = 1 then  -- the same for one, without a join
        update ledger.holds t
           set remaining = t.remaining - amounts[freed_at],
               state = case when kinds[freed_at] = 4 then 'voided' when t.remaining > amounts[freed_at] then 'pending'
                            else 'posted' end::ledger.transfer_state
         where t.transfer_id = holds[freed_at] and t.state::text = 'pending'
           and t.debit_account_id = accounts[debits[freed_at]] and t.credit_account_id = accounts[credits[freed_at]]
           and (t.expires_at is null or t.expires_at > at)
           and case when kinds[freed_at] = 4 then t.remaining = amounts[freed_at]
                    else t.remaining >= amounts[freed_at] end;
        if not found then
            raise exception 'ledger.settle: a hold is not what the commands say it is' using errcode = 'data_corrupted';
        end if;
    elsif freed > 1 then
        with done as (
            update ledger.holds t
               set remaining = t.remaining - x.amount,
                   state = case when x.voided then 'voided' when t.remaining > x.amount then 'pending'
                                else 'posted' end::ledger.transfer_state
              from (select f.hold, sum(f.amount) as amount, bool_or(f.kind = 4) as voided, count(*) as parts,
                           min(f.debit) as debit, max(f.debit) as debit_too,
                           min(f.credit) as credit, max(f.credit) as credit_too
                      from unnest(holds, kinds, debits, credits, amounts) f(hold, kind, debit, credit, amount)
                     where f.hold is not null group by f.hold) x
             where t.transfer_id = x.hold and t.transfer_id = any (holds)
               and t.state::text = 'pending'  -- the cast keeps the index of all pending holds out of it
               and x.debit = x.debit_too and t.debit_account_id = accounts[x.debit]
               and x.credit = x.credit_too and t.credit_account_id = accounts[x.credit]
               and (t.expires_at is null or t.expires_at > at)
               and case when x.voided then t.remaining = x.amount else t.remaining >= x.amount end
            returning x.parts
        )
        select coalesce(sum(done.parts), 0) <> freed into wrong from done;
        if wrong then
            raise exception 'ledger.settle: a hold is not what the commands say it is' using errcode = 'data_corrupted';
        end if;
    end if;
end
$function$;
