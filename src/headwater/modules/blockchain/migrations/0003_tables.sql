-- The tables of FODI: wallets, transactions, NFTs, rewards.
create table blockchain.wallets (
    id uuid default uuidv7() not null,
    user_id uuid not null,
    public_key text not null,
    encrypted_private_key text,
    wallet_type text default 'solana' not null,
    balance bigint default 0 not null,
    created_at timestamptz default now() not null,
    last_sync timestamptz,
    constraint wallets_pkey primary key (id),
    constraint wallets_public_key_key unique (public_key),
    constraint wallets_user_id_fkey foreign key (user_id) references public.users (id),
    constraint wallets_public_key_check check (length(public_key) between 1 and 128),
    constraint wallets_wallet_type_check check (length(wallet_type) between 1 and 32),
    constraint wallets_balance_check check (balance >= 0)
) with (fillfactor = 80);

-- next
create index wallets_user_id_idx on blockchain.wallets (user_id);

-- next
create type blockchain.fodi_transaction_type as enum ('transfer', 'mint', 'burn', 'reward');

-- next
create table blockchain.fodi_transactions (
    id uuid default uuidv7() not null,
    tx_id text not null,
    from_address text,
    to_address text,
    amount bigint not null,
    tx_type blockchain.fodi_transaction_type not null,
    status blockchain.transaction_status default 'pending' not null,
    blockchain_tx text,
    created_at timestamptz default now() not null,
    confirmed_at timestamptz,
    from_wallet_id uuid,
    to_wallet_id uuid,
    transfer_id uuid default uuidv7() not null,
    constraint fodi_transactions_pkey primary key (id),
    constraint fodi_transactions_tx_id_key unique (tx_id),
    constraint fodi_transactions_transfer_id_key unique (transfer_id),
    constraint fodi_transactions_from_wallet_id_fkey
        foreign key (from_wallet_id) references blockchain.wallets (id),
    constraint fodi_transactions_to_wallet_id_fkey
        foreign key (to_wallet_id) references blockchain.wallets (id),
    constraint fodi_transactions_tx_id_check check (length(tx_id) between 1 and 255),
    constraint fodi_transactions_amount_check check (amount > 0),
    constraint fodi_transactions_confirmed_at_check check ((status = 'confirmed') = (confirmed_at is not null)),
    constraint fodi_transactions_wallets_check check (from_wallet_id <> to_wallet_id)
);

-- next
create index fodi_transactions_from_wallet_id_idx on blockchain.fodi_transactions (from_wallet_id, created_at desc);

-- next
create index fodi_transactions_to_wallet_id_idx on blockchain.fodi_transactions (to_wallet_id, created_at desc);

-- next
create table blockchain.nft_metadata (
    id uuid default uuidv7() not null,
    mint_address text not null,
    name text not null,
    symbol text,
    uri text,
    owner_address text not null,
    metadata jsonb default '{}' not null,
    created_at timestamptz default now() not null,
    updated_at timestamptz default now() not null,
    version bigint default 1 not null,
    constraint nft_metadata_pkey primary key (id),
    constraint nft_metadata_mint_address_key unique (mint_address),
    constraint nft_metadata_mint_address_check check (length(mint_address) between 1 and 128),
    constraint nft_metadata_name_check check (length(name) between 1 and 200),
    constraint nft_metadata_symbol_check check (length(symbol) between 1 and 32),
    constraint nft_metadata_owner_address_check check (length(owner_address) between 1 and 128),
    constraint nft_metadata_metadata_check check (jsonb_typeof(metadata) = 'object')
);

-- next
create index nft_metadata_owner_address_idx on blockchain.nft_metadata (owner_address, created_at desc);

-- next
-- order_id is an order of commerce, whose module adds the foreign key.
create table blockchain.reward_history (
    id uuid default uuidv7() not null,
    user_id uuid not null,
    order_id integer,
    amount bigint not null,
    reason text,
    tx_id text,
    created_at timestamptz default now() not null,
    constraint reward_history_pkey primary key (id),
    constraint reward_history_tx_id_key unique (tx_id),
    constraint reward_history_user_id_fkey foreign key (user_id) references public.users (id),
    constraint reward_history_tx_id_fkey foreign key (tx_id) references blockchain.fodi_transactions (tx_id),
    constraint reward_history_amount_check check (amount > 0)
);

-- next
create index reward_history_user_id_idx on blockchain.reward_history (user_id, created_at desc);

-- next
create index reward_history_order_id_idx on blockchain.reward_history (order_id);

-- next
select headwater.track('blockchain.wallets', 'full', '{user_id,public_key}', '{encrypted_private_key}');

-- next
select headwater.track('blockchain.fodi_transactions', 'full', '{tx_id,from_address,to_address}');

-- next
select headwater.track('blockchain.nft_metadata', 'full', '{mint_address,owner_address}');

-- next
select headwater.track('blockchain.reward_history', 'full', '{user_id}');
