"""Resource: the whole REST face of an entity in one line: list, read, create, change, delete.

    ROUTES = resource(Product, path="/v1/shop/products")

Bodies and filters are made from the model's columns. What the server makes (keys with a default, `created_at`,
`updated_at`, `version`, computed columns, columns with `info={"read_only": True}`) is not writable; a column's
`info={"meta": msgspec.Meta(ge=0)}` narrows what a body may say, so that a CHECK is met at the edge.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Annotated, Any, Literal, TypeVar, get_args, get_origin

import msgspec
import sqlalchemy as sa
from msgspec import UNSET, UnsetType
from sqlalchemy.dialects.postgresql import ARRAY

from headwater.kernel.errors import (
    AlreadyExists,
    InvalidCursor,
    InvalidValue,
    MissingReference,
    NotFound,
    ProgrammingError,
    StillReferenced,
    VersionConflict,
)
from headwater.kernel.models import Model, Timestamped, Versioned
from headwater.kernel.pages import JsonPage
from headwater.kernel.rendering import Json
from headwater.kernel.repository import Repository
from headwater.kernel.routes import Route
from headwater.kernel.rows import Shape, shape
from headwater.kernel.transaction import Transaction
from headwater.kernel.views import python_type

M = TypeVar("M", bound=Model)
Verb = Literal["list", "get", "create", "update", "delete"]
VERBS: tuple[Verb, ...] = ("list", "get", "create", "update", "delete")

_NOT_FILTERED = (sa.JSON, ARRAY, sa.LargeBinary, sa.Interval)


def resource(
    model: type[M],
    *,
    path: str,
    repository: type[Repository[M]] | None = None,
    module: str | None = None,
    verbs: Iterable[Verb] = VERBS,
    read_scope: bool = False,
    order: Sequence[Any] | None = None,
    filters: Iterable[str] | None = None,
    limit_max: int = 200,
    examples: Mapping[str, Any] | None = None,
    tag: str = "",
) -> tuple[Route, ...]:
    """The routes of an entity.

    Writes need the scope `<module>:<entity>:write`; reads are open, or need `:read` with `read_scope=True`. `module`
    defaults to the package the model lives in. Lists are filtered by equality on the columns that an index begins
    with (or those named in `filters`), ordered by `order` (default: by key). `examples` is one entity as JSON.
    """
    made = _Face(model, path, repository, module, read_scope, order, filters, limit_max, examples or {}, tag)
    wanted = set(verbs)
    unknown = wanted - set(VERBS)
    if unknown:
        raise ProgrammingError(f"A resource has no verb '{min(unknown)}'.", remedy=f"It has {', '.join(VERBS)}.")
    return tuple(made.route(verb) for verb in VERBS if verb in wanted)


class _Face:
    """What the routes of one entity share."""

    def __init__(
        self,
        model: type[Any],
        path: str,
        repository: type[Any] | None,
        module: str | None,
        read_scope: bool,
        order: Sequence[Any] | None,
        filters: Iterable[str] | None,
        limit_max: int,
        example: Mapping[str, Any],
        tag: str,
    ) -> None:
        known = shape(model)
        if len(known.key_names) != 1:
            raise ProgrammingError(
                f"{model.__name__} has a key of {len(known.key_names)} columns; a resource needs one of one column.",
                remedy="Declare its routes by hand.",
            )
        self.row: Any = Json[model]  # type: ignore[valid-type]  # read at run time
        self.page: Any = JsonPage[model]  # type: ignore[valid-type]  # read at run time
        self.model, self.known, self.path, self.example = model, known, path, example
        self.repository: Any = repository if repository is not None else Repository[model]  # type: ignore[valid-type]  # read at run time
        self.module = module or _module_of(model)
        self.noun = re.sub(r"(?<!^)(?=[A-Z])", "_", model.__name__).lower()
        self.words = self.noun.replace("_", " ")
        self.tag = tag or self.module
        self.read_scope = f"{self.module}:{self.noun}:read" if read_scope else None
        self.write_scope = f"{self.module}:{self.noun}:write"
        self.order, self.limit_max = order, limit_max
        self.key = known.key_names[0]
        self.key_column = known.key_columns[0]
        self.key_type = _narrowed(model, self.key, self.key_column)
        self.key_parameter = f"{self.noun}_{self.key}" if self.key == "id" else self.key
        self.one_path = f"{path}/{{{self.key_parameter}}}"
        self.versioned = known.version_name is not None
        self.writable = [n for n, c in zip(known.names, known.columns, strict=True) if _is_writable(model, known, n, c)]
        self.filters = list(filters) if filters is not None else _indexed(known)
        self.key_example = {self.key_parameter: str(example[self.key])} if self.key in example else {}

    def route(self, verb: Verb) -> Route:
        makers: dict[Verb, Callable[[], Route]] = {
            "list": self._list,
            "get": self._get,
            "create": self._create,
            "update": self._update,
            "delete": self._delete,
        }
        return makers[verb]()

    # -- reads -------------------------------------------------------------------------------------------------------

    def _list(self) -> Route:
        model, order, names = self.model, self.order, self.filters
        fields: list[Any] = []
        for name in names:
            column = self.known.by_name[name]
            fields.append((name, _narrowed(model, name, column) | None, msgspec.field(default=None, name=column.name)))
        fields.append(("limit", Annotated[int, msgspec.Meta(ge=1, le=self.limit_max)], 50))
        fields.append(("cursor", str | None, None))
        query_type = msgspec.defstruct(f"{model.__name__}Query", fields, kw_only=True, module=model.__module__)
        columns = [(name, getattr(model, name)) for name in names]

        async def handler(query: Any, rows: Any) -> Any:
            where = [column == value for name, column in columns if (value := getattr(query, name)) is not None]
            return await rows.list_json(*where, order=order, limit=query.limit, cursor=query.cursor)

        _annotate(handler, f"list_{self.noun}", query=query_type, rows=self.repository, returns=self.page)
        return Route(
            method="GET",
            path=self.path,
            handler=handler,
            summary=f"List {self.words} rows",
            description=f"Filters compare for equality; together they narrow. At most {self.limit_max} at once.",
            scope=self.read_scope,
            raises=(InvalidValue, InvalidCursor),
            query_example={"limit": 20},
            answer_example={"items": [self.example], "next": None} if self.example else None,
            tag=self.tag,
        )

    def _get(self) -> Route:
        key = self.key_parameter

        async def handler(rows: Any, **by: Any) -> Any:
            return await rows.get_json(by[key])

        _annotate(handler, f"get_{self.noun}", key=(key, self.key_type), rows=self.repository, returns=self.row)
        return Route(
            method="GET",
            path=self.one_path,
            handler=handler,
            summary=f"Read one {self.words}",
            scope=self.read_scope,
            raises=(NotFound,),
            path_examples=self.key_example,
            answer_example=self.example or None,
            tag=self.tag,
        )

    # -- writes ------------------------------------------------------------------------------------------------------

    def _create(self) -> Route:
        body_type = self._body(f"New{self.model.__name__}", f"A {self.words} to create.", self.writable, patch=False)
        names = self.writable

        async def handler(body: Any, tx: Any, rows: Any) -> Any:
            return await rows.create(tx, **_given(body, names))

        _annotate(
            handler, f"create_{self.noun}", body=body_type, tx=Transaction, rows=self.repository, returns=self.model
        )
        return Route(
            method="POST",
            path=self.path,
            handler=handler,
            summary=f"Create one {self.words}",
            status=201,
            scope=self.write_scope,
            raises=(AlreadyExists, MissingReference, InvalidValue),
            body_example=self._shown(self.writable),
            answer_example=self.example or None,
            tag=self.tag,
            location=f"{self.path}/{{{self.key}}}",
        )

    def _update(self) -> Route:
        names = [name for name in self.writable if name != self.key]
        said = f"What of a {self.words} changes: a field that is absent stays, null empties it, objects are merged."
        body_type = self._body(f"{self.model.__name__}Patch", said, names, patch=True)
        key, words, versioned = self.key_parameter, self.words, self.versioned
        objects = [n for n in names if isinstance(self.known.by_name[n].type, sa.JSON)]

        async def handler(body: Any, tx: Any, rows: Any, if_match: int | None = None, **by: Any) -> Any:
            changes = _given(body, names)
            merged = [name for name in objects if isinstance(changes.get(name), dict)]
            if merged or not changes:
                current = await rows.lock(tx, by[key])
                if if_match is not None and current.version != if_match:
                    raise VersionConflict(
                        f"The {words} is at version {current.version}, not {if_match}.",
                        remedy="Read it again and repeat the change on what it is now.",
                        current=current,
                        current_version=current.version,
                    )
                if not changes:
                    return current
                for name in merged:
                    changes[name] = merge_patch(getattr(current, name), changes[name])
            return (await rows.update(tx, by[key], version=if_match, **changes)).new

        _annotate(
            handler,
            f"update_{self.noun}",
            key=(key, self.key_type),
            body=body_type,
            tx=Transaction,
            rows=self.repository,
            if_match=versioned,
            returns=self.model,
        )
        return Route(
            method="PATCH",
            path=self.one_path,
            handler=handler,
            summary=f"Change one {self.words}",
            description="A merge patch (RFC 7396).",
            scope=self.write_scope,
            raises=(NotFound, AlreadyExists, MissingReference, InvalidValue, VersionConflict),
            path_examples=self.key_example,
            body_example=dict(list(self._shown(names).items())[:1]) or None,
            answer_example=self.example or None,
            tag=self.tag,
        )

    def _delete(self) -> Route:
        key = self.key_parameter

        async def handler(tx: Any, rows: Any, if_match: int | None = None, **by: Any) -> None:
            await rows.delete(tx, by[key], version=if_match)

        _annotate(
            handler,
            f"delete_{self.noun}",
            key=(key, self.key_type),
            tx=Transaction,
            rows=self.repository,
            if_match=self.versioned,
            returns=None,
        )
        return Route(
            method="DELETE",
            path=self.one_path,
            handler=handler,
            summary=f"Delete one {self.words}",
            status=204,
            scope=self.write_scope,
            raises=(NotFound, StillReferenced, VersionConflict),
            path_examples=self.key_example,
            tag=self.tag,
        )

    def _body(self, name: str, said: str, names: Sequence[str], *, patch: bool) -> type[msgspec.Struct]:
        fields: list[Any] = []
        for attribute in names:
            column = self.known.by_name[attribute]
            kind = _narrowed(self.model, attribute, column)
            if column.nullable:
                kind = kind | None
            if not patch and _is_required(column):
                fields.append((attribute, kind, msgspec.field(name=column.name)))
            else:
                fields.append((attribute, kind | UnsetType, msgspec.field(default=UNSET, name=column.name)))
        made = msgspec.defstruct(name, fields, kw_only=True, forbid_unknown_fields=True, module=self.model.__module__)
        made.__doc__ = said
        return made

    def _shown(self, names: Sequence[str]) -> dict[str, Any]:
        columns = [str(self.known.by_name[name].name) for name in names]
        return {name: self.example[name] for name in columns if name in self.example}


def merge_patch(target: Any, patch: Any) -> Any:
    """RFC 7396: objects are merged, null removes a member, anything else replaces."""
    if not isinstance(patch, dict):
        return patch
    made = dict(target) if isinstance(target, dict) else {}
    for name, value in patch.items():
        if value is None:
            made.pop(name, None)
        else:
            made[name] = merge_patch(made.get(name), value)
    return made


def _given(body: Any, names: Iterable[str]) -> dict[str, Any]:
    return {name: value for name in names if (value := getattr(body, name)) is not UNSET}


def _annotate(
    handler: Any,
    name: str,
    *,
    returns: Any,
    rows: Any,
    key: tuple[str, Any] | None = None,
    if_match: bool = False,
    **kinds: Any,
) -> None:
    """Give a generated handler the signature that the service reads."""
    import inspect

    annotations: dict[str, Any] = {**kinds, "rows": rows}
    if key is not None:
        annotations[key[0]] = key[1]
    if if_match:
        annotations["if_match"] = int | None
    handler.__name__ = handler.__qualname__ = name
    handler.__annotations__ = {**annotations, "return": returns}
    keyword_only = inspect.Parameter.KEYWORD_ONLY
    handler.__signature__ = inspect.Signature(
        [inspect.Parameter(one, keyword_only, annotation=kind) for one, kind in annotations.items()]
    )


def _module_of(model: type[Model]) -> str:
    parts = model.__module__.split(".")
    if len(parts) > 1 and parts[-1] == "models":
        return parts[-2]
    return shape(model).table.schema or parts[-1]


def _narrowed(model: type[Model], name: str, column: sa.Column[Any]) -> Any:
    """The column's type without null, with the Meta that its info adds."""
    kind = python_type(model, name, column)
    if column.nullable:
        members = [part for part in get_args(kind) if part is not type(None)]
        kind = members[0] if len(members) == 1 else kind
    meta = column.info.get("meta")
    if meta is None:
        return kind
    if get_origin(kind) is Annotated:
        base, *notes = get_args(kind)
        notes = [_without(note, meta) for note in notes]
        return Annotated[(base, *notes, meta)]
    return Annotated[kind, meta]


def _without(note: msgspec.Meta, meta: msgspec.Meta) -> msgspec.Meta:
    """A Meta without the bounds that another one narrows."""
    kept = {name: getattr(note, name) for name in ("ge", "le", "gt", "lt", "min_length", "max_length", "pattern", "tz")}
    if meta.ge is not None or meta.gt is not None:
        kept["ge"] = kept["gt"] = None
    if meta.le is not None or meta.lt is not None:
        kept["le"] = kept["lt"] = None
    if meta.max_length is not None:
        kept["max_length"] = None
    make: Any = msgspec.Meta
    made: msgspec.Meta = make(**kept)
    return made


def _is_required(column: sa.Column[Any]) -> bool:
    return not column.nullable and column.default is None and column.server_default is None


def _is_writable(model: type[Model], known: Shape, name: str, column: sa.Column[Any]) -> bool:
    if column.info.get("private") or column.info.get("read_only"):
        return False
    if column.computed is not None or column.identity is not None:
        return False
    if issubclass(model, Timestamped) and name in ("created_at", "updated_at"):
        return False
    if issubclass(model, Versioned) and name == "version":
        return False
    if name in known.key_names:
        made_by_server = column.default is not None or column.server_default is not None
        return not made_by_server and column.autoincrement is not True
    return True


def _indexed(known: Shape) -> list[str]:
    """The attributes an index or a unique constraint begins with, in order of their columns, without the key."""
    table: Any = known.table
    first: set[str] = set()
    for index in table.indexes:
        columns = [one for one in index.expressions if isinstance(one, sa.Column)]
        if columns and columns[0] is index.expressions[0]:
            first.add(columns[0].name)
    for constraint in table.constraints:
        if isinstance(constraint, sa.UniqueConstraint) and len(constraint.columns):
            first.add(next(iter(constraint.columns)).name)
    return [
        name
        for name, column in zip(known.names, known.columns, strict=True)
        if (column.name in first or column.index or column.unique)
        and name not in known.key_names
        and not column.info.get("private")
        and not isinstance(column.type, _NOT_FILTERED)
    ]
