"""Statements: what SQLAlchemy or a named query says, compiled once to SQL text, bind order and a row factory."""

from __future__ import annotations

import enum
import types
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from decimal import Decimal
from typing import Any, Union, cast, get_args, get_origin, get_type_hints

import msgspec
from sqlalchemy import (
    BindParameter,
    Column,
    ColumnElement,
    Delete,
    Function,
    Insert,
    Select,
    TableClause,
    TextClause,
    Update,
    UpdateBase,
    util,
)
from sqlalchemy.exc import CompileError, SQLAlchemyError
from sqlalchemy.sql import Executable, visitors
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.functions import FunctionElement, GenericFunction, next_value

from headwater.kernel.errors import InvalidValue, ProgrammingError
from headwater.kernel.models import Model
from headwater.kernel.queries import NamedQuery
from headwater.kernel.rows import DIALECT, Shape, bind_processor, result_processor, row_class, shape

Make = Callable[[Any], Any]


@dataclass(frozen=True, slots=True)
class Prepared:
    """A statement ready for the wire: its text, its arguments in order, how a row becomes a value (None: as it is).

    `reads_only`: running it twice does no harm.
    """

    sql: str
    arguments: Sequence[Any]
    make: Make | None
    reads_only: bool


class Template:
    """A statement compiled once with named parameters, for the repository's own verbs.

    `names` are what the compiler called the parameters of `varying`, which have no names of their own.
    """

    __slots__ = ("_binds", "make", "names", "reads_only", "sql")

    def __init__(self, statement: Any, make: Make | None, varying: Iterable[Any] = ()) -> None:
        compiled = cast(SQLCompiler, statement.compile(dialect=DIALECT))
        self.sql = str(compiled)
        self.names = tuple(compiled.bind_names[bind] for bind in varying)
        self.make = make
        self.reads_only = reads_only(statement)
        types_of = {name: bind.type for name, bind in compiled.binds.items()}
        fixed = compiled.construct_params(_check=False)
        self._binds = tuple(
            (name, bind_processor(types_of[name]), fixed.get(name)) for name in compiled.positiontup or ()
        )

    def arguments(self, given: Mapping[str, Any]) -> list[Any]:
        """The values of `given` in the order of the text; parameters not given keep the statement's own value."""
        ordered = []
        for name, process, fixed in self._binds:
            value = given.get(name, fixed)
            ordered.append(value if process is None or value is None else bound(process, name, value))
        return ordered


def bound(process: Callable[[Any], Any], name: str, value: Any) -> Any:
    """A value through its type's bind processor. Raises InvalidValue where the type refuses it."""
    try:
        return process(value)
    except (LookupError, ValueError, TypeError, AttributeError) as wrong:
        raise InvalidValue(
            f"'{name}' cannot be {value!r}: {wrong}.", remedy="Pass a value of the column's type.", field=name
        ) from wrong


_CACHE: util.LRUCache[Any, Any] = util.LRUCache(1_000)


def prepare(statement: Executable | NamedQuery, given: Mapping[str, Any], into: type[Any] | None = None) -> Prepared:
    """Compile `statement`, or find it compiled, and put its arguments in order.

    Raises ProgrammingError for parameters that are missing or unknown, InvalidValue for a value its type refuses.
    """
    if isinstance(statement, NamedQuery):
        arguments = [v.value if isinstance(v, enum.Enum) else v for v in statement.arguments(given)]
        return Prepared(statement.sql, arguments, _into(into) if into else None, False)
    entity = _entity(statement)
    if entity is not None and isinstance(statement, Select):
        statement = statement.with_only_columns(*entity.columns, maintain_column_froms=True)
    try:
        compiled, extracted = _compile(statement, given)
        values = compiled.construct_params(given, extracted_parameters=extracted)
        for column in (*compiled.insert_prefetch, *compiled.update_prefetch):
            values[column.key] = python_default(column, compiled.isupdate)
        plan: _Plan = compiled._headwater_plan
        sql, order, processors = compiled.string, compiled.positiontup or (), plan.processors
        if compiled.post_compile_params:
            expanded = compiled.construct_expanded_state(values)
            sql, order, values = expanded.statement, expanded.positiontup, expanded.parameters
            processors = {**processors, **expanded.processors}
    except CompileError as wrong:
        raise ProgrammingError(f"The statement does not compile: {wrong}.") from wrong
    except SQLAlchemyError as wrong:
        raise ProgrammingError(
            f"The statement lacks something: {wrong}.", remedy="Give every parameter a value."
        ) from wrong
    if not given.keys() <= compiled.binds.keys():
        unknown = sorted(given.keys() - compiled.binds.keys())
        raise ProgrammingError(f"The statement has no parameter '{unknown[0]}'.", remedy="Leave it out.")
    arguments = []
    for name in order:
        value, process = values[name], processors.get(name)
        arguments.append(value if process is None or value is None else bound(process, name, value))
    return Prepared(sql, arguments, _into(into) if into else plan.maker(entity), plan.reads_only)


class Narrowable:
    """A SELECT that callers narrow by conditions: compiled once for each structure these have, whatever their values.

    Looking only at the conditions costs a fifth of what `prepare` pays for the key of the whole statement.
    """

    def __init__(self, statement: Select[Any]) -> None:
        self._statement = statement
        self._plain = Template(statement, None)
        self._templates: util.LRUCache[Any, Template | None] = util.LRUCache(200)

    def prepare(self, where: Sequence[ColumnElement[bool]], given: Mapping[str, Any]) -> Prepared:
        """The statement narrowed by `where`. Raises what `prepare` raises."""
        if not where:
            return Prepared(self._plain.sql, self._plain.arguments(given), None, self._plain.reads_only)
        keys = [one._generate_cache_key() for one in where]
        if None in keys:
            return prepare(self._statement.where(*where), given)
        structure = tuple([key.key for key in keys if key is not None])
        varying = [bind for key in keys if key is not None for bind in key.bindparams]
        if structure not in self._templates:
            self._templates[structure] = self._template(where, given, varying)
        template = self._templates[structure]
        if template is None:
            return prepare(self._statement.where(*where), given)
        values = dict(given)
        for name, bind in zip(template.names, varying, strict=True):
            values[name] = bind.effective_value
        return Prepared(template.sql, template.arguments(values), None, template.reads_only)

    def _template(
        self, where: Sequence[ColumnElement[bool]], given: Mapping[str, Any], varying: Sequence[BindParameter[Any]]
    ) -> Template | None:
        """None for a text that depends on values, such as the length of a list in IN."""
        statement = self._statement.where(*where)
        prepare(statement, given)  # it says what is wrong with a condition
        if any(bind.expanding or bind.literal_execute for bind in varying):
            return None
        return Template(statement, None, varying)


class _Plan:
    """What is worked out once for a compiled statement and kept with it."""

    __slots__ = ("_columns", "_makers", "processors", "reads_only")

    def __init__(self, statement: Executable, compiled: Any) -> None:
        self._columns = tuple(compiled._result_columns)
        self._makers: dict[Shape | None, Make | None] = {}
        self.processors = {
            name: process
            for name, process in compiled._bind_processors.items()
            if name not in compiled.binds or bind_processor(compiled.binds[name].type) is not None
        }
        self.reads_only = reads_only(statement)

    def maker(self, entity: Shape | None) -> Make | None:
        """How a row becomes what the caller sees. The same SQL may be asked for as an entity and as columns."""
        try:
            return self._makers[entity]
        except KeyError:
            made = self._makers[entity] = _maker(self._columns, entity)
            return made


def _compile(statement: Any, given: Mapping[str, Any]) -> tuple[Any, Any]:
    """The compiled statement, kept by its structure, and the values this instance of it carries.

    SQLAlchemy has no public way to its statement cache without a Connection of its own; compiling afresh costs fifty
    times as much. Everything that leans on its inside is in this function and in `_Plan`, and tested for itself.
    """
    keys = sorted(given) if isinstance(statement, (Insert, Update)) else []
    compiled, extracted, *_ = statement._compile_w_cache(DIALECT, compiled_cache=_CACHE, column_keys=keys)
    if not hasattr(compiled, "_headwater_plan"):
        compiled._headwater_plan = _Plan(statement, compiled)
    return compiled, extracted


def reads_only(statement: Any) -> bool:
    """Whether a statement surely changes nothing, so that it may be run again when a connection breaks.

    A SELECT can call a function that writes, or carry an INSERT in a CTE; what is not known to be harmless is not.
    """
    if not isinstance(statement, Select):
        return False
    for part in visitors.iterate(statement):
        if isinstance(part, (UpdateBase, TextClause)):
            return False
        if isinstance(part, FunctionElement) and not _harmless(part):
            return False
    return True


def _harmless(function: FunctionElement[Any]) -> bool:
    if isinstance(function, GenericFunction):
        return not isinstance(function, next_value)
    return isinstance(function, Function) and function.name in _HARMLESS


_HARMLESS = frozenset(("any", "lower", "upper", "length", "abs", "avg", "date_trunc", "round", "bool_and", "bool_or"))


def python_default(column: Column[Any], updating: bool) -> Any:
    """The value of a column's Python-side `default=` or `onupdate=`."""
    default = cast("Any", column.onupdate if updating else column.default)
    return default.arg(None) if default.is_callable else default.arg


def _entity(statement: Any) -> Shape | None:
    """The model a statement yields whole, if that is all it yields."""
    if isinstance(statement, Select):
        described = statement.column_descriptions
        expression = described[0]["expr"] if len(described) == 1 else None
        if isinstance(expression, type) and issubclass(expression, Model):
            return shape(expression)
    elif isinstance(statement, (Insert, Update, Delete)) and len(statement._returning) == 1:
        whole = statement._returning[0]
        if isinstance(whole, TableClause):
            mapper = whole._annotations.get("parententity")
            return shape(mapper.class_) if mapper is not None else None
    return None


def _maker(columns: Sequence[Any], entity: Shape | None) -> Make | None:
    """How a row of these result columns becomes a value of `entity`, or a row with names."""
    if not columns:
        return None
    names = tuple(entry.keyname for entry in columns)
    if entity is not None:
        by_name = {name: i for i, name in enumerate(names)}
        places = [by_name[column.name] for column in entity.columns]
        if places == list(range(len(names))):
            return entity.make
        make_entity = entity.make
        return lambda record: make_entity([record[i] for i in places])
    row = row_class(names)
    processors = [result_processor(entry.type) for entry in columns]
    if any(processors):
        pairs = list(enumerate(processors))
        return lambda record: row([record[i] if p is None else p(record[i]) for i, p in pairs])
    return row


_INTO: dict[type[Any], Make] = {}


def _into(target: type[Any]) -> Make:
    """A factory of msgspec Structs or dataclasses from records, by column name; whole numbers and enums converted."""
    known = _INTO.get(target)
    if known is not None:
        return known
    if issubclass(target, msgspec.Struct):
        names = target.__struct_fields__
    elif is_dataclass(target):
        names = tuple(f.name for f in fields(target))
    else:
        raise ProgrammingError(
            f"Rows cannot be built into {target.__name__}.", remedy="Pass a msgspec.Struct or a dataclass."
        )
    hints = get_type_hints(target)
    conversions = [(name, _conversion(hints[name])) for name in names]

    def make(record: Any) -> Any:
        try:
            return target(
                **{name: record[name] if convert is None else convert(record[name]) for name, convert in conversions}
            )
        except KeyError as missing:
            raise ProgrammingError(
                f"The rows have no column {missing}, which {target.__name__} needs.",
                remedy="Name the column so in the query.",
            ) from None

    _INTO[target] = make
    return make


def _conversion(hint: Any) -> Callable[[Any], Any] | None:
    if get_origin(hint) in (Union, types.UnionType):
        kinds = [k for k in get_args(hint) if k is not type(None)]
        hint = kinds[0] if len(kinds) == 1 else object
    if get_origin(hint) is not None and hasattr(hint, "__metadata__"):
        hint = get_args(hint)[0]
    if hint is int:
        return lambda value: int(value) if type(value) is Decimal else value
    if isinstance(hint, type) and issubclass(hint, enum.Enum):
        return lambda value: None if value is None else hint(value)
    return None
