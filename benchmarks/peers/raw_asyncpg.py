"""Raw asyncpg: SQL by hand on connections that are held; jsonb decoded by msgspec. The measure of the others.

Statements stay prepared in asyncpg's own cache. The codec is the fastest we know: json.loads over text would be slower.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import asyncpg
import msgspec

from benchmarks.items import COLUMNS, SCHEMA, TABLE

GET = f"select {', '.join(COLUMNS)} from {TABLE} where id = $1"
LIST = f"select {', '.join(COLUMNS)} from {TABLE} order by id limit $1"
UPDATE = f"update {TABLE} set quantity = $2 where id = $1"

_decode = msgspec.json.Decoder().decode
_encode = msgspec.json.Encoder().encode


async def prepare_codec(connection: asyncpg.Connection) -> None:
    """jsonb as Python objects."""
    await connection.set_type_codec(
        "jsonb",
        schema="pg_catalog",
        format="binary",
        encoder=lambda value: b"\x01" + _encode(value),
        decoder=lambda raw: _decode(raw[1:]),
    )


async def connect(dsn: str) -> asyncpg.Connection:
    connection = await asyncpg.connect(dsn)
    await prepare_codec(connection)
    return connection


async def open_pool(dsn: str, size: int) -> asyncpg.Pool:
    """asyncpg's own pool, as its documentation opens it, with all connections made beforehand."""
    return await asyncpg.create_pool(dsn, min_size=size, max_size=size, init=prepare_codec)


def tuples(content: Iterable[dict[str, Any]]) -> list[tuple[Any, ...]]:
    """Rows as COPY wants them."""
    return [tuple(row[c] for c in COLUMNS) for row in content]


async def copy(connection: asyncpg.Connection, records: list[tuple[Any, ...]]) -> None:
    await connection.copy_records_to_table("items", schema_name=SCHEMA, columns=COLUMNS, records=records)
