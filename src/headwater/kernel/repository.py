"""Repository: reads and writes of one entity. Reads return values; writes take the caller's transaction."""

from __future__ import annotations

import difflib
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from typing import Any, ClassVar, Generic, NamedTuple, TypeVar, cast, get_args, get_origin
from uuid import UUID

from sqlalchemy import (
    ARRAY,
    ColumnElement,
    Select,
    Update,
    bindparam,
    column,
    delete,
    func,
    insert,
    select,
    table,
    update,
)
from sqlalchemy.dialects import postgresql

from headwater.kernel import bulk
from headwater.kernel.errors import InvalidValue, NotFound, ProgrammingError, VersionConflict
from headwater.kernel.loader import Loader
from headwater.kernel.models import Model
from headwater.kernel.pages import Page, Sorting, check_limit, read_cursor, sorting, write_cursor
from headwater.kernel.postgres import Postgres, Runner
from headwater.kernel.rows import Shape, shape
from headwater.kernel.statements import Prepared, Template, prepare, python_default
from headwater.kernel.transaction import Transaction, transaction

M = TypeVar("M", bound=Model)
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

    `class ProductRepository(Repository[Product])` adds verbs of its own; `headwater.repository(Product)` gives a plain one.
    Names of values are the attributes of the model. Every verb raises UnavailableError when PostgreSQL cannot serve.
    """

    model: ClassVar[type[Model]]

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        for base in getattr(cls, "__orig_bases__", ()):
            if get_origin(base) is Repository and isinstance(get_args(base)[0], type):
                cls.model = get_args(base)[0]

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
        self._loader = self._shared_loader()

    # -- reads -------------------------------------------------------------------------------------------------------

    async def get(self, key: Key, *, tx: Runner | None = None) -> M:
        """The row with this key. Raises NotFound, or InvalidValue for a key of the wrong type."""
        value = await self.find(key, tx=tx)
        if value is None:
            raise self._absent(key)
        return value

    async def find(self, key: Key, *, tx: Runner | None = None) -> M | None:
        """The row with this key, or None. Concurrent reads outside a transaction travel together."""
        if tx is None and self._loader is not None:
            return cast("M | None", await self._loader.load(self._key(key)))
        template = self._templates.get
        records, _ = await (tx or self.postgres)._run(self._prepared(template, self._key_parameters(key)))
        return self._shape.make(records[0]) if records else None

    async def get_many(self, keys: Iterable[Key], *, tx: Runner | None = None) -> dict[Key, M]:
        """The rows with these keys, by key, in one statement per thousand; what does not exist is absent."""
        wanted = list(dict.fromkeys(self._key(key) for key in keys))
        if not wanted:
            return {}
        known = self._shape
        if self._loader is not None:
            if tx is None:
                found = await self._loader.load_many(wanted)
            else:
                records, _ = await tx._run(Prepared(self._templates.many_sql, [wanted], None, True))
                found = [known.make(record) for record in records]
            by_key = {known.key_of(value): value for value in found}
            return {key: by_key[key] for key in wanted if key in by_key}
        pairs = [(key, await self.find(key, tx=tx)) for key in wanted]
        return {key: value for key, value in pairs if value is not None}

    async def find_by(self, *where: ColumnElement[bool], tx: Runner | None = None) -> M | None:
        """The one row a unique condition names, or None: `find_by(User.email == "a@b.example")`."""
        statement = select(*self._shape.columns).where(*where).limit(1)
        return cast("M | None", await self._one(statement, tx))

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
        known = self._shape
        template, by = self._templates.listing(tuple(order or ()), after=cursor is not None)
        parameters: dict[str, Any] = {"limit_rows": check_limit(limit) + 1}
        if cursor is not None:
            parameters |= read_cursor(by, known, cursor)
        if where:
            prepared = prepare(template.statement.where(*where), parameters)
        else:
            prepared = self._prepared(template.compiled, parameters)
        records, _ = await (tx or self.postgres)._run(prepared)
        make = known.make
        items = tuple([make(record) for record in records[:limit]])
        return Page(items, write_cursor(by, items[-1]) if len(records) > limit else None)

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
    ) -> AsyncIterator[M]:
        """All rows that fit, one by one through a server-side cursor, in one snapshot; memory stays at `batch_size` rows."""
        by = sorting(self._shape, order)
        statement = select(*self._shape.columns).where(*where).order_by(*by.clauses(self._shape))
        prepared = prepare(statement, {})
        if tx is not None:
            async for value in bulk.stream(tx, prepared, self._shape.make, batch_size):
                yield value
            return
        async with transaction(self.postgres, isolation="repeatable read", read_only=True) as own:
            async for value in bulk.stream(own, prepared, self._shape.make, batch_size):
                yield value

    async def lock(self, tx: Runner, key: Key) -> M:
        """The row as it is now, locked until the transaction ends. Raises NotFound."""
        tx.require_block("lock()")
        records, _ = await tx._run(self._prepared(self._templates.lock, self._key_parameters(key)))
        if not records:
            raise self._absent(key)
        return cast(M, self._shape.make(records[0]))

    # -- writes ------------------------------------------------------------------------------------------------------

    async def create(self, tx: Runner, **values: Any) -> M:
        """Insert a row and return it with what the database filled in.

        Raises AlreadyExists, MissingReference, InvalidValue, all before anything is visible to others.
        """
        template, extra = self._templates.insert(self._names(values))
        records, _ = await tx._run(self._prepared(template, self._with_defaults(values, extra)))
        return cast(M, self._shape.make(records[0]))

    async def update(self, tx: Runner, key: Key, *, version: int | None = None, **changes: Any) -> Updated[M]:
        """Change columns of a row in one statement and return the row before and after.

        With `version` it succeeds only against that version. Raises NotFound, VersionConflict (with the row as it is
        now), AlreadyExists, MissingReference, InvalidValue.
        """
        if not changes:
            raise InvalidValue(f"{self._shape.label}: there is nothing to change.", remedy="Name at least one column.")
        template, extra = self._templates.update(self._names(changes), versioned=self._versioned(version))
        parameters = self._with_defaults(changes, extra) | self._key_parameters(key) | {"key_version": version}
        records, _ = await tx._run(self._prepared(template, parameters))
        if not records:
            raise await self._refused(tx, key, version)
        width = len(self._shape.names)
        record = records[0]
        return Updated(self._shape.make(record), self._shape.make([record[i] for i in range(width, 2 * width)]))

    async def upsert(self, tx: Runner, *, on: Sequence[Any], **values: Any) -> Upserted[M]:
        """Insert the row, or change the one that has the same unique `on` columns; one statement, no race.

        Raises MissingReference, InvalidValue, and AlreadyExists when another unique constraint is in the way.
        """
        names = self._names(values)
        on_names = tuple(self._attribute(item) for item in on)
        template, extra = self._templates.upsert(names, on_names)
        records, _ = await tx._run(self._prepared(template, self._with_defaults(values, extra)))
        record = records[0]
        return Upserted(self._shape.make(record), bool(record[len(self._shape.names)]))

    async def delete(self, tx: Runner, key: Key, *, version: int | None = None) -> M:
        """Remove a row and return it as it was. Raises NotFound, VersionConflict, StillReferenced."""
        template = self._templates.delete(versioned=self._versioned(version))
        parameters = self._key_parameters(key) | {"key_version": version}
        records, _ = await tx._run(self._prepared(template, parameters))
        if not records:
            raise await self._refused(tx, key, version)
        return cast(M, self._shape.make(records[0]))

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

    async def _one(self, statement: Select[Any], tx: Runner | None) -> Any:
        records, _ = await (tx or self.postgres)._run(prepare(statement, {}))
        return self._shape.make(records[0]) if records else None

    def _prepared(self, template: Template, parameters: Mapping[str, Any]) -> Prepared:
        return Prepared(template.sql, template.arguments(parameters), None, template.reads_only)

    def _shared_loader(self) -> Loader | None:
        known = self._shape
        if len(known.key_columns) != 1:
            return None
        loader = self.postgres.loaders.get(self.model)
        if loader is None:
            templates = self._templates
            loader = Loader(self.postgres, templates.get.sql, templates.many_sql, known.make, known.key_of)
            self.postgres.loaders[self.model] = loader
        return cast(Loader, loader)

    def _key(self, key: Key) -> Key:
        """The key in the type its column has, so that '5eed…' and UUID('5eed…') are one key. Raises InvalidValue."""
        kind = self._templates.key_type
        if type(key) is kind or kind is None:
            return key
        if kind is UUID and isinstance(key, str):
            try:
                return UUID(key)
            except ValueError:
                pass
        elif isinstance(key, kind) and not isinstance(key, bool):
            return key
        raise InvalidValue(
            f"{self._shape.label}: {key!r} is not a key.",
            remedy=f"Pass a {kind.__name__}.",
            field=self._shape.key_names[0],
        )

    def _key_parameters(self, key: Key) -> dict[str, Any]:
        if len(self._shape.key_columns) == 1:
            return {"key_0": self._key(key)}
        parts = tuple(key) if isinstance(key, (tuple, list)) else (key,)
        if len(parts) != len(self._shape.key_columns):
            raise InvalidValue(
                f"{self._shape.label}: {key!r} is not a key.",
                remedy=f"Pass a tuple of {', '.join(self._shape.key_names)}.",
            )
        return {f"key_{i}": part for i, part in enumerate(parts)}

    def _versioned(self, version: int | None) -> bool:
        if version is not None and self._shape.version_name is None:
            raise ProgrammingError(
                f"{self._shape.label} has no version to check.", remedy="Add the mixin Versioned to the model."
            )
        return version is not None

    def _attribute(self, item: Any) -> str:
        name = item if isinstance(item, str) else getattr(item, "key", None)
        if name not in self._shape.by_name:
            raise self._unknown(str(name))
        return cast(str, name)

    def _names(self, values: Mapping[str, Any]) -> frozenset[str]:
        for name in values:
            if name not in self._shape.by_name:
                raise self._unknown(name)
        return frozenset(values)

    def _unknown(self, name: str) -> ProgrammingError:
        close = difflib.get_close_matches(name, self._shape.by_name, n=1)
        hint = f"Did you mean '{close[0]}'?" if close else f"It has {', '.join(self._shape.by_name)}."
        return ProgrammingError(f"{self._shape.model.__name__} has no attribute '{name}'.", remedy=hint)

    def _with_defaults(self, values: Mapping[str, Any], extra: tuple[tuple[str, bool], ...]) -> dict[str, Any]:
        if not extra:
            return dict(values)
        by_name = self._shape.by_name
        return {name: python_default(by_name[name], updating) for name, updating in extra} | dict(values)

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


class _Listing(NamedTuple):
    statement: Select[Any]
    compiled: Template


class _Templates:
    """The statements of one entity, each compiled when it is first needed."""

    def __init__(self, known: Shape) -> None:
        self.known = known
        self._made: dict[Any, Any] = {}
        self.by_key = [c == bindparam(f"key_{i}", type_=c.type) for i, c in enumerate(known.key_columns)]
        base = select(*known.columns)
        self.get = Template(base.where(*self.by_key), known.make)
        self.lock = Template(base.where(*self.by_key).with_for_update(), known.make)
        first = known.key_columns[0]
        self.many_sql = Template(
            base.where(first == func.any(bindparam("keys", type_=ARRAY(first.type)))), known.make
        ).sql
        self.key_type: type[Any] | None = first.type.python_type if len(known.key_columns) == 1 else None
        self.old = table("old", *[column(c.name, c.type) for c in known.table.columns])

    def listing(self, order: tuple[Any, ...], *, after: bool) -> tuple[_Listing, Sorting]:
        signature = ("list", after, tuple(str(item) for item in order))
        made = self._made.get(signature)
        if made is None:
            by = sorting(self.known, order)
            statement = select(*self.known.columns).order_by(*by.clauses(self.known)).limit(bindparam("limit_rows"))
            if after:
                binds = [bindparam(f"after_{i}", type_=self.known.by_name[n].type) for i, n in enumerate(by.names)]
                statement = statement.where(by.after(self.known, binds))
            made = self._made[signature] = (_Listing(statement, Template(statement, self.known.make)), by)
        return cast("tuple[_Listing, Sorting]", made)

    def insert(self, names: frozenset[str]) -> tuple[Template, tuple[tuple[str, bool], ...]]:
        made = self._made.get(("insert", names))
        if made is None:
            extra = self._extra(names, updating=False)
            written = self._binds(names, extra)
            statement = insert(self.known.table).values(written).returning(*self.known.columns)
            made = self._made["insert", names] = (Template(statement, self.known.make), extra)
        return cast("tuple[Template, tuple[tuple[str, bool], ...]]", made)

    def update(self, names: frozenset[str], *, versioned: bool) -> tuple[Template, tuple[tuple[str, bool], ...]]:
        made = self._made.get(("update", names, versioned))
        if made is None:
            extra = self._extra(names, updating=True)
            statement: Update = update(self.known.table).where(*self.by_key, *self._version(versioned))
            both = [*(self.old.c[c.name] for c in self.known.columns), *self.known.columns]
            template = Template(statement.values(self._binds(names, extra)).returning(*both), None)
            made = self._made["update", names, versioned] = (template, extra)
        return cast("tuple[Template, tuple[tuple[str, bool], ...]]", made)

    def upsert(self, names: frozenset[str], on: tuple[str, ...]) -> tuple[Template, tuple[tuple[str, bool], ...]]:
        made = self._made.get(("upsert", names, on))
        if made is None:
            known = self.known
            extra = self._extra(names, updating=False)
            statement = postgresql.insert(known.table).values(self._binds(names, extra))
            statement = statement.on_conflict_do_update(
                index_elements=[known.by_name[n] for n in on],
                set_={c.name: v for c, v in bulk.changed_columns(known, names, on, statement.excluded).items()},
            )
            created = self.old.c[known.key_columns[0].name].is_(None)
            template = Template(statement.returning(*known.columns, created.label("created")), None)
            made = self._made["upsert", names, on] = (template, extra)
        return cast("tuple[Template, tuple[tuple[str, bool], ...]]", made)

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

    def _extra(self, names: frozenset[str], *, updating: bool) -> tuple[tuple[str, bool], ...]:
        """Columns whose value Python makes (`default=` or `onupdate=` that is no SQL expression)."""
        extra = []
        for name, col in self.known.by_name.items():
            default = col.onupdate if updating else col.default
            if name not in names and default is not None and (default.is_scalar or default.is_callable):
                extra.append((name, updating))
        return tuple(extra)

    def _binds(self, names: frozenset[str], extra: tuple[tuple[str, bool], ...]) -> dict[Any, Any]:
        ordered = [n for n in self.known.by_name if n in names or any(n == e for e, _ in extra)]
        return {self.known.by_name[n]: bindparam(n, type_=self.known.by_name[n].type) for n in ordered}


_TEMPLATES: dict[type[Model], _Templates] = {}


def _templates(known: Shape) -> _Templates:
    made = _TEMPLATES.get(known.model)
    if made is None:
        made = _TEMPLATES[known.model] = _Templates(known)
    return made
