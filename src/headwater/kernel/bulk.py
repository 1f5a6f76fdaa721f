"""Bulk: many rows at once, in by COPY, out by a server-side cursor."""

from __future__ import annotations

import itertools
from collections.abc import AsyncGenerator, Callable, Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from inspect import getgeneratorlocals
from operator import attrgetter, itemgetter
from typing import Any, cast

import asyncpg
from sqlalchemy import Column, bindparam, column, func, not_, select, table
from sqlalchemy.dialects import postgresql

from headwater.kernel.errors import HeadwaterError, InvalidValue, ProgrammingError
from headwater.kernel.postgres import Runner
from headwater.kernel.rows import DIALECT, Shape, bind_processor
from headwater.kernel.statements import Prepared, Template, bound, python_default
from headwater.kernel.transaction import Transaction
from headwater.kernel.translation import BROKEN, raise_translated

_quote = DIALECT.identifier_preparer.quote


async def insert(tx: Runner, known: Shape, rows: Iterable[Any]) -> int:
    """COPY rows into the entity's table. Raises what a create raises; all rows are written or none."""
    batch = _read(known, rows)
    if batch is None:
        return 0
    return await _copy(tx, known.table.name, known.table.schema, batch)


async def insert_missing(tx: Runner, known: Shape, rows: Iterable[Any]) -> int:
    """COPY rows into a temporary table and insert those whose key does not exist yet. Returns how many they were."""
    tx.require_block("insert_missing()")
    batch = _read(known, rows)
    if batch is None:
        return 0
    staging = await _stage(tx, batch)
    statement = _from(staging, batch, known.key_names).on_conflict_do_nothing(index_elements=known.key_columns)
    added = statement.returning(known.key_columns[0]).cte("added")
    counted = await _run(tx, Template(select(func.count()).select_from(added), None), {})
    await _command(tx, f"DROP TABLE {staging}")
    return int(counted[0][0])


async def upsert(tx: Runner, known: Shape, rows: Iterable[Any], on: tuple[str, ...]) -> tuple[int, int]:
    """COPY rows into a temporary table, then insert or change them in one statement, in the order of `on` so that two
    batches cannot deadlock. Returns (inserted, updated).
    """
    batch = _read(known, rows)
    if batch is None:
        return 0, 0
    require_named(known, on, batch.names)
    staging = await _stage(tx, batch)
    statement = _from(staging, batch, on)
    set_, anew = changes(known, batch.given, on, statement.excluded)
    statement = statement.on_conflict_do_update(index_elements=[known.by_name[n] for n in on], set_=set_)
    old = table("old", column(known.key_columns[0].name))
    merged = statement.returning(old.c[known.key_columns[0].name].is_(None).label("created")).cte("merged")
    created = func.count().filter(merged.c.created)
    template = Template(select(created, func.count().filter(not_(merged.c.created))), None)
    counted = await _run(tx, template, {name: python_default(c, True) for name, c in anew})
    await _command(tx, f"DROP TABLE {staging}")
    return int(counted[0][0]), int(counted[0][1])


async def stream(
    tx: Transaction, prepared: Prepared, make: Callable[[Any], Any], batch_size: int
) -> AsyncGenerator[Any]:
    """The rows of a statement one by one through a cursor of the transaction."""
    if batch_size < 1:
        raise InvalidValue(f"'batch_size' is {batch_size}.", remedy="Ask for at least 1.", field="batch_size")
    try:
        async for record in tx.connection.cursor(prepared.sql, *prepared.arguments, prefetch=batch_size):
            yield make(record)
    except (asyncpg.PostgresError, asyncpg.InterfaceError, *BROKEN) as error:
        raise_translated(error)


def changes(
    known: Shape, given: frozenset[str], on: Sequence[str], excluded: Any
) -> tuple[dict[str, Any], tuple[tuple[str, Column[Any]], ...]]:
    """What ON CONFLICT sets: the given columns, and those that change with every update.

    The second part names the parameters whose value Python makes: (parameter, column with the `onupdate=`).
    """
    fixed = {*on, *known.key_names}
    set_: dict[str, Any] = {}
    anew = []
    for name, col in known.by_name.items():
        if name == known.version_name:
            set_[col.name] = col + 1
        elif name in given:
            if name not in fixed:
                set_[col.name] = excluded[col.name]
        elif col.onupdate is not None and col.onupdate.is_clause_element:
            set_[col.name] = cast("Any", col.onupdate).arg
        elif col.onupdate is not None:
            anew.append((f"anew_{name}", col))
            set_[col.name] = bindparam(f"anew_{name}", type_=col.type)
    if not set_:  # nothing to change, but only a row that is touched is returned
        first = known.by_name[on[0]]
        set_[first.name] = excluded[first.name]
    return set_, tuple(anew)


def require_named(known: Shape, on: Sequence[str], names: Iterable[str]) -> None:
    """Refuse rows that lack what they are to be matched by."""
    missing = [n for n in on if n not in names]
    if missing or not on:
        raise InvalidValue(
            f"{known.label}: the rows do not say '{missing[0] if missing else 'on'}', by which they are to be matched.",
            remedy="Put it into every row.", field=missing[0] if missing else "on",
        )  # fmt: skip


@dataclass(slots=True)
class _Batch:
    """Rows on their way to the wire. `given` are the attributes somebody gave, `names` also those Python makes."""

    known: Shape
    names: tuple[str, ...]
    given: frozenset[str]
    records: Generator[tuple[Any, ...]] = field(init=False)
    failure: Exception | None = None

    @property
    def row(self) -> int:
        """The number of the row that is at the driver."""
        return int(getgeneratorlocals(self.records).get("number", 0))

    @property
    def columns(self) -> list[str]:
        return [self.known.by_name[n].name for n in self.names]


def _read(known: Shape, rows: Iterable[Any]) -> _Batch | None:
    """The rows as tuples processed for the wire, all with the attributes of the first; None when there is none."""
    iterator = iter(rows)
    first = next(iterator, None)
    if first is None:
        return None
    if isinstance(first, Mapping):
        names = tuple(first)
        given = frozenset(names)
        unknown = [n for n in names if n not in known.by_name]
        if unknown or not names:
            raise ProgrammingError(
                f"{known.model.__name__} has no attribute '{unknown[0] if unknown else ''}'.",
                remedy=f"It has {', '.join(known.by_name)}.",
            )
        getter: Callable[[Any], Any] = itemgetter(*names)
    elif type(first) is known.value_class:
        names, getter = known.names, attrgetter(*known.names)
        given = frozenset(n for n in names if n != known.version_name and known.by_name[n].onupdate is None)
    else:
        raise ProgrammingError(
            f"{known.label} cannot take a {type(first).__name__} as a row.",
            remedy=f"Pass mappings of attributes, or values of {known.model.__name__} that were read.",
        )
    made = []
    for name, col in known.by_name.items():
        if name in names or col.default is None:
            continue
        if not (col.default.is_scalar or col.default.is_callable):
            raise ProgrammingError(
                f"{known.label}: '{name}' has a default in SQL, which COPY does not compute.",
                remedy="Declare it as server_default=, or put the value into every row.",
            )
        made.append(name)
    batch = _Batch(known, (*names, *made), given)
    pick = getter if len(names) > 1 else lambda row: (getter(row),)
    width = len(names) if isinstance(first, Mapping) else None
    batch.records = _tuples(batch, itertools.chain((first,), iterator), pick, width, names, made)
    return batch


def _tuples(
    batch: _Batch,
    rows: Iterable[Any],
    pick: Callable[[Any], tuple[Any, ...]],
    width: int | None,
    names: Sequence[str],
    made: Sequence[str],
) -> Generator[tuple[Any, ...]]:
    """Each row checked against the first and put in order. `width` is the number of attributes, None for values."""
    known = batch.known
    processors = [(n, bind_processor(known.by_name[n].type)) for n in names]
    defaults = [(n, bind_processor(known.by_name[n].type), known.by_name[n]) for n in made]
    plain = not made and not any(p for _, p in processors)
    try:
        for number, row in enumerate(rows, 1):
            if width is None:
                if type(row) is not known.value_class:
                    raise _uneven(batch, row, number)
                values = pick(row)
            else:
                try:
                    values = pick(row)
                except (KeyError, TypeError):
                    raise _uneven(batch, row, number) from None
                if len(row) != width:
                    raise _uneven(batch, row, number)
            if plain:
                yield values
            else:
                yield (
                    *[_wired(p, n, v) for (n, p), v in zip(processors, values, strict=True)],
                    *[_wired(p, n, python_default(c, False)) for n, p, c in defaults],
                )
    except Exception as error:  # the caller's iterator's, or ours: not to be taken for one of the driver
        batch.failure = error
        raise


def _wired(process: Callable[[Any], Any] | None, name: str, value: Any) -> Any:
    return value if process is None or value is None else bound(process, name, value)


def _uneven(batch: _Batch, row: Any, number: int) -> InvalidValue:
    what = f"has other attributes than the first: {', '.join(map(str, row))}" if isinstance(row, Mapping) else ""
    return InvalidValue(
        f"{batch.known.label}: row {number} of the batch {what or f'is a {type(row).__name__}, unlike the first'}.",
        remedy="Give every row of a batch the same attributes.",
        row=number,
    )


async def _stage(tx: Runner, batch: _Batch) -> str:
    """COPY rows into a temporary table made for them; its name.

    Only identifiers of declared models are put together here; every value travels through COPY. The same columns have
    the same table name, so that a connection does not collect statements.
    """
    target = DIALECT.identifier_preparer.format_table(batch.known.table)
    columns = ", ".join(map(_quote, batch.columns))
    staging = f"headwater_staging_{blake2b(f'{target} {columns}'.encode(), digest_size=8).hexdigest()}"
    create = f"CREATE TEMPORARY TABLE {staging} ON COMMIT DROP AS SELECT {columns} FROM {target} WITH NO DATA"  # noqa: S608  # identifiers only
    await _command(tx, create)
    await _copy(tx, staging, None, batch)
    return staging


def _from(staging: str, batch: _Batch, order: Iterable[str]) -> Any:
    """INSERT the staged rows, in this order."""
    known = batch.known
    source = table(staging, *(column(name) for name in batch.columns))
    ordered = select(*source.c).order_by(*(source.c[known.by_name[n].name] for n in order))
    return postgresql.insert(known.table).from_select(batch.columns, ordered, include_defaults=False)


async def _copy(tx: Runner, name: str, schema: str | None, batch: _Batch) -> int:
    async with tx._borrow() as link:
        try:
            status = await link.connection.copy_records_to_table(
                name, schema_name=schema, columns=batch.columns, records=batch.records
            )
        except BaseException as error:
            link.unsettled = True  # the driver cancels the COPY without waiting for it
            if error is batch.failure or not isinstance(error, Exception):
                raise
            if isinstance(error, (TypeError, ValueError, LookupError, AttributeError)) and not isinstance(
                error, (asyncpg.InterfaceError, HeadwaterError)
            ):
                raise InvalidValue(
                    f"{batch.known.label}: row {batch.row} of the batch does not fit its columns: {error}.",
                    remedy="Pass values of the columns' types.",
                    row=batch.row,
                ) from error
            raise_translated(error)
    return int(status.rpartition(" ")[2])


async def _run(tx: Runner, template: Template, parameters: Mapping[str, Any]) -> list[Any]:
    records, _ = await tx._run(Prepared(template.sql, template.arguments(parameters), None, False))
    return records


async def _command(tx: Runner, sql: str) -> None:
    """A statement without parameters or rows, by the simple protocol: it is not prepared."""
    async with tx._borrow() as link:
        try:
            await link.connection.execute(sql)
        except (asyncpg.PostgresError, asyncpg.InterfaceError, *BROKEN) as error:
            raise_translated(error)
