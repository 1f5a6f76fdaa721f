"""The app: one ASGI callable made from the declarations of a system's modules. Mount it, or serve it alone.

A request, read aloud: find the operation, take a slot, answer (authenticate, parse, work, write), leave the slot, send.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from time import perf_counter
from typing import Any
from urllib.parse import unquote

from starlette.types import ASGIApp, Receive, Scope, Send

from headwater.kernel.errors import HeadwaterError, ProgrammingError
from headwater.kernel.lifecycle import Headwater
from headwater.kernel.rendering import encode
from headwater.kernel.routes import Route
from headwater.service import openapi
from headwater.service.admin import admin_routes
from headwater.service.admission import Admission
from headwater.service.answers import PROBLEM_JSON, Answer
from headwater.service.auth import Authenticate, Gate, authenticate_with
from headwater.service.declarations import declarations
from headwater.service.logs import ACCESS, SERVICE
from headwater.service.metrics import Metrics, Tally
from headwater.service.operations import Operation, Request
from headwater.service.problems import Refusal, problem_of
from headwater.service.process import settle
from headwater.service.router import Router
from headwater.service.stations import Station, stations

BODY_BYTES_MAX = 1024 * 1024

_SECURITY = (
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
)
_CORS_HEADERS = (
    "Authorization",
    "X-API-Key",
    "Content-Type",
    "If-Match",
    "If-None-Match",
    "Idempotency-Key",
    "X-Request-Id",
)
_NO_STORE = (b"cache-control", b"no-store")
_REQUEST_ID = re.compile(rb"[A-Za-z0-9._:-]{1,128}\Z")


class _Gone(Exception):  # noqa: N818  # the client ended it; nobody is told
    """The client went away before its request was complete."""


class Service:
    """The app. `create_app` makes it."""

    def __init__(
        self,
        headwater: Headwater,
        *,
        authenticate: Authenticate,
        routes: Iterable[tuple[str, Route]],
        admission: Admission,
        body_bytes_max: int,
        access_log: bool,
    ) -> None:
        self.headwater = headwater
        self.admission = admission
        self.metrics = Metrics(admission, headwater.postgres.figures)
        self.metrics.cache = headwater.postgres.cache
        self._body_bytes_max = body_bytes_max
        self._access_log = access_log
        self._router: Router[Operation | Station] = Router()
        self._unmatched: Tally = self.metrics.tally("*", "unmatched")
        self._run = os.urandom(6).hex()
        self._requests = 0
        declared = declarations(headwater.system, routes)
        gate = Gate(authenticate)
        for declaration in declared:
            operation = Operation(declaration, headwater, gate, self.metrics)
            self._router.add(declaration.route.method, declaration.route.path, operation)
        documents = [openapi.document(headwater.system, declared, for_clients=clients) for clients in (False, True)]
        for station in stations(headwater, self.metrics, documents[0], documents[1]):
            self._router.add("GET", station.path, station)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One ASGI connection."""
        if scope["type"] == "http":
            await self._serve(scope, receive, send)
        elif scope["type"] == "lifespan":
            await _lifespan(receive, send)
        elif scope["type"] == "websocket":
            await receive()
            await send({"type": "websocket.close", "code": 4404, "reason": "There is no socket at this path."})

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        started = perf_counter()
        metrics = self.metrics
        metrics.in_flight += 1
        headers: dict[bytes, bytes] = dict(scope["headers"])
        request_id = headers.get(b"x-request-id")
        if request_id is None or not _REQUEST_ID.match(request_id):
            self._requests += 1
            request_id = b"%s-%x" % (self._run.encode(), self._requests)
        method: str = scope["method"]
        tally = self._unmatched
        request: Request | None = None
        try:
            try:
                path, prefix, segments = _path(scope)
                found = self._router.find(path, segments)
                if found is None:
                    raise Refusal("not-found", f"There is nothing at {path}.")
                node, values = found
                target = node.by_method.get("GET" if method == "HEAD" else method)
                if target is None:
                    answer = _without_operation(method, path, node.allow)
                else:
                    tally = target.tally
                    request = Request(method, path, prefix, scope["query_string"], headers, values, request_id.decode())
                    if target.needs_slot:
                        if target.reads_body:
                            request.body = await self._body(receive, headers)
                        door = self.admission
                        await door.enter()
                        try:
                            answer = await target.answer(request)
                        finally:
                            door.leave()
                    else:
                        answer = await target.answer(request)
            except (Refusal, HeadwaterError) as error:
                answer = self._refused(error, request_id, headers)
            except _Gone:
                return
            except Exception as error:  # the last line: nothing of the inside leaves, everything is logged
                answer = self._failed(error, request_id, method, scope["path"])
            await send(
                {
                    "type": "http.response.start",
                    "status": answer.status,
                    "headers": [
                        *answer.headers,
                        (b"content-length", b"%d" % len(answer.body)),
                        (b"x-request-id", request_id),
                        *_SECURITY,
                    ]
                    if answer.status not in (204, 304)
                    else [*answer.headers, (b"x-request-id", request_id), *_SECURITY],
                }
            )
            await send({"type": "http.response.body", "body": b"" if method == "HEAD" else answer.body})
        finally:
            metrics.in_flight -= 1
        seconds = perf_counter() - started
        tally.count(answer.status, seconds)
        if self._access_log:
            self._log(scope, tally, answer, seconds, request_id, request)

    async def _body(self, receive: Receive, headers: dict[bytes, bytes]) -> bytes:
        limit = self._body_bytes_max
        declared = headers.get(b"content-length", b"0")
        if declared.isdigit() and int(declared) > limit:
            raise _too_large(limit)
        message = await receive()
        body: bytes = message.get("body", b"")
        if message["type"] == "http.disconnect":
            raise _Gone
        if not message.get("more_body", False):
            if len(body) > limit:
                raise _too_large(limit)
            return body
        parts, size = [body], len(body)
        while message.get("more_body", False):
            message = await receive()
            if message["type"] == "http.disconnect":
                raise _Gone
            parts.append(message.get("body", b""))
            size += len(parts[-1])
            if size > limit:
                raise _too_large(limit)
        return b"".join(parts)

    def _refused(self, error: Refusal | HeadwaterError, request_id: bytes, headers: dict[bytes, bytes]) -> Answer:
        if isinstance(error, ProgrammingError):
            SERVICE.error("a request met a fault of the service", exc_info=error, extra=_facts(request_id))
        problem, more = problem_of(error, request_id.decode(), if_match=b"if-match" in headers)
        return Answer(problem.status, [PROBLEM_JSON, _NO_STORE, *more], encode(problem))

    def _failed(self, error: Exception, request_id: bytes, method: str, path: str) -> Answer:
        SERVICE.error("%s %s failed", method, path, exc_info=error, extra=_facts(request_id))
        problem, _ = problem_of(error, request_id.decode())
        return Answer(500, [PROBLEM_JSON, _NO_STORE], encode(problem))

    def _log(
        self, scope: Scope, tally: Tally, answer: Answer, seconds: float, request_id: bytes, request: Request | None
    ) -> None:
        caller = request.caller if request is not None else None
        facts: dict[str, Any] = {
            "request_id": request_id.decode(),
            "method": scope["method"],
            "path": scope["path"],
            "route": tally.route,
            "status": answer.status,
            "ms": round(seconds * 1000, 3),
            "bytes": len(answer.body),
            "caller": None if caller is None else str(caller.id),
        }
        ACCESS.info("%s %s %d", scope["method"], scope["path"], answer.status, extra={"facts": facts})


def create_app(
    headwater: Headwater,
    *,
    authenticate: Authenticate | None = None,
    routes: Iterable[Route] = (),
    admission: Admission | None = None,
    body_bytes_max: int = BODY_BYTES_MAX,
    access_log: bool = False,
) -> ASGIApp:
    """The service of an open data layer.

    `authenticate` turns a key into its Caller (default: the identity module); `routes` adds operations that belong
    to no module; `access_log` writes a line per request to the logger `headwater.access`. Raises ProgrammingError for
    a route that cannot work or that changes something and asks for no scope.
    """
    service: ASGIApp = Service(
        headwater,
        authenticate=authenticate if authenticate is not None else authenticate_with(headwater),
        routes=[*(("service", route) for route in admin_routes()), *(("application", route) for route in routes)],
        admission=admission if admission is not None else Admission(),
        body_bytes_max=body_bytes_max,
        access_log=access_log,
    )
    origins = [origin.strip() for origin in headwater.settings.cors_origins.split(",") if origin.strip()]
    if not origins:
        return service
    from starlette.middleware.cors import CORSMiddleware  # only those who are asked across origins pay for it

    return CORSMiddleware(
        service,
        allow_origins=origins,
        allow_methods=["GET", "POST", "PUT", "PATCH", "DELETE"],
        allow_headers=list(_CORS_HEADERS),
        expose_headers=["ETag", "Link", "Location", "Retry-After", "X-Request-Id", "Idempotency-Replayed"],
        max_age=600,
    )


def _path(scope: Scope) -> tuple[str, str, list[str] | None]:
    """The path below where the app is mounted, the mount's prefix, and the segments when one holds an escaped slash."""
    path: str = scope["path"]
    prefix: str = scope.get("root_path", "")
    if prefix:
        if path == prefix or path.startswith(prefix + "/"):
            path = path[len(prefix) :] or "/"
        return path, prefix, None
    raw: bytes | None = scope.get("raw_path")
    if raw is not None and b"%2" in raw and (b"%2F" in raw or b"%2f" in raw):
        return path, prefix, [unquote(part) for part in raw.partition(b"?")[0].decode("latin-1").split("/")]
    return path, prefix, None


def _without_operation(method: str, path: str, allow: str) -> Answer:
    if method == "OPTIONS":
        return Answer(204, [(b"allow", allow.encode())], b"")
    raise Refusal(
        "method-not-allowed",
        f"{path} does not answer to {method}; it answers to {allow}.",
        headers=((b"allow", allow.encode()),),
    )


def _too_large(limit: int) -> Refusal:
    return Refusal("too-large", f"The body has more than {limit} bytes.", headers=((b"connection", b"close"),))


def _facts(request_id: bytes) -> dict[str, Any]:
    return {"facts": {"request_id": request_id.decode()}}


async def _lifespan(receive: Receive, send: Send) -> None:
    """The data layer is opened and closed by whoever made the app. A mounted app is never sent these messages."""
    while True:
        message = await receive()
        if message["type"] == "lifespan.startup":
            settle()
        await send({"type": f"{message['type']}.complete"})
        if message["type"] == "lifespan.shutdown":
            return
