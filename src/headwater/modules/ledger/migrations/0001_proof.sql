-- What a transfer says, in bytes that name every column: the chains of the accounts and the seals are made of these.
-- Plain SQL, so that PostgreSQL inlines it.
create function ledger.said(t ledger.transfers) returns bytea language sql stable parallel safe as $function$
    select record_send(row(
        t.id, t.debit_account_id, t.credit_account_id, t.debit_version, t.credit_version, t.created_at, t.xid,
        t.state::text, t.amount, t.debit_balance_after, t.credit_balance_after, t.released, t.pending_id,
        t.reverses_id, t.reference, t.metadata))
$function$;

-- next
-- One link of a chain: what was, and what is said now.
create function ledger.link(head bytea, said bytea) returns bytea
language plpgsql immutable strict parallel safe as $function$
begin
    return sha256(head || said);
end
$function$;

-- next
create aggregate ledger.chain(bytea) (sfunc = ledger.link, stype = bytea, initcond = '');

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
    if made.xid_to <= made.xid_from then
        return null;
    end if;
    select count(*), coalesce(ledger.chain(ledger.said(t) order by t.xid, t.id), ''::bytea)
      into made.transfers, made.root
      from ledger.transfers t where t.xid >= made.xid_from and t.xid < made.xid_to;
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
-- The accounts from `low` to before `high` as their transfers say they must be: how many versions, the balance, what is
-- held, the head of the chain; and the first fault on the way. One pass in the order of versions.
create function ledger.recomputed(low bigint, high bigint)
returns table (account bigint, versions bigint, balance numeric, held numeric, head bytea, place text, fault text)
language plpgsql stable parallel safe
set search_path = pg_catalog, pg_temp set enable_seqscan = off set enable_bitmapscan = off
as $function$
#variable_conflict use_column
declare
    leg record;
    now_at bigint;
    n bigint;
    b numeric;
    h numeric;
    chain bytea;
    before timestamptz;
    found_place text;
    found_fault text;
begin
    for leg in
        select t.debit_account_id as account, t.debit_version as version, t.debit_balance_after as balance,
               case t.state when 'posted' then - t.amount else 0 end as change,
               case t.state when 'pending' then t.amount else - coalesce(t.released, 0) end as hold,
               t.created_at, t.id, t.checksum, ledger.said(t) as said
          from ledger.transfers t where t.debit_account_id >= low and t.debit_account_id < high
        union all
        select t.credit_account_id, t.credit_version, t.credit_balance_after, t.amount, 0::numeric,
               t.created_at, t.id, t.checksum, ledger.said(t)
          from ledger.transfers t
         where t.credit_account_id >= low and t.credit_account_id < high and t.credit_version is not null
         order by 1, 2
    loop
        if now_at is distinct from leg.account then
            if now_at is not null then
                return query select now_at, n, b, h, chain, found_place, found_fault;
            end if;
            now_at := leg.account;
            n := 0;
            b := 0;
            h := 0;
            chain := '';
            before := '-infinity';
            found_fault := null;
            found_place := null;
        end if;
        n := n + 1;
        b := b + leg.change;
        h := h + leg.hold;
        chain := sha256(chain || leg.said);
        if found_fault is null and (leg.version <> n or leg.balance <> b or leg.created_at < before or h < 0
                                    or leg.checksum <> (crc32c(leg.said) - 2147483648)) then
            found_place := 'ledger.transfers ' || leg.id;
            found_fault := case
                when leg.version <> n then
                    format('account %s: version %s is missing, the next one is %s', leg.account, n, leg.version)
                when leg.balance <> b then
                    format('account %s: the balance after version %s is %s, not %s', leg.account, n, leg.balance, b)
                when leg.checksum <> (crc32c(leg.said) - 2147483648) then
                    format('account %s: the row of version %s is not what its checksum says', leg.account, n)
                when h < 0 then format('account %s: version %s releases more than was held', leg.account, n)
                else format('account %s: version %s is older than the one before', leg.account, n)
            end;
        end if;
        before := leg.created_at;
    end loop;
    if now_at is not null then
        return query select now_at, n, b, h, chain, found_place, found_fault;
    end if;
end
$function$;
