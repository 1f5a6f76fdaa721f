"""Repository: reads and writes of one entity. Reads return values; writes take the caller's transaction."""

from __future__ import annotations

import contextlib
import difflib
from collections.abc import AsyncGenerator, Coroutine, Iterable, Mapping, Sequence
from time import monotonic
from typing import Any, ClassVar, Generic, Literal, NamedTuple, TypeVar, cast, get_args, get_origin
from uuid import UUID

from sqlalchemy import (
    ARRAY,
    Column,
    ColumnElement,
    bindparam,
    column,
    delete,
    func,
    insert,
    select,
    table,
    tuple_,
    update,
)
from sqlalchemy.dialects import postgresql

from headwater.kernel import bulk
from headwater.kernel.cached_rows import Entity
from headwater.kernel.errors import InvalidValue, NotFound, ProgrammingError, VersionConflict
from headwater.kernel.json_rows import json_row, json_rows
from headwater.kernel.loader import BATCH_MAX, Loader
from headwater.kernel.models import Model
from headwater.kernel.pages import (
    JsonPage,
    Page,
    Sorting,
    check_limit,
    read_cursor,
    read_order,
    sorting,
    write_cursor,
)
from headwater.kernel.postgres import Postgres, Runner
from headwater.kernel.rendering import Json, written
from headwater.kernel.rows import Shape, bind_processor, shape
from headwater.kernel.statements import Narrowable, Prepared, Template, prepare, python_default
from headwater.kernel.transaction import Transaction, transaction

M = TypeVar("M", bound=Model)
Consistency = Literal["kind", "snapshot"]
Key = Any
"""A key: the value of the key column, or a tuple in order of declaration where there are several."""


class Updated(NamedTuple, Generic[M]):
    """A row before and after."""

    old: M
    new: M


class Upserted(NamedTuple, Generic[M]):
    """A row after an upsert, and whether it is new."""

    value: M
    created: bool


class BulkUpserted(NamedTuple):
    """How many rows a bulk upsert made and how many it changed."""

    inserted: int
    updated: int


class Repository(Generic[M]):
    """The rows of one entity.

    `class ProductRepository(Repository[Product])` adds verbs; `headwater.repository(Product)` gives a plain one.
    Names of values are the attributes of the model. Every verb raises UnavailableError when PostgreSQL cannot serve.
    """

    model: ClassVar[type[Model]]

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        for base in getattr(cls, "__orig_bases__", ()):
            entity = get_args(base)[0] if get_origin(base) is Repository else None
            if isinstance(entity, type) and issubclass(entity, Model):
                cls.model = entity

    def __init__(self, postgres: Postgres, model: type[M] | None = None) -> None:
        if model is not None:
            self.model = model  # type: ignore[misc]  # a plain repository learns its entity when it is made
        if not hasattr(self, "model"):
            raise ProgrammingError(
                f"{type(self).__name__} does not say which entity it is for.",
                remedy=f"Declare it as `class {type(self).__name__}(Repository[YourModel])`.",
            )
        self.postgres = postgres
        self._shape = shape(self.model)
        self._templates = _templates(self._shape)
        self._cached = postgres.cache.entities.get(self.model) if postgres.cache is not None else None
        self._absent_of = self._absent  # bound once: a read in the hot path needs it
        self._near = None if self._cached is None else self._cached.near
        self._loader = None if self._cached is not None else self._shared_loader()  # the cache gathers its own loads

    # -- reads -------------------------------------------------------------------------------------------------------

    def get(self, key: Key, *, tx: Runner | None = None) -> Coroutine[Any, Any, M]:
        """The row with this key. Raises NotFound, or InvalidValue for a key of the wrong type.

        Outside a transaction a kind with a cache policy is read through the cache.
        """
        near = self._near
        if near is not None and tx is None and monotonic() < near.until:
            answer = near.answers.get(key.int if type(key) is UUID else key)
            if answer is not None:
                answer.hits += 1
                return answer  # type: ignore[return-value]  # a Future with the verbs of a coroutine
        cached = self._cached
        if cached is not None and tx is None and type(key) in cached.key_types:
            return cached.find(key, self._absent_of)
        return self._read(key, tx, needed=True)

    def find(self, key: Key, *, tx: Runner | None = None) -> Coroutine[Any, Any, M | None]:
        """The row with this key, or None. Concurrent reads outside a transaction travel together.

        Outside a transaction a kind with a cache policy is read through the cache.
        """
        near = self._near
        if near is not None and tx is None and monotonic() < near.until:
            answer = near.answers.get(key.int if type(key) is UUID else key)
            if answer is not None:
                answer.hits += 1
                return answer  # type: ignore[return-value]  # a Future with the verbs of a coroutine
        cached = self._cached
        if cached is not None and tx is None and type(key) in cached.key_types:
            return cached.find(key)
        return self._read(key, tx, needed=False)

    def get_json(self, key: Key, *, tx: Runner | None = None) -> Coroutine[Any, Any, Json[M]]:
        """The row as the service writes it, without its private columns: from the cache as it lies there, where the
        policy says `json`. Raises NotFound, InvalidValue.
        """
        cached = self._cached
        if cached is not None and tx is None and type(key) in cached.key_types:
            return cached.find(key, self._absent_of, True)
        return _write(self._read(key, tx, needed=True))

    async def _read(self, key: Key, tx: Runner | None, *, needed: bool) -> Any:
        """The row with this key; when there is none, None, or NotFound where it is needed."""
        if tx is None and self._cached is not None:
            value = await self._cached.find(self._key(key))
        elif tx is None and self._loader is not None:
            value = await self._loader.load(self._key(key))
        else:
            prepared = self._prepared(self._templates.get, self._key_parameters(key))
            records, _ = await (tx or self.postgres)._run(prepared)
            value = self._shape.make(records[0]) if records else None
        if value is None and needed:
            raise self._absent(key)
        return value

    async def get_many(
        self, keys: Iterable[Key], *, consistency: Consistency = "kind", tx: Runner | None = None
    ) -> dict[Key, M]:
        """The rows with these keys, by key, in one statement per thousand; what does not exist is absent.

        Kinds with a cache policy are read through the cache; with `consistency="snapshot"` (or a policy of that level)
        the rows are all of one moment, wherever they come from.
        """
        wanted = list(dict.fromkeys(self._key(key) for key in keys))
        if tx is None and self._cached is not None and wanted:
            if consistency == "snapshot" or self._cached.policy.level == "snapshot":
                return cast("dict[Key, M]", await self._cached.find_together(wanted))
            found = await self._cached.find_each(wanted)
            return {key: value for key, value in zip(wanted, found, strict=True) if value is not None}
        if consistency == "snapshot" and len(wanted) > BATCH_MAX and tx is None:
            async with transaction(self.postgres, isolation="repeatable read", read_only=True) as own:
                return await self.get_many(wanted, tx=own)
        runner, template, known = tx or self.postgres, self._templates.many, self._shape
        by_key: dict[Key, M] = {}
        for start in range(0, len(wanted), BATCH_MAX):
            part = wanted[start : start + BATCH_MAX]
            lists = [part] if len(known.key_columns) == 1 else [list(column) for column in zip(*part, strict=True)]
            parameters = {f"keys_{i}": column for i, column in enumerate(lists)}
            records, _ = await runner._run(self._prepared(template, parameters))
            for record in records:
                value = known.make(record)
                by_key[known.key_of(value)] = value
        return {key: by_key[key] for key in wanted if key in by_key}

    async def find_by(self, *where: ColumnElement[bool], tx: Runner | None = None) -> M | None:
        """The one row a unique condition names, or None: `find_by(User.email == "a@b.example")`."""
        statement = select(*self._shape.columns).where(*where).limit(1)
        records, _ = await (tx or self.postgres)._run(prepare(statement, {}))
        return cast(M, self._shape.make(records[0])) if records else None

    async def list(
        self,
        *where: ColumnElement[bool],
        order: Sequence[Any] | None = None,
        limit: int = 50,
        cursor: str | None = None,
        tx: Runner | None = None,
    ) -> Page[M]:
        """A page of the rows that fit, in `order` (default: by key), after `cursor`.

        The key is appended to the order, so that every row has one place and pages neither skip nor repeat rows that
        stand still. Raises InvalidCursor, InvalidValue for a limit out of range.
        """
        make = self._shape.make
        by, records = await self._listed(False, where, order, limit, cursor, tx)
        items = tuple([make(record) for record in records[:limit]])
        place = [getattr(items[-1], name) for name in by.names] if len(records) > limit else None
        return Page(items, None if place is None else write_cursor(by, place))

    async def list_json(
        self,
        *where: ColumnElement[bool],
        order: Sequence[Any] | None = None,
        limit: int = 50,
        cursor: str | None = None,
        tx: Runner | None = None,
    ) -> JsonPage[M]:
        """The same page as `list`, written as JSON by PostgreSQL: for a service that would only write it itself."""
        if json_row(self.model) is None:
            page = await self.list(*where, order=order, limit=limit, cursor=cursor, tx=tx)
            return JsonPage(json_rows(self.model, page.items), len(page.items), page.next)
        by, records = await self._listed(True, where, order, limit, cursor, tx)
        rows = [record[0] for record in records[:limit]]
        place = by.place(self._shape, records[limit - 1][1:]) if len(records) > limit else None
        return JsonPage(f"[{','.join(rows)}]".encode(), len(rows), None if place is None else write_cursor(by, place))

    async def count(self, *where: ColumnElement[bool], tx: Runner | None = None) -> int:
        """How many rows fit, counted exactly; this reads them all."""
        statement = select(func.count()).select_from(self._shape.table).where(*where)
        return int(await (tx or self.postgres).fetch_value(statement))

    async def stream(
        self,
        *where: ColumnElement[bool],
        order: Sequence[Any] | None = None,
        tx: Transaction | None = None,
        batch_size: int = 500,
    ) -> AsyncGenerator[M]:
        """All rows that fit, one by one through a server-side cursor, in one snapshot, `batch_size` rows in memory.

        Leave the loop early inside `async with contextlib.aclosing(...)`, so that the connection is free at once.
        """
        known = self._shape
        prepared = prepare(select(*known.columns).where(*where).order_by(*(order or ()), *known.key_columns), {})
        async with contextlib.AsyncExitStack() as stack:
            if tx is None:
                own = transaction(self.postgres, isolation="repeatable read", read_only=True)
                tx = await stack.enter_async_context(own)
            rows = bulk.stream(tx, prepared, known.make, batch_size)
            async for value in await stack.enter_async_context(contextlib.aclosing(rows)):
                yield value

    async def lock(self, tx: Runner, key: Key, /) -> M:
        """The row as it is now, locked until the transaction ends. Raises NotFound."""
        tx.require_block("lock()")
        records, _ = await tx._run(self._prepared(self._templates.lock, self._key_parameters(key)))
        if not records:
            raise self._absent(key)
        return cast(M, self._shape.make(records[0]))

    # -- writes ------------------------------------------------------------------------------------------------------

    async def create(self, tx: Runner, /, **values: Any) -> M:
        """Insert a row and return it with what the database filled in.

        Raises AlreadyExists, MissingReference, InvalidValue, all before anything is visible to others.
        """
        template, extra = self._templates.insert(self._names(values))
        if _marks_alone(self._cached, tx):
            async with transaction(self.postgres) as own:
                return await self.create(own, **values)
        records, _ = await tx._run(self._prepared(template, self._with_defaults(values, extra)))
        made = cast(M, self._shape.make(records[0]))
        await tx._wrote(self.model, made)
        return made

    async def update(self, tx: Runner, key: Key, /, *, version: int | None = None, **changes: Any) -> Updated[M]:
        """Change columns of a row in one statement and return the row before and after.

        With `version` it succeeds only against that version. Raises NotFound, VersionConflict (with the row as it is
        now), AlreadyExists, MissingReference, InvalidValue.
        """
        if not changes:
            raise InvalidValue(f"{self._shape.label}: there is nothing to change.", remedy="Name at least one column.")
        template, extra = self._templates.update(self._names(changes), versioned=self._versioned(version))
        if _marks_alone(self._cached, tx):
            async with transaction(self.postgres) as own:
                return await self.update(own, key, version=version, **changes)
        parameters = self._with_defaults(changes, extra) | self._key_parameters(key) | {"key_version": version}
        records, _ = await tx._run(self._prepared(template, parameters))
        if not records:
            raise await self._refused(tx, key, version)
        width = len(self._shape.names)
        record = records[0]
        made = Updated(self._shape.make(record), self._shape.make(record[width:]))
        await tx._wrote(self.model, made.old, made.new)
        return made

    async def upsert(self, tx: Runner, /, *, on: Sequence[Any], **values: Any) -> Upserted[M]:
        """Insert the row, or change the one that has the same unique `on` columns; one statement, no race.

        Raises MissingReference, InvalidValue, and AlreadyExists when another unique constraint is in the way.
        """
        names = self._names(values)
        on_names = tuple(self._attribute(item) for item in on)
        template, extra = self._templates.upsert(names, on_names)
        if _marks_alone(self._cached, tx):
            async with transaction(self.postgres) as own:
                return await self.upsert(own, on=on, **values)
        records, _ = await tx._run(self._prepared(template, self._with_defaults(values, extra)))
        record = records[0]
        made = Upserted(cast(M, self._shape.make(record)), bool(record[len(self._shape.names)]))
        if made.created or not isinstance(tx, Transaction):  # what the row was before is known to the stream only
            await tx._wrote(self.model, made.value)
        return made

    async def delete(self, tx: Runner, key: Key, /, *, version: int | None = None) -> M:
        """Remove a row and return it as it was. Raises NotFound, VersionConflict, StillReferenced."""
        template = self._templates.delete(versioned=self._versioned(version))
        if _marks_alone(self._cached, tx):
            async with transaction(self.postgres) as own:
                return await self.delete(own, key, version=version)
        parameters = self._key_parameters(key) | {"key_version": version}
        records, _ = await tx._run(self._prepared(template, parameters))
        if not records:
            raise await self._refused(tx, key, version)
        gone = cast(M, self._shape.make(records[0]))
        if not isinstance(tx, Transaction):  # inside one, what went with it (ON DELETE CASCADE) is read from the stream
            await tx._wrote(self.model, gone)
        return gone

    async def bulk_insert(self, tx: Runner, rows: Iterable[Mapping[str, Any] | M]) -> int:
        """Insert many rows through COPY; all or none. Rows are mappings of attributes, or values; the first one decides
        which columns are written, the database fills in the rest. Returns how many.
        """
        return await bulk.insert(tx, self._shape, rows)

    async def bulk_upsert(
        self, tx: Runner, rows: Iterable[Mapping[str, Any] | M], *, on: Sequence[Any]
    ) -> BulkUpserted:
        """Insert or change many rows by their unique `on` columns: COPY into a temporary table, then one statement.

        Needs a transaction. Raises InvalidValue when one batch names the same row twice.
        """
        tx.require_block("bulk_upsert()")
        names = tuple(self._attribute(item) for item in on)
        return BulkUpserted(*await bulk.upsert(tx, self._shape, rows, names))

    # -- inside ------------------------------------------------------------------------------------------------------

    async def _listed(
        self,
        as_json: bool,
        where: Sequence[ColumnElement[bool]],
        order: Sequence[Any] | None,
        limit: int,
        cursor: str | None,
        tx: Runner | None,
    ) -> tuple[Sorting, Sequence[Any]]:
        """The records of a page and one more, if there is one."""
        known = self._shape
        by_order = read_order(known, order or ())
        statement, by = self._templates.listing(by_order, after=cursor is not None, as_json=as_json)
        parameters: dict[str, Any] = {"limit_rows": check_limit(limit) + 1}
        if cursor is not None:
            parameters |= read_cursor(by, known, cursor)
        records, _ = await (tx or self.postgres)._run(statement.prepare(where, parameters))
        return by, records

    def _prepared(self, template: Template, parameters: Mapping[str, Any]) -> Prepared:
        return Prepared(template.sql, template.arguments(parameters), None, template.reads_only)

    def _shared_loader(self) -> Loader | None:
        known = self._shape
        if len(known.key_columns) != 1 or bind_processor(known.key_columns[0].type) is not None:
            return None
        loader = self.postgres.loaders.get(self.model)
        if loader is None:
            templates = self._templates
            loader = Loader(self.postgres, templates.get.sql, templates.many.sql, known.make, known.key_of)
            self.postgres.loaders[self.model] = loader
        return cast(Loader, loader)

    def _key(self, key: Key) -> Key:
        """The key in the type its column has, so that '5eed…' and UUID('5eed…') are one key. Raises InvalidValue."""
        kinds = self._templates.key_types
        if len(kinds) == 1:
            kind = kinds[0]
            if type(key) is kind or (kind is UUID and isinstance(key, UUID)):  # asyncpg has a UUID class of its own
                return key
            return _key_part(self._shape, key, kind, 0)
        if not isinstance(key, (tuple, list)) or len(key) != len(kinds):
            raise InvalidValue(
                f"{self._shape.label}: {key!r} is not a key.",
                remedy=f"Pass a tuple of {', '.join(self._shape.key_names)}.",
            )
        return tuple(
            _key_part(self._shape, part, kind, i) for i, (part, kind) in enumerate(zip(key, kinds, strict=True))
        )

    def _key_parameters(self, key: Key) -> dict[str, Any]:
        checked = self._key(key)
        if len(self._shape.key_columns) == 1:
            return {"key_0": checked}
        return {f"key_{i}": part for i, part in enumerate(checked)}

    def _versioned(self, version: int | None) -> bool:
        if version is not None and self._shape.version_name is None:
            raise ProgrammingError(
                f"{self._shape.label} has no version to check.", remedy="Add the mixin Versioned to the model."
            )
        return version is not None

    def _attribute(self, item: Any) -> str:
        name = self._shape.attribute(item)
        if name is None:
            raise _unknown(self._shape, str(item))
        return name

    def _names(self, values: Mapping[str, Any]) -> frozenset[str]:
        for name in values:
            if name not in self._shape.by_name:
                raise _unknown(self._shape, name)
        return frozenset(values)

    def _with_defaults(self, values: Mapping[str, Any], made: _Made) -> dict[str, Any]:
        if not made:
            return dict(values)
        return {name: python_default(column, updating) for name, column, updating in made} | dict(values)

    def _absent(self, key: Key) -> NotFound:
        return NotFound(
            f"{self._shape.label}: there is no row with the key {key}.", remedy="Check the key.", key=str(key)
        )

    async def _refused(self, tx: Runner, key: Key, version: int | None) -> Exception:
        current = await self.find(key, tx=tx)
        if current is None or version is None:
            return self._absent(key)
        return VersionConflict(
            f"{self._shape.label}: the row {key} is at version {getattr(current, 'version', '?')}, not {version}.",
            remedy="Read it again, apply your change to what it is now, and try again.",
            current=current,
            current_version=getattr(current, "version", None),
        )


_Made = tuple[tuple[str, Column[Any], bool], ...]
"""Parameters whose value Python makes: their name, the column, and whether it is its `onupdate=`."""


class _Templates:
    """The statements of one entity, each compiled when it is first needed."""

    def __init__(self, known: Shape) -> None:
        self.known = known
        self._made: dict[Any, Any] = {}
        self.by_key = [c == bindparam(f"key_{i}", type_=c.type) for i, c in enumerate(known.key_columns)]
        base = select(*known.columns)
        self.get = Template(base.where(*self.by_key), known.make)
        self.lock = Template(base.where(*self.by_key).with_for_update(), known.make)
        self.many = Template(base.where(_any_of(known.key_columns)), known.make)
        self.key_types: tuple[type[Any], ...] = tuple(_python_type(c) for c in known.key_columns)
        self.old = table("old", *[column(c.name, c.type) for c in known.table.columns])

    def listing(self, order: tuple[tuple[str, bool], ...], *, after: bool, as_json: bool) -> tuple[Narrowable, Sorting]:
        made = self._made.get(("list", order, after, as_json))
        if made is None:
            by = sorting(self.known, order)
            columns: Sequence[Any] = self.known.columns
            if as_json:  # the text of the row, then its place
                columns = [json_row(self.known.model), *(self.known.by_name[name] for name in by.names)]
            statement = select(*columns).order_by(*by.clauses(self.known)).limit(bindparam("limit_rows"))
            if after:
                binds = [bindparam(f"after_{i}", type_=self.known.by_name[n].type) for i, n in enumerate(by.names)]
                statement = statement.where(by.after(self.known, binds))
            made = self._made["list", order, after, as_json] = (Narrowable(statement), by)
        return cast("tuple[Narrowable, Sorting]", made)

    def insert(self, names: frozenset[str]) -> tuple[Template, _Made]:
        found = self._made.get(("insert", names))
        if found is None:
            made = self._defaults(names, updating=False)
            statement = insert(self.known.table).values(self._binds(names, made))
            template = Template(statement.returning(*self.known.columns), self.known.make)
            found = self._made["insert", names] = (template, made)
        return cast("tuple[Template, _Made]", found)

    def update(self, names: frozenset[str], *, versioned: bool) -> tuple[Template, _Made]:
        found = self._made.get(("update", names, versioned))
        if found is None:
            made = self._defaults(names, updating=True)
            statement = update(self.known.table).where(*self.by_key, *self._version(versioned))
            both = [*(self.old.c[c.name] for c in self.known.columns), *self.known.columns]
            template = Template(statement.values(self._binds(names, made)).returning(*both), None)
            found = self._made["update", names, versioned] = (template, made)
        return cast("tuple[Template, _Made]", found)

    def upsert(self, names: frozenset[str], on: tuple[str, ...]) -> tuple[Template, _Made]:
        found = self._made.get(("upsert", names, on))
        if found is None:
            known = self.known
            made = self._defaults(names, updating=False)
            bulk.require_named(known, on, {*names, *(name for name, _, _ in made)})
            statement = postgresql.insert(known.table).values(self._binds(names, made))
            set_, anew = bulk.changes(known, names, on, statement.excluded)
            statement = statement.on_conflict_do_update(index_elements=[known.by_name[n] for n in on], set_=set_)
            created = self.old.c[known.key_columns[0].name].is_(None)
            template = Template(statement.returning(*known.columns, created.label("created")), None)
            found = self._made["upsert", names, on] = (template, (*made, *((n, c, True) for n, c in anew)))
        return cast("tuple[Template, _Made]", found)

    def delete(self, *, versioned: bool) -> Template:
        made = self._made.get(("delete", versioned))
        if made is None:
            statement = delete(self.known.table).where(*self.by_key, *self._version(versioned))
            made = self._made["delete", versioned] = Template(statement.returning(*self.known.columns), self.known.make)
        return cast(Template, made)

    def _version(self, versioned: bool) -> list[ColumnElement[bool]]:
        if not versioned or self.known.version_name is None:
            return []
        version = self.known.by_name[self.known.version_name]
        return [version == bindparam("key_version", type_=version.type)]

    def _defaults(self, names: frozenset[str], *, updating: bool) -> _Made:
        """Columns whose value Python makes (`default=` or `onupdate=` that is no SQL expression)."""
        made = []
        for name, col in self.known.by_name.items():
            default = col.onupdate if updating else col.default
            if name not in names and default is not None and (default.is_scalar or default.is_callable):
                made.append((name, col, updating))
        return tuple(made)

    def _binds(self, names: frozenset[str], made: _Made) -> dict[Any, Any]:
        written = {*names, *(name for name, _, _ in made)}
        return {c: bindparam(n, type_=c.type) for n, c in self.known.by_name.items() if n in written}


def _key_part(known: Shape, part: Any, kind: type[Any], at: int) -> Any:
    if isinstance(part, kind) and not (isinstance(part, bool) and kind is not bool):
        return part
    if kind is UUID and isinstance(part, str):
        with contextlib.suppress(ValueError):
            return UUID(part)
    raise InvalidValue(
        f"{known.label}: {part!r} is not a key.",
        remedy=f"Pass a {kind.__name__}.",
        field=known.key_names[at],
    )


def _unknown(known: Shape, name: str) -> ProgrammingError:
    close = difflib.get_close_matches(name, known.by_name, n=1)
    hint = f"Did you mean '{close[0]}'?" if close else f"It has {', '.join(known.by_name)}."
    return ProgrammingError(f"{known.model.__name__} has no attribute '{name}'.", remedy=hint)


async def _write(reading: Coroutine[Any, Any, Any]) -> Json[Any]:
    return written(await reading)


def _marks_alone(cached: Entity | None, tx: Runner) -> bool:
    """Whether a write of a strict kind came without a transaction: its mark must be set before its COMMIT."""
    return cached is not None and cached.strict and not isinstance(tx, Transaction)


def _any_of(columns: Sequence[Column[Any]]) -> ColumnElement[bool]:
    """The rows whose key is in the lists `keys_0`, `keys_1`, …, one list per column."""
    lists = [bindparam(f"keys_{i}", type_=ARRAY(c.type)) for i, c in enumerate(columns)]
    if len(columns) == 1:
        return columns[0] == func.any(lists[0])
    wanted = (
        func.unnest(*lists).table_valued(*(column(f"key_{i}", c.type) for i, c in enumerate(columns))).render_derived()
    )
    return tuple_(*columns).in_(select(*wanted.c))


def _python_type(key: Column[Any]) -> type[Any]:
    try:
        return key.type.python_type
    except NotImplementedError:
        return object


_TEMPLATES: dict[type[Model], _Templates] = {}


def _templates(known: Shape) -> _Templates:
    made = _TEMPLATES.get(known.model)
    if made is None:
        made = _TEMPLATES[known.model] = _Templates(known)
    return made
