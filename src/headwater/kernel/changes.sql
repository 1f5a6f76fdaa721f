-- Reading the change stream.

-- name: head
-- The epoch and the last position that was told.
select e.number as epoch, coalesce(t.first_position + t.changes, e.first_position) - 1 as number,
       coalesce(t.at, e.started_at) as at
  from headwater.epoch e
  left join lateral (
      select first_position, changes, at from headwater.tick where epoch = e.number order by first_position desc limit 1
  ) t on true
 order by e.number desc limit 1

-- name: read
-- The changes of the ticks after a position, as many whole ticks as it takes to reach the limit. A transaction's changes
-- stand together, in the order in which the transactions drew their last ids: per row that is the order of its changes.
-- What is not asked for comes without its content, so that whoever reads can count it.
with chosen as materialized (
    select * from (
        select t.*, sum(t.changes) over (order by t.first_position) - t.changes as before
          from (select * from headwater.tick
                 where epoch = :epoch::bigint
                   and first_position >= coalesce((select max(first_position) from headwater.tick
                                                    where epoch = :epoch and first_position <= :after::bigint + 1), 0)
                   and first_position + changes > :after + 1
                 order by first_position limit 256) t
    ) counted where before < :limit::bigint
)
select t.first_position, t.changes, t.at as told_at, (select max(number) from headwater.epoch) as epoch_now,
       c.id, c.xid::text::bigint as xid, c.at, c."table", c.op::text as op,
       case when c.asked then c.key end as key, case when c.asked then c.new end as new,
       case when c.asked then c.old end as old, case when c.asked then c.context end as context, c.asked
  from chosen t
  left join lateral (
      select f.*, max(f.id) over (partition by f.xid) as last_id,
             :tables::text[] is null or f."table" = any (:tables) as asked
        from (
          select * from headwater.change x
           where x.id > t.after_id and x.id <= t.upto_id and x.xid >= t.xid_from and x.xid < t.xid_to
             and pg_visible_in_snapshot(x.xid, t.snapshot)
          union all
          select * from headwater.change x
           where t.finished <> '{}' and x.id > t.after_id and x.id <= t.upto_id and x.xid = any (t.finished)
        ) f
  ) c on true
 order by t.first_position, c.last_id, c.id

-- name: emit
-- An event of the application, in the stream of its transaction.
select headwater.emit(:topic::text, :key::jsonb, :data::jsonb)
