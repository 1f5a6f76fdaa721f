-- The tables of the ledger. Rows of transfers and refusals are written once and never again.
create schema ledger;

-- next
create type ledger.transfer_state as enum ('pending', 'posted', 'voided', 'expired');

-- next
create table ledger.assets (
    id integer generated always as identity,
    code text not null,
    scale smallint not null,
    created_at timestamptz default now() not null,
    constraint assets_pkey primary key (id),
    constraint assets_code_key unique (code),
    constraint assets_code_check check (length(code) between 1 and 100),
    constraint assets_scale_check check (scale between 0 and 38)
);

-- next
-- What is read and changed at each transfer stands in one row. It has no CHECK, nor have transfers and holds: PostgreSQL
-- reads each from the catalogue and plans it anew at every statement, which made an update twice as dear as it is. The
-- functions are the only writers and keep these rules; `headwater ledger verify` proves that they did. The free room in each page keeps its updates there (HOT):
-- no index of an account is touched when it moves.
create table ledger.accounts (
    id bigint generated always as identity,
    asset_id integer not null,
    owner_kind text not null,
    owner_id uuid not null,
    purpose text not null,
    credit_limit numeric(39, 0),
    balance numeric(39, 0) default 0 not null,
    held numeric(39, 0) default 0 not null,
    version bigint default 0 not null,
    head bytea default '\x'::bytea not null,
    moved_at timestamptz default now() not null,
    closed_at timestamptz,
    created_at timestamptz default now() not null,
    constraint accounts_pkey primary key (id),
    constraint accounts_asset_id_fkey foreign key (asset_id) references ledger.assets (id),
    constraint accounts_owner_kind_owner_id_asset_id_purpose_key unique (owner_kind, owner_id, asset_id, purpose)
) with (fillfactor = 80);

-- next
create index accounts_asset_id_idx on ledger.accounts (asset_id);

-- next
-- No foreign keys to the accounts: each would cost a look and a lock per row, accounts are never removed (a trigger says
-- so), and `headwater ledger verify` proves more than they could. The columns stand in an order that wastes no padding.
create table ledger.transfers (
    id uuid not null,
    debit_account_id bigint not null,
    credit_account_id bigint not null,
    debit_version bigint not null,
    credit_version bigint,
    created_at timestamptz not null,
    xid bigint not null,
    state ledger.transfer_state not null,
    checksum integer not null,
    amount numeric(39, 0) not null,
    debit_balance_after numeric(39, 0) not null,
    credit_balance_after numeric(39, 0),
    released numeric(39, 0),
    pending_id uuid,
    reverses_id uuid,
    reference text,
    metadata jsonb,
    constraint transfers_pkey primary key (id)
);

-- next
create unique index transfers_debit_idx on ledger.transfers (debit_account_id, debit_version);

-- next
create unique index transfers_credit_idx on ledger.transfers (credit_account_id, credit_version);

-- next
create index transfers_xid_idx on ledger.transfers using brin (xid) with (pages_per_range = 16);

-- next
create table ledger.holds (
    transfer_id uuid not null,
    debit_account_id bigint not null,
    credit_account_id bigint not null,
    remaining numeric(39, 0) not null,
    state ledger.transfer_state not null,
    expires_at timestamptz,
    constraint holds_pkey primary key (transfer_id)
);

-- next
create index holds_expiry_idx on ledger.holds (debit_account_id, expires_at) where state = 'pending';

-- next
-- What is due next, for the sweep. Most holds have no time at which they end.
create index holds_due_idx on ledger.holds (expires_at) where state = 'pending' and expires_at is not null;

-- next
create table ledger.refusals (
    id uuid not null,
    status smallint not null,
    body uuid not null,
    created_at timestamptz default now() not null,
    constraint refusals_pkey primary key (id)
);

-- next
-- Which transfer was reversed by which: a transfer is reversed once.
create table ledger.reversals (
    transfer_id uuid not null,
    reversed_by uuid not null,
    constraint reversals_pkey primary key (transfer_id)
);

-- next
create table ledger.seals (
    number bigint not null,
    xid_from bigint not null,
    xid_to bigint not null,
    transfers bigint not null,
    root bytea not null,
    digest bytea not null,
    created_at timestamptz default now() not null,
    constraint seals_pkey primary key (number)
);

-- next
create function ledger.refuse_change() returns trigger language plpgsql as $function$
begin
    raise exception '%.% is history: it is not changed and not removed', tg_table_schema, tg_table_name
        using errcode = 'object_not_in_prerequisite_state', hint = 'Correct it with a new transfer.';
end
$function$;

-- next
create trigger ledger_history before update or delete on ledger.transfers
    for each row execute function ledger.refuse_change();

-- next
create trigger ledger_history_truncate before truncate on ledger.transfers
    for each statement execute function ledger.refuse_change();

-- next
create trigger ledger_history before update or delete on ledger.refusals
    for each row execute function ledger.refuse_change();

-- next
create trigger ledger_history_truncate before truncate on ledger.refusals
    for each statement execute function ledger.refuse_change();

-- next
create trigger ledger_history before update or delete on ledger.reversals
    for each row execute function ledger.refuse_change();

-- next
create trigger ledger_history_truncate before truncate on ledger.reversals
    for each statement execute function ledger.refuse_change();

-- next
create trigger ledger_history before update or delete on ledger.seals
    for each row execute function ledger.refuse_change();

-- next
create trigger ledger_history_truncate before truncate on ledger.seals
    for each statement execute function ledger.refuse_change();

-- next
create trigger ledger_history before delete on ledger.accounts
    for each row execute function ledger.refuse_change();

-- next
create trigger ledger_history_truncate before truncate on ledger.accounts
    for each statement execute function ledger.refuse_change();

-- next
create trigger ledger_history before delete on ledger.holds
    for each row execute function ledger.refuse_change();

-- next
create trigger ledger_history_truncate before truncate on ledger.holds
    for each statement execute function ledger.refuse_change();

-- next
-- The checksum that stands in a row: with it a damaged row is found by itself. It is no secret; whoever makes it again
-- after a change is found by the chains of the accounts, and by the seals.
create function ledger.checksum_of(said bytea) returns integer language sql immutable parallel safe as $function$
    select (crc32c(said) - 2147483648)::integer
$function$;

-- next
-- What a role of an application needs, and no more: it reads, and writes through the functions alone.
create function ledger.grant_to(role text) returns void language plpgsql as $function$
begin
    execute format('grant usage on schema ledger to %I', role);
    execute format('grant select on all tables in schema ledger to %I', role);
    execute format('grant execute on all functions in schema ledger to %I', role);
    execute format('revoke execute on function ledger.grant_to(text) from %I', role);
end
$function$;

-- next
revoke all on function ledger.grant_to(text) from public;

-- next
select headwater.track('ledger.assets', 'full');

-- next
select headwater.track('ledger.accounts', 'keys', '{}', '{head}');

-- next
-- A change of a balance is told once, by the transfer that made it. The trigger tells what else happens to an account:
-- PostgreSQL passes it by when a statement names none of these columns.
drop trigger headwater_change on ledger.accounts;

-- next
create trigger headwater_change
    after insert or delete or update of id, asset_id, owner_kind, owner_id, purpose, credit_limit, closed_at
    on ledger.accounts for each row execute function headwater."capture ledger.accounts"();

-- next
alter table ledger.accounts enable always trigger headwater_change;

-- next
select headwater.track('ledger.transfers', 'keys', '{debit_account_id,credit_account_id}', '{xid,checksum}');

-- next
-- The functions write a transfer and its change in one statement; the trigger is for what must never happen.
drop trigger headwater_change on ledger.transfers;

-- next
create trigger headwater_change after update or delete on ledger.transfers
    for each row execute function headwater."capture ledger.transfers"();

-- next
alter table ledger.transfers enable always trigger headwater_change;

-- next
-- In whose name the transaction runs, as the change stream writes it down. Plain SQL, so that PostgreSQL inlines it: a
-- transaction that says nothing of itself does not pay for a call.
create function ledger.context() returns jsonb language sql stable as $function$
    select case when current_setting('headwater.context', true) <> '' then headwater.said() end
$function$;
