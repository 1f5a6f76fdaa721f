"""Sealed columns: which columns hold secrets that a keyring has sealed, and the sweep that seals them under a new key.

A model says it of a column: `mapped_column(info={"private": True, "sealed_for": "public_key"})` binds the secret to the
table, the column and the row's public key. The value named must never change, since the secret would not open again.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Column, Table, and_, case, func, literal, select, update

from headwater.kernel.errors import ProgrammingError
from headwater.kernel.keyring import SEALED, Keyring, sealed_by
from headwater.kernel.models import Model
from headwater.kernel.module import System
from headwater.kernel.postgres import Runner
from headwater.kernel.transaction import Transaction

_BATCH_ROWS = 500


@dataclass(frozen=True, slots=True)
class SealedColumn:
    """A column of sealed secrets, and the column that says of which row each one is."""

    table: Table
    column: Column[Any]
    owner: Column[Any]

    @property
    def name(self) -> str:
        """Table and column, as in `blockchain.wallets.encrypted_private_key`."""
        return f"{self.table.schema or 'public'}.{self.table.name}.{self.column.name}"

    def place(self, owner: object) -> str:
        """What a secret of this row is bound to."""
        return f"{self.name}/{owner}"


def sealed_column(model: type[Model], name: str) -> SealedColumn:
    """The sealed column of this name. Raises ProgrammingError for one that says no `sealed_for`."""
    table: Table = model.__table__  # type: ignore[assignment]  # a mapped class has a Table
    column = table.columns[name]
    if "sealed_for" not in column.info:
        raise ProgrammingError(
            f"{table.fullname}.{name} is not sealed.", remedy='Declare it with info={"sealed_for": "a column"}.'
        )
    return SealedColumn(table, column, table.columns[column.info["sealed_for"]])


def sealed_columns(system: System) -> Iterator[SealedColumn]:
    """Every sealed column of a system."""
    for module in system.modules:
        for model in module.models:
            for column in model.__table__.columns:
                if "sealed_for" in column.info:
                    yield sealed_column(model, column.name)


async def reseal(tx: Transaction, column: SealedColumn, keyring: Keyring) -> int:
    """Seal again, under the current key, up to 500 secrets that have another one; how many. Call it until it says 0.

    Rows that somebody else works on are left for the next call, and what no keyring has sealed is left as it is.
    Raises KeyMissing, SealBroken.
    """
    keys = list(column.table.primary_key.columns)
    found = await tx.fetch(
        select(*keys, column.owner.label("owner"), column.column.label("sealed"))
        .where(func.starts_with(column.column, SEALED), ~func.starts_with(column.column, sealed_by(keyring.current)))
        .limit(_BATCH_ROWS)
        .with_for_update(skip_locked=True)
    )
    for row in found:
        anew = keyring.reseal(row["sealed"], bound_to=column.place(row["owner"]))
        await tx.execute(
            update(column.table)
            .where(and_(*(key == row[key.name] for key in keys)), column.column == row["sealed"])
            .values({column.column: anew})
        )
    return len(found)


async def count_by_key(runner: Runner, column: SealedColumn) -> dict[str, int]:
    """How many secrets each key has sealed, by the name of the key; under '' those that no keyring has sealed."""
    key = case(
        (func.starts_with(column.column, SEALED), func.split_part(column.column, ":", 2)), else_=literal("")
    ).label("key")
    rows = await runner.fetch(
        select(key, func.count().label("secrets")).where(column.column.is_not(None)).group_by(key)
    )
    return {row["key"]: row["secrets"] for row in rows}
