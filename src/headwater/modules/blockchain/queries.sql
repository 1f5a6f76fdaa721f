-- name: wallet_owner
-- Who a wallet address belongs to: the user and their standing, without what identifies them off the chain.
select
    chain.user_id,
    chain.wallet_address,
    chain.reputation_score,
    holder.name,
    holder.is_active,
    holder.kyc_status,
    chain.created_at
from blockchain.users as chain
join public.users as holder on holder.id = chain.user_id
where chain.wallet_address = :wallet_address::text

-- name: user_stats
-- What one user has done, as far as identity and the chain know. Each count walks an index.
select
    holder.id as user_id,
    holder.is_active,
    holder.kyc_status,
    holder.created_at as member_since,
    chain.wallet_address,
    coalesce(chain.reputation_score, 0) as reputation_score,
    (select count(*) from blockchain.assets where issuer_id = holder.id) as assets_issued,
    (select count(*) from blockchain.transactions where from_address = chain.wallet_address) as transactions_sent,
    (select count(*) from blockchain.transactions where to_address = chain.wallet_address) as transactions_received
from public.users as holder
left join blockchain.users as chain on chain.user_id = holder.id
where holder.id = :user_id::uuid

-- name: wallet_balance
-- What the wallets of one user have, and what pending transactions hold of it, as the ledger says. The accounts are looked
-- up wallet by wallet (OFFSET), by their owner and not by their asset (`+ 0`), whatever the statistics say.
select
    holder.id as user_id,
    count(wallet.id) as wallets,
    coalesce(sum(account.balance), 0)::bigint as balance,
    coalesce(sum(account.held), 0)::bigint as held,
    coalesce(sum(account.balance - account.held), 0)::bigint as available
from public.users as holder
left join blockchain.wallets as wallet on wallet.user_id = holder.id
left join lateral (
    select a.balance, a.held from ledger.accounts as a
    where a.owner_kind = 'wallet' and a.owner_id = wallet.id and a.purpose = 'main'
        and a.asset_id + 0 = (select s.id from ledger.assets as s where s.code = 'FODI')
    offset 0
) as account on true
where holder.id = :user_id::uuid
group by holder.id
