"""Bulk: many rows at once, in by COPY, out by a server-side cursor."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping
from operator import attrgetter, itemgetter
from typing import Any, TypeVar, cast

from sqlalchemy import Column

from headwater.kernel.errors import InvalidValue, ProgrammingError
from headwater.kernel.models import Model
from headwater.kernel.postgres import Runner
from headwater.kernel.rows import DIALECT, Shape, bind_processor, model_of
from headwater.kernel.statements import Prepared, bound, python_default
from headwater.kernel.transaction import Transaction
from headwater.kernel.translation import translate

M = TypeVar("M", bound=Model)

_serial = itertools.count(1)
_quote = DIALECT.identifier_preparer.quote


async def insert(tx: Runner, known: Shape, rows: Iterable[Mapping[str, Any] | Any]) -> int:
    """COPY rows into the entity's table. Raises what a create raises; all rows are written or none."""
    names, records = _records(known, rows)
    if not names:
        return 0
    table = cast("Any", known.table)
    return await _copy(tx, table.name, table.schema, [known.by_name[n].name for n in names], records)


async def insert_missing(tx: Runner, known: Shape, rows: Iterable[Mapping[str, Any] | Any]) -> int:
    """COPY rows into a temporary table and insert those whose key does not exist yet. Returns how many were inserted."""
    tx.require_block("insert_missing()")
    names, records = _records(known, rows)
    if not names:
        return 0
    target, columns, staging = await _stage(tx, known, names, records)
    keys = ", ".join(_quote(c.name) for c in known.key_columns)
    counted = await _command(
        tx,
        f"WITH added AS (INSERT INTO {target} ({columns}) SELECT {columns} FROM {staging} "  # noqa: S608
        f"ON CONFLICT ({keys}) DO NOTHING RETURNING 1) SELECT count(*) FROM added",
    )
    await _command(tx, f"DROP TABLE {staging}")
    return int(counted[0][0])


async def upsert(
    tx: Runner, known: Shape, rows: Iterable[Mapping[str, Any] | Any], on: tuple[str, ...]
) -> tuple[int, int]:
    """COPY rows into a temporary table, then insert or change them in one statement, in key order so that two batches
    cannot deadlock. Returns (inserted, updated).
    """
    names, records = _records(known, rows)
    if not names:
        return 0, 0
    missing = [n for n in on if n not in names]
    if missing:
        raise InvalidValue(
            f"{known.label}: the rows do not name '{missing[0]}', by which they are to be matched.",
            remedy="Put it into every row.", field=missing[0],
        )  # fmt: skip
    target, columns, staging = await _stage(tx, known, names, records)
    keys = ", ".join(_quote(known.by_name[n].name) for n in on)
    changes = ", ".join(_change(known, c, n) for n, c in _changed(known, frozenset(names), on))
    first_key = _quote(known.key_columns[0].name)
    merge = (
        f"WITH merged AS (INSERT INTO {target} ({columns}) SELECT {columns} FROM {staging} ORDER BY {keys} "  # noqa: S608
        f"ON CONFLICT ({keys}) DO UPDATE SET {changes} RETURNING old.{first_key} IS NULL AS created) "
        "SELECT count(*) FILTER (WHERE created), count(*) FILTER (WHERE NOT created) FROM merged"
    )
    counts = await _command(tx, merge)
    await _command(tx, f"DROP TABLE {staging}")
    return int(counts[0][0]), int(counts[0][1])


async def stream(
    tx: Transaction, prepared: Prepared, make: Callable[[Any], Any], batch_size: int
) -> AsyncIterator[Any]:
    """The rows of a statement one by one through a cursor of the transaction."""
    if batch_size < 1:
        raise InvalidValue(f"'batch_size' is {batch_size}.", remedy="Ask for at least 1.", field="batch_size")
    try:
        async for record in tx.connection.cursor(prepared.sql, *prepared.arguments, prefetch=batch_size):
            yield make(record)
    except GeneratorExit:
        raise
    except Exception as error:
        raise translate(error) or error from error


def changed_columns(known: Shape, names: frozenset[str], on: tuple[str, ...], excluded: Any) -> dict[Column[Any], Any]:
    """What ON CONFLICT sets: the given columns, and those that change with every update."""
    changes: dict[Column[Any], Any] = {}
    for name, column in _changed(known, names, on):
        if name in names:
            changes[column] = excluded[column.name]
        elif name == known.version_name:
            changes[column] = column + 1
        else:
            changes[column] = cast("Any", column.onupdate).arg
    return changes


def _changed(known: Shape, names: frozenset[str], on: tuple[str, ...]) -> list[tuple[str, Column[Any]]]:
    fixed = set(on) | set(known.key_names)
    changed = [
        (n, c)
        for n, c in known.by_name.items()
        if (n in names and n not in fixed)
        or (n not in names and (n == known.version_name or (c.onupdate is not None and c.onupdate.is_clause_element)))
    ]
    return changed or [(on[0], known.by_name[on[0]])]


def _change(known: Shape, column: Column[Any], name: str) -> str:
    quoted = _quote(column.name)
    if name == known.version_name:
        return f"{quoted} = {_quote(cast('Any', known.table).name)}.{quoted} + 1"
    if column.onupdate is not None and column.onupdate.is_clause_element:
        return f"{quoted} = {cast('Any', column.onupdate).arg.compile(dialect=DIALECT)}"
    return f"{quoted} = excluded.{quoted}"


def _records(known: Shape, rows: Iterable[Any]) -> tuple[tuple[str, ...], Iterable[tuple[Any, ...]]]:
    """The attributes the first row names, and all rows as tuples in that order, processed for the wire."""
    iterator = iter(rows)
    first = next(iterator, None)
    if first is None:
        return (), ()
    every: Iterator[Any] = itertools.chain((first,), iterator)
    if isinstance(first, Mapping):
        names = tuple(first)
        unknown = [n for n in names if n not in known.by_name]
        if unknown:
            raise ProgrammingError(f"{known.model.__name__} has no attribute '{unknown[0]}'.")
        pick: Callable[[Any], tuple[Any, ...]] = _tuples(itemgetter(*names), len(names))
    elif isinstance(first, known.model) and model_of(first) is known.model:
        names = known.names
        pick = _tuples(attrgetter(*names), len(names))
    else:
        raise ProgrammingError(
            f"{known.label} cannot take a {type(first).__name__} as a row.",
            remedy=f"Pass mappings of attributes, or values of {known.model.__name__}.",
        )
    made = [
        n
        for n, c in known.by_name.items()
        if n not in names and c.default is not None and (c.default.is_scalar or c.default.is_callable)
    ]
    processors = [(n, bind_processor(known.by_name[n].type)) for n in names]
    plain = not made and not any(p for _, p in processors)
    return (*names, *made), _tuples_of(known, every, pick, [] if plain else processors, made)


def _tuples(getter: Callable[[Any], Any], width: int) -> Callable[[Any], tuple[Any, ...]]:
    return getter if width > 1 else lambda row: (getter(row),)


def _tuples_of(
    known: Shape, rows: Iterable[Any], pick: Callable[[Any], tuple[Any, ...]], processors: list[Any], made: list[str]
) -> Iterator[tuple[Any, ...]]:
    number = 0
    try:
        if not processors:
            for row in rows:
                number += 1
                yield pick(row)
            return
        defaults = [known.by_name[n] for n in made]
        for row in rows:
            number += 1
            values = [
                v if p is None or v is None else bound(p, n, v) for (n, p), v in zip(processors, pick(row), strict=True)
            ]
            yield (*values, *(python_default(c, False) for c in defaults))
    except (KeyError, AttributeError) as missing:
        raise InvalidValue(
            f"{known.label}: row {number} of the batch lacks {missing}, which the first row has.",
            remedy="Give every row of a batch the same attributes.",
        ) from None


async def _stage(
    tx: Runner, known: Shape, names: tuple[str, ...], records: Iterable[tuple[Any, ...]]
) -> tuple[str, str, str]:
    """COPY rows into a temporary table with the columns of `names`; the names of the target, the columns and the table.

    Only identifiers of declared models are put together here and by the callers; every value travels through COPY.
    """
    target = DIALECT.identifier_preparer.format_table(cast("Any", known.table))
    columns = ", ".join(_quote(known.by_name[n].name) for n in names)
    staging = f"headwater_staging_{next(_serial)}"
    await _command(
        tx, f"CREATE TEMPORARY TABLE {staging} ON COMMIT DROP AS SELECT {columns} FROM {target} WITH NO DATA"
    )
    await _copy(tx, staging, None, [known.by_name[n].name for n in names], records)
    return target, columns, staging


async def _copy(
    tx: Runner, table: str, schema: str | None, columns: list[str], records: Iterable[tuple[Any, ...]]
) -> int:
    async with tx._borrow() as link:
        try:
            status = await link.connection.copy_records_to_table(
                table, schema_name=schema, columns=columns, records=records
            )
        except Exception as error:
            raise translate(error) or error from error
    return int(status.rpartition(" ")[2])


async def _command(tx: Runner, sql: str) -> list[Any]:
    records, _ = await tx._run(Prepared(sql, (), None, False))
    return records
