-- name: balance
-- What one user has in one currency.
select user_id, currency, balance, held, shares, yield_earned, created_at, updated_at
from finance.user_balances
where user_id = :user_id::uuid and currency = :currency::text

-- name: balances
-- What one user has, in every currency, by its code.
select user_id, currency, balance, held, shares, yield_earned, created_at, updated_at
from finance.user_balances
where user_id = :user_id::uuid
order by currency

-- name: open_currency
-- Declare a currency with its scale; opening it again changes nothing.
select finance.open_currency(:code::text, :scale::smallint)

-- name: distribute
-- Divide an amount among all holders of a currency, once; the id of the distribution.
select (finance.distribute_yield(:distribution_id::uuid, :currency::text, :amount::text::numeric, :reference::text)).id

-- name: be_patient
-- How long a statement of this transaction may run from now on; what it was before.
select old.ms, set_config('statement_timeout', :timeout::text, true)
from (select current_setting('statement_timeout') as ms) as old

-- name: seal
-- Bind all trails together as they stand; the new seal, or the last one when nothing has grown.
select s.number, s.trails, s.digest, s.created_at from finance.seal() as s

-- name: sealed_digest
-- The digest of one seal.
select digest from finance.seals where number = :number::bigint

-- name: trail_counts
-- How much there is to verify.
select (select count(*) from finance.transactions) as transactions,
       (select count(*) from finance.transaction_history) as entries,
       (select count(*) from finance.seals) as seals

-- name: verify_trails
-- The first entry of each trail that is not as it was written: numbers without gaps, each with the hash of the one
-- before, each hash over its own row. Rows: user_id, number, fault.
with entry as (
    select e.user_id, e.number,
           row_number() over w as place,
           lag(e.hash, 1, ''::bytea) over w as hash_before,
           e.previous, e.hash,
           finance.entry_hash(e.user_id, e.number, e.transaction_id, e.at, e.actor, e.action, e.before, e.after,
                              e.previous) as hash_now
    from finance.transaction_history e
    window w as (partition by e.user_id order by e.number)
)
select distinct on (user_id) user_id, number,
       case when number <> place then 'an entry before it is missing'
            when hash <> hash_now then 'it was changed after it was written'
            else 'it does not follow the entry before it'
       end as fault
from entry
where number <> place or hash <> hash_now or previous <> hash_before
order by user_id, number
limit :limit::int

-- name: verify_told
-- Transactions that are not as the newest entry of their trail says, and entries of transactions that are gone.
-- Rows: user_id, transaction_id, fault.
select coalesce(t.user_id, e.user_id) as user_id, coalesce(t.id, e.transaction_id) as transaction_id,
       case when t.id is null then 'the trail tells of it, and it is gone'
            when e.transaction_id is null then 'the trail does not tell of it'
            else 'it is not as the trail tells'
       end as fault
from finance.transactions t
full join (
    select distinct on (h.transaction_id) h.transaction_id, h.user_id, h.after
    from finance.transaction_history h
    order by h.transaction_id, h.number desc
) e on e.transaction_id = t.id
where t.id is null or e.transaction_id is null or e.user_id <> t.user_id
      or e.after - 'balance' <> finance.told(t)
order by 1, 2
limit :limit::int

-- name: verify_moved
-- Completed transactions whose transfer in the ledger is not there, or is another one. Rows: user_id, transaction_id,
-- fault.
select t.user_id, t.id as transaction_id,
       case when m.id is null then 'the ledger has no such transfer' else 'the ledger moved something else' end as fault
from finance.transactions t
left join finance.holders h on h.user_id = t.user_id and h.currency = t.currency
left join ledger.transfers m on m.id = t.transfer_id
where t.status = 'completed'
      and (m.state = 'posted' and m.amount = case when t.amount > 0 then t.amount else t.shares end
           and case when t.direction = 'in' then m.credit_account_id else m.debit_account_id end
               = case when t.amount > 0 then h.savings_account_id else h.shares_account_id end) is not true
order by 1, 2
limit :limit::int

-- name: verify_untold
-- Movements of savings in the ledger of which no transaction tells. Rows: user_id, transaction_id (of the transfer), fault.
select h.user_id, m.id as transaction_id, 'savings were moved without a transaction' as fault
from finance.holders h
join ledger.transfers m on m.state = 'posted'
     and (m.debit_account_id = h.savings_account_id or m.credit_account_id = h.savings_account_id)
left join finance.transactions t on t.transfer_id = m.id and t.user_id = h.user_id and t.amount > 0
where t.id is null
order by 1, 2
limit :limit::int

-- name: verify_distributions
-- Distributions whose parts do not add up to what was divided, or are not as many as were paid; parts of one that is not
-- there. Rows: distribution_id, fault.
select coalesce(d.id, p.distribution_id) as distribution_id,
       case when d.id is null then 'its parts are there, and it is gone' else 'its parts do not add up' end as fault
from finance.distributions d
full join (
    select t.distribution_id, sum(t.amount) as amount, count(*) as holders
    from finance.transactions t
    where t.distribution_id is not null and t.status = 'completed'
    group by t.distribution_id
) p on p.distribution_id = d.id
where (p.amount = d.amount and p.holders = d.holders) is not true
order by 1
limit :limit::int

-- name: verify_seals
-- Seals that are not as they were made: numbers without gaps, each with the digest of the one before, root and digest
-- over what is there. Rows: number, fault.
with seal as (
    select s.*, row_number() over w as place, lag(s.digest, 1, ''::bytea) over w as digest_before,
           finance.digest_of(s.number, s.trails, s.root, s.previous, s.created_at) as digest_now
    from finance.seals s
    window w as (order by s.number)
), rooted as (
    select x.seal_number, count(*) as trails,
           finance.root_of(array_agg(x.user_id), array_agg(x.number), array_agg(x.hash)) as root
    from finance.sealed_trails x
    group by x.seal_number
)
select s.number,
       case when s.number <> s.place then 'a seal before it is missing'
            when s.previous <> s.digest_before then 'it does not follow the seal before it'
            when s.digest <> s.digest_now then 'it was changed after it was made'
            else 'what it seals was changed'
       end as fault
from seal s
left join rooted r on r.seal_number = s.number
where s.number <> s.place or s.previous <> s.digest_before or s.digest <> s.digest_now
      or (r.trails = s.trails and r.root = s.root) is not true
order by s.number
limit :limit::int

-- name: verify_sealed
-- Sealed trails whose entry is gone or has another hash: they were rewritten after the seal. Rows: user_id, number, fault.
select x.user_id, x.number,
       case when e.hash is null then 'the seal ' || x.seal_number || ' has seen this entry, and it is gone'
            else 'the seal ' || x.seal_number || ' has seen another entry here'
       end as fault
from finance.sealed_trails x
left join finance.transaction_history e on e.user_id = x.user_id and e.number = x.number
where e.hash is distinct from x.hash
order by 1, 2
limit :limit::int
