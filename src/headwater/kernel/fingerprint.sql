-- The catalogue of one database as rows of (kind, name, parent, schemas, definition), for drift.

-- name: settle
-- What the deparser prints depends on these; with nothing in the search path every name comes out qualified.
select set_config('search_path', 'pg_catalog', true),
       set_config('timezone', 'UTC', true),
       set_config('datestyle', 'ISO, MDY', true),
       set_config('intervalstyle', 'postgres', true),
       set_config('bytea_output', 'hex', true),
       set_config('extra_float_digits', '1', true),
       set_config('quote_all_identifiers', 'off', true)

-- name: fingerprint
-- Every object that is neither PostgreSQL's own nor a member of an extension. `parent` is the "kind name" it lives and dies
-- with; `schemas` are the schemas it belongs to (none: the whole database). Owners and grants of the database's owner are
-- left out or called "owner", so that a restore under another role is no difference.
with
extension_member as materialized (
    select classid, objid from pg_depend where deptype = 'e'
),
keeper as (
    select datdba as oid from pg_database where datname = current_database()
),
space as (
    select n.oid, n.nspname, n.nspowner, n.nspacl, format('schema %I', n.nspname) as parent, array[n.nspname::text] as schemas
    from pg_namespace n
    where n.nspname !~ '^pg_' and n.nspname <> 'information_schema'
      and (('pg_namespace'::regclass::oid, n.oid)) not in (select classid, objid from extension_member)
),
relation as (
    select c.*, s.nspname, s.schemas, format('%I.%I', s.nspname, c.relname) as name,
           case c.relkind
               when 'r' then 'table' when 'p' then 'table' when 'f' then 'foreign table' when 'v' then 'view'
               when 'm' then 'materialized view' when 'S' then 'sequence' else 'index'
           end as kind,
           coalesce(
               (select format('table %I.%I', pn.nspname, p.relname)
                from pg_inherits i join pg_class p on p.oid = i.inhparent join pg_namespace pn on pn.oid = p.relnamespace
                where c.relispartition and i.inhrelid = c.oid and c.relkind in ('r', 'p', 'f')),
               s.parent
           ) as parent
    from pg_class c join space s on s.oid = c.relnamespace
    where c.relkind in ('r', 'p', 'f', 'v', 'm', 'S', 'i', 'I')
      -- The ticker makes and drops the partitions of the change stream while it runs.
      and not exists (select from pg_inherits i where i.inhrelid = c.oid and i.inhparent = to_regclass('headwater.change'))
      and (('pg_class'::regclass::oid, c.oid)) not in (select classid, objid from extension_member)
),
owned as (   -- the owner in words, only when it is not the database's owner
    select r.oid, format('; owner %I', r.rolname) as words from pg_roles r where r.oid not in (select oid from keeper)
),
privilege as (
    select 'table' as kind, r.name, r.kind || ' ' || r.name as parent, r.schemas, r.relacl as acl,
           acldefault('r', r.relowner) as usual, r.relowner as owner
    from relation r where r.relkind in ('r', 'p', 'f', 'v', 'm')
    union all
    select 'sequence', r.name, 'sequence ' || r.name, r.schemas, r.relacl, acldefault('s', r.relowner), r.relowner
    from relation r where r.relkind = 'S'
    union all
    select 'column', format('%s.%I', r.name, a.attname), format('column %s.%I', r.name, a.attname), r.schemas,
           a.attacl, acldefault('c', r.relowner), r.relowner
    from relation r join pg_attribute a on a.attrelid = r.oid
    where r.relkind in ('r', 'p', 'f', 'v', 'm') and a.attacl is not null and not a.attisdropped
    union all
    select 'schema', format('%I', s.nspname), s.parent, s.schemas, s.nspacl, acldefault('n', s.nspowner), s.nspowner
    from space s
    union all
    select 'function', format('%I.%I(%s)', s.nspname, p.proname, pg_get_function_identity_arguments(p.oid)),
           format('%s %I.%I(%s)', case p.prokind when 'p' then 'procedure' when 'a' then 'aggregate' else 'function' end,
                  s.nspname, p.proname, pg_get_function_identity_arguments(p.oid)),
           s.schemas, p.proacl, acldefault('f', p.proowner), p.proowner
    from pg_proc p join space s on s.oid = p.pronamespace
    where (('pg_proc'::regclass::oid, p.oid)) not in (select classid, objid from extension_member)
    union all
    select 'type', format('%I.%I', s.nspname, t.typname), s.parent, s.schemas, t.typacl, acldefault('T', t.typowner), t.typowner
    from pg_type t join space s on s.oid = t.typnamespace
    where t.typacl is not null and (('pg_type'::regclass::oid, t.oid)) not in (select classid, objid from extension_member)
),
acl_word as (   -- one line for each grantee and whether it is what PostgreSQL gives by itself
    select p.kind, p.name, p.parent, p.schemas, w.given,
           format('%s: %s',
                  case when w.grantee = p.owner then 'owner' when w.grantee = 0 then 'public'
                       else quote_ident(pg_get_userbyid(w.grantee)) end,
                  string_agg(w.privilege_type || case when w.is_grantable and w.grantee <> p.owner then '*' else '' end,
                             ' ' order by w.privilege_type)) as words
    from privilege p
    cross join lateral (
        select true as given, g.* from aclexplode(p.acl) g
        union all
        select false, g.* from aclexplode(p.usual) g
    ) w
    where p.acl is not null
    group by p.kind, p.name, p.parent, p.schemas, p.owner, w.given, w.grantee
),
granted as (
    select p.kind, p.name, p.parent, p.schemas,
           coalesce((select string_agg(w.words, ', ' order by w.words) from acl_word w
                     where w.kind = p.kind and w.name = p.name and w.given), 'nothing') as definition,
           coalesce((select string_agg(w.words, ', ' order by w.words) from acl_word w
                     where w.kind = p.kind and w.name = p.name and not w.given), 'nothing') as usual
    from privilege p where p.acl is not null
),
object(kind, name, parent, schemas, definition) as (

    select 'schema', format('%I', s.nspname), '', s.schemas, concat('schema', o.words)
    from space s left join owned o on o.oid = s.nspowner

    union all   -- tables, partitions and foreign tables
    select r.kind, r.name, r.parent, r.schemas,
           concat_ws(' ',
               case r.relpersistence when 'u' then 'unlogged' end,
               case r.relkind when 'p' then 'partitioned by ' || pg_get_partkeydef(r.oid) else r.kind end,
               case when r.relispartition then pg_get_expr(r.relpartbound, r.oid) end,
               (select 'inherits ' || string_agg(
                           format('%I.%I', pn.nspname, p.relname) || case when i.inhdetachpending then ' (detaching)' else '' end,
                           ', ' order by i.inhseqno)
                from pg_inherits i join pg_class p on p.oid = i.inhparent join pg_namespace pn on pn.oid = p.relnamespace
                where i.inhrelid = r.oid),
               case when am.amname <> 'heap' then 'using ' || am.amname end,
               (select 'with ' || array_to_string(array(select o from unnest(r.reloptions) o order by o), ', ')
                where r.reloptions is not null),
               (select 'toast with ' || array_to_string(array(select o from unnest(t.reloptions) o order by o), ', ')
                from pg_class t where t.oid = r.reltoastrelid and t.reloptions is not null),
               (select 'tablespace ' || quote_ident(ts.spcname) from pg_tablespace ts where ts.oid = r.reltablespace),
               case when r.relrowsecurity then 'row level security' end,
               case when r.relforcerowsecurity then 'forced row level security' end,
               case r.relreplident when 'd' then null else 'replica identity ' || r.relreplident::text end,
               (select format('server %I %s', fs.srvname, ft.ftoptions::text)
                from pg_foreign_table ft join pg_foreign_server fs on fs.oid = ft.ftserver where ft.ftrelid = r.oid)
           ) || coalesce(o.words, '')
    from relation r left join pg_am am on am.oid = r.relam left join owned o on o.oid = r.relowner
    where r.relkind in ('r', 'p', 'f')

    union all   -- columns; NOT NULL is told here and not as a constraint of its own
    select 'column', format('%s.%I', r.name, a.attname), r.kind || ' ' || r.name, r.schemas,
           concat_ws(' ',
               format_type(a.atttypid, a.atttypmod),
               case when a.attcollation <> t.typcollation
                    then (select format('collate %I.%I', cn.nspname, c.collname) from pg_collation c
                          join pg_namespace cn on cn.oid = c.collnamespace where c.oid = a.attcollation) end,
               case when a.attnotnull then 'not null' || coalesce((
                   select ' not valid' from pg_constraint n
                   where n.conrelid = r.oid and n.contype = 'n' and n.conkey = array[a.attnum] and not n.convalidated), '') end,
               case a.attidentity when 'a' then 'generated always as identity' when 'd' then 'generated by default as identity' end,
               case a.attgenerated when '' then 'default ' || pg_get_expr(d.adbin, d.adrelid)
                    else format('generated always as (%s) %s', pg_get_expr(d.adbin, d.adrelid),
                                case a.attgenerated when 's' then 'stored' else 'virtual' end) end,
               case when a.attstorage <> t.typstorage then 'storage ' || a.attstorage::text end,
               case when a.attcompression <> '' then 'compression ' || a.attcompression::text end,
               case when a.attstattarget >= 0 then 'statistics ' || a.attstattarget end,
               (select 'with ' || array_to_string(a.attoptions, ', ') where a.attoptions is not null)
           )
    from relation r
    join pg_attribute a on a.attrelid = r.oid and a.attnum > 0 and not a.attisdropped
    join pg_type t on t.oid = a.atttypid
    left join pg_attrdef d on d.adrelid = r.oid and d.adnum = a.attnum
    where r.relkind in ('r', 'p', 'f')

    union all   -- constraints; what a partition inherits is told by its parent
    select 'constraint', format('%s.%I', r.name, c.conname), r.kind || ' ' || r.name, r.schemas,
           concat_ws(' ',
               pg_get_constraintdef(c.oid),
               case when not c.convalidated and c.conenforced then '(not validated)' end,
               (select case when not i.indisvalid then '(its index is invalid)' end from pg_index i
                where i.indexrelid = c.conindid and c.contype in ('p', 'u', 'x')),
               (select '(its triggers are switched: ' || string_agg(g.tgenabled::text, '' order by g.tgenabled::text) || ')'
                from pg_trigger g where g.tgconstraint = c.oid and g.tgenabled <> 'O' having count(*) > 0)
           )
    from pg_constraint c join relation r on r.oid = c.conrelid
    where c.contype in ('c', 'f', 'p', 'u', 'x') and (c.conparentid = 0 or not c.convalidated)

    union all   -- indexes that no constraint brings with it
    select 'index', r.name, t.kind || ' ' || t.name, r.schemas,
           concat_ws(' ',
               pg_get_indexdef(r.oid),
               case when not i.indisvalid then '(invalid)' end,
               case when not i.indisready then '(not ready)' end,
               case when i.indisclustered then '(clustered on)' end,
               case when i.indisreplident then '(replica identity)' end,
               (select '(statistics ' || string_agg(a.attname || ' ' || a.attstattarget, ', ' order by a.attnum) || ')'
                from pg_attribute a where a.attrelid = r.oid and a.attstattarget >= 0 having count(*) > 0)
           )
    from relation r join pg_index i on i.indexrelid = r.oid join relation t on t.oid = i.indrelid
    where not exists (select from pg_constraint c where c.conindid = r.oid and c.contype in ('p', 'u', 'x'))

    union all   -- views
    select r.kind, r.name, r.parent, r.schemas,
           concat_ws(' ',
               (select 'with ' || array_to_string(array(select o from unnest(r.reloptions) o order by o), ', ')
                where r.reloptions is not null),
               pg_get_viewdef(r.oid),
               (select '(columns ' || string_agg(format('%I %s%s', a.attname, format_type(a.atttypid, a.atttypmod),
                                                        ' default ' || pg_get_expr(d.adbin, d.adrelid)), ', ' order by a.attnum) || ')'
                from pg_attribute a left join pg_attrdef d on d.adrelid = a.attrelid and d.adnum = a.attnum
                where a.attrelid = r.oid and a.attnum > 0 and not a.attisdropped)
           ) || coalesce(o.words, '')
    from relation r left join owned o on o.oid = r.relowner
    where r.relkind in ('v', 'm')

    union all   -- sequences, without where they stand
    select 'sequence', r.name,
           coalesce((select format('table %I.%I', n.nspname, t.relname)
                     from pg_depend d join pg_class t on t.oid = d.refobjid join pg_namespace n on n.oid = t.relnamespace
                     where d.classid = 'pg_class'::regclass and d.objid = r.oid and d.refclassid = 'pg_class'::regclass
                       and d.deptype in ('a', 'i') and d.refobjsubid > 0), r.parent),
           r.schemas,
           concat_ws(' ',
               case r.relpersistence when 'u' then 'unlogged' end,
               format('%s start %s increment %s min %s max %s cache %s', format_type(q.seqtypid, null), q.seqstart,
                      q.seqincrement, q.seqmin, q.seqmax, q.seqcache),
               case when q.seqcycle then 'cycle' end,
               (select format('owned by %I.%I.%I', n.nspname, t.relname, a.attname)
                from pg_depend d join pg_class t on t.oid = d.refobjid join pg_namespace n on n.oid = t.relnamespace
                join pg_attribute a on a.attrelid = t.oid and a.attnum = d.refobjsubid
                where d.classid = 'pg_class'::regclass and d.objid = r.oid and d.refclassid = 'pg_class'::regclass
                  and d.deptype in ('a', 'i') and d.refobjsubid > 0)
           ) || coalesce(o.words, '')
    from relation r join pg_sequence q on q.seqrelid = r.oid
    left join owned o on o.oid = r.relowner   -- a column's sequence has the owner of its table
        and not exists (select from pg_depend d where d.classid = 'pg_class'::regclass and d.objid = r.oid
                        and d.refclassid = 'pg_class'::regclass and d.deptype in ('a', 'i') and d.refobjsubid > 0)

    union all   -- enums, domains, composite and range types
    select case t.typtype when 'e' then 'enum' when 'd' then 'domain' else 'type' end,
           format('%I.%I', s.nspname, t.typname), s.parent, s.schemas,
           concat_ws(' ',
               case t.typtype
                   when 'e' then (select string_agg(quote_literal(e.enumlabel), ', ' order by e.enumsortorder)
                                  from pg_enum e where e.enumtypid = t.oid)
                   when 'd' then concat_ws(' ', format_type(t.typbasetype, t.typtypmod), case when t.typnotnull then 'not null' end,
                                           'default ' || t.typdefault,
                                           (select string_agg(format('constraint %I %s', c.conname, pg_get_constraintdef(c.oid)),
                                                              ' ' order by c.conname)
                                            from pg_constraint c where c.contypid = t.oid and c.contype = 'c'))
                   when 'c' then (select '(' || string_agg(format('%I %s', a.attname, format_type(a.atttypid, a.atttypmod)),
                                                           ', ' order by a.attnum) || ')'
                                  from pg_attribute a where a.attrelid = t.typrelid and a.attnum > 0 and not a.attisdropped)
                   when 'r' then (select 'range of ' || format_type(g.rngsubtype, null) from pg_range g where g.rngtypid = t.oid)
                   else 'base type'
               end
           ) || coalesce(o.words, '')
    from pg_type t join space s on s.oid = t.typnamespace left join owned o on o.oid = t.typowner
    where (t.typtype in ('e', 'd', 'r')
           or t.typtype = 'c' and exists (select from pg_class c where c.oid = t.typrelid and c.relkind = 'c'))
      and (('pg_type'::regclass::oid, t.oid)) not in (select classid, objid from extension_member)

    union all   -- functions and procedures
    select case p.prokind when 'p' then 'procedure' when 'a' then 'aggregate' else 'function' end,
           format('%I.%I(%s)', s.nspname, p.proname, pg_get_function_identity_arguments(p.oid)), s.parent, s.schemas,
           case p.prokind
               when 'a' then (select format('state %s %s final %s initial %s', a.aggtransfn, format_type(a.aggtranstype, null),
                                            a.aggfinalfn, a.agginitval) from pg_aggregate a where a.aggfnoid = p.oid)
               else pg_get_functiondef(p.oid)
           end || coalesce(o.words, '')
    from pg_proc p join space s on s.oid = p.pronamespace left join owned o on o.oid = p.proowner
    where (('pg_proc'::regclass::oid, p.oid)) not in (select classid, objid from extension_member)

    union all   -- triggers; the copies on partitions are told when they are switched
    select 'trigger', format('%s.%I', r.name, g.tgname), r.kind || ' ' || r.name, r.schemas,
           pg_get_triggerdef(g.oid) || case g.tgenabled when 'O' then '' when 'D' then ' (disabled)'
                                            when 'R' then ' (on replicas only)' else ' (always)' end
    from pg_trigger g join relation r on r.oid = g.tgrelid
    where not g.tgisinternal and (g.tgparentid = 0 or g.tgenabled <> 'O')

    union all   -- rules that are not a view's own
    select 'rule', format('%s.%I', r.name, w.rulename), r.kind || ' ' || r.name, r.schemas,
           pg_get_ruledef(w.oid) || case w.ev_enabled when 'O' then '' else ' (switched: ' || w.ev_enabled::text || ')' end
    from pg_rewrite w join relation r on r.oid = w.ev_class
    where w.rulename <> '_RETURN'

    union all   -- row level security policies
    select 'policy', format('%s.%I', r.name, y.polname), r.kind || ' ' || r.name, r.schemas,
           concat_ws(' ',
               case when y.polpermissive then 'permissive' else 'restrictive' end,
               case y.polcmd when 'r' then 'select' when 'a' then 'insert' when 'w' then 'update' when 'd' then 'delete'
                    else 'all' end,
               'to ' || (select string_agg(case when u = 0 then 'public' else quote_ident(pg_get_userbyid(u)) end, ', ' order by u)
                         from unnest(y.polroles) u),
               'using ' || pg_get_expr(y.polqual, y.polrelid),
               'check ' || pg_get_expr(y.polwithcheck, y.polrelid))
    from pg_policy y join relation r on r.oid = y.polrelid

    union all   -- grants that are not what PostgreSQL gives by itself
    select 'grants on ' || g.kind, g.name, g.parent, g.schemas, g.definition from granted g where g.definition <> g.usual

    union all
    select 'default privileges', concat_ws(' ', case d.defaclobjtype when 'r' then 'tables' when 'S' then 'sequences'
                when 'f' then 'functions' when 'T' then 'types' when 'n' then 'schemas' else 'large objects' end,
               'in ' || quote_ident(s.nspname)),
           coalesce(s.parent, ''), coalesce(s.schemas, '{}'),
           string_agg(d.defaclacl::text, ' ' order by d.defaclacl::text)
    from pg_default_acl d left join space s on s.oid = d.defaclnamespace
    group by d.defaclobjtype, s.nspname, s.parent, s.schemas

    union all   -- extended statistics
    select 'statistics', format('%I.%I', s.nspname, x.stxname), r.kind || ' ' || r.name, s.schemas, pg_get_statisticsobjdef(x.oid)
    from pg_statistic_ext x join space s on s.oid = x.stxnamespace join relation r on r.oid = x.stxrelid

    union all
    select 'extension', format('%I', e.extname), '', array[n.nspname::text],
           format('version %s in %I', e.extversion, n.nspname)
    from pg_extension e join pg_namespace n on n.oid = e.extnamespace
    where n.nspname <> 'pg_catalog'

    union all   -- publications belong to the schemas they publish
    select 'publication', format('%I', b.pubname), '',
           (select coalesce(array_agg(distinct t.schemaname::text), '{}') from pg_publication_tables t where t.pubname = b.pubname),
           concat_ws(' ',
               case when b.puballtables then 'all tables' end,
               (select 'tables ' || string_agg(concat_ws(' ', format('%I.%I', n.nspname, c.relname),
                                                         (select '(' || string_agg(quote_ident(a.attname), ', ' order by a.attnum) || ')'
                                                          from pg_attribute a
                                                          where a.attrelid = c.oid and a.attnum = any (pr.prattrs::int2[])),
                                                         'where ' || pg_get_expr(pr.prqual, pr.prrelid)),
                                               ', ' order by n.nspname, c.relname)
                from pg_publication_rel pr join pg_class c on c.oid = pr.prrelid join pg_namespace n on n.oid = c.relnamespace
                where pr.prpubid = b.oid),
               (select 'schemas ' || string_agg(quote_ident(n.nspname), ', ' order by n.nspname)
                from pg_publication_namespace pn join pg_namespace n on n.oid = pn.pnnspid where pn.pnpubid = b.oid),
               case when b.pubinsert then 'insert' end, case when b.pubupdate then 'update' end,
               case when b.pubdelete then 'delete' end, case when b.pubtruncate then 'truncate' end,
               case when b.pubviaroot then 'via root' end,
               case when b.pubgencols <> 'n' then 'generated columns ' || b.pubgencols::text end)
    from pg_publication b

    union all
    select 'event trigger', format('%I', v.evtname), '', '{}'::text[],
           format('on %s %s execute %s (%s)', v.evtevent, array_to_string(v.evttags, ', '), v.evtfoid::regproc, v.evtenabled)
    from pg_event_trigger v
    where (('pg_event_trigger'::regclass::oid, v.oid)) not in (select classid, objid from extension_member)
)
select kind, name, parent, schemas, definition from object order by kind, name
