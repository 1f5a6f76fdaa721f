-- The changes that were not visible in the snapshot `seen` and are now, with the snapshot that says so; one row without
-- a change when there are none. While nothing has ended since `seen`, PostgreSQL waits for itself: a look costs some
-- microseconds there, a poll a hundred and more on either side. It waits for at most `wait_ms`.
--
-- `pause_ms` below 1: pg_sleep rounds up to a whole millisecond and, asked for exactly one, sleeps two.
-- Each statement of a volatile function has a snapshot of its own (READ COMMITTED); what is returned and the snapshot
-- are of one statement, so that they cannot differ.
create function headwater.wait_for_changes(seen pg_snapshot, floor bigint, wait_ms integer, pause_ms double precision)
returns table (
    "snapshot" text, "last" bigint, "table" text, op text, xid text, "key" jsonb, "new" jsonb, "old" jsonb
)
language plpgsql volatile
set search_path = pg_catalog, pg_temp set enable_seqscan = off set enable_bitmapscan = off
as $function$
#variable_conflict use_column
declare
    until timestamptz := clock_timestamp() + wait_ms * interval '1 millisecond';
    seen_as_text text := seen::text;
begin
    while pg_current_snapshot()::text = seen_as_text and clock_timestamp() < until loop
        perform pg_sleep(pause_ms / 1000);
    end loop;
    return query
        select now.snapshot::text, now.last, c."table", c.op::text, c.xid::text, c.key, c.new, c.old
          from (select pg_current_snapshot() as snapshot, pg_sequence_last_value('headwater.change_id') as last) now
          left join headwater.change c
            on now.snapshot::text <> seen_as_text and c.id > floor
           and c.xid >= pg_snapshot_xmin(seen) and not pg_visible_in_snapshot(c.xid, seen);
end
$function$;
