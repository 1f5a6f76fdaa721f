"""Peers of the ledger: what people write in Python between BEGIN and COMMIT, and a ledger of pgledger's shape.

pgledger itself is no package; its shape is written here after its published SQL file: text ids, a transfer and two
entries with previous and current balance, its five secondary indexes, accounts locked in order, one call per transfer.
"""

from __future__ import annotations

from typing import Any

import asyncpg

_CONNECTIONS = 16

_CLIENT_TABLES = """
create schema client_side;
create table client_side.accounts (id bigint primary key, balance numeric(39, 0) not null) with (fillfactor = 80);
create table client_side.transfers (
    id uuid primary key default uuidv7(), debit bigint not null, credit bigint not null, amount numeric(39, 0) not null,
    created_at timestamptz not null default now()
);
create index on client_side.transfers (debit, created_at);
create index on client_side.transfers (credit, created_at);
"""

_PGLEDGER_TABLES = """
create schema pgledger;
create table pgledger.accounts (
    id text primary key, balance numeric not null default 0, version bigint not null default 0,
    allow_negative boolean not null default true, updated_at timestamptz not null default now()
) with (fillfactor = 80);
create table pgledger.transfers (
    id text primary key, from_account_id text not null references pgledger.accounts (id),
    to_account_id text not null references pgledger.accounts (id), amount numeric not null,
    created_at timestamptz not null default now(), event_at timestamptz not null default now()
);
create index on pgledger.transfers (from_account_id);
create index on pgledger.transfers (to_account_id);
create table pgledger.entries (
    id text primary key, account_id text not null references pgledger.accounts (id),
    transfer_id text not null references pgledger.transfers (id), amount numeric not null,
    previous_balance numeric not null, current_balance numeric not null, account_version bigint not null,
    created_at timestamptz not null default now()
);
create index on pgledger.entries (account_id);
create index on pgledger.entries (transfer_id);
create unique index on pgledger.entries (account_id, account_version);
create function pgledger.transfer(source text, target text, amount numeric) returns text language plpgsql as $$
declare
    made text := 'pglt_' || replace(uuidv7()::text, '-', '');
    before_source numeric; before_target numeric; v_source bigint; v_target bigint;
begin
    perform 1 from pgledger.accounts a where a.id = least(source, target) for update;
    perform 1 from pgledger.accounts a where a.id = greatest(source, target) for update;
    insert into pgledger.transfers (id, from_account_id, to_account_id, amount) values (made, source, target, amount);
    update pgledger.accounts a set balance = a.balance - amount, version = a.version + 1, updated_at = now()
     where a.id = source returning a.balance + amount, a.version into before_source, v_source;
    if not (select a.allow_negative from pgledger.accounts a where a.id = source) and before_source < amount then
        raise exception 'account % would be overdrawn', source;
    end if;
    update pgledger.accounts a set balance = a.balance + amount, version = a.version + 1, updated_at = now()
     where a.id = target returning a.balance - amount, a.version into before_target, v_target;
    insert into pgledger.entries
        (id, account_id, transfer_id, amount, previous_balance, current_balance, account_version)
    values ('pgle_' || replace(uuidv7()::text, '-', ''), source, made, - amount, before_source, before_source - amount,
            v_source);
    insert into pgledger.entries
        (id, account_id, transfer_id, amount, previous_balance, current_balance, account_version)
    values ('pgle_' || replace(uuidv7()::text, '-', ''), target, made, amount, before_target, before_target + amount,
            v_target);
    return made;
end $$;
"""


class _Peer:
    """Sixteen connections, each used by one task."""

    def __init__(self, connections: list[asyncpg.Connection]) -> None:
        self._connections = connections

    @classmethod
    async def _opened(cls, dsn: str, tables: str, fill: str, accounts: int) -> list[asyncpg.Connection]:
        connections = [await asyncpg.connect(dsn) for _ in range(_CONNECTIONS)]
        await connections[0].execute(tables)
        await connections[0].execute(fill, accounts)
        return connections

    async def close(self) -> None:
        for connection in self._connections:
            await connection.close()


class ClientSide(_Peer):
    """BEGIN, lock both in order, check, INSERT, two UPDATEs, COMMIT: a round trip each."""

    @classmethod
    async def open(cls, dsn: str, accounts: int) -> ClientSide:
        fill = "insert into client_side.accounts select n, 1000000000 from generate_series(1, $1::int) n"
        return cls(await cls._opened(dsn, _CLIENT_TABLES, fill, accounts))

    async def transfer(self, number: int, debit: int, credit: int, amount: int) -> None:
        connection: Any = self._connections[number]
        async with connection.transaction():
            rows = await connection.fetch(
                "select id, balance from client_side.accounts where id in ($1, $2) order by id for update",
                debit,
                credit,
            )
            balance = next(row["balance"] for row in rows if row["id"] == debit)
            if balance < amount:
                raise ValueError("not enough")
            await connection.execute(
                "insert into client_side.transfers (debit, credit, amount) values ($1, $2, $3)", debit, credit, amount
            )
            await connection.execute(
                "update client_side.accounts set balance = balance - $2 where id = $1", debit, amount
            )
            await connection.execute(
                "update client_side.accounts set balance = balance + $2 where id = $1", credit, amount
            )


class PgledgerShape(_Peer):
    """One call per transfer: a transfer and two entries."""

    @classmethod
    async def open(cls, dsn: str, accounts: int) -> PgledgerShape:
        fill = (
            "insert into pgledger.accounts (id, balance)"
            " select 'pgla_' || lpad(n::text, 26, '0'), 1000000000 from generate_series(1, $1::int) n"
        )
        return cls(await cls._opened(dsn, _PGLEDGER_TABLES, fill, accounts))

    async def transfer(self, number: int, debit: int, credit: int, amount: int) -> None:
        await self._connections[number].fetchval(
            "select pgledger.transfer($1, $2, $3)", f"pgla_{debit:026}", f"pgla_{credit:026}", amount
        )
