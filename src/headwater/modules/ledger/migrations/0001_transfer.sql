-- ledger.transfer: one movement in the transaction of the caller, in one call. A movement that nothing speaks against is
-- made here, by three statements: each one costs a call as much as what it does. Everything else (an id that was
-- answered before, whatever is refused, amounts "up to", overdue holds) is a batch of one for ledger.post.
--
-- Locks: the rows of the two accounts in the order of their ids, FOR NO KEY UPDATE, before anything is decided: LockRows
-- locks the tables of a row in the order in which they are named.
-- Settings: the plans are pinned. Each statement finds its rows through an index whatever the statistics say: a plan made
-- while a table was small, kept by a session while it grew, cost a factor of 20.
create function ledger.transfer(
    in id uuid, in debit bigint, in credit bigint, in amount numeric, in flags smallint, in reference text,
    in metadata jsonb,
    out status smallint, out moved numeric, out debit_balance numeric, out credit_balance numeric, out repeated boolean
)
language plpgsql security definer
set search_path = pg_catalog, pg_temp set enable_seqscan = off set enable_bitmapscan = off
as $function$
declare
    plain boolean;
    debit_version bigint;
    credit_version bigint;
    at timestamptz;
    xid bigint;
    said bytea;
begin
    if debit < credit then
        select d.version + 1, c.version + 1, greatest(d.moved_at, c.moved_at), d.balance - amount, c.balance + amount,
               amount >= 1 and amount < 1e38 and amount = trunc(amount) and flags & 6 = 0
               and d.asset_id = c.asset_id and d.closed_at is null and c.closed_at is null
               and (d.credit_limit is null or d.balance - d.held + d.credit_limit >= amount)
               and d.balance - amount > -1e38 and c.balance + amount < 1e38
          into debit_version, credit_version, at, debit_balance, credit_balance, plain
          from ledger.accounts d, ledger.accounts c where d.id = debit and c.id = credit for no key update;
    elsif debit > credit then
        select d.version + 1, c.version + 1, greatest(d.moved_at, c.moved_at), d.balance - amount, c.balance + amount,
               amount >= 1 and amount < 1e38 and amount = trunc(amount) and flags & 6 = 0
               and d.asset_id = c.asset_id and d.closed_at is null and c.closed_at is null
               and (d.credit_limit is null or d.balance - d.held + d.credit_limit >= amount)
               and d.balance - amount > -1e38 and c.balance + amount < 1e38
          into debit_version, credit_version, at, debit_balance, credit_balance, plain
          from ledger.accounts c, ledger.accounts d where d.id = debit and c.id = credit for no key update;
    end if;
    if plain then
        at := greatest(clock_timestamp(), at);
        xid := pg_current_xact_id()::text::bigint;
        said := ledger.words(
            id, debit, credit, debit_version, credit_version, at, xid, amount,
            case when num_nonnulls(reference, metadata) > 0
                 then record_send(row('posted'::text, null::numeric, null::uuid, null::uuid, reference, metadata)) end);
        -- What was answered before is not done again. Whoever answers an id has locked its accounts, so that this
        -- statement sees it; an id that another call, with other accounts, takes meanwhile is refused by the primary key.
        with told as (
            insert into ledger.transfers
            select id, debit, credit, debit_version, credit_version, at, xid, 'posted',
                   (crc32c(said) - 2147483648)::integer, amount, debit_balance, credit_balance,
                   null, null, null, reference, metadata
             where not exists (select from ledger.transfers t where t.id = transfer.id)
               and not exists (select from ledger.refusals r where r.id = transfer.id)
            returning 1
        )
        insert into headwater.change ("table", op, key, new, context)
        select 'ledger.transfers', 'i', jsonb_build_object('id', id),
               jsonb_build_object('id', id, 'debit_account_id', debit, 'credit_account_id', credit), ledger.context()
          from told;
        if found then
            update ledger.accounts a
               set balance = case when a.id = debit then debit_balance else credit_balance end,
                   version = a.version + 1,
                   head = ledger.head_after(a.head, case when a.id = debit then ledger.entry(said)
                                                         else uuid_send(transfer.id) end, a.version + 1),
                   moved_at = at
             where a.id = any (array[debit, credit]);
            status := 0;
            moved := amount;
            repeated := false;
            return;
        end if;
    end if;
    if id is null or amount is null or amount < 1 or amount >= 1e38 or amount <> trunc(amount) then
        raise exception 'ledger.transfer: id and a whole amount from 1 to below 1e38 are needed'
            using errcode = 'invalid_parameter_value';
    end if;
    select p.statuses[1], p.moved::numeric, nullif(p.debit_balances, '')::numeric,
           nullif(p.credit_balances, '')::numeric, p.repeats[1]
      into status, moved, debit_balance, credit_balance, repeated
      from ledger.post(array[id], array[1::smallint], array[debit], array[credit], amount::text, array[flags & 14::smallint],
                       null, null, array[reference], array[metadata]) p;
end
$function$;
