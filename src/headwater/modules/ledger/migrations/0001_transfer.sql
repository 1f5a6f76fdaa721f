-- ledger.transfer: one movement in the transaction of the caller, in one call. The same rules as ledger.post, whose
-- comments explain them, without its arrays; a test runs both against one model.
--
-- Locks: the rows of the two accounts in the order of their ids, FOR NO KEY UPDATE, before anything is decided.
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
    d record;
    c record;
    known record;
    at timestamptz;
    xid bigint;
    said bytea;
begin
    repeated := false;
    moved := 0;
    if id is null or amount is null or amount < 1 or amount >= 1e38 or amount <> trunc(amount) then
        raise exception 'ledger.transfer: id and a whole amount from 1 to below 1e38 are needed'
            using errcode = 'invalid_parameter_value';
    end if;
    if debit < credit then
        select a.asset_id, a.credit_limit, a.balance, a.held, a.version, a.head, a.moved_at, a.closed_at
          into d from ledger.accounts a where a.id = debit for no key update;
        select a.asset_id, a.credit_limit, a.balance, a.held, a.version, a.head, a.moved_at, a.closed_at
          into c from ledger.accounts a where a.id = credit for no key update;
    else
        select a.asset_id, a.credit_limit, a.balance, a.held, a.version, a.head, a.moved_at, a.closed_at
          into c from ledger.accounts a where a.id = credit for no key update;
        select a.asset_id, a.credit_limit, a.balance, a.held, a.version, a.head, a.moved_at, a.closed_at
          into d from ledger.accounts a where a.id = debit for no key update;
    end if;

    -- What was answered before is answered again.
    if exists (select from ledger.transfers t where t.id = transfer.id)
       or exists (select from ledger.refusals r where r.id = transfer.id) then
        select * into known from ledger.transfers t where t.id = transfer.id;
        if not found then
            select r.status, r.body into known from ledger.refusals r where r.id = transfer.id;
            repeated := known.body = ledger.body_of(1::smallint, debit, credit, amount, flags, null, reference, metadata);
            status := case when repeated then known.status else 1 end;
        elsif known.state = 'posted' and known.pending_id is null and known.reverses_id is null
              and known.debit_account_id = debit and known.credit_account_id = credit
              and (known.amount = amount or flags & 6 <> 0 and known.amount < amount)
              and known.reference is not distinct from reference and known.metadata is not distinct from metadata then
            status := 0;
            moved := known.amount;
            debit_balance := known.debit_balance_after;
            credit_balance := known.credit_balance_after;
            repeated := true;
        else
            status := 1;
        end if;
        return;
    end if;

    if debit = credit then
        status := 5;
    elsif d.version is null or c.version is null then
        status := 3;
    elsif d.asset_id <> c.asset_id then
        status := 4;
    elsif d.closed_at is not null or c.closed_at is not null then
        status := 6;
    else
        status := 0;
        moved := amount;
        if d.held > 0 and d.credit_limit is not null and d.balance - d.held + d.credit_limit < amount
           and ledger.expire_of(array[debit]) > 0 then
            select a.held, a.version, a.head into d.held, d.version, d.head from ledger.accounts a where a.id = debit;
        end if;
        if flags & 2 <> 0 and d.credit_limit is not null then
            moved := least(moved, d.balance - d.held + d.credit_limit);
        end if;
        if flags & 4 <> 0 then
            moved := least(moved, - c.balance);
        end if;
        if moved < 1 then
            status := 14;
        elsif d.credit_limit is not null and d.balance - d.held + d.credit_limit < moved then
            status := 2;
        elsif d.balance - moved <= -1e38 or c.balance + moved >= 1e38 then
            status := 13;
        end if;
    end if;

    if status <> 0 then
        moved := 0;
        insert into ledger.refusals (id, status, body)
        values (transfer.id, transfer.status,
                ledger.body_of(1::smallint, debit, credit, amount, flags, null, reference, metadata))
        on conflict do nothing;
        return;
    end if;

    at := greatest(clock_timestamp(), d.moved_at, c.moved_at);
    xid := pg_current_xact_id()::text::bigint;
    debit_balance := d.balance - moved;
    credit_balance := c.balance + moved;
    said := record_send(row(
        id, debit, credit, d.version + 1, c.version + 1, at, xid, 'posted'::text, moved,
        case when num_nonnulls(reference, metadata) > 0
             then record_send(row(null::numeric, null::uuid, null::uuid, reference, metadata)) end));
    with told as (
        insert into ledger.transfers values (
            id, debit, credit, d.version + 1, c.version + 1, at, xid, 'posted', (crc32c(said) - 2147483648)::integer,
            moved, debit_balance, credit_balance, null, null, null, reference, metadata)
        returning 1
    )
    insert into headwater.change ("table", op, key, new, context)
    select 'ledger.transfers', 'i', jsonb_build_object('id', id),
           jsonb_build_object('id', id, 'debit_account_id', debit, 'credit_account_id', credit), ledger.context()
      from told;
    update ledger.accounts a
       set balance = case when a.id = debit then debit_balance else credit_balance end,
           version = a.version + 1,
           head = ledger.head_after(a.head, case when a.id = debit then ledger.entry(said) else uuid_send(transfer.id) end,
                                    a.version + 1),
           moved_at = at
     where a.id = any (array[debit, credit]);
end
$function$;
