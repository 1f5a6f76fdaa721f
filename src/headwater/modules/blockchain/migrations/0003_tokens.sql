-- FODI in the ledger. Whoever writes wallets or fodi_transactions, by whatever means, moves tokens: each statement is
-- booked by one call of ledger.post in its own transaction, and each balance that the ledger changes is written to its
-- wallet there and then. Nothing here decides about money; the ledger does.
--
-- Locks: the rows of the statement, then the accounts in the order of their ids (ledger.post), then the wallets of those
-- accounts, each of which nobody changes without its account. Two statements of one row each cannot wait for each other.
-- The functions run with the rights of their owner, so that an application's role needs no right to write the ledger.
-- The ledger account of a wallet; without one, the issuer's. In PL/pgSQL, which keeps its plan: an SQL function is
-- planned at each call, which cost more than everything else of a transfer.
create function blockchain.fodi_account(wallet_id uuid) returns bigint
language plpgsql stable security definer
set search_path = pg_catalog, pg_temp
as $function$
declare
    found_id bigint;
begin
    select a.id into found_id
      from ledger.accounts a
     where a.owner_kind = case when wallet_id is null then 'system' else 'wallet' end
       and a.owner_id = coalesce(wallet_id, '00000000-0000-0000-0000-000000000000')
       and a.asset_id + 0 = (select s.id from ledger.assets s where s.code = 'FODI')  -- found by its owner
       and a.purpose = case when wallet_id is null then 'issuance' else 'main' end;
    return found_id;
end
$function$;

-- next
-- A row that was planted by `headwater seed`: the only history that may go again.
create function blockchain.is_seeded(id uuid) returns boolean
language sql immutable
return id between '5eed0000-0000-8000-8000-000000000000' and '5eedffff-ffff-8fff-bfff-ffffffffffff'
       and uuid_extract_version(id) = 8;

-- next
-- A new wallet has an account in the ledger. One that is inserted with a balance brings it along: it is minted.
-- The first wallet brings the asset, and the issuer: the one account that may owe, and what it owes is the supply.
create function blockchain.open_wallets() returns trigger
language plpgsql security definer
set search_path = pg_catalog, pg_temp
as $function$
begin
    if not exists (select from ledger.assets where code = 'FODI') then
        insert into ledger.assets (code, scale) values ('FODI', 9) on conflict do nothing;
    end if;
    if blockchain.fodi_account(null) is null then
        insert into ledger.accounts (asset_id, owner_kind, owner_id, purpose, credit_limit)
        select s.id, 'system', '00000000-0000-0000-0000-000000000000', 'issuance', null
          from ledger.assets s where s.code = 'FODI'
            on conflict do nothing;
    end if;
    insert into ledger.accounts (asset_id, owner_kind, owner_id, purpose, credit_limit)
    select s.id, 'wallet', f.id, 'main', 0 from fresh f, ledger.assets s where s.code = 'FODI' order by f.id
        on conflict do nothing;
    insert into blockchain.fodi_transactions (tx_id, to_address, amount, tx_type, status)
    select 'opening:' || f.id, f.public_key, f.balance, 'mint', 'confirmed' from fresh f where f.balance > 0;
    return null;
end
$function$;

-- next
create trigger wallets_open after insert on blockchain.wallets referencing new table as fresh
    for each statement execute function blockchain.open_wallets();

-- next
-- The ledger has changed a balance: the wallet says the same, in the same transaction.
create function blockchain.balance_wallet() returns trigger
language plpgsql security definer
set search_path = pg_catalog, pg_temp
as $function$
begin
    update blockchain.wallets w
       set balance = new.balance, last_sync = new.moved_at
     where w.id = new.owner_id
       and new.asset_id = (select s.id from ledger.assets s where s.code = 'FODI');
    return null;
end
$function$;

-- next
create trigger blockchain_wallet after update on ledger.accounts
    for each row when (new.owner_kind = 'wallet' and new.purpose = 'main' and new.balance <> old.balance)
    execute function blockchain.balance_wallet();

-- next
-- What a wallet is stays, and its balance is what the ledger says.
create function blockchain.guard_wallet() returns trigger
language plpgsql security definer
set search_path = pg_catalog, pg_temp
as $function$
declare
    account ledger.accounts;
begin
    if tg_op = 'UPDATE' and (new.id <> old.id or new.public_key <> old.public_key) then
        raise exception 'blockchain.wallets: the wallet % keeps its id and its public key', old.public_key
            using errcode = 'object_not_in_prerequisite_state', hint = 'Make another wallet.';
    end if;
    if tg_op = 'UPDATE' and new.balance = old.balance then
        return new;
    end if;
    select a.* into account from ledger.accounts a where a.id = blockchain.fodi_account(old.id);
    if tg_op = 'UPDATE' then
        if new.balance <> account.balance then
            raise exception 'blockchain.wallets: the balance of % is % in the ledger and cannot be set to %',
                old.public_key, account.balance, new.balance
                using errcode = 'object_not_in_prerequisite_state',
                      hint = 'Move tokens: insert a row into blockchain.fodi_transactions.';
        end if;
        return new;
    end if;
    if account.held > 0 or account.balance > 0 and not blockchain.is_seeded(old.id) then
        raise exception 'blockchain.wallets: % holds % units of FODI and cannot be removed', old.public_key, account.balance
            using errcode = 'object_not_in_prerequisite_state', hint = 'Transfer or burn them first.';
    end if;
    return old;
end
$function$;

-- next
create trigger wallets_guard before update of id, public_key, balance or delete on blockchain.wallets
    for each row execute function blockchain.guard_wallet();

-- next
-- What a seeded wallet still had when it was removed goes back to the issuer.
create function blockchain.close_wallets() returns trigger
language plpgsql security definer
set search_path = pg_catalog, pg_temp
as $function$
declare
    left_over record;
    answer record;
begin
    select array_agg(uuidv7()) as ids,
           array_agg(1::smallint) as kinds,
           array_agg(a.id order by a.id) as debits,
           array_agg(blockchain.fodi_account(null)) as credits,
           string_agg(a.balance::text, ',' order by a.id) as amounts,
           array_agg(0::smallint) as flags,
           array_agg('a seeded wallet is removed'::text) as remarks
      into left_over
      from gone g
     cross join lateral (select * from ledger.accounts a where a.id = blockchain.fodi_account(g.id) offset 0) a
     where a.balance > 0;
    if left_over.ids is not null then
        select * into answer
          from ledger.post(left_over.ids, left_over.kinds, left_over.debits, left_over.credits, left_over.amounts,
                           left_over.flags, null, null, left_over.remarks, null);
        if 0 <> any (answer.statuses) then
            raise exception 'blockchain.wallets: the ledger does not take back what was left (%)', answer.statuses
                using errcode = 'object_not_in_prerequisite_state';
        end if;
    end if;
    return null;
end
$function$;

-- next
create trigger wallets_close after delete on blockchain.wallets referencing old table as gone
    for each statement execute function blockchain.close_wallets();

-- next
-- Who takes part in a transaction: wallets, found by their addresses. The issuer is nobody's wallet: what stands as the
-- sender of a mint or the receiver of a burn is a remark.
create function blockchain.address_fodi_transaction() returns trigger
language plpgsql security definer
set search_path = pg_catalog, pg_temp
as $function$
begin
    new.transfer_id := uuidv7();
    new.from_wallet_id := null;
    new.to_wallet_id := null;
    if new.tx_type <> 'mint' then
        select w.id into new.from_wallet_id from blockchain.wallets w where w.public_key = new.from_address;
    end if;
    if new.tx_type <> 'burn' then
        select w.id into new.to_wallet_id from blockchain.wallets w where w.public_key = new.to_address;
    end if;
    if new.from_wallet_id is null and new.tx_type in ('transfer', 'burn') then
        raise exception 'blockchain.fodi_transactions: no wallet has the address % that the % % comes from',
            coalesce(new.from_address, 'NULL'), new.tx_type, new.tx_id
            using errcode = 'foreign_key_violation', schema = 'blockchain', table = 'fodi_transactions',
                  constraint = 'fodi_transactions_from_wallet_id_fkey',
                  hint = 'Insert a row into blockchain.wallets first, or correct the address.';
    end if;
    if new.to_wallet_id is null and new.tx_type <> 'burn' then
        raise exception 'blockchain.fodi_transactions: no wallet has the address % that the % % goes to',
            coalesce(new.to_address, 'NULL'), new.tx_type, new.tx_id
            using errcode = 'foreign_key_violation', schema = 'blockchain', table = 'fodi_transactions',
                  constraint = 'fodi_transactions_to_wallet_id_fkey',
                  hint = 'Insert a row into blockchain.wallets first, or correct the address.';
    end if;
    if new.status = 'confirmed' and new.confirmed_at is null then
        new.confirmed_at := now();
    end if;
    return new;
end
$function$;

-- next
create trigger fodi_transactions_address before insert on blockchain.fodi_transactions
    for each row execute function blockchain.address_fodi_transaction();

-- next
-- A transaction changes once: from pending to confirmed or failed. Everything else about it is history.
create function blockchain.guard_fodi_transaction() returns trigger
language plpgsql security definer
set search_path = pg_catalog, pg_temp
as $function$
declare
    said text := format('blockchain.fodi_transactions: the transaction %s', old.tx_id);
begin
    if tg_op = 'DELETE' then
        if old.status <> 'failed' and not blockchain.is_seeded(old.id) then
            raise exception '% is % and cannot be removed', said, old.status
                using errcode = 'object_not_in_prerequisite_state',
                      hint = 'Fail it while it is pending; move the tokens back by another transaction after that.';
        elsif old.status = 'pending' then
            perform ledger.post(array[uuidv7()], '{4}', '{null}', '{null}', '0', '{0}', array[old.transfer_id], null,
                                array['a seeded transaction is removed'], null);
        end if;
        return old;
    end if;
    if (new.id, new.tx_id, new.amount, new.tx_type, new.created_at, new.transfer_id)
           is distinct from (old.id, old.tx_id, old.amount, old.tx_type, old.created_at, old.transfer_id)
       or (new.from_address, new.to_address, new.from_wallet_id, new.to_wallet_id)
           is distinct from (old.from_address, old.to_address, old.from_wallet_id, old.to_wallet_id) then
        raise exception '% is history: only its status, blockchain_tx and confirmed_at change', said
            using errcode = 'object_not_in_prerequisite_state', hint = 'Fail it, and make another one.';
    end if;
    if new.status <> old.status then
        if old.status <> 'pending' then
            raise exception '% is % and cannot become %', said, old.status, new.status
                using errcode = 'object_not_in_prerequisite_state',
                      hint = 'That is final. Move tokens by a transaction of its own.';
        end if;
        if new.status = 'confirmed' and new.confirmed_at is null then
            new.confirmed_at := now();
        end if;
    end if;
    return new;
end
$function$;

-- next
create trigger fodi_transactions_guard before update or delete on blockchain.fodi_transactions
    for each row execute function blockchain.guard_fodi_transaction();

-- next
-- What the ledger refuses ends the statement, in words that name the transaction.
create function blockchain.refuse_fodi(tx_id text, account_id bigint, amount numeric, status smallint) returns void
language plpgsql security definer
set search_path = pg_catalog, pg_temp
as $function$
declare
    account ledger.accounts;
begin
    select a.* into account from ledger.accounts a where a.id = account_id;
    if status = 2 then
        raise exception 'blockchain.fodi_transactions: % needs % units of FODI and the sender can spend %',
            tx_id, amount, account.balance - account.held
            using errcode = 'object_not_in_prerequisite_state', column = 'amount',
                  hint = 'Send less, or wait for what is on its way. Pending transactions hold what they will send.';
    end if;
    raise exception 'blockchain.fodi_transactions: the ledger refuses % (status %)', tx_id, status
        using errcode = 'object_not_in_prerequisite_state';
end
$function$;

-- next
-- New transactions: a pending one is a hold, a confirmed one a transfer, a failed one nothing. One call per statement.
create function blockchain.book_fodi_transactions() returns trigger
language plpgsql security definer
set search_path = pg_catalog, pg_temp
as $function$
declare
    wanted record;
    answer record;
    wrong int;
begin
    select array_agg(x.tx_id order by x.place) as tx_ids,
           array_agg(x.transfer_id order by x.place) as ids,
           array_agg((case x.status when 'pending' then 2 else 1 end)::smallint order by x.place) as kinds,
           array_agg(case x.tx_type when 'mint' then blockchain.fodi_account(null)
                                    else blockchain.fodi_account(x.from_wallet_id) end order by x.place) as debits,
           array_agg(case x.tx_type when 'burn' then blockchain.fodi_account(null)
                                    else blockchain.fodi_account(x.to_wallet_id) end order by x.place) as credits,
           string_agg(x.amount::text, ',' order by x.place) as amounts,
           array_agg(x.amount order by x.place) as single_amounts,
           array_agg(0::smallint) as flags
      into wanted
      from (select f.*, row_number() over () as place from fresh f where f.status <> 'failed') x;
    if wanted.ids is null then
        return null;
    end if;
    select * into answer
      from ledger.post(wanted.ids, wanted.kinds, wanted.debits, wanted.credits, wanted.amounts, wanted.flags,
                       null, null, wanted.tx_ids, null);
    select i into wrong
      from unnest(answer.statuses, answer.repeats) with ordinality as x(status, again, i)
     where status <> 0 or again order by i limit 1;
    if wrong is not null then
        perform blockchain.refuse_fodi(wanted.tx_ids[wrong], wanted.debits[wrong], wanted.single_amounts[wrong],
                                       answer.statuses[wrong]);
    end if;
    return null;
end
$function$;

-- next
create trigger fodi_transactions_book after insert on blockchain.fodi_transactions referencing new table as fresh
    for each statement execute function blockchain.book_fodi_transactions();

-- next
-- Transactions that were pending: confirmed posts the hold, failed releases it. One call per statement.
create function blockchain.settle_fodi_transactions() returns trigger
language plpgsql security definer
set search_path = pg_catalog, pg_temp
as $function$
declare
    wanted record;
    answer record;
    wrong int;
begin
    select array_agg(n.tx_id order by n.id) as tx_ids,
           array_agg(n.transfer_id order by n.id) as holds,
           array_agg(uuidv7()) as ids,
           array_agg((case n.status when 'confirmed' then 3 else 4 end)::smallint order by n.id) as kinds,
           array_agg(blockchain.fodi_account(n.from_wallet_id) order by n.id) as debits,
           array_agg(n.amount order by n.id) as single_amounts,
           string_agg('0', ',') as amounts,
           array_agg(0::smallint) as flags,
           array_agg(null::bigint) as nobody
      into wanted
      from fresh n join stale o on o.id = n.id where o.status = 'pending' and n.status <> 'pending';
    if wanted.ids is null then
        return null;
    end if;
    select * into answer
      from ledger.post(wanted.ids, wanted.kinds, wanted.nobody, wanted.nobody, wanted.amounts, wanted.flags,
                       wanted.holds, null, wanted.tx_ids, null);
    -- A hold that has expired, or was ended in the ledger itself, has failed already.
    select i into wrong
      from unnest(answer.statuses, wanted.kinds) with ordinality as x(status, kind, i)
     where status <> 0 and not (kind = 4 and status in (9, 10)) and not (kind = 3 and status = 8)
     order by i limit 1;
    if wrong is not null then
        perform blockchain.refuse_fodi(wanted.tx_ids[wrong], wanted.debits[wrong], wanted.single_amounts[wrong],
                                       answer.statuses[wrong]);
    end if;
    return null;
end
$function$;

-- next
create trigger fodi_transactions_settle after update on blockchain.fodi_transactions
    referencing old table as stale new table as fresh
    for each statement execute function blockchain.settle_fodi_transactions();

-- next
-- Tables that tell of tokens are not emptied; those that tell of none may be, as by TRUNCATE users CASCADE.
create function blockchain.guard_truncate() returns trigger
language plpgsql security definer
set search_path = pg_catalog, pg_temp
as $function$
begin
    if exists (select from blockchain.fodi_transactions) or exists (select from blockchain.wallets where balance > 0) then
        raise exception '%.% is history: it is not truncated', tg_table_schema, tg_table_name
            using errcode = 'object_not_in_prerequisite_state',
                  hint = 'Remove rows one by one; what the ledger still counts is refused.';
    end if;
    return null;
end
$function$;

-- next
create trigger wallets_truncate before truncate on blockchain.wallets
    for each statement execute function blockchain.guard_truncate();

-- next
create trigger fodi_transactions_truncate before truncate on blockchain.fodi_transactions
    for each statement execute function blockchain.guard_truncate();
