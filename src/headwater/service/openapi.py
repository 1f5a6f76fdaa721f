"""OpenAPI: the document of a system, made from its declarations, so that it says what the code does."""

from __future__ import annotations

import typing
from collections.abc import Iterable, Mapping
from http import HTTPStatus
from typing import Any

import msgspec

from headwater import __version__
from headwater.kernel import errors
from headwater.kernel.models import Model
from headwater.kernel.module import System
from headwater.kernel.pages import JsonPage, Page
from headwater.kernel.rendering import encode
from headwater.kernel.views import view
from headwater.service.answers import shown_type
from headwater.service.declarations import Declaration
from headwater.service.parsing import (
    DECIMAL_PATTERN,
    NO_NUL_PATTERN,
    FiniteDecimal,
    bare,
    hardened,
    without_none,
)
from headwater.service.problems import KINDS, Kind, Problem, kind_of

_REF = "#/components/schemas/{name}"
_ANY_JSON = {"$ref": "#/components/schemas/JsonValue"}
_JSON_VALUE: dict[str, Any] = {
    "title": "JsonValue",
    "description": "Any JSON value whose text holds no NUL character.",
    "anyOf": [
        {"type": "null"},
        {"type": "boolean"},
        {"type": "number"},
        {"type": "string", "pattern": NO_NUL_PATTERN},
        {"type": "array", "items": _ANY_JSON},
        {"type": "object", "propertyNames": {"pattern": NO_NUL_PATTERN}, "additionalProperties": _ANY_JSON},
    ],
}
_ISSUED: dict[str, dict[str, Any]] = {
    "Cursor": {
        "name": "cursor",
        "in": "query",
        "required": False,
        "description": "Where the page begins: `next` of the page before, exactly as it was given.",
        "schema": {"type": "string"},
    },
    "IfMatch": {
        "name": "If-Match",
        "in": "header",
        "required": False,
        "description": "The ETag the row must still have, or `*`.",
        "schema": {"type": "string"},
    },
}
_SECURITY_SCHEMES = {
    "bearer": {"type": "http", "scheme": "bearer", "description": "`Authorization: Bearer <key or session token>`"},
    "apiKey": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
}
_DESCRIPTION = (
    "Generated from the modules' declarations. Errors are problems of RFC 9457 with a stable `type`; lists are pages "
    "with an opaque cursor; reads carry an ETag; every answer names the request in X-Request-Id."
)
_KINDS_BY_STATUS: dict[int, tuple[str, ...]] = {
    400: ("malformed",),
    401: ("unauthenticated",),
    403: ("forbidden",),
    404: ("not-found",),
    409: ("conflict",),
    412: ("precondition-failed",),
    413: ("too-large",),
    415: ("unsupported-media-type",),
    422: ("invalid-value",),
    500: ("internal",),
    503: ("overloaded",),
}


def document(system: System, declared: Iterable[Declaration], *, for_clients: bool = False) -> bytes:
    """The OpenAPI 3.1 document as JSON.

    A cursor and an If-Match tag are values the server issued; OpenAPI can only say "any text", and any text is refused.
    So that every request the document calls valid is accepted, they stand under `x-issued-parameters`, not under
    `parameters`. Generators of clients want them as ordinary parameters: `for_clients`.
    """
    from headwater.service.stations import HealthAnswer, KindAnswer, ReadyAnswer  # stations serve this document

    schemas = _Schemas()
    every = list(declared)
    for one in every:
        for kind in one.path_kinds.values():
            schemas.want(hardened(without_none(kind)))
        if one.query_kind is not None:
            for spec in msgspec.structs.fields(one.query_kind):
                schemas.want(hardened(without_none(spec.type)))
        if one.read_body is not None:
            schemas.want(one.read_body.kind)
        if one.answer is not None:
            schemas.want(shown_type(one.answer))
    for kind in (Problem, HealthAnswer, ReadyAnswer, KindAnswer):
        schemas.want(kind)
    schemas.make()
    paths: dict[str, dict[str, Any]] = {}
    taken: set[str] = set()
    for one in every:
        paths.setdefault(one.route.path, {})[one.route.method.lower()] = _operation(one, schemas, taken, for_clients)
    for path, kind, summary, down in (
        ("/health", HealthAnswer, "Each store's state and latency", "PostgreSQL does not answer."),
        (
            "/ready",
            ReadyAnswer,
            "Whether requests should be sent here",
            "PostgreSQL does not answer, or revisions wait.",
        ),
    ):
        paths[path] = {"get": _station(path, summary, schemas.of(kind), down)}
    paths["/problems/{slug}"] = {"get": _problem_operation(schemas)}
    paths["/metrics"] = {"get": _metrics_operation()}
    whole = {
        "openapi": "3.1.0",
        "jsonSchemaDialect": "https://json-schema.org/draft/2020-12/schema",
        "info": {"title": f"Headwater: {system.name}", "version": __version__, "description": _described(system)},
        "tags": [{"name": module.name, "description": module.summary} for module in system.modules],
        "paths": dict(sorted(paths.items())),
        "components": {
            "schemas": schemas.components,
            "examples": {slug: {"value": _problem_example(kind)} for slug, kind in KINDS.items()},
            "headers": _HEADERS,
            "parameters": _ISSUED,
            "securitySchemes": _SECURITY_SCHEMES,
        },
    }
    return encode(whole)


def _described(system: System) -> str:
    return f"{system.summary} {_DESCRIPTION}".strip()


class _Schemas:
    """The schema of every type that is wanted, and the components they refer to."""

    def __init__(self) -> None:
        self._wanted: list[Any] = []
        self._made: list[dict[str, Any]] = []
        self.components: dict[str, Any] = {}

    def want(self, kind: Any) -> None:
        if not any(kind is one for one in self._wanted):
            self._wanted.append(kind)

    def make(self) -> None:
        nested: set[type[Model]] = set()

        def custom(kind: Any) -> dict[str, Any]:
            if isinstance(kind, type) and issubclass(kind, Model):
                nested.add(kind)
            return _custom_schema(kind)

        made, components = msgspec.json.schema_components(self._wanted, schema_hook=custom, ref_template=_REF)
        if nested:  # entities inside other answers: their views must be components too
            for model in nested:
                self.want(view(model).struct)
            made, components = msgspec.json.schema_components(self._wanted, schema_hook=custom, ref_template=_REF)
        short = {name: _short(name) for name in components if "." in name}
        self._made = [_refined(one, short) for one in made]
        self.components = {short.get(name, name): _refined(one, short) for name, one in components.items()} | {
            "JsonValue": _JSON_VALUE
        }
        for name in ("Problem", "FieldError"):  # they repeat what was wrong as it came, NUL characters included
            self.components[name] = components[name]
        self.components["Problem"]["properties"]["type"]["format"] = "uri-reference"

    def of(self, kind: Any) -> dict[str, Any]:
        for wanted, made in zip(self._wanted, self._made, strict=True):
            if wanted is kind or (wanted == kind and typing.get_origin(kind) is not None):
                return made
        raise KeyError(kind)


def _custom_schema(kind: Any) -> dict[str, Any]:
    if kind is FiniteDecimal:
        return {"type": "string", "pattern": DECIMAL_PATTERN}
    if isinstance(kind, type) and issubclass(kind, Model):
        return {"$ref": _REF.format(name=view(kind).struct.__name__)}
    origin = typing.get_origin(kind)
    if origin in (Page, JsonPage):
        return {"type": "object"}
    raise NotImplementedError


def _short(name: str) -> str:
    """Where two modules have types of one name, msgspec writes them in full: `TradingOrder` says as much."""
    parts = name.split(".")
    module = parts[-3] if len(parts) > 2 else parts[0]
    return module.replace("_", " ").title().replace(" ", "") + parts[-1]


def _refined(schema: Any, short: Mapping[str, str]) -> Any:
    """msgspec's schema with what we check beyond it: no NUL in text, also inside free JSON."""
    if isinstance(schema, list):
        return [_refined(one, short) for one in schema]
    if not isinstance(schema, dict):
        return schema
    if not schema:
        return _ANY_JSON
    made: dict[str, Any] = {}
    for name, value in schema.items():
        if name in ("properties", "$defs"):
            made[name] = {inner: _refined(one, short) for inner, one in value.items()}
        elif name in ("default", "enum", "const", "examples", "required"):
            made[name] = value
        elif name == "$ref":
            target = value.rpartition("/")[2]
            made[name] = _REF.format(name=short.get(target, target))
        else:
            made[name] = _refined(value, short)
    kind = made.get("type")
    if kind == "string" and not made.keys() & {"format", "pattern", "enum", "const", "contentEncoding"}:
        made["pattern"] = NO_NUL_PATTERN
    if kind == "object" and "properties" not in made:
        made.setdefault("additionalProperties", _ANY_JSON)
        made.setdefault("propertyNames", {"pattern": NO_NUL_PATTERN})
    if kind == "array":
        made.setdefault("items", _ANY_JSON)
    return made


def _operation(one: Declaration, schemas: _Schemas, taken: set[str], for_clients: bool) -> dict[str, Any]:
    route = one.route
    made: dict[str, Any] = {
        "operationId": _operation_id(one, taken),
        "summary": route.summary,
        "tags": [route.tag or one.module],
    }
    described = [route.description] if route.description else []
    if route.scope is not None:
        described.append(f"Needs a key with the scope `{route.scope}`.")
    if one.takes_if_match is not None:
        described.append(
            "Send `If-Match` with the ETag that was read: the change happens against that version only (412 otherwise)."
        )
    if "Cursor" in _issued(one):
        described.append("Pages are linked: pass `next` as `cursor`, or follow the `Link` header.")
    if one.is_idempotent:
        described.append("Send an `Idempotency-Key` to make repeating safe; answers are kept for 24 hours.")
    if described:
        made["description"] = " ".join(described)
    if route.deprecated:
        made["deprecated"] = True
    parameters = [*_path_parameters(one, schemas), *_query_parameters(one, schemas), *_header_parameters(one)]
    issued = [{"$ref": f"#/components/parameters/{name}"} for name in _issued(one)]
    if for_clients:
        parameters += issued
    elif issued:
        made["x-issued-parameters"] = issued
    if parameters:
        made["parameters"] = parameters
    if one.read_body is not None:
        media: dict[str, Any] = {"schema": schemas.of(one.read_body.kind)}
        if route.public:  # tools that sign up and sign in by themselves look for the fields right here
            media["schema"] = schemas.components.get(
                media["schema"].get("$ref", "").rpartition("/")[2], media["schema"]
            )
        if route.body_example is not None:
            media["example"] = route.body_example
        made["requestBody"] = {"required": True, "content": {kind.decode(): media for kind in one.content_types}}
    made["responses"] = _responses(one, schemas)
    if route.scope is not None or one.needs_caller:
        granted = [route.scope] if route.scope is not None else []
        made["security"] = [{name: granted} for name in _SECURITY_SCHEMES]
    elif one.takes_caller is not None:
        made["security"] = [{}, *({name: []} for name in _SECURITY_SCHEMES)]
    return made


def _operation_id(one: Declaration, taken: set[str]) -> str:
    base = wanted = f"{one.module}_{one.route.handler.__name__}"
    number = 1
    while wanted in taken:
        number += 1
        wanted = f"{base}_{number}"
    taken.add(wanted)
    return wanted


def _path_parameters(one: Declaration, schemas: _Schemas) -> list[dict[str, Any]]:
    made = []
    for name in one.path_names:
        schema = dict(schemas.of(hardened(without_none(one.path_kinds[name]))))
        if schema.get("type") == "string" and "format" not in schema:
            schema.setdefault("minLength", 1)
        parameter: dict[str, Any] = {"name": name, "in": "path", "required": True, "schema": schema}
        if name in one.route.path_examples:
            parameter["example"] = one.route.path_examples[name]
        made.append(parameter)
    return made


def _query_parameters(one: Declaration, schemas: _Schemas) -> list[dict[str, Any]]:
    if one.query_kind is None:
        return []
    made = []
    example = one.route.query_example or {}
    for spec in msgspec.structs.fields(one.query_kind):
        schema = dict(schemas.of(hardened(without_none(spec.type))))
        described = schema.pop("description", None)
        if spec.default is not msgspec.NODEFAULT and spec.default is not None and spec.default is not msgspec.UNSET:
            schema["default"] = msgspec.to_builtins(spec.default, enc_hook=str)
        parameter: dict[str, Any] = {
            "name": spec.encode_name,
            "in": "query",
            "required": spec.required,
            "schema": schema,
        }
        if _is_cursor(spec):
            continue
        if described:
            parameter["description"] = described
        if spec.encode_name in example:
            parameter["example"] = example[spec.encode_name]
        made.append(parameter)
    return made


def _is_cursor(spec: Any) -> bool:
    return spec.encode_name == "cursor" and bare(spec.type) is str


def _issued(one: Declaration) -> list[str]:
    """Which values that only the server can issue the operation takes."""
    made = []
    if one.query_kind is not None and any(map(_is_cursor, msgspec.structs.fields(one.query_kind))):
        made.append("Cursor")
    if one.takes_if_match is not None:
        made.append("IfMatch")
    return made


def _header_parameters(one: Declaration) -> list[dict[str, Any]]:
    made: list[dict[str, Any]] = []
    if one.route.method == "GET" and one.answer is not None:
        made.append(
            {
                "name": "If-None-Match",
                "in": "header",
                "required": False,
                "description": "An ETag that is known already; while it still holds, the answer is 304 without a body.",
                "schema": {"type": "string"},
            }
        )
    if one.is_idempotent:
        made.append(
            {
                "name": "Idempotency-Key",
                "in": "header",
                "required": False,
                "description": "A fresh text for each new request, the same one to repeat it.",
                "schema": {"type": "string", "minLength": 1, "maxLength": 255, "pattern": "^[!-~]+$"},
                "example": "4f9c2b1e-6d1f-4a57-9a3c-7a1d5f0f8c11",
            }
        )
    return made


_HEADERS: dict[str, dict[str, Any]] = {
    "X-Request-Id": {
        "description": "The id of the request, the client's own if it sent one.",
        "schema": {"type": "string"},
    },
    "ETag": {"description": "The tag of this representation.", "schema": {"type": "string"}},
    "Link": {"description": 'The next page, `<…>; rel="next"`, if there is one.', "schema": {"type": "string"}},
    "Location": {"description": "Where the created entity lives.", "schema": {"type": "string"}},
    "Retry-After": {"description": "Seconds to wait before trying again.", "schema": {"type": "integer"}},
    "WWW-Authenticate": {"description": "How to authenticate.", "schema": {"type": "string"}},
    "Idempotency-Replayed": {
        "description": "`true` when this is the stored answer of an earlier request with the same key.",
        "schema": {"type": "string"},
    },
}


def _headers(*names: str) -> dict[str, Any]:
    return {name: {"$ref": f"#/components/headers/{name}"} for name in ("X-Request-Id", *names)}


def _responses(one: Declaration, schemas: _Schemas) -> dict[str, Any]:
    made: dict[str, Any] = {}
    names: list[str] = []
    if one.answer is not None:
        if one.route.method == "GET":
            names.append("ETag")
            if typing.get_origin(one.answer) in (Page, JsonPage):
                names.append("Link")
        elif one.entity is not None and view(one.entity).version_name is not None:
            names.append("ETag")
        if one.location is not None:
            names.append("Location")
        if one.is_idempotent:
            names.append("Idempotency-Replayed")
    success: dict[str, Any] = {"description": HTTPStatus(one.status).phrase, "headers": _headers(*names)}
    if one.answer is not None:
        media: dict[str, Any] = {"schema": schemas.of(shown_type(one.answer))}
        if one.route.answer_example is not None:
            media["example"] = one.route.answer_example
        success["content"] = {"application/json": media}
    made[str(one.status)] = success
    if one.route.method == "GET" and one.answer is not None:
        made["304"] = {"description": "The representation is the one the client has.", "headers": _headers("ETag")}
    for status, behind in sorted(one.statuses().items()):
        made[str(status)] = _problem_response(status, [error for error in behind if error is not None])
    return made


def _problem_response(status: int, behind: list[type[errors.HeadwaterError]]) -> dict[str, Any]:
    kinds = {kind.slug: kind for kind in (KINDS[slug] for slug in _KINDS_BY_STATUS.get(status, ()))}
    kinds |= {kind.slug: kind for kind in map(kind_of, sorted(behind, key=lambda error: error.slug))}
    names = {401: ("WWW-Authenticate",), 503: ("Retry-After",)}.get(status, ())
    return {
        "description": "; ".join(sorted({kind.title for kind in kinds.values()})) + ".",
        "headers": _headers(*names),
        "content": {
            "application/problem+json": {
                "schema": {"$ref": _REF.format(name="Problem")},
                "examples": {slug: {"$ref": f"#/components/examples/{slug}"} for slug in kinds},
            }
        },
    }


def _problem_example(kind: Kind) -> Mapping[str, Any]:
    return {
        "type": kind.type,
        "title": kind.title,
        "status": kind.status,
        "detail": kind.meaning,
        "instance": "3b241101e2bb-2a",
        "remedy": kind.remedy,
    }


def _station(path: str, summary: str, schema: dict[str, Any], down: str) -> dict[str, Any]:
    content = {"application/json": {"schema": schema}}
    return {
        "operationId": f"service_{path.strip('/')}",
        "summary": summary,
        "tags": ["service"],
        "responses": {
            "200": {"description": "It serves.", "headers": _headers(), "content": content},
            "503": {"description": down, "headers": _headers(), "content": content},
            "500": _problem_response(500, []),
        },
    }


def _problem_operation(schemas: _Schemas) -> dict[str, Any]:
    from headwater.service.stations import KindAnswer  # stations serve this document

    return {
        "operationId": "service_problem",
        "summary": "What a type of problem means and what to do",
        "tags": ["service"],
        "parameters": [
            {
                "name": "slug",
                "in": "path",
                "required": True,
                "schema": {"type": "string", "enum": list(KINDS)},
                "example": "not-found",
            }
        ],
        "responses": {
            "200": {
                "description": "The type.",
                "headers": _headers("ETag"),
                "content": {"application/json": {"schema": schemas.of(KindAnswer)}, "text/html": {}},
            },
            "304": {"description": "Not Modified"},
            "404": _problem_response(404, []),
            "500": _problem_response(500, []),
        },
    }


def _metrics_operation() -> dict[str, Any]:
    return {
        "operationId": "service_metrics",
        "summary": "Figures for Prometheus",
        "tags": ["service"],
        "responses": {
            "200": {
                "description": "The figures in Prometheus' text format.",
                "headers": _headers(),
                "content": {"text/plain": {"schema": {"type": "string"}}},
            },
            "500": _problem_response(500, []),
        },
    }
