"""Values: what reads return. A value is an instance of its model's class, immutable, slotted, without ORM machinery.

To a type checker a value *is* its model (`user.email` is a str, because `Mapped[str]` says so); at run time it is an
instance of a generated subclass whose slots hide the ORM's attributes. So there is one declaration per entity, no lazy
load, nothing that expires, and `isinstance(value, User)` is true.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from operator import attrgetter, itemgetter
from typing import Any, TypeVar, cast

import asyncpg
from sqlalchemy import ARRAY, JSON, Boolean, Column, Dialect, Numeric, Table, inspect
from sqlalchemy.dialects.postgresql.asyncpg import PGDialect_asyncpg
from sqlalchemy.orm import ColumnProperty, Mapper, QueryableAttribute
from sqlalchemy.types import Float, TypeEngine

from headwater.kernel.errors import ProgrammingError
from headwater.kernel.models import Model

M = TypeVar("M", bound=Model)

DIALECT: Dialect = PGDialect_asyncpg(paramstyle="numeric_dollar")  # type: ignore[no-untyped-call]  # SQLAlchemy left it untyped
"""Compiles every statement of the kernel. jsonb is decoded by a codec on the connection, not by this dialect."""

_OID_NUMERIC, _OID_FLOAT8 = 1700, 701


class Record(asyncpg.Record):
    """A row of a named query: by position, by column name, or by attribute.

    `get`, `items`, `keys` and `values` are methods; columns of these names are reached as `row["keys"]`.
    """

    __slots__ = ()

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(f"The row has no column '{name}'; it has {', '.join(self.keys())}.") from None


class Shape:
    """What the kernel knows of one model: its columns in order, and the generated class and factory of its values."""

    _of: dict[type[Model], Shape] = {}

    def __init__(self, model: type[Model]) -> None:
        mapper = cast("Mapper[Any]", inspect(model))
        properties = [p for p in mapper.column_attrs if not p.deferred and isinstance(p.columns[0], Column)]
        table = cast(Table, mapper.local_table)
        places = {column: i for i, column in enumerate(table.columns)}
        properties.sort(key=lambda p: places[cast("Column[Any]", p.columns[0])])
        self.model = model
        self.table = table
        self.names: tuple[str, ...] = tuple(p.key for p in properties)
        self.columns: tuple[Column[Any], ...] = tuple(cast("Column[Any]", p.columns[0]) for p in properties)
        self.by_name: dict[str, Column[Any]] = dict(zip(self.names, self.columns, strict=True))
        for p in mapper.column_attrs:
            if p.deferred and isinstance(p.columns[0], Column):
                self.by_name[p.key] = p.columns[0]
        self.key_columns: tuple[Column[Any], ...] = tuple(cast("Any", mapper.primary_key))
        self.key_names: tuple[str, ...] = tuple(
            cast(ColumnProperty[Any], mapper.get_property_by_column(c)).key for c in self.key_columns
        )
        self.name_of: dict[Column[Any], str] = {c: n for n, c in self.by_name.items()}
        self.version_name: str | None = "version" if "version" in self.names else None
        self.processors = tuple(result_processor(c.type) for c in self.columns)
        self.value_class = _value_class(self, mapper)
        self.tuple_of: Callable[[Any], tuple[Any, ...]] = _tuple_getter(self.names)
        self.make: Callable[[Sequence[Any]], Any] = _factory(self)
        self.restore: Callable[[Sequence[Any]], Any] = _factory(self, processed=False)
        self.key_of: Callable[[Any], Any] = attrgetter(*self.key_names)

    def attribute(self, item: Any) -> str | None:
        """The attribute an InstrumentedAttribute, a Column or a name stands for; None if it is not of this entity."""
        if isinstance(item, str):
            return item if item in self.by_name else None
        if isinstance(item, QueryableAttribute):
            of_this = inspect(item.parent).mapper.class_ is self.model
            return item.key if of_this and item.key in self.by_name else None
        return self.name_of.get(item) if isinstance(item, Column) else None

    @property
    def label(self) -> str:
        """The table's name with its schema, for messages: `trading.orders`."""
        return self.table.fullname


def shape(model: type[Model]) -> Shape:
    """The Shape of a model, made once."""
    known = Shape._of.get(model)
    if known is None:
        if "__table__" not in vars(model):
            raise ProgrammingError(
                f"{model.__name__} is not an entity: it has no table of its own.",
                remedy="Pass a class that declares __tablename__.",
            )
        known = Shape._of[model] = Shape(model)
    return known


def as_dict(value: Model) -> dict[str, Any]:
    """The columns of a value by their names in the database, private ones left out."""
    known = shape(model_of(value))
    return {
        column.name: getattr(value, name)
        for name, column in zip(known.names, known.columns, strict=True)
        if not column.info.get("private")
    }


def model_of(value: Model) -> type[Model]:
    """The declared class of a value."""
    return getattr(type(value), "__model__", type(value))


def result_processor(kind: TypeEngine[Any]) -> Callable[[Any], Any] | None:
    """How a decoded asyncpg value becomes the Python value of its SQLAlchemy type, or None where it already is."""
    if isinstance(kind, JSON):
        return None
    plain = getattr(kind, "impl_instance", kind)  # below a TypeDecorator
    if isinstance(kind, ARRAY) and not kind.as_tuple and result_processor(kind.item_type) is None:
        return None
    inner = plain.item_type if isinstance(plain, ARRAY) else plain
    oid = _OID_FLOAT8 if isinstance(inner, Float) else _OID_NUMERIC if isinstance(inner, Numeric) else None
    return cast("Callable[[Any], Any] | None", kind.dialect_impl(DIALECT).result_processor(DIALECT, oid))


def bind_processor(kind: TypeEngine[Any]) -> Callable[[Any], Any] | None:
    """How a Python value of a SQLAlchemy type becomes what asyncpg encodes, or None where it already is."""
    if isinstance(kind, (JSON, Boolean)):  # the codecs check these themselves
        return None
    if isinstance(kind, ARRAY) and bind_processor(kind.item_type) is None:
        return None
    process = cast("Callable[[Any], Any] | None", kind.dialect_impl(DIALECT).bind_processor(DIALECT))
    if process is None or not isinstance(kind, ARRAY):
        return process
    each = process

    def process_array(value: Any) -> Any:
        if isinstance(value, (str, bytes)):  # SQLAlchemy would make an array of its characters
            raise TypeError(f"an array is a list, not {type(value).__name__}")
        return each(value)

    return process_array


def _tuple_getter(names: tuple[str, ...]) -> Callable[[Any], tuple[Any, ...]]:
    if len(names) == 1:
        one = attrgetter(names[0])
        return lambda value: (one(value),)
    return cast("Callable[[Any], tuple[Any, ...]]", attrgetter(*names))


def _value_class(known: Shape, mapper: Mapper[Any]) -> type[Model]:
    """Two generated classes: an open one whose slots the factory fills, and the frozen twin a value then becomes."""
    model, names = known.model, known.names
    tuple_of = _tuple_getter(names)
    private = {n for n, c in zip(names, known.columns, strict=True) if c.info.get("private")}

    def refuse(self: Any, name: str, *_: Any) -> None:
        raise AttributeError(
            f"{model.__name__}.{name} cannot be changed: a value is immutable. "
            f"Write with Repository.update(), or load it in an orm_session()."
        )

    def equal(self: Any, other: object) -> bool:
        return tuple_of(self) == tuple_of(other) if type(self) is type(other) else NotImplemented

    def hashed(self: Any) -> int:
        return hash((model, known.key_of(self)))

    def shown(self: Any) -> str:
        fields = ", ".join(f"{n}={'***' if n in private else repr(getattr(self, n))}" for n in names)
        return f"{model.__name__}({fields})"

    def reduced(self: Any) -> tuple[Any, ...]:
        return _restore, (model, tuple_of(self))

    def replaced(self: Any, **changes: Any) -> Any:
        unknown = changes.keys() - set(names)
        if unknown:
            raise TypeError(f"{model.__name__} has no attribute {', '.join(sorted(unknown))}.")
        return known.restore(tuple(changes.get(n, v) for n, v in zip(names, tuple_of(self), strict=True)))

    absent = {p.key: _not_read(model.__name__, p.key) for p in mapper.attrs if p.key not in names}
    common = {"__abstract__": True, "__module__": model.__module__, "__qualname__": model.__qualname__}
    meta = cast("Any", type(model))
    open_class = meta(model.__name__, (model,), {**common, **absent, "__slots__": names, "__init__": object.__init__})
    return cast(
        "type[Model]",
        meta(
            model.__name__,
            (open_class,),
            {
                **common,
                "__slots__": (),
                "__model__": model,
                "__match_args__": names,
                "__setattr__": refuse,
                "__delattr__": refuse,
                "__eq__": equal,
                "__hash__": hashed,
                "__repr__": shown,
                "__reduce__": reduced,
                "__replace__": replaced,
            },
        ),
    )


def _not_read(entity: str, name: str) -> property:
    def refuse(self: Any) -> Any:
        raise AttributeError(
            f"{entity}.{name} is not part of a value: it is a relationship or a deferred column. "
            f"Select it explicitly, or load the entity in an orm_session()."
        )

    return property(refuse)


def _restore(model: type[Model], values: Sequence[Any]) -> Any:
    known = shape(model)
    if len(values) != len(known.names):
        raise ProgrammingError(
            f"{model.__name__} has other columns than when this value was pickled.", remedy="Read it from the database."
        )
    return known.restore(values)


def _factory(known: Shape, *, processed: bool = True) -> Callable[[Sequence[Any]], Any]:
    """Generated code, one assignment per column; freezing is the change of class at the end.

    Measured against a loop with setattr it is five times faster, and reads are decided here.
    """
    frozen = known.value_class
    lines, scope = ["def make(row):", "    value = new(open_class)"], {}
    if not processed:  # a tuple: taken apart at once, which is an eighth faster than by index
        lines.append(f"    {', '.join(f'value.{name}' for name in known.names)}, = row")
    for index, (name, processor) in enumerate(zip(known.names, known.processors, strict=True) if processed else ()):
        if processor is None:
            lines.append(f"    value.{name} = row[{index}]")
        else:
            scope[f"process_{index}"] = processor
            lines.append(f"    value.{name} = process_{index}(row[{index}])")
    lines += ["    value.__class__ = frozen", "    return value"]
    scope |= {"new": object.__new__, "open_class": frozen.__mro__[1], "frozen": frozen}
    exec("\n".join(lines), scope)  # noqa: S102  # the names are Python attributes of a declared class, not input
    return cast("Callable[[Sequence[Any]], Any]", scope["make"])


_ROWS: dict[tuple[str, ...], type[tuple[Any, ...]]] = {}


def row_class(names: tuple[str, ...]) -> type[tuple[Any, ...]]:
    """A tuple whose members are also attributes and items by name: the rows of a select of several columns."""
    known = _ROWS.get(names)
    if known is None:
        if len(_ROWS) >= 2_000:  # a bound, for statements whose labels are made up at run time
            _ROWS.pop(next(iter(_ROWS)))
        known = _ROWS[names] = _row_class(names)
    return known


def _row_class(names: tuple[str, ...]) -> type[tuple[Any, ...]]:
    places = {name: i for i, name in reversed(list(enumerate(names)))}

    def item(self: Any, at: Any) -> Any:
        return tuple.__getitem__(self, places[at] if isinstance(at, str) else at)

    def absent(self: Any, name: str) -> Any:
        raise AttributeError(f"The row has no column '{name}'; it has {', '.join(names)}.")

    def shown(self: Any) -> str:
        return f"Row({', '.join(f'{n}={v!r}' for n, v in zip(names, self, strict=True))})"

    def reduced(self: Any) -> tuple[Any, ...]:
        return _restore_row, (names, tuple(self))

    body: dict[str, Any] = {name: property(itemgetter(i)) for name, i in places.items() if name.isidentifier()}
    body |= {"__slots__": (), "__getitem__": item, "__getattr__": absent, "__repr__": shown, "__reduce__": reduced}
    return type("Row", (tuple,), body | {"_fields": names})


def _restore_row(names: tuple[str, ...], values: tuple[Any, ...]) -> Any:
    return row_class(names)(values)
