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
