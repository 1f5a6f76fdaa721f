"""Route: what a module declares of its HTTP face. The service reads these; nothing here serves anything."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from headwater.kernel.errors import HeadwaterError

Method = Literal["GET", "POST", "PUT", "PATCH", "DELETE"]
Isolation = Literal["read committed", "repeatable read", "serializable"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """One operation. The handler's annotations say the rest:

    - a parameter named in the path (`{user_id}`) is parsed to its annotated type (UUID, int, str, an Enum, or
      `Annotated[..., msgspec.Meta(...)]`), and a malformed one is refused before the handler runs;
    - `query: SomeStruct` is filled from the query string, `body: SomeStruct` from the JSON body; unknown names are
      refused, integers are bounded to PostgreSQL's bigint, text with NUL characters is refused;
    - a parameter annotated with a `Repository` class receives that repository;
    - `tx: Transaction` receives a transaction that the service commits after the handler returns; the work runs again
      after a deadlock or a serialization failure. On GET it is a read-only snapshot;
    - `caller: Caller` receives who asks and needs a key; `caller: Caller | None` makes the key optional;
    - `headwater: Headwater` receives the open data layer;
    - `if_match: int | None` receives the version an If-Match header names.

    The return annotation is the answer: a `Model` (one entity), `Page[Model]` or `JsonPage[Model]` (the same page at a
    third of the cost), a msgspec Struct, a list of those, or None. Annotations are resolved when the service starts, so
    their names must be importable at run time.

    `scope` is `module:entity:action`. A GET without one is open to everybody; any other method without one must say
    `public=True` (registration, login), or the service does not start. `raises` are the errors a client can meet, for
    the OpenAPI document. The examples show a value per path parameter, a query, a request body and an answer.
    `location` is the path of a created entity, `/api/assets/{id}`, where the service cannot find its GET by itself.
    """

    method: Method
    path: str
    handler: Callable[..., Awaitable[Any]]
    summary: str
    description: str = ""
    status: int = 200
    scope: str | None = None
    public: bool = False
    raises: tuple[type[HeadwaterError], ...] = ()
    path_examples: Mapping[str, str] = field(default_factory=dict)
    query_example: Mapping[str, Any] | None = None
    body_example: Mapping[str, Any] | None = None
    answer_example: Any = None
    tag: str = ""
    location: str | None = None
    isolation: Isolation = "read committed"
    deprecated: bool = False
