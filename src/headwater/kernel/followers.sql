-- Followers: their checkpoints, what they have parked, and how they stand.

-- name: register
-- Make a follower known; what it is allowed to hold back is what its code says now.
insert into headwater.follower (name, required, lag_seconds_max)
values (:name::text, :required::boolean, :lag_seconds_max::float8)
on conflict (name) do update
   set required = excluded.required, lag_seconds_max = excluded.lag_seconds_max, seen_at = clock_timestamp()

-- name: checkpoint
-- Where a follower stands.
select state, epoch, position, skip::text as skip from headwater.follower where name = :name::text

-- name: move
-- Compare and set: move a checkpoint, unless somebody else has moved it, or a crash of the server took along the tick
-- that told (`told`, `told_at`) what it is moved past: another one may be in its place.
update headwater.follower
   set position = :to::bigint, moved_at = clock_timestamp(), seen_at = clock_timestamp(), error = null
 where name = :name::text and state = 'following' and epoch = :epoch::bigint and position = :after::bigint
   and (:told_at::timestamptz is null or :told_at = (
            select t.at from headwater.tick t where t.epoch = :epoch and t.first_position <= :told::bigint
             order by t.first_position desc limit 1))

-- name: move_lightly
-- The same without waiting for the disk: a checkpoint that a crash takes along is moved again.
with lightly as materialized (select set_config('synchronous_commit', 'off', true))
update headwater.follower
   set position = :to::bigint, moved_at = clock_timestamp(), seen_at = clock_timestamp(), error = null
  from lightly
 where name = :name::text and state = 'following' and epoch = :epoch::bigint and position = :after::bigint
   and (:told_at::timestamptz is null or :told_at = (
            select t.at from headwater.tick t where t.epoch = :epoch and t.first_position <= :told::bigint
             order by t.first_position desc limit 1))

-- name: report
-- What the checkpoint in a foreign sink says, for those who look here.
update headwater.follower
   set epoch = :epoch::bigint, position = :position::bigint, moved_at = clock_timestamp(), seen_at = clock_timestamp(),
       error = null
 where name = :name::text and state = 'following'

-- name: trouble
-- Why a follower does not get on.
update headwater.follower set error = :error::text, seen_at = clock_timestamp() where name = :name::text

-- name: begin_bootstrap
-- A follower begins from a snapshot: until it has all rows it follows nothing.
update headwater.follower
   set state = 'new', epoch = :epoch::bigint, position = :position::bigint, skip = :skip::text::pg_snapshot,
       seen_at = clock_timestamp()
 where name = :name::text

-- name: end_bootstrap
-- All rows are there: it follows from now on.
update headwater.follower
   set state = 'following', error = null, moved_at = clock_timestamp() where name = :name::text and state = 'new'

-- name: alone
-- One bootstrap of a follower at a time: until this transaction ends.
select pg_advisory_xact_lock(hashtextextended('headwater follower ' || :name::text, 0))

-- name: snapshot
-- What this transaction sees, and the last position that was told before it.
select pg_current_snapshot()::text as snapshot, e.number as epoch,
       coalesce((select t.first_position + t.changes from headwater.tick t where t.epoch = e.number
                  order by t.first_position desc limit 1), e.first_position) - 1 as position
  from headwater.epoch e order by e.number desc limit 1

-- name: tracked_tables
-- The tables that the stream tells.
select "table" as name from headwater.tracked order by 1

-- name: rows_of
-- The rows of a tracked table as the stream would tell them.
select key, "row" from headwater.rows_of(:name::text)

-- name: park
-- Lay a change aside for a follower; once, however often it is tried.
insert into headwater.parked (follower, epoch, position, "table", key, change, attempts, error)
values (:follower::text, :epoch::bigint, :position::bigint, :name::text, :key::jsonb, :change::jsonb,
        :attempts::bigint, :error::text)
on conflict do nothing

-- name: parked_keys
-- The keys a follower has laid aside.
select distinct "table" as name, key from headwater.parked where follower = :follower::text

-- name: to_retry
-- What somebody asked to be tried again, with everything of the same keys, oldest first.
select p.epoch, p.position, p."table" as name, p.key, p.change
  from headwater.parked p
 where p.follower = :follower::text
   and exists (select from headwater.parked q where q.follower = p.follower and q."table" = p."table"
                  and q.key is not distinct from p.key and q.retry)
 order by p.epoch, p.position

-- name: unpark
-- Forget what was laid aside of a key, up to a position.
delete from headwater.parked
 where follower = :follower::text and "table" = :name::text and key is not distinct from :key::jsonb
   and (epoch, position) <= (:epoch::bigint, :position::bigint)

-- name: still_failing
-- It was tried again and failed again.
update headwater.parked set retry = false, attempts = attempts + 1, error = :error::text
 where follower = :follower::text and "table" = :name::text and key is not distinct from :key::jsonb

-- name: ask_to_retry
-- Ask a follower to try what it has parked again: all of it, or one key.
update headwater.parked set retry = true
 where follower = :follower::text and (:key::text is null or key::text = :key or key = to_jsonb(:key))

-- name: drop_parked
-- Give up what a follower has parked: all of it, or one key. Its next change is followed again.
delete from headwater.parked
 where follower = :follower::text and (:key::text is null or key::text = :key or key = to_jsonb(:key))

-- name: forget_parked
-- A bootstrap has brought every row anew: nothing stays aside.
delete from headwater.parked where follower = :follower::text

-- name: replay
-- Let a follower begin again: from a snapshot (no position), or from an earlier position.
update headwater.follower
   set state = case when :position::bigint is null then 'detached' else state end,
       position = coalesce(:position::bigint, position), skip = case when :position::bigint is null then skip end
 where name = :name::text and (:position::bigint is null or (position >= :position::bigint and epoch = :epoch::bigint))

-- name: standing
-- Every follower: where it is, how far behind in changes and in seconds, and what it has parked.
select f.name, f.state, f.required, f.epoch, f.position, f.error, f.lag_seconds_max,
       greatest(h.number - f.position, 0) as lag_changes,
       coalesce(extract(epoch from clock_timestamp() - (
           select t.at from headwater.tick t
            where t.epoch = f.epoch and t.first_position + t.changes > f.position + 1
            order by t.first_position limit 1))::float8, 0) as lag_seconds,
       (select count(*) from headwater.parked p where p.follower = f.name) as parked_changes,
       (select count(distinct (p."table", p.key)) from headwater.parked p where p.follower = f.name) as parked_keys
  from headwater.follower f
 cross join (select coalesce(t.first_position + t.changes, e.first_position) - 1 as number
               from headwater.epoch e
               left join lateral (select first_position, changes from headwater.tick where epoch = e.number
                                   order by first_position desc limit 1) t on true
              order by e.number desc limit 1) h
 order by f.name

-- name: parked
-- Everything that is parked, oldest first.
select follower, epoch, position, "table" as name, key, attempts, error, parked_at
  from headwater.parked order by follower, epoch, position limit :limit::bigint
