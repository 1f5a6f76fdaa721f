-- A writer that knows nothing of versions raises them all the same: an ETag rests on the version, and so does `If-Match`.
-- `updated_at` moves too, where there is one and the writer has not moved it.
create function headwater.raise_version() returns trigger
language plpgsql as $function$
declare
    was pg_catalog.jsonb := pg_catalog.to_jsonb(old.*);
    moved pg_catalog.jsonb := pg_catalog.jsonb_build_object('version', old.version operator(pg_catalog.+) 1);
begin
    if was operator(pg_catalog.?) 'updated_at'
       and was operator(pg_catalog.->) 'updated_at'
           operator(pg_catalog.=) (pg_catalog.to_jsonb(new.*) operator(pg_catalog.->) 'updated_at') then
        moved := moved operator(pg_catalog.||) pg_catalog.jsonb_build_object('updated_at', pg_catalog.now());
    end if;
    return pg_catalog.jsonb_populate_record(new, moved);
end
$function$;

-- next
-- Let the versions of a table be kept. Whoever raises them, as repositories do, pays one comparison.
create function headwater.keep_version(relation regclass) returns void
language plpgsql as $function$
begin
    execute format('drop trigger if exists headwater_version on %s', relation);
    execute format('create trigger headwater_version before update on %s for each row '
                   'when (new.version = old.version) execute function headwater.raise_version()', relation);
end
$function$;
