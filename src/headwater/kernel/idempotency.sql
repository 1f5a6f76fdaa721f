-- name: claim
-- Take the key for this transaction; a concurrent twin waits here until the first one commits or rolls back.
insert into headwater.idempotency_key (key, caller_id, route, request_sha256, status, headers, body, created_at)
values (:key::text, :caller_id::uuid, :route::text, :request_sha256::bytea, 0, '{}'::jsonb, ''::bytea, now())
on conflict do nothing
returning key

-- name: recall
-- What the key was used for before, this route first; locked, so that a sweep cannot take it away meanwhile.
select route, request_sha256, status, headers, body, created_at < now() - interval '24 hours' as expired
from headwater.idempotency_key
where key = :key::text and caller_id = :caller_id::uuid
order by route = :route::text desc
limit 1
for update

-- name: reclaim
-- An expired key counts as never used: it now stands for this request.
update headwater.idempotency_key
set route = :route::text, request_sha256 = :request_sha256::bytea, status = 0, headers = '{}'::jsonb, body = ''::bytea,
    created_at = now()
where key = :key::text and caller_id = :caller_id::uuid and created_at < now() - interval '24 hours'

-- name: store
-- The answer, in the same transaction as the effect it tells of.
update headwater.idempotency_key
set status = :status::int, headers = :headers::jsonb, body = :body::bytea
where key = :key::text and caller_id = :caller_id::uuid and route = :route::text

-- name: sweep
-- Remove some expired keys; those that a transaction looks at now are left for the next time.
delete from headwater.idempotency_key
where ctid = any (
    array (
        select ctid from headwater.idempotency_key
        where created_at < now() - interval '24 hours'
        limit :rows_max::int
        for update skip locked
    )
)
