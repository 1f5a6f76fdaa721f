"""Declarations: what a Route's annotations say, read once. They need no store: documents can be made offline."""

from __future__ import annotations

import inspect
import re
import typing
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import msgspec

from headwater.kernel import errors
from headwater.kernel.caller import Caller
from headwater.kernel.errors import ProgrammingError
from headwater.kernel.lifecycle import Headwater
from headwater.kernel.models import Model
from headwater.kernel.module import System
from headwater.kernel.rendering import Json
from headwater.kernel.repository import Repository
from headwater.kernel.routes import Route
from headwater.kernel.transaction import Transaction
from headwater.kernel.views import view
from headwater.service.parsing import BodyReader, QueryReader, TextParser, bare, no_query, text_parser, without_none
from headwater.service.problems import kind_of

_PARAMETER = re.compile(r"\{([^}]*)\}")
JSON_TYPE = b"application/json"
MERGE_PATCH_TYPE = b"application/merge-patch+json"


@dataclass(slots=True, kw_only=True)
class Declaration:
    """One operation, understood."""

    route: Route
    module: str
    path_names: tuple[str, ...]
    path_kinds: dict[str, Any] = field(default_factory=dict)
    path_parsers: list[tuple[str, int, TextParser]] = field(default_factory=list)
    query_kind: type[msgspec.Struct] | None = None
    read_query: Callable[[bytes], Any] = no_query
    body_kind: Any = None
    read_body: BodyReader | None = None
    repositories: dict[str, type[Any]] = field(default_factory=dict)
    takes_headwater: str | None = None
    takes_tx: str | None = None
    takes_caller: str | None = None
    takes_if_match: str | None = None
    needs_caller: bool = False
    answer: Any = None
    status: int = 200
    location: tuple[str, str] | None = None
    """Where a created entity lives: the path with one `{}` in it, and the attribute that goes there."""
    tagged: type[Model] | None = None
    """The entity whose ETag an If-Match names."""

    @property
    def entity(self) -> type[Model] | None:
        """The model the operation answers with, if it answers with exactly one entity."""
        answer = typing.get_args(self.answer)[0] if typing.get_origin(self.answer) is Json else self.answer
        return answer if isinstance(answer, type) and issubclass(answer, Model) else None

    @property
    def is_idempotent(self) -> bool:
        """Whether the operation honours an Idempotency-Key: it is a POST whose whole effect is one transaction."""
        return self.route.method == "POST" and self.takes_tx is not None

    @property
    def content_types(self) -> tuple[bytes, ...]:
        """What bodies it reads."""
        return (JSON_TYPE, MERGE_PATCH_TYPE) if self.route.method == "PATCH" else (JSON_TYPE,)

    def statuses(self) -> dict[int, set[type[errors.HeadwaterError] | None]]:
        """Every status a client can meet that is no success, and the errors behind it as far as they are declared."""
        found: dict[int, set[type[errors.HeadwaterError] | None]] = {500: {None}, 503: {errors.UnavailableError}}

        def add(status: int, error: type[errors.HeadwaterError] | None = None) -> None:
            found.setdefault(status, set()).add(error)

        for declared in self.route.raises:
            add(kind_of(declared).status, declared)
        add(401, errors.Unauthenticated)
        if self.route.scope is not None:
            add(403, errors.Forbidden)
        if self.path_names:
            add(404, errors.NotFound)
        if self.path_names or self.query_kind is not None or self.read_body is not None:
            add(422, errors.InvalidValue)
        add(422)
        if self.query_kind is not None:
            add(400)
        if self.read_body is not None:
            for status in (400, 413, 415):
                add(status)
        if self.takes_tx is not None and self.route.method != "GET":
            add(409, errors.ConflictError)
        if self.takes_if_match is not None:
            add(412)
        return found


def declare(route: Route, module: str) -> Declaration:
    """Read a route's handler. Raises ProgrammingError for what cannot work: the service does not start with it."""
    where = f"{route.method} {route.path} ({module})"
    names = tuple(_PARAMETER.findall(route.path))
    made = Declaration(route=route, module=module, path_names=names)
    try:
        hints = typing.get_type_hints(route.handler, include_extras=True)
    except NameError as error:
        raise ProgrammingError(
            f"{where}: an annotation of the handler cannot be resolved: {error}.",
            remedy="Import it at run time, not under TYPE_CHECKING.",
        ) from None
    if "return" not in hints:
        raise ProgrammingError(f"{where}: the handler does not say what it returns.", remedy="Annotate it.")
    made.answer = None if hints["return"] is type(None) else hints["return"]
    made.status = 204 if made.answer is None and route.status == 200 else route.status
    for name, parameter in inspect.signature(route.handler).parameters.items():
        if name not in hints:
            raise ProgrammingError(f"{where}: the parameter '{name}' has no annotation.", remedy="Annotate it.")
        _read_parameter(made, name, hints[name], parameter.default is not inspect.Parameter.empty, where)
    for name in names:
        if name not in made.path_kinds:
            raise ProgrammingError(
                f"{where}: the handler takes no '{name}', which its path has.", remedy=f"Add the parameter '{name}'."
            )
    _check_access(made, where)
    return made


def _read_parameter(made: Declaration, name: str, kind: Any, has_default: bool, where: str) -> None:
    base = bare(kind)
    origin = typing.get_origin(base) or base
    if name in made.path_names:
        made.path_kinds[name] = kind
        made.path_parsers.append((name, made.path_names.index(name), text_parser(kind)))
    elif name == "query":
        made.query_kind = base
        made.read_query = QueryReader(base)
    elif name == "body":
        made.body_kind = kind
        made.read_body = BodyReader(kind)
    elif name == "if_match":
        made.takes_if_match = name
    elif base is Caller:
        made.takes_caller = name
        made.needs_caller = without_none(kind) is kind
    elif base is Transaction:
        made.takes_tx = name
    elif base is Headwater:
        made.takes_headwater = name
    elif isinstance(origin, type) and issubclass(origin, Repository):
        plain = typing.get_args(base)
        made.repositories[name] = plain[0] if plain else origin
    elif not has_default:
        raise ProgrammingError(
            f"{where}: nothing is known that could be passed as '{name}: {kind}'.",
            remedy="Path parameters, query, body, tx, caller, headwater, if_match and repositories are known.",
        )


def _check_access(made: Declaration, where: str) -> None:
    route = made.route
    if route.scope is not None:
        made.needs_caller = True
        if route.public:
            raise ProgrammingError(f"{where}: it has a scope and is public.", remedy="Choose one.")
        return
    if "/admin/" in f"{route.path}/":
        raise ProgrammingError(
            f"{where}: an operation under /admin/ has no scope.", remedy='Declare scope="module:entity:admin".'
        )
    if route.method != "GET" and not route.public:
        raise ProgrammingError(
            f"{where}: it changes something and has no scope.",
            remedy='Declare scope="module:entity:action", or public=True where anyone may (registration, login).',
        )


def declarations(system: System, extra: Iterable[tuple[str, Route]] = ()) -> list[Declaration]:
    """Every operation of a system's modules and the extra ones, with the places of created entities found."""
    made = [declare(route, module.name) for module in system.modules for route in module.routes]
    made += [declare(route, module) for module, route in extra]
    for one in made:
        if one.status == 201:
            one.location = _location(one, made)
        if one.takes_if_match is not None:
            shown = [g.entity for g in made if g.route.method == "GET" and g.route.path == one.route.path]
            one.tagged = one.entity or next(iter(shown), None)
    return made


def _location(created: Declaration, every: list[Declaration]) -> tuple[str, str] | None:
    """From the route's own word, or from the GET that answers with the same entity under one path parameter."""
    if created.route.location is not None:
        names = _PARAMETER.findall(created.route.location)
        if len(names) != 1:
            raise ProgrammingError(
                f"{created.route.method} {created.route.path}: its location '{created.route.location}' "
                "must have one {attribute}."
            )
        return _PARAMETER.sub("{}", created.route.location), names[0]
    entity = created.entity
    if entity is None:
        return None
    key = view(entity).key_names
    candidates = [
        one
        for one in every
        if one.route.method == "GET" and one.entity is entity and len(one.path_names) == 1 and len(key) == 1
    ]
    candidates.sort(key=lambda one: (not one.route.path.startswith(created.route.path + "/"), len(one.route.path)))
    for one in candidates:
        (name,) = one.path_names
        if name == key[0] or name.removesuffix(f"_{key[0]}") != name or name == f"{entity.__name__.lower()}_{key[0]}":
            return _PARAMETER.sub("{}", one.route.path), key[0]
    return None
