-- name: key_holder
-- The key with this id, the scopes of its role, and whether it still counts: not revoked, not expired, its user active.
select
    key.id,
    key.name,
    key.key_hash,
    key.user_id,
    role.scopes,
    key.revoked_at is null
        and (key.expires_at is null or key.expires_at > now())
        and coalesce(holder.is_active, true) as counts
from public.api_keys as key
join public.roles as role on role.name = key.role
left join public.users as holder on holder.id = key.user_id
where key.id = :key_id::uuid

-- name: keep_key
-- Store a key unless its id is taken, in which case nothing happens: two starts at once both succeed.
insert into public.api_keys (id, key_hash, last_four, name, role)
values (:id::uuid, :key_hash::bytea, :last_four::text, :name::text, :role::text)
on conflict (id) do nothing

-- name: session_holder
-- The active user a session belongs to, with the scopes of someone who signed in.
select holder.id, holder.email, role.scopes
from public.users as holder
join public.roles as role on role.name = 'member'
where holder.id = :user_id::uuid and holder.is_active

-- name: sign_in
-- What is needed to check a password: at most one user, found by email whatever its capitals.
select holder.id, holder.is_active, holder.password_hash
from public.users as holder
where lower(holder.email) = lower(:email::text)

-- name: keep_password_hash
-- Store a stronger hash of the same password. Nothing about the user has changed, so the version stays.
update public.users
set password_hash = :password_hash::text
where id = :user_id::uuid and password_hash = :replaced_hash::text
