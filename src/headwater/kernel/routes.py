"""Route: what a module declares of its HTTP face. The service reads these; nothing here serves anything."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from headwater.kernel.errors import HeadwaterError

Method = Literal["GET", "POST", "PUT", "PATCH", "DELETE"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """One operation. The handler's annotations say the rest:

    - a parameter named in the path (`{user_id}`) is parsed to its annotated type (UUID, int, str, an Enum, or
      `Annotated[..., msgspec.Meta(...)]`), and a malformed one is refused before the handler runs;
    - `query: SomeStruct` is filled from the query string, `body: SomeStruct` from the JSON body; unknown names are refused;
    - a parameter annotated with a `Repository` class receives that repository;
    - `tx: Transaction` receives a transaction that the service commits after the handler returns (not on GET);
    - `caller: Caller` receives who asks; `headwater: Headwater` the open data layer;
    - `if_match: int | None` receives the version of an If-Match header.

    The return annotation is the answer: a `Model` (one entity), `Page[Model]`, a msgspec Struct, a list of those, or None.
    `scope` is `module:entity:action`; None means that anyone may. `raises` are the errors a client can meet, for the
    OpenAPI document. `examples` shows one request body and/or query by name, `answer` one answer.
    """

    method: Method
    path: str
    handler: Callable[..., Awaitable[Any]]
    summary: str
    description: str = ""
    status: int = 200
    scope: str | None = None
    raises: tuple[type[HeadwaterError], ...] = ()
    path_examples: Mapping[str, str] = field(default_factory=dict)
    query_example: Mapping[str, Any] | None = None
    body_example: Mapping[str, Any] | None = None
    answer_example: Any = None
    tag: str = ""
