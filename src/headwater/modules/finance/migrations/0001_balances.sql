-- finance.user_balances: whose savings are how much, straight from the ledger. There is nothing that could differ.
create view finance.user_balances as
select h.user_id,
       h.currency,
       s.balance::numeric as balance,
       s.held::numeric as held,
       p.balance::numeric as shares,
       coalesce(
           (select sum(t.amount) from finance.transactions t
             where t.user_id = h.user_id and t.currency = h.currency and t.type = 'yield' and t.status = 'completed'),
           0
       ) as yield_earned,
       h.created_at,
       greatest(s.moved_at, p.moved_at) as updated_at
  from finance.holders h
  join ledger.accounts s on s.id = h.savings_account_id
  join ledger.accounts p on p.id = h.shares_account_id;

-- next
alter view finance.user_balances alter column currency set default 'USD';

-- next
-- SQL written against the view moves the difference between what is there and what it says, as transactions: first the
-- yield, then the money with the shares that go the same way, then shares alone. Two writers at once add up.
create function finance.write_balance() returns trigger
language plpgsql security definer set search_path = pg_catalog, pg_temp
as $function$
declare
    had finance.user_balances;
    money numeric;
    shares numeric;
    earned numeric;
    along numeric;
begin
    if tg_op = 'DELETE' then
        raise exception 'finance.user_balances: a balance is not deleted'
            using errcode = 'object_not_in_prerequisite_state', hint = 'Withdraw what is there.';
    end if;
    new.currency := coalesce(new.currency, 'USD');
    if tg_op = 'INSERT' then
        if exists (select from finance.holders h where h.user_id = new.user_id and h.currency = new.currency) then
            raise exception 'finance.user_balances: the user % has savings in % already', new.user_id, new.currency
                using errcode = 'unique_violation', schema = 'finance', table = 'holders',
                      constraint = 'holders_user_id_currency_key', hint = 'Update the balance, or write a transaction.';
        end if;
        perform finance.holder(new.user_id, new.currency);
        money := coalesce(new.balance, 0);
        shares := coalesce(new.shares, 0);
        earned := coalesce(new.yield_earned, 0);
    else
        if new.user_id <> old.user_id or new.currency <> old.currency or new.held <> old.held then
            raise exception 'finance.user_balances: only balance, shares and yield_earned can be written'
                using errcode = 'invalid_parameter_value';
        end if;
        money := new.balance - old.balance;
        shares := new.shares - old.shares;
        earned := new.yield_earned - old.yield_earned;
    end if;
    if (money = trunc(money) and shares = trunc(shares) and earned = trunc(earned)) is not true then
        raise exception 'finance.user_balances: amounts are whole numbers of minor units'
            using errcode = 'invalid_parameter_value';
    end if;
    if earned < 0 then
        raise exception 'finance.user_balances: yield that was earned is not taken back'
            using errcode = 'invalid_parameter_value', hint = 'Withdraw it from the balance.';
    end if;
    if earned > 0 then
        insert into finance.transactions (user_id, type, currency, amount, status)
        values (new.user_id, 'yield', new.currency, earned, 'completed');
        money := money - earned;
    end if;
    along := case when money > 0 then greatest(shares, 0) when money < 0 then greatest(- shares, 0) else 0 end;
    if money <> 0 then
        insert into finance.transactions (user_id, type, currency, amount, shares, status)
        values (new.user_id, case when money > 0 then 'deposit' else 'withdraw' end::finance.transaction_type,
                new.currency, abs(money), along, 'completed');
        shares := shares - along * sign(money);
    end if;
    if shares <> 0 then
        insert into finance.transactions (user_id, type, currency, amount, shares, status)
        values (new.user_id, case when shares > 0 then 'deposit' else 'withdraw' end::finance.transaction_type,
                new.currency, 0, abs(shares), 'completed');
    end if;
    select * into new from finance.user_balances b where b.user_id = new.user_id and b.currency = new.currency;
    return new;
end
$function$;

-- next
create trigger finance_write_balance instead of insert or update or delete on finance.user_balances
    for each row execute function finance.write_balance();
