-- The rules of orders, trades and escrows that the matcher keeps by itself, held against every other writer. To the
-- catalogue they are NOT ENFORCED: PostgreSQL looks up each foreign key row by row (some 25 us, six for a fill) and plans
-- each CHECK anew in every statement (some 10 us, twelve in a fill), and both say of the matcher what it has just decided:
-- its trades are of orders that it has changed under its locks, its escrows of these trades and of the users of these
-- orders, and an order is of an asset whose market it has locked, which refers to the asset. That the user of an order
-- exists, nothing of this says: that foreign key is enforced.
--
-- The functions that hold them are written here, from the catalogue, one for each table that refers and one for each that is
-- referred to, and raise what PostgreSQL would: the same SQLSTATE, the same name of the constraint. A revision that changes
-- a rule calls `trading.keep_rules` again. (TRUNCATE asks the catalogue by itself, and is refused as ever.)
--
-- Two who do not see each other's rows yet, one who refers and one who removes what is referred to, meet in the one row
-- of `trading.latch`: the first changes it, the second locks it. So one waits for the other, or, where the snapshot is
-- older than that (REPEATABLE READ, SERIALIZABLE), fails with a serialization failure.
insert into trading.latch (id) values (1);

-- next
-- A row that breaks a rule, in PostgreSQL's own words.
create function trading.refuse_row(relation regclass, rule text, words text) returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $function$
declare
    c record;
begin
    select k.contype, r.relname, n.nspname, a.attname, o.relname as other into strict c
      from pg_constraint k
      join pg_class r on r.oid = k.conrelid
      join pg_namespace n on n.oid = r.relnamespace
      left join pg_attribute a on a.attrelid = k.conrelid and a.attnum = k.conkey[1]
      left join pg_class o on o.oid = k.confrelid
     where k.conrelid = relation and k.conname = rule;
    if c.contype = 'c' then
        raise exception 'new row for relation "%" violates check constraint "%"', c.relname, rule
            using errcode = 'check_violation', schema = c.nspname, table = c.relname, constraint = rule,
                  detail = format('Failing row contains %s.', words);
    end if;
    raise exception 'insert or update on table "%" violates foreign key constraint "%"', c.relname, rule
        using errcode = 'foreign_key_violation', schema = c.nspname, table = c.relname, constraint = rule,
              detail = format('Key (%s)=(%s) is not present in table "%s".', c.attname, words, c.other);
end
$function$;

-- next
-- A row that something refers to, in PostgreSQL's own words.
create function trading.refuse_removal(relation regclass, rule text, words text) returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $function$
declare
    c record;
begin
    select r.relname, n.nspname, a.attname, o.relname as other into strict c
      from pg_constraint k
      join pg_class r on r.oid = k.conrelid
      join pg_namespace n on n.oid = r.relnamespace
      join pg_class o on o.oid = k.confrelid
      join pg_attribute a on a.attrelid = k.confrelid and a.attnum = k.confkey[1]
     where k.conrelid = relation and k.conname = rule;
    raise exception 'update or delete on table "%" violates foreign key constraint "%" on table "%"', c.other, rule, c.relname
        using errcode = 'foreign_key_violation', schema = c.nspname, table = c.relname, constraint = rule,
              detail = format('Key (%s)=(%s) is still referenced from table "%s".', c.attname, words, c.relname);
end
$function$;

-- next
-- Makes the function and the triggers that hold what others write into a table against its rules that are not enforced.
-- `open`: rows of which something else keeps that what they refer to is there.
create function trading.keep_rules(relation regclass, open text default 'false') returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $function$
declare
    routine text := 'keep ' || relation;
    cases text;
    broken text;
    columns text;
    lookups text;
begin
    select string_agg(format('when (%s) is false then %L', pg_get_expr(c.conbin, c.conrelid), c.conname), ' ' order by c.conname),
           string_agg(format('(%s) is false', pg_get_expr(c.conbin, c.conrelid)), ' or ')
      into strict cases, broken from pg_constraint c where c.conrelid = relation and c.contype = 'c' and not c.conenforced;
    select string_agg(quote_ident(own.attname), ', ' order by c.conname),
           -- FOR KEY SHARE: a row that is being removed is waited for.
           string_agg(format($lookup$
    perform trading.refuse_row(%1$L, %2$L, w.%3$I::text)
       from written w
      where w.%3$I is not null and not exists (select from %4$s r where r.%5$I = w.%3$I for key share) limit 1;
$lookup$, relation, c.conname, own.attname, c.confrelid::regclass, other.attname), '' order by c.conname)
      into strict columns, lookups
      from pg_constraint c
      join pg_attribute own on own.attrelid = c.conrelid and own.attnum = c.conkey[1]
      join pg_attribute other on other.attrelid = c.confrelid and other.attnum = c.confkey[1]
     where c.conrelid = relation and c.contype = 'f' and not c.conenforced;
    execute format($create$
create or replace function trading.%1$I() returns trigger language plpgsql security definer
set search_path = pg_catalog, pg_temp set enable_seqscan = off set enable_bitmapscan = off
as $body$
begin
    perform trading.refuse_row(%2$L, case %3$s end, w::text) from written w where %4$s limit 1;
    if tg_op = 'UPDATE' then
        if not exists (select %5$s from written except select %5$s from before) then
            return null;
        end if;
    end if;
    update trading.latch l set turns = l.turns + 1 where exists (select from written where not (%6$s));
%7$s    return null;
end
$body$
$create$, routine, relation, cases, broken, columns, open, lookups);
    execute format('create or replace trigger keep_inserted after insert on %s referencing new table as written '
                   'for each statement when (current_setting(''headwater.matching'', true) is distinct from ''yes'') '
                   'execute function trading.%I()', relation, routine);
    execute format('create or replace trigger keep_updated after update on %s referencing old table as before '
                   'new table as written for each statement '
                   'when (current_setting(''headwater.matching'', true) is distinct from ''yes'') '
                   'execute function trading.%I()', relation, routine);
end
$function$;

-- next
-- Makes the function and the triggers that keep rows to which such a rule refers. A statement that removes asks for all its
-- rows at once (`before`); another key is asked for row by row, so that no other update pays for it.
create function trading.keep_referred(relation regclass) returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $function$
declare
    routine text := 'keep what refers to ' || relation;
    many text;
    one text;
begin
    select string_agg(format($look$
        perform trading.refuse_removal(%1$L, %2$L, b.%4$I::text)
           from before b where exists (select from %1$s r where r.%3$I = b.%4$I) limit 1;
$look$, c.conrelid::regclass, c.conname, own.attname, other.attname), '' order by c.conname),
           string_agg(format($look$
        perform trading.refuse_removal(%1$L, %2$L, r.%3$I::text) from %1$s r where r.%3$I = old.%4$I limit 1;
$look$, c.conrelid::regclass, c.conname, own.attname, other.attname), '' order by c.conname)
      into strict many, one
      from pg_constraint c
      join pg_attribute own on own.attrelid = c.conrelid and own.attnum = c.conkey[1]
      join pg_attribute other on other.attrelid = c.confrelid and other.attnum = c.confkey[1]
     where c.confrelid = relation and c.contype = 'f' and not c.conenforced
       and c.connamespace = 'trading'::regnamespace;
    execute format($create$
create or replace function trading.%1$I() returns trigger language plpgsql security definer
set search_path = pg_catalog, pg_temp set enable_seqscan = off set enable_bitmapscan = off
as $body$
begin
    if tg_level = 'ROW' then
        perform from trading.latch l for share;
%2$s    else
        perform from trading.latch l where exists (select from before) for share;
%3$s    end if;
    return null;
end
$body$
$create$, routine, one, many);
    execute format('create or replace trigger trading_refers_removed after delete on %s referencing old table as before '
                   'for each statement execute function trading.%I()', relation, routine);
    execute format('create or replace trigger trading_refers_renamed after update on %s for each row '
                   'when (old.id is distinct from new.id) execute function trading.%I()', relation, routine);
end
$function$;

-- next
-- Whoever removes a market takes away what its orders rest on.
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
-- An open order is placed in its market, whose row refers to the asset: it meets whoever removes either there.
select trading.keep_rules('trading.orders', 'status in (''open'', ''partially_filled'')'),
       trading.keep_rules('trading.trades'), trading.keep_rules('trading.escrows'),
       trading.keep_referred('trading.orders'), trading.keep_referred('trading.trades'),
       trading.keep_referred('blockchain.assets'), trading.keep_referred('public.users');
