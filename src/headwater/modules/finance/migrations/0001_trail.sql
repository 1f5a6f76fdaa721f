-- The trail: one chain of hashes per user, written by triggers, so that whoever writes a transaction cannot avoid it.
-- Writers of one user wait for each other at the user's savings account, which they lock anyway; different users never.
create function finance.refuse_change() returns trigger language plpgsql as $function$
begin
    raise exception '%.% is history: it is not changed and not removed', tg_table_schema, tg_table_name
        using errcode = 'object_not_in_prerequisite_state', hint = 'Correct it with a new transaction.';
end
$function$;

-- next
create trigger finance_history before update or delete on finance.transaction_history
    for each row execute function finance.refuse_change();

-- next
create trigger finance_history_truncate before truncate on finance.transaction_history
    for each statement execute function finance.refuse_change();

-- next
create trigger finance_history before update or delete on finance.seals
    for each row execute function finance.refuse_change();

-- next
create trigger finance_history_truncate before truncate on finance.seals
    for each statement execute function finance.refuse_change();

-- next
create trigger finance_history before update or delete on finance.sealed_trails
    for each row execute function finance.refuse_change();

-- next
create trigger finance_history_truncate before truncate on finance.sealed_trails
    for each statement execute function finance.refuse_change();

-- next
create trigger finance_history before update or delete on finance.distributions
    for each row execute function finance.refuse_change();

-- next
create trigger finance_history_truncate before truncate on finance.distributions
    for each statement execute function finance.refuse_change();

-- next
create trigger finance_history before delete on finance.transactions
    for each row execute function finance.refuse_change();

-- next
create trigger finance_history_truncate before truncate on finance.transactions
    for each statement execute function finance.refuse_change();

-- next
-- Who holds the savings stands for the user in every transaction: while there are some, the user cannot go.
create trigger finance_history before delete on finance.holders
    for each row execute function finance.refuse_change();

-- next
-- In whose name: what the transaction says of itself, or else who is logged in.
create function finance.actor() returns text language plpgsql stable
set search_path = pg_catalog, pg_temp
as $function$
declare
    words text := current_setting('headwater.context', true);
begin
    if words <> '' and pg_input_is_valid(words, 'jsonb') and words::jsonb ->> 'actor' <> '' then
        return words::jsonb ->> 'actor';
    end if;
    return session_user;
end
$function$;

-- next
-- The hash of an entry: SHA-256 of its columns in PostgreSQL's binary form, the hash of the entry before among them.
create function finance.entry_hash(
    user_id uuid, number bigint, transaction_id uuid, at timestamptz, actor text, action text, before jsonb, after jsonb,
    previous bytea
) returns bytea language sql stable parallel safe
return sha256(record_send(row(user_id, number, transaction_id, at, actor, action, before, after, previous)));

-- next
-- An entry of a trail stands only for a transfer that is the transaction's own.
create function finance.not_its_own(transaction_id uuid) returns jsonb language plpgsql immutable
set search_path = pg_catalog, pg_temp
as $function$
begin
    raise exception 'finance.transactions: % names a transfer of the ledger that is not its own', transaction_id
        using errcode = 'invalid_parameter_value', hint = 'Leave transfer_id out; the transfer is made here.';
end
$function$;

-- next
-- Entries for these steps of transactions; `befores` is null where they are new. A completed one must name the very
-- transfer of the ledger that it tells of, which also gives the balance before and after it.
-- Several steps of one user in one call make several turns, since each needs the hash of the one before; where every user
-- has one step, nothing is sorted.
-- Settings: the plans are pinned to look-ups by key; the planner does not know how long the arrays are.
create function finance.remember(
    action text, ids uuid[], users uuid[], currencies text[], directions finance.direction[], amounts numeric[],
    shares numeric[], transfers uuid[], befores jsonb[], afters jsonb[]
) returns void
language plpgsql security definer
set search_path = pg_catalog, pg_temp
set enable_seqscan = off set enable_hashjoin = off set enable_mergejoin = off set enable_bitmapscan = off
as $function$
declare
    who text := finance.actor();
    now timestamptz := clock_timestamp();
    turns bigint := 1;
    turn_of bigint[];
    wrote bigint;
    told bigint := 0;
begin
    if cardinality(users) > 1 then
        select max(n) into turns from (select count(*) as n from unnest(users) u(id) group by u.id) each_user;
    end if;
    if turns > 1 then
        select array_agg(x.turn order by x.at) into turn_of
          from (select u.at, row_number() over (partition by u.id order by u.at) as turn
                  from unnest(users) with ordinality u(id, at)) x;
    end if;
    for this_turn in 1 .. turns loop
        insert into finance.transaction_history
        select e.user_id, e.number, e.id, now, who, action, e.before, e.after, e.previous,
               finance.entry_hash(e.user_id, e.number, e.id, now, who, action, e.before, e.after, e.previous)
          from (
              select x.user_id, x.id, coalesce(l.number, 0) + 1 as number, coalesce(l.hash, '') as previous,
                     case when x.amount > 0 and t.id is not null
                          then coalesce(x.before, '{}') || jsonb_build_object('balance', m.balance - m.change)
                          else x.before end as before,
                     case when x.transfer_id is not null
                               and (t.state = 'posted' and t.amount = case when x.amount > 0 then x.amount else x.shares end
                                    and case when x.direction = 'in' then t.credit_account_id else t.debit_account_id end
                                        = case when x.amount > 0 then h.savings_account_id else h.shares_account_id end
                                   ) is not true
                          then finance.not_its_own(x.id)
                          when x.amount > 0 and t.id is not null
                          then x.after || jsonb_build_object('balance', m.balance)
                          else x.after end as after
                from unnest(ids, users, currencies, directions, amounts, shares, transfers, befores, afters, turn_of)
                     x(id, user_id, currency, direction, amount, shares, transfer_id, before, after, turn)
                left join lateral (
                    select y.number, y.hash from finance.transaction_history y
                     where y.user_id = x.user_id order by y.number desc limit 1
                ) l on true
                left join ledger.transfers t on t.id = x.transfer_id
                left join finance.holders h on h.user_id = x.user_id and h.currency = x.currency
                cross join lateral (
                    select case x.direction when 'in' then t.credit_balance_after else t.debit_balance_after end as balance,
                           case x.direction when 'in' then t.amount else - t.amount end as change
                ) m
               where turns = 1 or x.turn = this_turn
              offset 0
          ) e
            on conflict on constraint transaction_history_pkey do nothing;
        get diagnostics wrote = row_count;
        told := told + wrote;
    end loop;
    if told <> cardinality(ids) then
        raise exception 'finance: the trail of a user has grown meanwhile' using errcode = 'serialization_failure';
    end if;
end
$function$;

-- next
create function finance.remember_inserts() returns trigger
language plpgsql security definer set search_path = pg_catalog, pg_temp set timezone = 'UTC'
as $function$
declare
    r record;
begin
    select array_agg(n.id) as ids, array_agg(n.user_id) as users, array_agg(n.currency) as currencies,
           array_agg(n.direction) as directions, array_agg(n.amount) as amounts, array_agg(n.shares) as shares,
           array_agg(n.transfer_id) as transfers, array_agg(jsonb_strip_nulls(to_jsonb(n))) as afters
      into r from inserted n;
    if r.ids is not null then
        perform finance.remember('insert', r.ids, r.users, r.currencies, r.directions, r.amounts, r.shares, r.transfers,
                                 null, r.afters);
    end if;
    return null;
end
$function$;

-- next
create function finance.remember_updates() returns trigger
language plpgsql security definer set search_path = pg_catalog, pg_temp set timezone = 'UTC'
as $function$
declare
    r record;
begin
    select array_agg(n.id) as ids, array_agg(n.user_id) as users, array_agg(n.currency) as currencies,
           array_agg(n.direction) as directions, array_agg(n.amount) as amounts, array_agg(n.shares) as shares,
           array_agg(n.transfer_id) as transfers, array_agg(jsonb_strip_nulls(to_jsonb(o))) as befores,
           array_agg(jsonb_strip_nulls(to_jsonb(n))) as afters
      into r from changed n join unchanged o on o.id = n.id;
    if r.ids is not null then
        perform finance.remember('update', r.ids, r.users, r.currencies, r.directions, r.amounts, r.shares, r.transfers,
                                 r.befores, r.afters);
    end if;
    return null;
end
$function$;

-- next
create trigger finance_remember_inserts after insert on finance.transactions
    referencing new table as inserted for each statement execute function finance.remember_inserts();

-- next
create trigger finance_remember_updates after update on finance.transactions
    referencing old table as unchanged new table as changed
    for each statement execute function finance.remember_updates();

-- next
-- Bind all trails together as they stand: one seal after the other, each with the digest of the one before.
-- A trail has no gaps and grows in the order of commits, so what is visible is a whole beginning of each: nothing can
-- slip between two seals. Returns the new seal, or the last one when no trail has grown.
create function finance.seal() returns finance.seals
language plpgsql security definer set search_path = pg_catalog, pg_temp
as $function$
declare
    last finance.seals;
    made finance.seals;
    grown uuid[];
    numbers bigint[];
    hashes bytea[];
begin
    lock table finance.seals in share row exclusive mode;
    select * into last from finance.seals s order by s.number desc limit 1;
    select array_agg(h.user_id order by h.user_id), array_agg(e.number order by h.user_id),
           array_agg(e.hash order by h.user_id)
      into grown, numbers, hashes
      from (select distinct user_id from finance.holders) h
      cross join lateral (
          select t.number, t.hash from finance.transaction_history t
           where t.user_id = h.user_id order by t.number desc limit 1
      ) e
      left join lateral (
          select s.number from finance.sealed_trails s
           where s.user_id = h.user_id order by s.seal_number desc limit 1
      ) sealed on true
     where e.number > coalesce(sealed.number, 0);
    if grown is null then
        return last;
    end if;
    made.number := coalesce(last.number, 0) + 1;
    made.trails := cardinality(grown);
    made.previous := coalesce(last.digest, '');
    made.created_at := clock_timestamp();
    select finance.root_of(array_agg(x.user_id), array_agg(x.number), array_agg(x.hash)) into made.root
      from unnest(grown, numbers, hashes) x(user_id, number, hash);
    made.digest := finance.digest_of(made.number, made.trails, made.root, made.previous, made.created_at);
    insert into finance.seals select made.*;
    insert into finance.sealed_trails (user_id, seal_number, number, hash)
    select x.user_id, made.number, x.number, x.hash from unnest(grown, numbers, hashes) x(user_id, number, hash);
    return made;
end
$function$;

-- next
-- The root of a seal: SHA-256 over who, how far, and the hash there, in the order of users.
create function finance.root_of(users uuid[], numbers bigint[], hashes bytea[]) returns bytea
language plpgsql stable set search_path = pg_catalog, pg_temp
as $function$
begin
    return (select sha256(string_agg(uuid_send(x.user_id) || int8send(x.number) || x.hash, ''::bytea order by x.user_id))
              from unnest(users, numbers, hashes) x(user_id, number, hash));
end
$function$;

-- next
create function finance.digest_of(number bigint, trails bigint, root bytea, previous bytea, created_at timestamptz)
returns bytea language plpgsql stable set search_path = pg_catalog, pg_temp
as $function$
begin
    return sha256(record_send(row(number, trails, root, previous, created_at)));
end
$function$;

-- next
-- A transaction as the trail writes it down: what it has no value for is left out, instants are in UTC.
create function finance.told(t finance.transactions) returns jsonb language plpgsql stable
set search_path = pg_catalog, pg_temp set timezone = 'UTC'
as $function$
begin
    return jsonb_strip_nulls(to_jsonb(t));
end
$function$;
