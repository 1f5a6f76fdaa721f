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
-- The ticks after a position, whole ones, as many as it takes to reach the limit, and their changes when these are few.
select id, xid, "table", op, at, content
  from headwater.read_stream(:epoch::bigint, :after::bigint, :limit::bigint, :little::bigint, :tables::text[],
                             :told_at::timestamptz)

-- name: changes
-- The changes of consecutive ticks, in no order: those of the transactions from `xid_from` to before `xid_to` that the
-- snapshot sees, and those of `finished`. What is not asked for comes without its content, so that it can be counted.
-- One JSON array for the four documents of a change: to decode it costs its reader half of what four would.
select x.id, x.xid::text::bigint as xid, x."table", x.op::text as op, x.at,
       case when :tables::text[] is null or x."table" = any (:tables)
            then json_build_array(x.key, x.new, x.old, x.context) end as content
  from (
    select * from headwater.change c
     where c.id > :after_id::bigint and c.id <= :upto_id::bigint
       and c.xid >= :xid_from::bigint::text::xid8 and c.xid < :xid_to::bigint::text::xid8
       and pg_visible_in_snapshot(c.xid, :snapshot::text::pg_snapshot)
    union all
    select * from headwater.change c
     where c.id > :after_id and c.id <= :upto_id and c.xid = any (:finished::bigint[]::text[]::xid8[])
       and not (c.xid >= :xid_from::bigint::text::xid8 and c.xid < :xid_to::bigint::text::xid8
                and pg_visible_in_snapshot(c.xid, :snapshot::text::pg_snapshot))
  ) x

-- name: latest_changes
-- The same, with the content of the last change of each key only: per key the order of ids is the order of its changes.
select x.id, x.xid::text::bigint as xid, x."table", x.op::text as op, x.at,
       case when x.id in (
           select max(y.id) from (
               select * from headwater.change c
                where c.id > :after_id::bigint and c.id <= :upto_id::bigint
                  and c.xid >= :xid_from::bigint::text::xid8 and c.xid < :xid_to::bigint::text::xid8
                  and pg_visible_in_snapshot(c.xid, :snapshot::text::pg_snapshot)
               union all
               select * from headwater.change c
                where c.id > :after_id and c.id <= :upto_id and c.xid = any (:finished::bigint[]::text[]::xid8[])
                  and not (c.xid >= :xid_from::bigint::text::xid8 and c.xid < :xid_to::bigint::text::xid8
                           and pg_visible_in_snapshot(c.xid, :snapshot::text::pg_snapshot))
           ) y where :tables::text[] is null or y."table" = any (:tables)
            group by y."table", y.key
       ) then json_build_array(x.key, x.new, x.old, x.context) end as content
  from (
    select * from headwater.change c
     where c.id > :after_id and c.id <= :upto_id
       and c.xid >= :xid_from::bigint::text::xid8 and c.xid < :xid_to::bigint::text::xid8
       and pg_visible_in_snapshot(c.xid, :snapshot::text::pg_snapshot)
    union all
    select * from headwater.change c
     where c.id > :after_id and c.id <= :upto_id and c.xid = any (:finished::bigint[]::text[]::xid8[])
       and not (c.xid >= :xid_from::bigint::text::xid8 and c.xid < :xid_to::bigint::text::xid8
                and pg_visible_in_snapshot(c.xid, :snapshot::text::pg_snapshot))
  ) x

-- name: settle
-- Flush what was committed so far: a tick is committed without waiting for the disk. False when the tick that told of a
-- position at a time is not there: a crash of the server took it along.
select pg_logical_emit_message(false, 'headwater', '', true) is not null
       and (:told_at::timestamptz is null or :told_at is not distinct from (
                select at from headwater.tick where epoch = :epoch::bigint and first_position <= :number::bigint
                 order by first_position desc limit 1))

-- name: emit
-- An event of the application, in the stream of its transaction.
select headwater.emit(:topic::text, :key::jsonb, :data::jsonb)
