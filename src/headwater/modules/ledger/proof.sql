-- name: seal
-- Seal what is finished; null when nothing new is.
select (ledger.seal()).number

-- name: newest_digest
-- The newest seal, and how many transfers there are up to it.
select s.number, s.digest, s.created_at, (select sum(x.transfers)::bigint from ledger.seals as x) as transfers
from ledger.seals as s order by s.number desc limit 1

-- name: counts
-- How much there is to look at, and the highest account.
select (select count(*) from ledger.transfers) as transfers,
       (select count(*) from ledger.accounts) as accounts,
       (select coalesce(max(a.id), 0) from ledger.accounts as a) as highest,
       (select count(*) from ledger.assets) as assets,
       (select count(*) from ledger.holds) as holds,
       pg_snapshot_xmax(pg_current_snapshot())::text::bigint as next_xid

-- name: rows_at_a_glance
-- Whether any transfer says what none can say: a row when one does, and `rows` names it. The assets of all accounts
-- stand in one array by the ids of the accounts: looking into it twice costs a third of two joins. `= 0` and beyond its
-- end: there is no such account.
with known as materialized (
    select array_agg(coalesce(a.asset_id, 0) order by n.id) as assets
    from generate_series(1, (select max(x.id) from ledger.accounts as x)) as n(id)
    left join ledger.accounts as a on a.id = n.id
)
select t.id
from ledger.transfers as t
where ((select k.assets from known as k)[t.debit_account_id] = (select k.assets from known as k)[t.credit_account_id]
       and (select k.assets from known as k)[t.debit_account_id] > 0) is not true
   or ledger.contradicts_itself(t)
limit 1

-- name: rows
-- Transfers that say what none can say: no amount, one account, halves of a side, accounts that are not there or of
-- two assets.
select 'ledger.transfers ' || t.id as place,
       case when d.id is null or c.id is null then 'one of its accounts is not there'
            when d.asset_id <> c.asset_id then 'its accounts count different assets'
            else 'the row contradicts itself' end as message
from ledger.transfers as t
left join ledger.accounts as d on d.id = t.debit_account_id
left join ledger.accounts as c on c.id = t.credit_account_id
where d.id is null or c.id is null or d.asset_id <> c.asset_id
   or ledger.contradicts_itself(t)
order by t.created_at, t.id
limit 1

-- name: zero_sum
-- Assets whose accounts do not add up to nothing.
select 'ledger.assets ' || s.code as place, 'the balances of its accounts add up to ' || sum(a.balance) as message
from ledger.assets as s join ledger.accounts as a on a.asset_id = s.id
group by s.id, s.code
having sum(a.balance) <> 0
order by s.id
limit 1

-- name: limits
-- Accounts that are overdrawn, holds counted.
select 'ledger.accounts ' || a.id as place,
       format('%s less %s held is below the credit limit of %s', a.balance, a.held, a.credit_limit) as message
from ledger.accounts as a
where a.balance - a.held < - a.credit_limit or a.held < 0
order by a.id
limit 1

-- name: chains
-- Accounts of one part that are not what their transfers make them: versions, balance, holds, the head of the chain.
select coalesce(f.place, 'ledger.accounts ' || w.account) as place,
       case when f.fault is not null then f.fault
            when w.id is null then format('account %s has transfers and is not there', w.account)
            when w.version <> w.versions then
                format('account %s is at version %s, its transfers end at %s', w.id, w.version, w.versions)
            when w.balance <> w.made then
                format('account %s has the balance %s, its transfers make %s', w.id, w.balance, w.made)
            when w.held <> w.made_held then
                format('account %s holds %s, its transfers make %s', w.id, w.held, w.made_held)
            else format('account %s: the chain of its transfers does not end where the account says', w.id) end
       as message
from (
    select coalesce(a.id, r.account) as account, a.id, a.version, a.balance, a.held, r.fault,
           coalesce(r.versions, 0) as versions, coalesce(r.balance, 0) as made, coalesce(r.held, 0) as made_held
    from (select x.* from ledger.accounts as x where x.id % :parts::bigint = :part::bigint) as a
    full join ledger.recomputed(:part::bigint, :parts::bigint) as r on r.account = a.id
    where r.fault is not null or a.id is null or a.version <> coalesce(r.versions, 0)
       or a.balance <> coalesce(r.balance, 0) or a.held <> coalesce(r.held, 0)
       or a.head <> coalesce(r.head, ''::bytea)
    order by coalesce(a.id, r.account)
    limit 1
) as w
left join lateral ledger.fault_of(w.account) as f on true

-- name: holds
-- Holds that are not what was reserved less what was released, or that have no beginning.
select 'ledger.holds ' || coalesce(h.transfer_id, t.id) as place,
       case when t.id is null then 'there is no pending transfer of this hold'
            when h.transfer_id is null then 'the hold of this pending transfer is gone'
            when h.debit_account_id <> t.debit_account_id or h.credit_account_id <> t.credit_account_id
              or e.strange then 'its parts are of other accounts, or older than it'
            else format('%s are left, in the state %s; its transfers make %s', h.remaining, h.state,
                        t.amount - coalesce(e.released, 0)) end as message
from (select x.* from ledger.transfers as x where x.state = 'pending') as t
full join ledger.holds as h on h.transfer_id = t.id
left join (
    select x.pending_id, sum(x.released) as released,
           (array_agg(x.state order by x.debit_version desc))[1] as ended,
           bool_or(x.debit_account_id <> p.debit_account_id or x.credit_account_id <> p.credit_account_id
                   or x.debit_version < p.debit_version) as strange
    from ledger.transfers as x join ledger.transfers as p on p.id = x.pending_id
    where x.pending_id is not null
    group by x.pending_id
) as e on e.pending_id = t.id
where t.id is null or h.transfer_id is null or e.strange
   or h.debit_account_id <> t.debit_account_id or h.credit_account_id <> t.credit_account_id
   or h.remaining <> t.amount - coalesce(e.released, 0) or h.remaining < 0
   or h.state <> case when t.amount > coalesce(e.released, 0) then 'pending'::ledger.transfer_state else e.ended end
order by t.created_at, t.id
limit 1

-- name: reversals
-- Reversals that do not undo what they name, or that are not remembered as the one.
select 'ledger.transfers ' || coalesce(t.id, v.reversed_by) as place,
       case when t.id is null then 'it is remembered as a reversal and is not there'
            when o.id is null then 'the transfer that it reverses is not there'
            when v.transfer_id is null then 'it is not remembered as a reversal'
            else 'it does not move back what it names' end as message
from (select x.* from ledger.transfers as x where x.reverses_id is not null) as t
full join ledger.reversals as v on v.transfer_id = t.reverses_id and v.reversed_by = t.id
left join ledger.transfers as o on o.id = t.reverses_id
where t.id is null or o.id is null or v.transfer_id is null or o.amount <> t.amount
   or o.debit_account_id <> t.credit_account_id or o.credit_account_id <> t.debit_account_id
limit 1

-- name: answers
-- Ids that were both done and refused.
select 'ledger.transfers ' || t.id as place, 'it was done, and its id was refused' as message
from ledger.refusals as r join ledger.transfers as t on t.id = r.id
limit 1

-- name: seals
-- The seals in their order.
select s.number, s.xid_from, s.xid_to, s.transfers, s.root, s.digest, s.created_at,
       ledger.digest_of(coalesce(lag(s.digest) over (order by s.number), ''::bytea), s) as again,
       coalesce(lag(s.number) over (order by s.number), 0) + 1 as follows,
       coalesce(lag(s.xid_to) over (order by s.number), 0) as begins
from ledger.seals as s
order by s.number

-- name: seal_again
-- What a seal covers, made again.
select 'ledger.seals ' || s.number as place,
       case when found.transfers <> s.transfers
            then format('it covers %s transfers, and there are %s', s.transfers, found.transfers)
            else 'a transfer that it covers has changed' end as message
from ledger.seals as s
cross join lateral ledger.sealed(s.xid_from, s.xid_to) as found
where s.number = :number::bigint and (found.transfers <> s.transfers or found.root <> s.root)
