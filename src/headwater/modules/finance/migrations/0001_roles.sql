-- What a role of an application needs, and no more: it writes transactions and balances, and reads. The trail, the seals
-- and the accounts are written by the functions that these start; nobody else may call them.
create function finance.grant_to(role text) returns void language plpgsql as $function$
begin
    execute format('grant usage on schema finance to %I', role);
    execute format('grant select on all tables in schema finance to %I', role);
    execute format('grant insert, update on finance.transactions, finance.user_balances to %I', role);
    execute format('grant execute on function finance.distribute_yield(uuid, text, numeric, text), '
                   'finance.open_currency(text, smallint), finance.seal(), finance.told(finance.transactions), '
                   'finance.entry_hash(uuid, bigint, uuid, timestamptz, text, text, jsonb, jsonb, bytea), '
                   'finance.root_of(uuid[], bigint[], bytea[]), '
                   'finance.digest_of(bigint, bigint, bytea, bytea, timestamptz) to %I', role);
end
$function$;

-- next
revoke execute on all functions in schema finance from public;
