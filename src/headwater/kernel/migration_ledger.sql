-- The tables the runner of migrations needs before the first revision can be applied. Run once, inside the lock.

create schema if not exists headwater;

-- One row for each revision. state: 'running' is a revision outside a transaction that has begun and not ended.
create table headwater.migration (
    revision          text primary key,
    module            text not null,
    name              text not null,
    sha256            text not null,
    requires          text[] not null,
    state             text not null check (state in ('running', 'applied')),
    applied_at        timestamptz not null default now(),
    duration_ms       bigint,
    lock_retries      integer not null default 0,
    applied_by        text not null default session_user,
    headwater_version text not null,
    before            jsonb
);

-- Every object as the migrations left it. revision: who made or changed it last; null: it was found.
create table headwater.fingerprint (
    kind       text not null,
    name       text not null,
    parent     text not null,
    schemas    text[] not null,
    definition text not null,
    sha256     text not null,
    revision   text,
    primary key (kind, name)
);

-- Alembic's own table, kept right for Alembic's own commands; the ledger is the truth.
create table headwater.alembic_version (
    version_num text not null,
    constraint alembic_version_pkc primary key (version_num)
);
