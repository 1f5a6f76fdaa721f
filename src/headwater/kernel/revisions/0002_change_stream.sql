-- The change stream: what is written in the transactions of writers, and what the ticker makes of it.
-- Every name is qualified and every operator is named with its schema: the functions run with the rights of their
-- owner, and the search path of the caller must not decide what they do. (Setting it would cost each write more.)

create sequence headwater.change_id as bigint cache 1;

-- `xid` comes before `id` on purpose: defaults are evaluated in this order, and the bounds of the ticks rest on a
-- transaction having its number before it draws an id. Per row the order of ids is the order of its changes, because
-- an id is drawn while the row is locked. A reader finds what is new by transactions: the key begins with them.
create table headwater.change (
    xid xid8 not null default pg_current_xact_id(),
    id bigint not null default nextval('headwater.change_id'),
    at timestamptz not null default clock_timestamp(),
    "table" text not null,
    op "char" not null,
    key jsonb,
    new jsonb,
    old jsonb,
    context jsonb,
    constraint change_pkey primary key (xid, id)
) partition by range (id);

-- One life of the stream. Another one begins when the database is not the one it was: restored, promoted, copied.
create table headwater.epoch (
    number bigint not null,
    identity text,                 -- system, timeline, database and table; null: known to be restored
    floor_id bigint not null,      -- ids up to here belong to earlier epochs
    first_position bigint not null,
    snapshot pg_snapshot not null, -- what was done with when it began
    started_at timestamptz not null default clock_timestamp(),
    constraint epoch_pkey primary key (number)
);

-- One tick: the transactions that ended between two snapshots. Its changes are those of the transactions
-- from `xid_from` to before `xid_to` that `snapshot` sees, and those of `finished`.
create table headwater.tick (
    epoch bigint not null,
    first_position bigint not null,
    changes bigint not null,
    snapshot pg_snapshot not null,
    xid_from xid8 not null,
    xid_to xid8 not null,
    finished xid8[] not null,
    after_id bigint not null,
    upto_id bigint not null,
    mark_xid xid8 not null,        -- whoever drew an id up to `mark_id` had a number below `mark_xid`
    mark_id bigint not null,
    at timestamptz not null default clock_timestamp(),
    constraint tick_pkey primary key (epoch, first_position)
);

-- Who follows the stream, how far they are, and who may hold its history back.
create table headwater.follower (
    name text not null,
    required boolean not null default true,
    lag_seconds_max double precision,
    state text not null default 'new',
    epoch bigint not null default 0,
    position bigint not null default 0,
    skip pg_snapshot,              -- what the bootstrap saw already
    error text,
    seen_at timestamptz not null default clock_timestamp(),
    moved_at timestamptz not null default clock_timestamp(),
    constraint follower_pkey primary key (name),
    constraint follower_state_check check (state in ('new', 'following', 'detached'))
);

-- Changes a follower could not apply, and those of the same key that came after.
create table headwater.parked (
    follower text not null,
    epoch bigint not null,
    position bigint not null,
    "table" text not null,
    key jsonb,
    change jsonb not null,
    attempts bigint not null default 0,
    error text not null,
    retry boolean not null default false,
    parked_at timestamptz not null default clock_timestamp(),
    constraint parked_pkey primary key (follower, epoch, position)
);
create index parked_follower_table_key_idx on headwater.parked (follower, "table", key);

-- What is tracked, and how.
create table headwater.tracked (
    "table" text not null,
    policy text not null,
    keys text[] not null,
    tags text[] not null,
    private text[] not null,
    constraint tracked_pkey primary key ("table"),
    constraint tracked_policy_check check (policy in ('full', 'keys'))
);

-- next
-- The partitions of the stream by their bounds; one whose drop was interrupted is `pending`.
create function headwater.partitions() returns table (name regclass, lower bigint, upper bigint, pending boolean)
language sql stable as $function$
    select c.oid::regclass,
           (regexp_match(pg_get_expr(c.relpartbound, c.oid), 'FROM \(''(\d+)''\)'))[1]::bigint,
           (regexp_match(pg_get_expr(c.relpartbound, c.oid), 'TO \(''(\d+)''\)'))[1]::bigint,
           i.inhdetachpending
      from pg_inherits i join pg_class c on c.oid = i.inhrelid
     where i.inhparent = 'headwater.change'::regclass
$function$;

-- next
-- Partitions ahead of the sequence, so that writers never wait for one. LIKE and ATTACH disturb no writer.
create function headwater.make_partitions(ahead bigint, ids bigint) returns bigint
language plpgsql as $function$
declare
    made bigint := 0;
    there bigint;
    upper bigint;
    name text;
begin
    loop
        select count(*) filter (where p.lower > s.last_value), coalesce(max(p.upper), 1)
          into there, upper
          from headwater.change_id s left join headwater.partitions() p on true;
        exit when there >= ahead;
        name := 'change_' || to_char(upper, 'FM0000000000000000000');
        execute format('create table headwater.%I (like headwater.change including all)', name);
        execute format('alter table headwater.change attach partition headwater.%I for values from (%L) to (%L)',
                       name, upper, upper + ids);
        made := made + 1;
    end loop;
    return made;
end
$function$;

-- next
-- Let the changes from now on go into the next partition, once so many ids of the current one are used. A partition
-- has room for far more ids than it is meant to hold: when nobody is there to do this, it grows, and no writer fails.
-- Ids only ever rise, and whoever drew one keeps it: the first id of the new partition is drawn here and used by none.
create function headwater.turn_partition(used bigint) returns boolean
language plpgsql as $function$
declare
    begins bigint;
begin
    -- Two that would turn at once could set the sequence back; the second sees what the first has set.
    perform pg_advisory_xact_lock(hashtextextended('headwater turn_partition', 0));
    select (select min(p.lower) from headwater.partitions() p where p.lower > s.last_value and not p.pending)
      into begins
      from headwater.change_id s
      join headwater.partitions() c on s.last_value >= c.lower and s.last_value < c.upper
     where s.last_value - c.lower >= used;
    if begins is null then
        return false;
    end if;
    perform setval('headwater.change_id', begins, true);
    return true;
end
$function$;

-- next
select headwater.make_partitions(3, 100000000000);

-- next
-- In whose name the transaction writes, as it says itself; whatever words these are, no write fails by them.
create function headwater.said() returns jsonb
language plpgsql stable as $function$
declare
    words text := pg_catalog.current_setting('headwater.context', true);
begin
    if words operator(pg_catalog.=) '' then
        return null;
    elsif pg_catalog.pg_input_is_valid(words, 'pg_catalog.jsonb') then
        return words::pg_catalog.jsonb;
    end if;
    return pg_catalog.to_jsonb(words);
end
$function$;

-- next
-- PostgreSQL clones row triggers to partitions, and no statement triggers: TRUNCATE of a partition alone becomes the
-- deletes of its rows. Partitions that came after the table was tracked get their trigger here, from `track` and every
-- few seconds from the ticker (null: of every tracked table); one that is in use, or not ours to alter, waits.
create function headwater.watch_partitions(relation regclass default null) returns bigint
language plpgsql as $function$
declare
    known record;
    watched bigint := 0;
begin
    for known in
        select part.relid::regclass as part, t.tgfoid::regproc as routine
          from pg_trigger t
         cross join lateral pg_partition_tree(t.tgrelid) part
         where t.tgname = 'headwater_truncating' and not t.tgisinternal
           and t.tgrelid in (select c.oid from pg_class c where c.relkind = 'p')
           and (watch_partitions.relation is null or t.tgrelid = watch_partitions.relation)
           and part.isleaf and part.relid <> t.tgrelid
           and not exists (select from pg_trigger o where o.tgrelid = part.relid
                                                      and o.tgname = t.tgname and o.tgfoid = t.tgfoid)
    loop
        begin
            execute format('create or replace trigger headwater_truncating before truncate on %s for each statement '
                           'execute function %s()', known.part, known.routine);
            execute format('alter table %s enable always trigger headwater_truncating', known.part);
            watched := watched + 1;
        exception when lock_not_available or insufficient_privilege then
            if watch_partitions.relation is not null then
                raise;
            end if;
        end;
    end loop;
    return watched;
end
$function$;

-- next
-- The one function of a tracked table, written for its columns: a general one would cost each write several times more.
-- `keys`, `tags` and `private` are names of columns; `private` ones never enter the stream.
create function headwater.track(
    relation regclass, policy text, tags text[] default '{}', private text[] default '{}'
) returns void
language plpgsql as $function$
declare
    spoken text;
    quoted text;
    routine text;
    kind "char";
    keys text[];
    unknown text;
    declared text;
    key_of text;
    row_of text;
    same_key text;
    body text;
begin
    select c.relkind, n.nspname || '.' || c.relname, format('%I.%I', n.nspname, c.relname) into kind, spoken, quoted
      from pg_class c join pg_namespace n on n.oid = c.relnamespace where c.oid = relation;
    if kind not in ('r', 'p') then
        raise exception '% is not a table and cannot be tracked', spoken using errcode = 'wrong_object_type';
    end if;
    if policy not in ('full', 'keys') then
        raise exception 'there is no tracking policy %: use full or keys', policy using errcode = 'invalid_parameter_value';
    end if;
    select array_agg(a.attname::text order by array_position(i.indkey::int2[], a.attnum)) into keys
      from pg_index i join pg_attribute a on a.attrelid = i.indrelid and a.attnum = any (i.indkey::int2[])
     where i.indrelid = relation and i.indisprimary;
    if keys is null then
        raise exception '% has no primary key and cannot be tracked', spoken using errcode = 'invalid_table_definition';
    end if;
    select string_agg(name, ', ') into unknown
      from unnest(tags || private) name
     where not exists (select from pg_attribute a
                        where a.attrelid = relation and a.attname = name and a.attnum > 0 and not a.attisdropped);
    if unknown is not null then
        raise exception '% has no column %', spoken, unknown using errcode = 'undefined_column';
    end if;
    routine := 'capture ' || spoken;
    if octet_length(routine) > 63 then
        routine := 'capture ' || md5(spoken);
    end if;

    select string_agg(format('%L, new.%I', name, name), ', '),
           string_agg(format('new.%I operator(pg_catalog.=) old.%I', name, name), ' and ')
      into key_of, same_key from unnest(keys) name;
    key_of := format('pg_catalog.jsonb_build_object(%s)', key_of);
    if policy = 'full' then
        row_of := 'pg_catalog.to_jsonb(new.*)';
        if private <> '{}' then
            row_of := format('%s operator(pg_catalog.-) %L::pg_catalog.text[]', row_of, private);
        end if;
    else
        select format('pg_catalog.jsonb_build_object(%s)', string_agg(format('%L, new.%I', name, name), ', '))
          into row_of from unnest(keys || tags) name;
    end if;
    declared := case when kind = 'p' then format($part$
        if tg_when operator(pg_catalog.=) 'BEFORE' then
            if tg_relid operator(pg_catalog.=) %L::pg_catalog.regclass then
                perform pg_catalog.set_config('headwater.truncating', 'yes', true);
            elsif coalesce(pg_catalog.current_setting('headwater.truncating', true), '') operator(pg_catalog.<>) 'yes' then
                execute pg_catalog.format(%L, tg_relid::pg_catalog.regclass) using headwater.said();
            end if;
            return null;
        end if;
        perform pg_catalog.set_config('headwater.truncating', '', true);$part$,
        quoted,
        format('insert into headwater.change ("table", op, key, old, context) select %L, ''d'', %s, %s, $1 from %%s as new',
               spoken, key_of, row_of)) else '' end;
    body := format($body$
begin
    -- An update asks this one question: `old` is null in an insert, `new` in a delete, and both in TRUNCATE.
    if %1$s then
        insert into headwater.change ("table", op, key, new, old, context)
        values (%2$L, 'u', %3$s, %4$s, %5$s, %8$s);
        return null;
    end if;
    if tg_op operator(pg_catalog.=) 'DELETE' or tg_op operator(pg_catalog.=) 'UPDATE' then
        insert into headwater.change ("table", op, key, old, context) values (%2$L, 'd', %6$s, %5$s, %8$s);
    end if;
    if tg_op operator(pg_catalog.=) 'INSERT' or tg_op operator(pg_catalog.=) 'UPDATE' then
        insert into headwater.change ("table", op, key, new, context) values (%2$L, 'i', %3$s, %4$s, %8$s);
    end if;
    if tg_op operator(pg_catalog.=) 'TRUNCATE' then%7$s
        insert into headwater.change ("table", op, context) values (%2$L, 't', %8$s);
    end if;
    return null;
end
$body$, same_key, spoken, key_of, row_of, replace(row_of, 'new.', 'old.'), replace(key_of, 'new.', 'old.'), declared,
        -- A transaction that says nothing of itself does not pay for a call.
        $said$case when pg_catalog.current_setting('headwater.context', true) operator(pg_catalog.<>) ''
                   then headwater.said() end$said$);

    execute format('create or replace function headwater.%I() returns trigger language plpgsql security definer as %L',
                   routine, body);
    execute format('drop trigger if exists headwater_change on %s', relation);
    execute format('drop trigger if exists headwater_truncate on %s', relation);
    execute format('create trigger headwater_change after insert or update or delete on %s for each row '
                   'execute function headwater.%I()', relation, routine);
    execute format('create trigger headwater_truncate after truncate on %s for each statement '
                   'execute function headwater.%I()', relation, routine);
    execute format('alter table %s enable always trigger headwater_change', relation);
    execute format('alter table %s enable always trigger headwater_truncate', relation);
    if kind = 'p' then
        execute format('drop trigger if exists headwater_truncating on %s', relation);
        execute format('create trigger headwater_truncating before truncate on %s for each statement '
                       'execute function headwater.%I()', relation, routine);
        execute format('alter table %s enable always trigger headwater_truncating', relation);
        perform headwater.watch_partitions(relation);
    end if;
    insert into headwater.tracked as t ("table", policy, keys, tags, private)
    values (spoken, track.policy, keys, track.tags, track.private)
    on conflict ("table") do update
       set policy = excluded.policy, keys = excluded.keys, tags = excluded.tags, private = excluded.private;
end
$function$;

-- next
create function headwater.untrack(relation regclass) returns void
language plpgsql as $function$
declare
    spoken text;
    routine oid;
    part regclass;
begin
    select n.nspname || '.' || c.relname into spoken
      from pg_class c join pg_namespace n on n.oid = c.relnamespace where c.oid = relation;
    select tgfoid into routine from pg_trigger where tgrelid = relation and tgname = 'headwater_change';
    execute format('drop trigger if exists headwater_change on %s', relation);
    execute format('drop trigger if exists headwater_truncate on %s', relation);
    for part in select relid from pg_partition_tree(relation) union select relation loop
        execute format('drop trigger if exists headwater_truncating on %s', part);
    end loop;
    if routine is not null then
        execute format('drop function %s', routine::regprocedure);
    end if;
    delete from headwater.tracked t where t."table" = spoken;
end
$function$;

-- next
-- An event of the application, in the stream of its transaction.
create function headwater.emit(topic text, key jsonb, data jsonb) returns void
language plpgsql security definer as $function$
begin
    insert into headwater.change ("table", op, key, new, context)
    values (pg_catalog.concat('topic:', topic), 'e', key, data, headwater.said());
end
$function$;

-- next
-- The rows of a tracked table as the stream would tell them: what a follower begins with.
create function headwater.rows_of(tracked text) returns table (key jsonb, "row" jsonb)
language plpgsql stable as $function$
declare
    known headwater.tracked;
    keys_of text;
    rows_are text;
begin
    select * into known from headwater.tracked t where t."table" = tracked;
    if not found then
        raise exception '% is not tracked', tracked using errcode = 'undefined_table';
    end if;
    select format('jsonb_build_object(%s)', string_agg(format('%L, r.%I', name, name), ', ')) into keys_of
      from unnest(known.keys) name;
    if known.policy = 'full' then
        rows_are := format('to_jsonb(r.*) - %L::text[]', known.private);
    else
        select format('jsonb_build_object(%s)', string_agg(format('%L, r.%I', name, name), ', ')) into rows_are
          from unnest(known.keys || known.tags) name;
    end if;
    return query execute format('select %s, %s from %I.%I as r', keys_of, rows_are,
                                split_part(tracked, '.', 1), split_part(tracked, '.', 2));
end
$function$;

-- next
-- What this database is. It is another one after a restore from a dump (the table), in a copy (the database), after
-- promotion and point-in-time recovery (the timeline), on another server (the system).
create function headwater.identity() returns text
language sql stable as $function$
    select concat_ws('/', (select system_identifier from pg_control_system()),
                     substr(pg_walfile_name(pg_current_wal_insert_lsn()), 1, 8),
                     (select oid from pg_database where datname = current_database()),
                     'headwater.change'::regclass::oid)
$function$;

-- next
-- Say that this database was put back to an earlier state in a way it cannot notice itself (its files were copied).
create function headwater.restored() returns void
language sql as $function$
    update headwater.epoch set identity = null where number = (select max(number) from headwater.epoch)
$function$;

-- next
-- Begin a new epoch if this database is not the one the last epoch was of, and say whether one was begun.
-- What was written and never ticked is stamped with this transaction and becomes the first tick: numbers of
-- transactions from another server mean nothing here. Must be the first statement of a REPEATABLE READ transaction
-- (but for the revision that makes the table, in which nobody else can write to it).
create function headwater.begin_epoch() returns boolean
language plpgsql as $function$
declare
    current headwater.epoch;
    last headwater.tick;
    floor_id bigint := 0;
    position bigint := 1;
    seen pg_snapshot := pg_current_snapshot();
    known pg_snapshot;
    stamp xid8;
    stamped bigint;
    done pg_snapshot;
begin
    select * into current from headwater.epoch order by number desc limit 1;
    if current.number is not null then
        if current.identity is not distinct from headwater.identity() then
            return false;
        end if;
        select * into last from headwater.tick where epoch = current.number order by first_position desc limit 1;
        floor_id := coalesce(last.upto_id, current.floor_id);
        known := coalesce(last.snapshot, current.snapshot);
        position := coalesce(last.first_position + last.changes, current.first_position);
    end if;
    stamp := pg_current_xact_id();
    if exists (select from headwater.change where xid = stamp) then
        raise exception 'the number % was used on another server', stamp using errcode = 'serialization_failure';
    end if;
    update headwater.change set xid = stamp where id > floor_id;
    get diagnostics stamped = row_count;
    if current.number is not null then
        -- Below the floor and not yet told: transactions that were still open when the last tick was taken.
        with moved as (
            update headwater.change set xid = stamp
             where id <= floor_id and id > coalesce(last.after_id, current.floor_id)
               and not pg_visible_in_snapshot(xid, known)
            returning 1
        )
        select stamped + count(*) into stamped from moved;
    end if;
    select format('%s:%s:%s', pg_snapshot_xmin(seen), stamp::text::numeric + 1,
                  (select string_agg(x::text, ',' order by x) from (
                       select i::text::numeric as x from pg_snapshot_xip(seen) i where i < stamp
                       union
                       select x from generate_series(pg_snapshot_xmax(seen)::text::numeric, stamp::text::numeric - 1) x
                   ) open))::pg_snapshot into done;
    insert into headwater.epoch (number, identity, floor_id, first_position, snapshot)
    values (coalesce(current.number, 0) + 1, headwater.identity(), floor_id, position, done);
    if stamped > 0 then
        insert into headwater.tick (epoch, first_position, changes, snapshot, xid_from, xid_to, finished,
                                    after_id, upto_id, mark_xid, mark_id)
        values (coalesce(current.number, 0) + 1, position, stamped, done, stamp, stamp, array[stamp],
                coalesce(last.after_id, current.floor_id, 0), (select last_value from headwater.change_id), stamp, floor_id);
    end if;
    return true;
end
$function$;

-- next
-- Take a tick, if any transaction with changes has ended since `previous`.
-- The order of the steps is the proof: the snapshot, then the highest id (whatever the snapshot sees has drawn its id
-- before); for later ticks the highest id, then this transaction's number (whoever drew an id up to there has a lower
-- one). The xmax of a snapshot will not do for that number: it is one more than the newest that has ended.
create function headwater.take_tick(
    in epoch bigint, in previous pg_snapshot, in after_id bigint, in first_position bigint, in changes_max bigint,
    out snapshot pg_snapshot, out changes bigint, out mark_xid xid8, out mark_id bigint
) language plpgsql volatile as $function$
declare
    upto bigint;
    ended xid8[];
    slice record;
    told bigint := 0;
begin
    snapshot := pg_current_snapshot();
    changes := 0;
    if snapshot::text = previous::text then
        return;
    end if;
    select s.last_value into upto from headwater.change_id s;
    ended := array(select x from pg_snapshot_xip(previous) x where pg_visible_in_snapshot(x, snapshot));
    select sum(n) into changes from (
        select count(*) as n from headwater.change c
         where c.id > after_id and c.id <= upto and c.xid >= pg_snapshot_xmax(previous)
           and c.xid < pg_snapshot_xmax(snapshot) and pg_visible_in_snapshot(c.xid, snapshot)
        union all
        select count(*) from headwater.change c
         where ended <> '{}' and c.id > after_id and c.id <= upto and c.xid = any (ended)
    ) found;
    if changes = 0 then
        return;
    end if;
    select s.last_value into mark_id from headwater.change_id s;
    mark_xid := pg_current_xact_id();
    if changes <= changes_max then
        insert into headwater.tick (epoch, first_position, changes, snapshot, xid_from, xid_to, finished,
                                    after_id, upto_id, mark_xid, mark_id)
        values (take_tick.epoch, take_tick.first_position, take_tick.changes, take_tick.snapshot,
                pg_snapshot_xmax(previous), pg_snapshot_xmax(take_tick.snapshot), ended,
                take_tick.after_id, upto, take_tick.mark_xid, take_tick.mark_id);
    else
        -- Much has been written while no ticker was there: several ticks of whole transactions, in the order in
        -- which the transactions drew their last ids, which is an order in which they could have run one by one.
        for slice in
            select array_agg(xid) as xids, sum(n) as n from (
                select xid, n, last, (sum(n) over (order by last) - n) / changes_max as part from (
                    select c.xid, count(*) as n, max(c.id) as last from headwater.change c
                     where c.id > take_tick.after_id and c.id <= upto
                       and (c.xid >= pg_snapshot_xmax(previous) and c.xid < pg_snapshot_xmax(take_tick.snapshot)
                            and pg_visible_in_snapshot(c.xid, take_tick.snapshot) or c.xid = any (ended))
                     group by c.xid
                ) each_transaction
            ) parts
            group by floor(part) order by floor(part)
        loop
            insert into headwater.tick (epoch, first_position, changes, snapshot, xid_from, xid_to, finished,
                                        after_id, upto_id, mark_xid, mark_id)
            values (take_tick.epoch, take_tick.first_position + told, slice.n, take_tick.snapshot,
                    take_tick.mark_xid, take_tick.mark_xid, slice.xids,
                    take_tick.after_id, upto, take_tick.mark_xid, take_tick.mark_id);
            told := told + slice.n;
        end loop;
    end if;
    perform pg_notify('headwater_tick', concat(take_tick.epoch, '.', take_tick.first_position + take_tick.changes - 1));
end
$function$;

-- next
-- What follows a position, in one round trip while it is little: the ticks (rows without an id), then the changes in no
-- order, those not asked for without content. When the ticks hold more than `little` changes they come alone.
-- The plan is made once, for any bounds: making one costs several times what a few changes do. It is one by the index,
-- because a partition that was empty then will not stay so. Each tick says whether the one before the first of them is
-- that of `told`, the time at which the reader was told of it: a crash of the server may have put another in its place.
create function headwater.read_stream(
    in_epoch bigint, after bigint, limited bigint, little bigint, tables text[], told timestamptz
) returns table (id bigint, xid bigint, "table" text, op text, at timestamptz, content json)
language plpgsql stable set plan_cache_mode = force_generic_plan set enable_seqscan = off as $function$
#variable_conflict use_column
begin
    return query
    with following as materialized (
        select t.*
          from (select f.*, sum(f.changes) over (order by f.first_position) - f.changes as before
                  from (select * from headwater.tick
                         where epoch = in_epoch
                           and first_position >= coalesce((select max(first_position) from headwater.tick
                                                            where epoch = in_epoch and first_position <= after + 1), 0)
                           and first_position + changes > after + 1
                         order by first_position limit 5000) f) t
         where t.before < limited
    ), span as materialized (
        select min(after_id) as after_id, max(upto_id) as upto_id, sum(changes) <= little as is_little,
               min(xid_from) filter (where xid_from <> xid_to) as xid_from,
               max(xid_to) filter (where xid_from <> xid_to) as xid_to,
               (array_agg(snapshot order by first_position desc) filter (where xid_from <> xid_to))[1] as seen,
               array(select x from following f, unnest(f.finished) x) as named
          from following
    )
    select null::bigint, null::bigint, null::text, null::text, f.at,
           json_build_array(f.first_position, f.changes, f.snapshot::text, f.xid_from::text::bigint,
                            f.xid_to::text::bigint, f.finished::text[]::bigint[], f.after_id, f.upto_id,
                            (select max(number) from headwater.epoch),
                            told is null or told is not distinct from (
                                select at from headwater.tick where epoch = in_epoch and first_position <= after
                                 order by first_position desc limit 1))
      from following f
    union all
    select c.id, c.xid::text::bigint, c."table", c.op::text, c.at,
           case when tables is null or c."table" = any (tables)
                then json_build_array(c.key, c.new, c.old, c.context) end
      from headwater.change c
     where (select is_little from span)
       and c.id > (select after_id from span) and c.id <= (select upto_id from span)
       and c.xid >= (select xid_from from span) and c.xid < (select xid_to from span)
       and pg_visible_in_snapshot(c.xid, (select seen from span))
    union all
    select c.id, c.xid::text::bigint, c."table", c.op::text, c.at,
           case when tables is null or c."table" = any (tables)
                then json_build_array(c.key, c.new, c.old, c.context) end
      from headwater.change c
     where (select is_little and named <> '{}' from span)
       and c.id > (select after_id from span) and c.id <= (select upto_id from span)
       and c.xid = any ((select named from span)::xid8[])
       and (c.xid >= (select xid_from from span) and c.xid < (select xid_to from span)
            and pg_visible_in_snapshot(c.xid, (select seen from span))) is not true;
end
$function$;

-- next
select headwater.begin_epoch();
