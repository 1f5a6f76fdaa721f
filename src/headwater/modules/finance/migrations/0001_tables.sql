-- The tables of finance. What is money stands in the ledger; here stand whose it is, why it moved, and the trail.
create schema finance;

-- next
create type finance.transaction_type as enum ('deposit', 'withdraw', 'yield', 'transfer');

-- next
create type finance.transaction_status as enum ('pending', 'completed', 'failed');

-- next
create type finance.direction as enum ('in', 'out');

-- next
create table finance.holders (
    id uuid default uuidv7() not null,
    user_id uuid not null,
    currency text not null,
    savings_account_id bigint not null,
    shares_account_id bigint not null,
    outside_account_id bigint not null,
    issued_account_id bigint not null,
    created_at timestamptz default now() not null,
    constraint holders_pkey primary key (id),
    constraint holders_user_id_currency_key unique (user_id, currency),
    constraint holders_savings_account_id_key unique (savings_account_id),
    constraint holders_shares_account_id_key unique (shares_account_id),
    constraint holders_outside_account_id_key unique (outside_account_id),
    constraint holders_issued_account_id_key unique (issued_account_id),
    constraint holders_user_id_fkey foreign key (user_id) references public.users (id),
    constraint holders_currency_fkey foreign key (currency) references ledger.assets (code),
    constraint holders_savings_account_id_fkey foreign key (savings_account_id) references ledger.accounts (id),
    constraint holders_shares_account_id_fkey foreign key (shares_account_id) references ledger.accounts (id),
    constraint holders_outside_account_id_fkey foreign key (outside_account_id) references ledger.accounts (id),
    constraint holders_issued_account_id_fkey foreign key (issued_account_id) references ledger.accounts (id)
);

-- next
create index holders_currency_idx on finance.holders (currency);

-- next
create table finance.distributions (
    id uuid default uuidv7() not null,
    currency text default 'USD' not null,
    amount numeric(39, 0) not null,
    shares numeric(39, 0) not null,
    holders bigint not null,
    reference text,
    created_at timestamptz default now() not null,
    constraint distributions_pkey primary key (id),
    constraint distributions_amount_check check (amount > 0),
    constraint distributions_shares_check check (shares > 0 and holders > 0)
);

-- next
create index distributions_created_at_id_idx on finance.distributions (created_at, id);

-- next
-- No foreign keys of user, counterparty and currency (they stand in a holder, who has them, and whom a trigger makes or
-- looks for before a row is written), of the transfer (a trigger compares
-- more than a key could) and of the distribution (only one function writes it): a distribution would pay for each with
-- every row.
create table finance.transactions (
    id uuid default uuidv7() not null,
    user_id uuid not null,
    counterparty_id uuid,
    type finance.transaction_type not null,
    direction finance.direction not null,
    currency text default 'USD' not null,
    amount numeric(39, 0) not null,
    shares numeric(39, 0),
    status finance.transaction_status default 'pending' not null,
    transfer_id uuid,
    distribution_id uuid,
    tx_hash text,
    block_number bigint,
    network text,
    reference text,
    reason text,
    created_at timestamptz default now() not null,
    ended_at timestamptz,
    constraint transactions_pkey primary key (id),
    constraint transactions_amount_check check (
        amount > 0 or amount = 0 and shares > 0 and type in ('deposit', 'withdraw')
    ),
    constraint transactions_shares_check check (shares >= 0),
    constraint transactions_counterparty_check check ((type = 'transfer') = (counterparty_id is not null)),
    constraint transactions_parties_check check (counterparty_id <> user_id),
    constraint transactions_deposit_check check (type <> 'deposit' or direction = 'in'),
    constraint transactions_withdraw_check check (type <> 'withdraw' or direction = 'out'),
    constraint transactions_yield_check check (type <> 'yield' or direction = 'in'),
    constraint transactions_ended_at_check check ((status = 'pending') = (ended_at is null)),
    constraint transactions_transfer_id_check check ((status = 'completed') = (transfer_id is not null)),
    constraint transactions_distribution_check check (distribution_id is null or type = 'yield'),
    constraint transactions_network_check check (tx_hash is null or network is not null)
);

-- next
create index transactions_user_id_created_at_id_idx on finance.transactions (user_id, created_at, id);

-- next
create index transactions_yield_idx on finance.transactions (user_id, currency) include (amount)
where type = 'yield' and status = 'completed';

-- next
create unique index transactions_distribution_id_user_id_key on finance.transactions (distribution_id, user_id);

-- next
create unique index transactions_tx_hash_key on finance.transactions (tx_hash, network, user_id, type)
where tx_hash is not null;

-- next
create table finance.transaction_history (
    user_id uuid not null,
    number bigint not null,
    transaction_id uuid not null,
    at timestamptz not null,
    actor text not null,
    action text not null,
    before jsonb,
    after jsonb not null,
    previous bytea not null,
    hash bytea not null,
    constraint transaction_history_pkey primary key (user_id, number),
    constraint transaction_history_number_check check (number > 0)
);

-- next
create index transaction_history_transaction_id_idx on finance.transaction_history (transaction_id);

-- next
create table finance.seals (
    number bigint not null,
    trails bigint not null,
    root bytea not null,
    previous bytea not null,
    digest bytea not null,
    created_at timestamptz default now() not null,
    constraint seals_pkey primary key (number),
    constraint seals_number_check check (number > 0)
);

-- next
create table finance.sealed_trails (
    user_id uuid not null,
    seal_number bigint not null,
    number bigint not null,
    hash bytea not null,
    constraint sealed_trails_pkey primary key (user_id, seal_number),
    constraint sealed_trails_seal_number_fkey foreign key (seal_number) references finance.seals (number)
);

-- next
create index sealed_trails_seal_number_idx on finance.sealed_trails (seal_number);

-- next
select headwater.track('finance.holders', 'full', '{user_id}');

-- next
select headwater.track('finance.distributions', 'full');

-- next
select headwater.track('finance.transactions', 'full', '{user_id}');

-- next
-- New rows are told to the stream set by set: a distribution writes as many as there are holders. The trigger that looks
-- at each row tells the rest.
create function finance.tell_inserts() returns trigger
language plpgsql security definer set search_path = pg_catalog, pg_temp
as $function$
declare
    said jsonb := headwater.said();
begin
    insert into headwater.change ("table", op, key, new, context)
    select 'finance.transactions', 'i', jsonb_build_object('id', n.id), to_jsonb(n.*), said from inserted n;
    return null;
end
$function$;

-- next
drop trigger headwater_change on finance.transactions;

-- next
create trigger headwater_change after update or delete on finance.transactions
    for each row execute function headwater."capture finance.transactions"();

-- next
alter table finance.transactions enable always trigger headwater_change;

-- next
create trigger headwater_change_of_inserts after insert on finance.transactions
    referencing new table as inserted for each statement execute function finance.tell_inserts();

-- next
alter table finance.transactions enable always trigger headwater_change_of_inserts;
