-- The rules of orders, trades and escrows that the matcher keeps by itself, held against every other writer. To the
-- catalogue they are NOT ENFORCED: PostgreSQL looks up each foreign key row by row (some 25 us, six for a fill) and plans
-- each CHECK anew in every statement (some 10 us, twelve in a fill), and both say of the matcher what it has just decided:
-- its trades are of orders that it has changed under its locks, its escrows of these trades and of the users of these
-- orders, and an order is of an asset whose market it has locked, which refers to the asset. That the user of an order
-- exists, nothing of this says: that foreign key is enforced.
--
-- The functions here read the rules where they stand, in the catalogue, and raise what PostgreSQL would: the same
-- SQLSTATE, the same name of the constraint. (TRUNCATE asks the catalogue, and is refused as ever.)
--
-- Two who do not see each other's rows yet, one who refers and one who removes what is referred to, meet in the one row
-- of `trading.latch`: the first changes it, the second locks it. So one waits for the other, or, where the snapshot is
-- older than that (REPEATABLE READ, SERIALIZABLE), fails with a serialization failure.
insert into trading.latch (id) values (1);

-- next
-- What a statement of somebody else wrote, held against the rules that are not enforced.
create function trading.enforce() returns trigger
language plpgsql security definer
set search_path = pg_catalog, pg_temp
as $function$
declare
    rule record;
    broken record;
    checks text;
    fresh text := case tg_op when 'INSERT' then 'select %1$I as key from written'
                       else 'select %1$I from written except select %1$I from before' end;
    referring boolean := false;
begin
    select string_agg(format('when not (%s) then %L', pg_get_expr(c.conbin, c.conrelid), c.conname), ' ' order by c.conname)
      into checks from pg_constraint c where c.conrelid = tg_relid and c.contype = 'c' and not c.conenforced;
    if checks is not null then
        execute format('select w.* from (select case %s end as name, w::text as words from written w) w '
                       'where w.name is not null limit 1', checks) into broken;
        if broken.name is not null then
            raise exception 'new row for relation "%" violates check constraint "%"', tg_table_name, broken.name
                using errcode = 'check_violation', schema = tg_table_schema, table = tg_table_name,
                      constraint = broken.name, detail = format('Failing row contains %s.', broken.words);
        end if;
    end if;
    for rule in
        select c.conname, c.confrelid::regclass as referred, own.attname as own, other.attname as other
          from pg_constraint c
          join pg_attribute own on own.attrelid = c.conrelid and own.attnum = c.conkey[1]
          join pg_attribute other on other.attrelid = c.confrelid and other.attnum = c.confkey[1]
         where c.conrelid = tg_relid and c.contype = 'f' and not c.conenforced
         order by c.conname
    loop
        execute format('select true as here from (%s) w (key) where w.key is not null limit 1', format(fresh, rule.own))
           into broken;
        continue when broken.here is null;
        -- An open order is placed in its market, whose row refers to the asset: it meets whoever removes either there.
        if not referring then
            if tg_table_name = 'orders' then
                referring := exists (select from written w where w.status in ('filled', 'cancelled'));
            else
                referring := true;
            end if;
            if referring then
                update trading.latch l set turns = l.turns + 1;
            end if;
        end if;
        -- A row that is being removed is waited for.
        execute format('select w.key from (%s) w (key) where w.key is not null '
                       'and not exists (select from %s r where r.%I = w.key for key share) limit 1',
                       format(fresh, rule.own), rule.referred, rule.other) into broken;
        if broken.key is not null then
            raise exception 'insert or update on table "%" violates foreign key constraint "%"', tg_table_name, rule.conname
                using errcode = 'foreign_key_violation', schema = tg_table_schema, table = tg_table_name,
                      constraint = rule.conname,
                      detail = format('Key (%s)=(%s) is not present in table "%s".', rule.own, broken.key,
                                      (select r.relname from pg_class r where r.oid = rule.referred));
        end if;
    end loop;
    return null;
end
$function$;

-- next
-- Rows that are removed, or get another key, are refused while something refers to them. A statement that removes asks for
-- all its rows at once (`before`); another key is asked for row by row, so that no other update pays for it.
create function trading.still_referred() returns trigger
language plpgsql security definer
set search_path = pg_catalog, pg_temp
as $function$
declare
    rule record;
    key text;
begin
    if tg_level = 'STATEMENT' then
        if not exists (select from before) then
            return null;
        end if;
    end if;
    perform from trading.latch l for share;
    for rule in
        select c.conname, c.conrelid::regclass as referring, r.relname, s.nspname, own.attname as own, other.attname as other
          from pg_constraint c
          join pg_class r on r.oid = c.conrelid
          join pg_namespace s on s.oid = r.relnamespace
          join pg_attribute own on own.attrelid = c.conrelid and own.attnum = c.conkey[1]
          join pg_attribute other on other.attrelid = c.confrelid and other.attnum = c.confkey[1]
         where c.confrelid = tg_relid and c.contype = 'f' and not c.conenforced and s.nspname = 'trading'
         order by c.conname
    loop
        if tg_level = 'STATEMENT' then
            execute format('select b.%3$I::text from before b '
                           'where exists (select from %1$s r where r.%2$I = b.%3$I) limit 1',
                           rule.referring, rule.own, rule.other) into key;
        else
            execute format('select r.%2$I::text from %1$s r where r.%2$I = ($1).%3$I limit 1',
                           rule.referring, rule.own, rule.other) into key using old;
        end if;
        if key is not null then
            raise exception 'update or delete on table "%" violates foreign key constraint "%" on table "%"',
                            tg_table_name, rule.conname, rule.relname
                using errcode = 'foreign_key_violation', schema = rule.nspname, table = rule.relname,
                      constraint = rule.conname,
                      detail = format('Key (%s)=(%s) is still referenced from table "%s".', rule.other, key, rule.relname);
        end if;
    end loop;
    return null;
end
$function$;

-- next
-- Whoever removes a market takes away what its orders rest on: see above.
create function trading.market_removed() returns trigger
language plpgsql security definer
set search_path = pg_catalog, pg_temp
as $function$
begin
    update trading.latch l set turns = l.turns + 1;
    return null;
end
$function$;

-- next
create trigger market_removed after delete on trading.markets for each statement execute function trading.market_removed();

-- next
do $$
declare
    name text;
begin
    foreach name in array array['orders', 'trades', 'escrows'] loop
        execute format('create trigger enforced_insert after insert on trading.%I referencing new table as written '
                       'for each statement when (current_setting(''headwater.matching'', true) is distinct from ''yes'') '
                       'execute function trading.enforce()', name);
        execute format('create trigger enforced_update after update on trading.%I referencing old table as before '
                       'new table as written for each statement '
                       'when (current_setting(''headwater.matching'', true) is distinct from ''yes'') '
                       'execute function trading.enforce()', name);
    end loop;
    foreach name in array array['trading.orders', 'trading.trades', 'blockchain.assets', 'public.users'] loop
        execute format('create trigger trading_refers_delete after delete on %s referencing old table as before '
                       'for each statement execute function trading.still_referred()', name);
        execute format('create trigger trading_refers_update after update on %s for each row '
                       'when (old.id is distinct from new.id) execute function trading.still_referred()', name);
    end loop;
end
$$;
