-- When a version of an account was made, and the balance after it: it is on one side of one transfer.
create function ledger.version_of(
    in account bigint, in wanted bigint, out at timestamptz, out balance numeric
) language plpgsql stable parallel safe
set search_path = pg_catalog, pg_temp set enable_seqscan = off set enable_bitmapscan = off
as $function$
begin
    select t.created_at, t.debit_balance_after into at, balance
      from ledger.transfers t where t.debit_account_id = account and t.debit_version = wanted;
    if not found then
        select t.created_at, t.credit_balance_after into at, balance
          from ledger.transfers t where t.credit_account_id = account and t.credit_version = wanted;
    end if;
end
$function$;

-- next
-- The balance of an account at an instant. The versions of an account are in the order of time, so that the last one
-- until then is found by halving: a handful of looks, however long the history.
create function ledger.balance_at(account bigint, instant timestamptz) returns numeric
language plpgsql stable parallel safe
set search_path = pg_catalog, pg_temp
as $function$
declare
    low bigint := 0;
    high bigint;
    middle bigint;
    seen record;
    found_balance numeric := 0;
begin
    select a.version into high from ledger.accounts a where a.id = account;
    if high is null then
        return null;
    end if;
    while low < high loop
        middle := (low + high + 1) / 2;
        select * into seen from ledger.version_of(account, middle);
        if seen.at <= instant then
            low := middle;
            found_balance := seen.balance;
        else
            high := middle - 1;
        end if;
    end loop;
    return found_balance;
end
$function$;
