-- What the runner of migrations asks and writes in its own tables.

-- name: has_ledger
-- Whether this database was ever migrated.
select to_regclass('headwater.fingerprint') is not null

-- name: read_ledger
-- What has been applied, or has begun.
select revision, module, name, sha256, requires, state, applied_at, duration_ms, lock_retries, applied_by, before::text as before
from headwater.migration
order by applied_at, revision

-- name: read_fingerprint
-- Every object as the migrations left it.
select kind, name, parent, schemas, definition, revision from headwater.fingerprint

-- name: begin_revision
-- Note that a revision outside a transaction begins; what the catalogue was before is kept from the first try.
insert into headwater.migration (revision, module, name, sha256, requires, state, headwater_version, before)
values (:revision::text, :module::text, :name::text, :sha256::text, :requires::text[], 'running', :headwater_version::text,
        (:before::text)::jsonb)
on conflict (revision) do update set sha256 = excluded.sha256, name = excluded.name, requires = excluded.requires

-- name: end_revision
-- Note that a revision is applied.
insert into headwater.migration (revision, module, name, sha256, requires, state, headwater_version, duration_ms, lock_retries)
values (:revision::text, :module::text, :name::text, :sha256::text, :requires::text[], 'applied', :headwater_version::text,
        :duration_ms::bigint, :lock_retries::int)
on conflict (revision) do update
set state = 'applied', before = null, applied_at = clock_timestamp(), duration_ms = excluded.duration_ms,
    lock_retries = excluded.lock_retries, applied_by = excluded.applied_by,
    headwater_version = excluded.headwater_version

-- name: forget_versions
-- Alembic's table holds what nothing else applied builds on. First take out what is built on by now.
delete from headwater.alembic_version v
where exists (select from headwater.migration m where m.state = 'applied' and v.version_num = any (m.requires))

-- name: note_versions
-- Then put in the revisions that nothing builds on.
insert into headwater.alembic_version (version_num)
select h.revision from headwater.migration h
where h.state = 'applied'
  and not exists (select from headwater.migration m where m.state = 'applied' and h.revision = any (m.requires))
on conflict do nothing

-- name: keep_object
-- Record one object as a revision left it, or as it was found.
insert into headwater.fingerprint (kind, name, parent, schemas, definition, sha256, revision)
values (:kind::text, :name::text, :parent::text, :schemas::text[], :definition::text, :sha256::text, :revision::text)
on conflict (kind, name) do update
set parent = excluded.parent, schemas = excluded.schemas, definition = excluded.definition, sha256 = excluded.sha256,
    revision = excluded.revision

-- name: forget_object
-- Take out of the record what a revision has dropped.
delete from headwater.fingerprint where kind = :kind::text and name = :name::text

-- name: accept_checksum
-- An edited revision is taken as it is now.
update headwater.migration set sha256 = :sha256::text where revision = :revision::text

-- name: invalid_indexes
-- Indexes that a CREATE INDEX CONCURRENTLY or REINDEX CONCURRENTLY left unfinished.
select format('%I.%I', n.nspname, c.relname) as name
from pg_index i join pg_class c on c.oid = i.indexrelid join pg_namespace n on n.oid = c.relnamespace
where not i.indisvalid and c.relkind = 'i' and not exists (select from pg_constraint k where k.conindid = c.oid)
order by 1

-- name: lock_holder
-- Who holds the lock of the migrations.
select a.pid, coalesce(nullif(a.application_name, ''), 'unnamed') as application, a.state,
       extract(epoch from clock_timestamp() - a.backend_start)::bigint as seconds
from pg_locks l join pg_stat_activity a on a.pid = l.pid
where l.locktype = 'advisory' and l.granted and l.objsubid = 1
  and l.database = (select oid from pg_database where datname = current_database())
  and (l.classid::bigint << 32) | l.objid::bigint = :lock::bigint
limit 1

-- name: oldest_transactions
-- Who may stand in the way of a lock: the transactions that have been open longest.
select a.pid, coalesce(nullif(a.application_name, ''), a.backend_type, 'unnamed') as application,
       coalesce(a.state, 'at work') as state,
       extract(epoch from clock_timestamp() - a.xact_start)::bigint as seconds
from pg_stat_activity a
where a.datname = current_database() and a.xact_start is not null and a.pid <> pg_backend_pid()
order by a.xact_start
limit 3
