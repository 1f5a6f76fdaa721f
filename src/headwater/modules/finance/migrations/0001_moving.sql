-- Moving money: an INSERT into finance.transactions is the command, and these triggers carry it out in the ledger.
-- Locks: the accounts of all who take part, in the order of their ids, by one statement, before anything is decided.
-- Settings: the plans are pinned to look-ups by key; one made while a table was small, kept by a session while it grew,
-- reads the table for each transaction.
create function finance.part_of(id uuid, part text) returns uuid language plpgsql immutable
set search_path = pg_catalog, pg_temp
as $function$
begin
    return md5(id::text || '/' || part)::uuid;
end
$function$;

-- next
-- A currency: its asset, the asset of its shares, and the account that pays yield, which has no limit (what it is short
-- of is what was paid). Opening it again changes nothing; another scale is refused.
create function finance.open_currency(code text, scale smallint) returns void
language plpgsql security definer set search_path = pg_catalog, pg_temp
as $function$
begin
    insert into ledger.assets (code, scale)
    values (open_currency.code, open_currency.scale), (open_currency.code || '.shares', open_currency.scale)
    on conflict on constraint assets_code_key do nothing;
    if exists (select from ledger.assets a where a.code = open_currency.code and a.scale <> open_currency.scale) then
        raise exception 'finance: the currency % has another scale', code
            using errcode = 'object_not_in_prerequisite_state', hint = 'A scale is declared once.';
    end if;
    insert into ledger.accounts (asset_id, owner_kind, owner_id, purpose)
    select a.id, 'finance', '00000000-0000-0000-0000-000000000000', 'yield'
      from ledger.assets a where a.code = open_currency.code
    on conflict on constraint accounts_owner_kind_owner_id_asset_id_purpose_key do nothing;
end
$function$;

-- next
-- The account from which yield in this currency is paid. `asset_id + 0`: see finance.holder.
create function finance.yield_account(currency text) returns bigint
language sql stable security definer
set search_path = pg_catalog, pg_temp set enable_seqscan = off set enable_bitmapscan = off
as $function$
    select a.id from ledger.accounts a
     where a.owner_kind = 'finance' and a.owner_id = '00000000-0000-0000-0000-000000000000'
       and a.asset_id + 0 = (select s.id from ledger.assets s where s.code = currency) and a.purpose = 'yield'
$function$;

-- next
-- The holder of this user and currency, made with its four accounts when there is none yet. US dollars need no opening.
-- `asset_id + 0`: before the first ANALYZE the index on asset_id alone looks as good as the key, and reads every account.
create function finance.holder(of_user uuid, of_currency text) returns finance.holders
language plpgsql security definer
set search_path = pg_catalog, pg_temp set enable_seqscan = off set enable_bitmapscan = off
as $function$
declare
    found_one finance.holders;
    money int;
    share int;
begin
    select * into found_one from finance.holders h where h.user_id = of_user and h.currency = of_currency;
    if found then
        return found_one;
    end if;
    if finance.yield_account(of_currency) is null and of_currency = 'USD' then
        perform finance.open_currency('USD', 2::smallint);
    elsif finance.yield_account(of_currency) is null then
        raise exception 'finance: there is no currency %', coalesce(of_currency, 'without a name')
            using errcode = 'object_not_in_prerequisite_state', hint = 'Open it with open_currency.';
    end if;
    select a.id into money from ledger.assets a where a.code = of_currency;
    select a.id into share from ledger.assets a where a.code = of_currency || '.shares';
    insert into ledger.accounts (asset_id, owner_kind, owner_id, purpose, credit_limit)
    values (money, 'finance', of_user, 'outside', null), (money, 'user', of_user, 'savings', 0),
           (share, 'finance', of_user, 'issued', null), (share, 'user', of_user, 'savings', 0)
    on conflict on constraint accounts_owner_kind_owner_id_asset_id_purpose_key do nothing;
    insert into finance.holders (user_id, currency, savings_account_id, shares_account_id, outside_account_id,
                                 issued_account_id)
    values (of_user, of_currency,
            (select a.id from ledger.accounts a where a.owner_kind = 'user' and a.owner_id = of_user
                and a.asset_id + 0 = money and a.purpose = 'savings'),
            (select a.id from ledger.accounts a where a.owner_kind = 'user' and a.owner_id = of_user
                and a.asset_id + 0 = share and a.purpose = 'savings'),
            (select a.id from ledger.accounts a where a.owner_kind = 'finance' and a.owner_id = of_user
                and a.asset_id + 0 = money and a.purpose = 'outside'),
            (select a.id from ledger.accounts a where a.owner_kind = 'finance' and a.owner_id = of_user
                and a.asset_id + 0 = share and a.purpose = 'issued'))
    on conflict on constraint holders_user_id_currency_key do nothing;
    select * into found_one from finance.holders h where h.user_id = of_user and h.currency = of_currency;
    return found_one;
end
$function$;

-- next
-- Raise what the ledger's statuses mean here; 0 and null mean nothing.
create function finance.refuse(status smallint, t finance.transactions, what text) returns void language plpgsql
set search_path = pg_catalog, pg_temp
as $function$
begin
    case coalesce(status, 0::smallint)
        when 0 then return;
        when 2 then
            raise exception 'finance: the user % does not have so many % (%)', t.user_id, what, t.currency
                using errcode = 'object_not_in_prerequisite_state',
                      hint = 'Ask for less, or pay in first. What is pending is reserved.';
        when 1 then
            raise exception 'finance: the id % belongs to another transfer of the ledger', t.id
                using errcode = 'object_not_in_prerequisite_state', hint = 'Choose another id.';
        when 6 then
            raise exception 'finance: an account of the user % is closed', t.user_id
                using errcode = 'object_not_in_prerequisite_state';
        else
            raise exception 'finance: the ledger refuses the % % (status %)', t.type, t.id, status
                using errcode = 'object_not_in_prerequisite_state';
    end case;
end
$function$;

-- next
-- Carry out a transaction: its money, and the shares that go along. What the ledger refuses ends the whole statement.
-- `is_new`: it is not in the table yet. `is_held`: a hold of its id reserves the money.
-- Returns it as completed; a new one unchanged when its id is there already.
-- Shares that are not said: a deposit brings one per minor unit; what is taken takes them in proportion to the balance,
-- rounded up, so that an empty balance has no shares.
create function finance.settle(t finance.transactions, is_new boolean, is_held boolean) returns finance.transactions
language plpgsql security definer
set search_path = pg_catalog, pg_temp set enable_seqscan = off set enable_bitmapscan = off
as $function$
declare
    h finance.holders := finance.holder(t.user_id, t.currency);
    o finance.holders;
    debit bigint;
    credit bigint;
    share_debit bigint;
    share_credit bigint;
    balance numeric;
    owned numeric;
    done smallint;
    first uuid := t.id;
begin
    case t.type
        when 'deposit' then
            debit := h.outside_account_id;
            credit := h.savings_account_id;
            share_debit := h.issued_account_id;
            share_credit := h.shares_account_id;
        when 'withdraw' then
            debit := h.savings_account_id;
            credit := h.outside_account_id;
            share_debit := h.shares_account_id;
            share_credit := h.issued_account_id;
        when 'transfer' then
            o := finance.holder(t.counterparty_id, t.currency);
            debit := h.savings_account_id;
            credit := o.savings_account_id;
            share_debit := h.shares_account_id;
            share_credit := o.shares_account_id;
        else
            debit := finance.yield_account(t.currency);
            credit := h.savings_account_id;
    end case;
    -- A user's savings are locked also when only their shares move: the trail is written under this lock.
    perform a.id from ledger.accounts a
      where a.id = any (array[debit, credit, share_debit, share_credit, h.savings_account_id])
      order by a.id for no key update;
    if is_new and exists (select from finance.transactions x where x.id = t.id) then
        t.transfer_id := t.id;
        t.ended_at := clock_timestamp();
        return t;  -- the primary key has the word: nothing has moved, and nothing is written
    end if;
    if t.type = 'deposit' then
        t.shares := coalesce(t.shares, t.amount);
    elsif t.type = 'yield' then
        t.shares := null;
    elsif t.shares is null then
        select a.balance into balance from ledger.accounts a where a.id = h.savings_account_id;
        select a.balance into owned from ledger.accounts a where a.id = h.shares_account_id;
        t.shares := case when balance > 0 then least(owned, div(owned * t.amount + balance - 1, balance)) else 0 end;
    end if;
    if t.amount > 0 and is_held then
        first := finance.part_of(t.id, 'ended');
        select x.statuses[1] into done from ledger.post(
            array[first], '{3}'::smallint[], array[null::bigint], array[null::bigint], '0', '{0}'::smallint[],
            array[t.id], null, null, null) x;
    elsif t.amount > 0 then
        select x.status into done from ledger.transfer(first, debit, credit, t.amount, 0::smallint, null, null) x;
    end if;
    perform finance.refuse(done, t, 'minor units');
    if t.shares > 0 then
        select x.status into done from ledger.transfer(
            case when t.amount > 0 then finance.part_of(t.id, 'shares') else first end, share_debit, share_credit,
            t.shares, 0::smallint, null, null) x;
        perform finance.refuse(done, t, 'shares');
    end if;
    t.transfer_id := first;
    t.ended_at := coalesce(t.ended_at, clock_timestamp());
    return t;
end
$function$;

-- next
-- A new transaction: carried out, reserved, or only written down, by its status.
create function finance.enter() returns trigger
language plpgsql security definer
set search_path = pg_catalog, pg_temp set enable_seqscan = off set enable_bitmapscan = off
as $function$
declare
    h finance.holders;
    o finance.holders;
    done smallint[];
begin
    new.direction := coalesce(new.direction, case when new.type in ('deposit', 'yield') then 'in'::finance.direction
                                                  else 'out'::finance.direction end);
    if new.type = 'transfer' and new.direction = 'in' then
        raise exception 'finance.transactions: a transfer is written by the side that pays'
            using errcode = 'invalid_parameter_value', hint = 'Leave direction out.';
    end if;
    if new.distribution_id is not null then
        raise exception 'finance.transactions: parts of a distribution are written by the distribution'
            using errcode = 'invalid_parameter_value', hint = 'Call finance.distribute_yield().';
    end if;
    if (new.amount >= 0) is not true or new.type = 'transfer' and new.counterparty_id is null
       or new.counterparty_id = new.user_id or new.amount = 0 and coalesce(new.shares, 0) = 0 then
        return new;  -- a constraint of the table says what is wrong
    end if;
    if new.status = 'completed' then
        return finance.settle(new, true, false);
    end if;
    h := finance.holder(new.user_id, new.currency);
    if new.status = 'pending' and new.type in ('withdraw', 'transfer') and new.amount > 0 then
        if new.type = 'transfer' then
            o := finance.holder(new.counterparty_id, new.currency);
        end if;
        perform from ledger.accounts a where a.id = h.savings_account_id for no key update;
        if exists (select from finance.transactions x where x.id = new.id) then
            return new;
        end if;
        select x.statuses into done from ledger.post(
            array[new.id], '{2}'::smallint[], array[h.savings_account_id],
            array[case when new.type = 'transfer' then o.savings_account_id else h.outside_account_id end],
            new.amount::text, '{0}'::smallint[], null, null, null, null) x;
        perform finance.refuse(done[1], new, 'minor units');
    else
        perform from ledger.accounts a where a.id = h.savings_account_id for no key update;
    end if;
    if new.status = 'failed' then
        new.ended_at := coalesce(new.ended_at, clock_timestamp());
    end if;
    return new;
end
$function$;

-- next
-- A step of a transaction: a pending one ends, once; where a blockchain recorded it may be added. Nothing else changes.
create function finance.step() returns trigger
language plpgsql security definer
set search_path = pg_catalog, pg_temp set enable_seqscan = off set enable_bitmapscan = off
as $function$
declare
    is_held boolean := old.type in ('withdraw', 'transfer') and old.amount > 0;
    done smallint[];
begin
    if row(new.id, new.user_id, new.counterparty_id, new.type, new.direction, new.currency, new.amount,
           new.transfer_id, new.distribution_id, new.created_at, new.ended_at)
       is distinct from row(old.id, old.user_id, old.counterparty_id, old.type, old.direction, old.currency, old.amount,
                            old.transfer_id, old.distribution_id, old.created_at, old.ended_at)
       or new.shares is distinct from old.shares and old.status <> 'pending' then
        raise exception 'finance.transactions: % is recorded and does not change', old.id
            using errcode = 'object_not_in_prerequisite_state', hint = 'Correct it with a new transaction.';
    end if;
    if new.status = old.status then
        perform from ledger.accounts a join finance.holders h on h.savings_account_id = a.id
          where h.user_id = old.user_id and h.currency = old.currency for no key update of a;
        return new;
    end if;
    if old.status <> 'pending' then
        raise exception 'finance.transactions: % is % and cannot become %', old.id, old.status, new.status
            using errcode = 'object_not_in_prerequisite_state', hint = 'Only a pending transaction can end.';
    end if;
    if new.status = 'completed' then
        return finance.settle(new, false, is_held);
    end if;
    perform from ledger.accounts a join finance.holders h on h.savings_account_id = a.id
      where h.user_id = old.user_id and h.currency = old.currency for no key update of a;
    if is_held then
        select x.statuses into done from ledger.post(
            array[finance.part_of(old.id, 'ended')], '{4}'::smallint[], array[null::bigint], array[null::bigint], '0',
            '{0}'::smallint[], array[old.id], null, null, null) x;
        perform finance.refuse(done[1], old, 'minor units');
    end if;
    new.ended_at := clock_timestamp();
    return new;
end
$function$;

-- next
-- A transfer that is completed has another side: the same movement, as the one who is paid sees it.
create function finance.tell_counterparty() returns trigger
language plpgsql security definer set search_path = pg_catalog, pg_temp
as $function$
begin
    insert into finance.transactions (user_id, counterparty_id, type, direction, currency, amount, shares, status,
                                      transfer_id, reference, created_at, ended_at)
    values (new.counterparty_id, new.user_id, 'transfer', 'in', new.currency, new.amount, new.shares, 'completed',
            new.transfer_id, new.reference, new.created_at, new.ended_at);
    return null;
end
$function$;

-- next
-- What names a transfer already was made by finance itself (or is refused when its trail is written).
create trigger finance_enter before insert on finance.transactions for each row when (new.transfer_id is null)
    execute function finance.enter();

-- next
create trigger finance_step before update on finance.transactions for each row execute function finance.step();

-- next
create trigger finance_counterparty_of_insert after insert on finance.transactions for each row
    when (new.type = 'transfer' and new.direction = 'out' and new.status = 'completed')
    execute function finance.tell_counterparty();

-- next
create trigger finance_counterparty_of_update after update on finance.transactions for each row
    when (new.type = 'transfer' and new.direction = 'out' and new.status = 'completed' and old.status = 'pending')
    execute function finance.tell_counterparty();
