-- The ticker: its state when it is elected, and what of the history may go.

-- name: identity_changed
-- Whether this database is another one than the last epoch was of.
select not coalesce((select identity = headwater.identity() from headwater.epoch order by number desc limit 1), false)

-- name: begin_epoch
-- Begin a new epoch if this database is another one; the first statement of its transaction.
select headwater.begin_epoch()

-- name: state
-- Where the last ticker stopped: what was told, and below which id nothing is still open.
select e.number as epoch, coalesce(t.snapshot, e.snapshot)::text as snapshot,
       coalesce(t.first_position + t.changes, e.first_position) as next_position,
       greatest(e.floor_id, t.after_id,
                (select max(m.mark_id) from (select * from headwater.tick where epoch = e.number
                                              order by first_position desc limit 5000) m
                  where m.mark_xid <= pg_snapshot_xmin(t.snapshot))) as after_id
  from headwater.epoch e
  left join lateral (
      select * from headwater.tick where epoch = e.number order by first_position desc limit 1
  ) t on true
 order by e.number desc limit 1

-- name: take_tick
-- Tell the transactions that have ended since the last snapshot, if they changed anything.
select snapshot::text as snapshot, pg_snapshot_xmin(snapshot)::text::bigint as xmin, changes,
       mark_xid::text::bigint as mark_xid, mark_id
  from headwater.take_tick(:epoch::bigint, :previous::text::pg_snapshot, :after_id::bigint, :next_position::bigint,
                           :changes_max::bigint)

-- name: make_partitions
-- Partitions for the changes to come, made before they are needed.
select headwater.make_partitions(:ahead::bigint, :ids::bigint)

-- name: turn_partition
-- The next partition, once the current one holds enough.
select headwater.turn_partition(:used::bigint)

-- name: watch_partitions
-- Partitions that tracked tables have got since: TRUNCATE of one of them is told from now on.
select headwater.watch_partitions()

-- name: detach_laggards
-- Optional followers that are behind by more than they said they may be: they will begin again from a snapshot.
update headwater.follower f
   set state = 'detached', error = 'it was behind by more than ' || f.lag_seconds_max || ' s'
 where not f.required and f.state = 'following' and f.lag_seconds_max is not null
   and exists (select from headwater.tick t
                where t.epoch = f.epoch and t.first_position + t.changes > f.position + 1
                  and t.at < clock_timestamp() - make_interval(secs => f.lag_seconds_max))
returning f.name

-- name: passed
-- The id up to which every required follower of this epoch has everything, and nothing is still open.
select least(:after_id::bigint, min((
           select t.after_id from headwater.tick t
            where t.epoch = f.epoch and t.first_position + t.changes > f.position + 1
            order by t.first_position limit 1))) as id
  from (select) nothing
  left join headwater.follower f on f.required and f.state = 'following'
                                and f.epoch = (select max(number) from headwater.epoch)

-- name: partitions
-- The partitions of the stream, oldest first.
select name::text as name, pending, upper from headwater.partitions() order by upper nulls first

-- name: youngest
-- When the last change below an id was written; null without any.
select max(c.at) < clock_timestamp() - make_interval(secs => :age_seconds::float8) from headwater.change c
 where c.id >= :lower::bigint and c.id < :upper::bigint

-- name: forget_ticks
-- Ticks of which nothing is left. The newest stays: positions go on from it.
delete from headwater.tick t
 where upto_id < :below::bigint
   and exists (select from headwater.tick n where (n.epoch, n.first_position) > (t.epoch, t.first_position))

-- name: is_led
-- Whether any process holds the lock of the tickers of this database.
select exists (
    select from pg_locks
     where locktype = 'advisory' and granted and objsubid = 1
       and database = (select oid from pg_database where datname = current_database())
       and (classid::bigint << 32 | objid::bigint) = :lock::bigint)
