-- What a transfer says, in bytes: its checksum, the chains of the accounts and the seals are made of these. The balances
-- after it are not among them: they follow from what is said, and are recomputed. Columns of a fixed length stand one
-- after the other, then the amount, which tells its own length. What few transfers have (another state than posted, the end of
-- a hold, a reversal, a reference, metadata) stands in a record after that, which costs the others nothing.
-- 92 bytes at most without such a record: one block of SHA-512. As a record they were 164, which is three of SHA-256.
-- Plain SQL, each argument used once, so that PostgreSQL inlines it.
create function ledger.words(
    id uuid, debit bigint, credit bigint, debit_version bigint, credit_version bigint, at timestamptz, xid bigint,
    amount numeric, few bytea
) returns bytea language sql immutable parallel safe as $function$
    select uuid_send(id) || int8send(debit) || int8send(credit) || int8send(debit_version)
           || int8send(coalesce(credit_version, 0)) || timestamptz_send(at) || int8send(xid) || numeric_send(amount)
           || coalesce(few, ''::bytea)
$function$;

-- next
-- The same of a row.
create function ledger.said(t ledger.transfers) returns bytea language sql stable parallel safe as $function$
    select ledger.words(
        t.id, t.debit_account_id, t.credit_account_id, t.debit_version, t.credit_version, t.created_at, t.xid, t.amount,
        case when t.state <> 'posted'
                  or num_nonnulls(t.released, t.pending_id, t.reverses_id, t.reference, t.metadata) > 0
             then record_send(row(t.state::text, t.released, t.pending_id, t.reverses_id, t.reference, t.metadata)) end)
$function$;

-- next
-- What the chain of the debit account takes from a transfer, and each seal. The chain of the credit account takes the
-- id alone: nobody can change the rest without the other chain.
create function ledger.entry(said bytea) returns bytea language sql immutable parallel safe as $function$
    select substr(sha512(said), 1, 16)
$function$;

-- next
-- The head of a chain after one more entry, which is its `version`-th. Four entries make a link: they stand in the head
-- one after the other, and the fourth turns all of them and the link before into one hash.
-- A hash for each entry would double the price of the proof, of writing it and of making it again.
-- Plain SQL: PostgreSQL inlines it into the expressions of the functions that move.
create function ledger.head_after(head bytea, entry bytea, version bigint) returns bytea
language sql immutable parallel safe as $function$
    select case when version & 3 = 0 then substr(sha512(head || entry), 1, 32) else head || entry end
$function$;

-- next
-- One link of a chain: what was, and what comes now.
create function ledger.link(head bytea, entries bytea) returns bytea
language plpgsql immutable strict parallel safe as $function$
begin
    return sha256(head || entries);
end
$function$;

-- next
create aggregate ledger.chain(bytea) (sfunc = ledger.link, stype = bytea, initcond = '');

-- next
-- How many transfers these transactions made, and the chain over all of them: a link for 4,096 transactions, in it the
-- entries in the order of their ids. (`offset 0`: they are made before they are sorted, or whole rows would be.)
create function ledger.sealed(
    in xid_from bigint, in xid_to bigint, out transfers bigint, out root bytea
) language sql stable parallel safe
set search_path = pg_catalog, pg_temp set work_mem = '256MB' set enable_hashagg = off set jit = off
as $function$
    select coalesce(sum(y.n), 0)::bigint, coalesce(ledger.chain(y.entries order by y.link), ''::bytea)
      from (select e.link, count(*) as n, string_agg(e.entry, ''::bytea order by e.id) as entries
              from (select t.xid >> 12 as link, t.id, ledger.entry(ledger.said(t)) as entry
                      from ledger.transfers t where t.xid >= sealed.xid_from and t.xid < sealed.xid_to offset 0) e
             group by e.link) y
$function$;

-- next
-- The head of a chain of entries that stand one after the other, four to a link.
create function ledger.head_of(entries bytea) returns bytea
language plpgsql immutable strict parallel safe as $function$
declare
    head bytea := '';
    whole int := length(entries) / 64;
begin
    for link in 0 .. whole - 1 loop
        head := substr(sha512(head || substr(entries, link * 64 + 1, 64)), 1, 32);
    end loop;
    return head || substr(entries, whole * 64 + 1);
end
$function$;

-- next
-- Seal what is finished: every transfer of the transactions before the oldest that still runs. A transfer that commits
-- later has a higher number and waits for the next seal, so that none is ever left out. No row is changed.
-- One at a time. Returns null when nothing new is finished.
create function ledger.seal() returns ledger.seals
language plpgsql security definer
set search_path = pg_catalog, pg_temp
as $function$
declare
    last ledger.seals;
    made ledger.seals;
begin
    perform pg_advisory_xact_lock(hashtext('ledger.seals'));
    select * into last from ledger.seals s order by s.number desc limit 1;
    made.number := coalesce(last.number, 0) + 1;
    made.xid_from := coalesce(last.xid_to, 0);
    made.xid_to := pg_snapshot_xmin(pg_current_snapshot())::text::bigint;
    if made.xid_to < made.xid_from then
        raise exception 'ledger.seal: the transactions of this database are numbered from %, and % are sealed already',
                        made.xid_to, made.xid_from
            using errcode = 'object_not_in_prerequisite_state',
                  hint = 'It was restored from a dump into a new cluster. Restore a physical backup, which keeps the numbers.';
    elsif made.xid_to = made.xid_from then
        return null;
    end if;
    select f.transfers, f.root into made.transfers, made.root from ledger.sealed(made.xid_from, made.xid_to) f;
    if made.transfers = 0 then
        return null;
    end if;
    made.digest := ledger.digest_of(coalesce(last.digest, ''::bytea), made);
    made.created_at := clock_timestamp();
    insert into ledger.seals values (made.*);
    return made;
end
$function$;

-- next
create function ledger.digest_of(previous bytea, s ledger.seals) returns bytea
language sql immutable parallel safe as $function$
    select sha256(previous || int8send(s.number) || int8send(s.xid_from) || int8send(s.xid_to)
                  || int8send(s.transfers) || s.root)
$function$;

-- next
-- Whether a row says by itself what none can say: no amount, one account, halves of a side or of a hold's end. Plain SQL,
-- so that PostgreSQL inlines it.
create function ledger.contradicts_itself(t ledger.transfers) returns boolean
language sql immutable parallel safe as $function$
    select t.amount <= 0 or t.debit_account_id = t.credit_account_id
           or (t.state = 'posted') <> (t.credit_version is not null)
           or (t.credit_version is null) <> (t.credit_balance_after is null)
           or (t.pending_id is null) <> (t.released is null)
           or t.state in ('voided', 'expired') and t.pending_id is null
           or t.released < t.amount
$function$;

-- next
-- The accounts whose id leaves `part` when it is divided by `parts`, as their transfers say they must be: how many
-- versions, the balance, what is held, the head of the chain; and the first version that does not follow from the one
-- before or is not what its checksum says. All of them in one sorted pass: no row is looked at by PL/pgSQL.
create function ledger.recomputed(part bigint, parts bigint)
returns table (account bigint, versions bigint, balance numeric, held numeric, head bytea, fault bigint)
language sql stable parallel safe
set search_path = pg_catalog, pg_temp set work_mem = '256MB' set enable_hashagg = off set jit = off
as $function$
    select w.account, count(*), sum(w.change), sum(w.hold),
           ledger.head_of(string_agg(w.entry, ''::bytea order by w.version)),
           min(w.version) filter (where w.damaged or w.version <> w.place or w.balance <> w.before + w.change
                                     or w.created_at < w.earlier)
      from (
        select l.*, row_number() over along as place, lag(l.balance, 1, 0::numeric) over along as before,
               lag(l.created_at) over along as earlier
          from (
            select d.account, d.version, d.balance, d.change, d.hold, d.created_at, ledger.entry(d.said) as entry,
                   (crc32c(d.said) - 2147483648 = d.checksum) is not true as damaged
              from (select t.debit_account_id as account, t.debit_version as version,
                           t.debit_balance_after as balance,
                           case t.state when 'posted' then - t.amount else 0 end as change,
                           case t.state when 'pending' then t.amount else - t.released end as hold,
                           t.created_at, t.checksum, ledger.said(t) as said
                      from ledger.transfers t where t.debit_account_id % parts = part offset 0) d
            union all
            select t.credit_account_id, t.credit_version, t.credit_balance_after, t.amount, null, t.created_at,
                   uuid_send(t.id), false
              from ledger.transfers t where t.credit_account_id % parts = part and t.credit_version is not null
          ) l
        window along as (partition by l.account order by l.version)
      ) w
     group by w.account
$function$;

-- next
-- The first row of an account that is wrong, and why: its versions one by one. Null when each follows from the one before.
create function ledger.fault_of(in account bigint, out place text, out fault text)
language plpgsql stable parallel safe
set search_path = pg_catalog, pg_temp
as $function$
#variable_conflict use_column
declare
    leg record;
    n bigint := 0;
    b numeric := 0;
    before timestamptz := '-infinity';
begin
    for leg in
        select t.debit_version as version, t.debit_balance_after as balance,
               case t.state when 'posted' then - t.amount else 0 end as change,
               t.created_at, t.id, (t.checksum = ledger.checksum_of(ledger.said(t))) is not true as damaged
          from ledger.transfers t where t.debit_account_id = fault_of.account
        union all
        select t.credit_version, t.credit_balance_after, t.amount, t.created_at, t.id,
               (t.checksum = ledger.checksum_of(ledger.said(t))) is not true
          from ledger.transfers t where t.credit_account_id = fault_of.account and t.credit_version is not null
         order by 1
    loop
        n := n + 1;
        b := b + leg.change;
        if leg.version <> n or leg.damaged or leg.balance <> b or leg.created_at < before then
            place := 'ledger.transfers ' || leg.id;
            fault := case
                when leg.version <> n then
                    format('account %s: version %s is missing, the next one is %s', account, n, leg.version)
                when leg.damaged then
                    format('account %s: the row of version %s is not what its checksum says', account, n)
                when leg.balance <> b then
                    format('account %s: the balance after version %s is %s, not %s', account, n, leg.balance, b)
                else format('account %s: version %s is older than the one before', account, n)
            end;
            return;
        end if;
        before := leg.created_at;
    end loop;
end
$function$;
