-- name: transfer
-- Move an amount between two accounts, in the transaction of the caller, and tell its status and both balances.
select status, moved::text, debit_balance::text, credit_balance::text, repeated
from ledger.transfer(
    :id::uuid, :debit::bigint, :credit::bigint, :amount::text::numeric, :flags::smallint, :reference::text,
    :metadata::jsonb
)

-- name: post
-- Many commands in the order given, with one status each.
select statuses, moved, debit_balances, credit_balances, repeats
from ledger.post(
    :ids::uuid[], :kinds::smallint[], :debits::bigint[], :credits::bigint[], :amounts::text, :flags::smallint[],
    :refers::uuid[], :expiries::timestamptz[], :remarks::text[], :extras::jsonb[]
)

-- name: lock_accounts
-- Lock these accounts in the order of their ids, before a transaction of several calls.
select a.id from ledger.accounts a where a.id = any(:ids::bigint[]) order by a.id for no key update

-- name: open_asset
-- Make an asset if it is not there.
insert into ledger.assets (code, scale) values (:code::text, :scale::smallint) on conflict (code) do nothing

-- name: open_accounts
-- Make those of these accounts that are not there.
insert into ledger.accounts (owner_kind, owner_id, asset_id, purpose, credit_limit)
select :owner_kind::text, o.owner_id, s.id, :purpose::text, :credit_limit::text::numeric
from unnest(:owner_ids::uuid[]) as o(owner_id)
join ledger.assets as s on s.code = :asset::text
order by o.owner_id
on conflict (owner_kind, owner_id, asset_id, purpose) do nothing

-- name: balance_at
-- The balance of an account at an instant; null when there is no such account.
select ledger.balance_at(:account_id::bigint, :instant::timestamptz)::text

-- name: statement
-- The history of an account, the newest first, from both sides by its versions. Rows: version, change (signed), the
-- balance after, and the transfer.
select x.version, x.change, x.balance, x.counterpart_id, x.id, x.state, x.amount, x.created_at, x.pending_id,
       x.reverses_id, x.reference, x.metadata
from (
    (select t.debit_version as version, case t.state when 'posted' then - t.amount else 0 end as change,
            t.debit_balance_after as balance, t.credit_account_id as counterpart_id, t.id, t.state, t.amount,
            t.created_at, t.pending_id, t.reverses_id, t.reference, t.metadata
       from ledger.transfers t
      where t.debit_account_id = :account_id::bigint and t.debit_version < :before::bigint
      order by t.debit_version desc limit :limit::int)
    union all
    (select t.credit_version, t.amount, t.credit_balance_after, t.debit_account_id, t.id, t.state, t.amount,
            t.created_at, t.pending_id, t.reverses_id, t.reference, t.metadata
       from ledger.transfers t
      where t.credit_account_id = :account_id::bigint and t.credit_version is not null
        and t.credit_version < :before::bigint
      order by t.credit_version desc limit :limit::int)
) as x
order by x.version desc
limit :limit::int

-- name: close_account
-- Close an account that has nothing and holds nothing. It can be read, and nothing moves any more.
update ledger.accounts set closed_at = coalesce(closed_at, clock_timestamp())
where id = :account_id::bigint and balance = 0 and held = 0

-- name: set_credit_limit
-- Change how far an account may be overdrawn; null: without a limit.
update ledger.accounts set credit_limit = :credit_limit::text::numeric
where id = :account_id::bigint
  and (:credit_limit::text is null or balance - held + :credit_limit::text::numeric >= 0)

-- name: expire
-- Release holds whose time is over.
select ledger.expire(:most::bigint)
