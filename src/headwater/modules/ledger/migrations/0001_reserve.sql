-- ledger.reserve: one hold, if the account can bear it; false, and nothing happened, if it cannot. With ledger.release the
-- lean doors for one hold at a time, beside ledger.settle, whose comments say what it leaves to its caller.
--
-- id: a new one. amount: a whole number. credit: where the amount would go; this account is only looked at.
-- Locks: the debit account. PL/pgSQL prepares each expression anew in each transaction, and each statement costs what it
-- opens: that is why there are few of both.
-- Settings: see ledger.transfer.
create function ledger.reserve(id uuid, debit bigint, credit bigint, amount numeric) returns boolean
language plpgsql security definer
set search_path = pg_catalog, pg_temp
set enable_seqscan = off set enable_bitmapscan = off set plan_cache_mode = force_generic_plan
as $function$
#variable_conflict use_column
declare
    d record;
    said bytea;
begin
    loop
        select a.balance, a.held, a.version + 1 as version, a.head,
               greatest(clock_timestamp(), a.moved_at) as at, pg_current_xact_id()::text::bigint as xid,
               case when amount >= 1 and amount = trunc(amount) and debit <> credit and a.asset_id
                             = (select c.asset_id from ledger.accounts c where c.id = credit and c.closed_at is null)
                    then a.closed_at is null and a.held + amount < 1e38
                         and (a.credit_limit is null or a.balance - a.held + a.credit_limit >= amount) end as possible
          into d from ledger.accounts a where a.id = debit for no key update;
        exit when d.possible;
        if d.possible is null then
            raise exception 'ledger.reserve: % from % to % is malformed', amount, debit, credit
                using errcode = 'invalid_parameter_value';
        elsif d.held = 0 or ledger.expire_of(array[debit]) = 0 then  -- unless a hold is over that nobody has noticed
            return false;
        end if;
    end loop;
    said := ledger.words(
        reserve.id, debit, credit, d.version, null, d.at, d.xid, amount,
        record_send(row('pending'::text, null::numeric, null::uuid, null::uuid, null::text, null::jsonb)));
    insert into ledger.transfers values (
        reserve.id, debit, credit, d.version, null, d.at, d.xid, 'pending', (crc32c(said) - 2147483648)::integer, amount,
        d.balance, null, null, null, null, null, null);
    insert into headwater.change ("table", op, key, new, context) values (
        'ledger.transfers', 'i', jsonb_build_object('id', reserve.id),
        jsonb_build_object('id', reserve.id, 'debit_account_id', debit, 'credit_account_id', credit),
        ledger.context());
    update ledger.accounts a
       set held = a.held + amount, version = d.version, moved_at = d.at,
           head = ledger.head_after(d.head, ledger.entry(said), d.version)
     where a.id = debit;
    insert into ledger.holds values (reserve.id, debit, credit, amount, 'pending', null);
    return true;
end
$function$;

-- next
-- ledger.release: the end of one hold, which moves nothing. amount: what is left of it. A hold that is not what the caller
-- says raises: who calls this has decided it under a lock of his own.
create function ledger.release(id uuid, hold uuid, debit bigint, credit bigint, amount numeric) returns void
language plpgsql security definer
set search_path = pg_catalog, pg_temp
set enable_seqscan = off set enable_bitmapscan = off set plan_cache_mode = force_generic_plan
as $function$
#variable_conflict use_column
declare
    d record;
    said bytea;
begin
    select a.balance, a.version + 1 as version, a.head,
           greatest(clock_timestamp(), a.moved_at) as at, pg_current_xact_id()::text::bigint as xid
      into d from ledger.accounts a where a.id = debit for no key update;
    update ledger.holds h set remaining = 0, state = 'voided'
     where h.transfer_id = hold and h.state::text = 'pending'  -- the cast keeps the index of all pending holds out of it
       and h.debit_account_id = debit and h.credit_account_id = credit and h.remaining = amount
       and (h.expires_at is null or h.expires_at > d.at);
    if not found then
        raise exception 'ledger.release: the hold % is not what the caller says it is', hold using errcode = 'data_corrupted';
    end if;
    said := ledger.words(
        release.id, debit, credit, d.version, null, d.at, d.xid, amount,
        record_send(row('voided'::text, amount, hold, null::uuid, null::text, null::jsonb)));
    insert into ledger.transfers values (
        release.id, debit, credit, d.version, null, d.at, d.xid, 'voided', (crc32c(said) - 2147483648)::integer, amount,
        d.balance, null, amount, hold, null, null, null);
    insert into headwater.change ("table", op, key, new, context) values (
        'ledger.transfers', 'i', jsonb_build_object('id', release.id),
        jsonb_build_object('id', release.id, 'debit_account_id', debit, 'credit_account_id', credit),
        ledger.context());
    update ledger.accounts a
       set held = a.held - amount, version = d.version, moved_at = d.at,
           head = ledger.head_after(d.head, ledger.entry(said), d.version)
     where a.id = debit;
end
$function$;
