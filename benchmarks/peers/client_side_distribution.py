"""Client-side distribution: what one writes by hand: read all shares, divide in Python, write everything back by COPY.

One transaction, a lock on every balance, the same arithmetic, a payment and an entry in a chain of hashes for each
holder. It has no ledger, no balances of the past and no change stream: it does less than what it is compared with.
"""

from __future__ import annotations

import hashlib
from uuid import UUID, uuid4

import asyncpg

_TABLES = """
create schema client_side;
create table client_side.savings (
    user_id uuid primary key references public.users (id), balance numeric not null, shares numeric not null,
    entries bigint not null default 0, head bytea not null default ''
);
create table client_side.distributions (
    id uuid primary key, amount numeric not null, created_at timestamptz default now()
);
create table client_side.payments (
    id uuid primary key, distribution_id uuid not null references client_side.distributions (id),
    user_id uuid not null references public.users (id), amount numeric not null, created_at timestamptz default now(),
    unique (distribution_id, user_id)
);
create index on client_side.payments (user_id, created_at);
create table client_side.entries (
    user_id uuid not null, number bigint not null, payment_id uuid not null, amount numeric not null,
    previous bytea not null, hash bytea not null, primary key (user_id, number)
);
"""
_KNOWN = "insert into client_side.distributions (id, amount) values ($1, $2) on conflict do nothing returning id"
_HOLDERS = "select user_id, shares, entries, head from client_side.savings where shares > 0 order by user_id for update"
_PAY = """
update client_side.savings s set balance = s.balance + p.amount, entries = s.entries + 1, head = p.hash
from unnest($1::uuid[], $2::numeric[], $3::bytea[]) as p (user_id, amount, hash) where s.user_id = p.user_id
"""


class ClientSideDistribution:
    """One connection, and a balance for everybody."""

    def __init__(self, connection: asyncpg.Connection) -> None:
        self._connection = connection

    @classmethod
    async def open(cls, dsn: str, shares: dict[UUID, int]) -> ClientSideDistribution:
        """Tables, with as much for each user as they have shares."""
        connection = await asyncpg.connect(dsn)
        await connection.execute(_TABLES)
        await connection.copy_records_to_table(
            "savings",
            schema_name="client_side",
            columns=["user_id", "balance", "shares"],
            records=[(user, count, count) for user, count in shares.items()],
        )
        await connection.execute("vacuum analyze client_side.savings")
        return cls(connection)

    async def close(self) -> None:
        await self._connection.close()

    async def distribute(self, distribution_id: UUID, amount: int) -> int:
        """Divide an amount by the largest remainder, once for its id; how many were paid."""
        run = self._connection
        async with run.transaction():
            if await run.fetchval(_KNOWN, distribution_id, amount) is None:
                return 0
            holders = await run.fetch(_HOLDERS)
            parts = _parts(amount, {row["user_id"]: int(row["shares"]) for row in holders})
            payments, entries = [], []
            for row in holders:
                user, part = row["user_id"], parts[row["user_id"]]
                if not part:
                    continue
                payment, number, previous = uuid4(), row["entries"] + 1, row["head"]
                told = b"%b%d%b%d%b" % (user.bytes, number, payment.bytes, part, previous)
                payments.append((payment, distribution_id, user, part))
                entries.append((user, number, payment, part, previous, hashlib.sha256(told).digest()))
            await run.execute(
                _PAY, [one[0] for one in entries], [one[3] for one in entries], [one[5] for one in entries]
            )
            await run.copy_records_to_table(
                "payments",
                schema_name="client_side",
                columns=["id", "distribution_id", "user_id", "amount"],
                records=payments,
            )
            await run.copy_records_to_table("entries", schema_name="client_side", records=entries)
        return len(payments)


def _parts(amount: int, shares: dict[UUID, int]) -> dict[UUID, int]:
    total = sum(shares.values())
    parts = {user: amount * owned // total for user, owned in shares.items()}
    left = amount - sum(parts.values())
    for user in sorted(shares, key=lambda user: (-(amount * shares[user] % total), user))[:left]:
        parts[user] += 1
    return parts
