-- Yield is divided among all holders of a currency by their shares, by the largest remainder: each gets the whole part
-- of amount * shares / all shares; what is left goes, one unit each, to those whose fraction was largest (among equals
-- to the lower user id). Nothing is lost or made.
--
-- Once: the distribution is a row of its id, and each user has at most one part of it. It is one statement of one
-- transaction, so whoever is killed in the middle has paid nobody, and running it again pays everybody.
-- Locks: one distribution of a currency at a time, then the account that pays and every account that is paid, in the
-- order of ids, by the ledger. Shares are those of one moment.
-- Settings: each call is planned for the tables as they are now; that costs nothing beside what it does. What is sorted
-- and gathered here, and in the triggers and functions that it calls, stays in memory for some 100,000 holders.
create function finance.distribute_yield(
    of_id uuid, of_currency text, of_amount numeric, of_reference text
) returns finance.distributions
language plpgsql security definer
set search_path = pg_catalog, pg_temp set plan_cache_mode = force_custom_plan set work_mem = '64MB'
as $function$
declare
    made finance.distributions;
    paying bigint := finance.yield_account(of_currency);
    users uuid[];
    accounts bigint[];
    parts numeric[];
    ids uuid[];
    all_shares numeric;
    statuses smallint[];
    n int;
begin
    if of_id is null or of_amount is null or of_amount < 1 or of_amount >= 1e38 or of_amount <> trunc(of_amount) then
        raise exception 'finance.distribute_yield: an id and a whole amount from 1 are needed'
            using errcode = 'invalid_parameter_value';
    end if;
    if paying is null and of_currency <> 'USD' then  -- those are opened by the first deposit
        raise exception 'finance: there is no currency %', of_currency
            using errcode = 'object_not_in_prerequisite_state', hint = 'Open it with open_currency.';
    end if;
    perform pg_advisory_xact_lock(hashtextextended('finance.distribute_yield/' || of_currency, 0));
    select * into made from finance.distributions d where d.id = of_id;
    if found then
        if made.currency = of_currency and made.amount = of_amount
           and made.reference is not distinct from of_reference then
            return made;
        end if;
        raise exception 'finance: the distribution % was another one: % % %', of_id, made.amount, made.currency,
                        made.reference
            using errcode = 'object_not_in_prerequisite_state', hint = 'A new distribution needs a new id.';
    end if;

    with holding as (
        select h.user_id, h.savings_account_id as account, a.balance as shares
          from finance.holders h join ledger.accounts a on a.id = h.shares_account_id
         where h.currency = of_currency and a.balance > 0
    ), every as (
        select sum(shares) as shares from holding
    ), part as (
        select x.user_id, x.account, e.shares as all_shares, div(of_amount * x.shares, e.shares) as whole,
               of_amount * x.shares % e.shares as rest
          from holding x cross join every e
    ), placed as (
        select p.*, row_number() over (order by p.rest desc, p.user_id) as place,
               of_amount - sum(p.whole) over () as left_over
          from part p
    ), paid as (
        select p.user_id, p.account, p.all_shares, p.whole + case when p.place <= p.left_over then 1 else 0 end as amount
          from placed p
    )
    select array_agg(user_id order by account), array_agg(account order by account), array_agg(amount order by account),
           array_agg(uuidv7() order by account), max(paid.all_shares)
      into users, accounts, parts, ids, all_shares
      from paid where amount > 0;
    n := cardinality(users);
    if n is null then
        raise exception 'finance: nobody has shares in %', of_currency
            using errcode = 'object_not_in_prerequisite_state', hint = 'Yield is divided by shares; deposits bring them.';
    end if;

    select x.statuses into statuses from ledger.post(
        ids, array_fill(1::smallint, array[n]), array_fill(paying, array[n]), accounts, array_to_string(parts, ','),
        array_fill(0::smallint, array[n]), null, null, null, null) x;
    if 0 <> any (statuses) then
        raise exception 'finance: the ledger refuses a part of the distribution %: status %', of_id,
                        (select max(s) from unnest(statuses) s)
            using errcode = 'object_not_in_prerequisite_state', hint = 'Is an account closed?';
    end if;

    insert into finance.distributions (id, currency, amount, shares, holders, reference)
    values (of_id, of_currency, of_amount, all_shares, n, of_reference)
    returning * into made;
    insert into finance.transactions (id, user_id, type, direction, currency, amount, status, transfer_id,
                                      distribution_id, reference, ended_at)
    select x.id, x.user_id, 'yield', 'in', of_currency, x.amount, 'completed', x.id, of_id, of_reference,
           clock_timestamp()
      from unnest(ids, users, parts) x(id, user_id, amount)
     order by x.user_id;  -- the indexes and the trails are by user: what is neighboured is written together
    return made;
end
$function$;
