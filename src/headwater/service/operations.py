"""Operations: a declared route bound to its stores, ready to answer. Everything that can be decided at start-up is."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

import msgspec

from headwater.kernel import idempotency
from headwater.kernel.caller import Caller
from headwater.kernel.errors import Unauthenticated
from headwater.kernel.lifecycle import Headwater
from headwater.kernel.pages import JsonPage, Page
from headwater.kernel.tracking import Context
from headwater.kernel.transaction import Transaction
from headwater.kernel.views import view
from headwater.service.answers import JSON, Answer, body_tag, matches, next_link, renderer
from headwater.service.auth import Gate
from headwater.service.declarations import Declaration
from headwater.service.metrics import Metrics, Tally
from headwater.service.parsing import refused_parameter
from headwater.service.problems import FieldError, Refusal

NO_CACHE = (b"cache-control", b"no-cache")
_IDEMPOTENCY_KEY = re.compile(r"[!-~]{1,255}\Z")


class Request:
    """What an operation needs of one request."""

    __slots__ = ("body", "caller", "headers", "id", "method", "path", "prefix", "query", "values")

    def __init__(
        self,
        method: str,
        path: str,
        prefix: str,
        query: bytes,
        headers: Mapping[bytes, bytes],
        values: list[str],
        request_id: str,
    ) -> None:
        self.method = method
        self.path = path
        self.prefix = prefix
        self.query = query
        self.headers = headers
        self.values = values
        self.id = request_id
        self.body = b""
        self.caller: Caller | None = None


class Operation:
    """One method of one path."""

    needs_slot = True

    def __init__(self, declaration: Declaration, headwater: Headwater, gate: Gate, metrics: Metrics) -> None:
        route = declaration.route
        self.declaration = declaration
        self.tally: Tally = metrics.tally(route.method, route.path)
        self.reads_body = declaration.read_body is not None
        self._gate = gate
        self._metrics = metrics
        self._headwater = headwater
        self._handler = route.handler
        self._scope = route.scope
        self._needs_caller = declaration.needs_caller
        self._path = tuple(declaration.path_parsers)
        self._read_query = declaration.read_query
        self._takes_query = declaration.query_kind is not None
        self._read_body = declaration.read_body
        self._content_types = declaration.content_types
        self._takes_caller = declaration.takes_caller
        self._takes_if_match = declaration.takes_if_match
        self._takes_tx = declaration.takes_tx
        self._isolation = route.isolation
        self._status = declaration.status
        self._render = renderer(declaration.answer)
        self._is_get = route.method == "GET"
        self._is_page = getattr(declaration.answer, "__origin__", None) in (Page, JsonPage)
        self._location = declaration.location
        self._is_idempotent = declaration.is_idempotent
        self._label = f"{route.method} {route.path}"
        self._claims = 0
        self._fingerprint = view(declaration.tagged).fingerprint.encode() if declaration.tagged is not None else b""
        self._fixed: dict[str, Any] = {name: headwater.repository(of) for name, of in declaration.repositories.items()}
        if declaration.takes_headwater is not None:
            self._fixed[declaration.takes_headwater] = headwater

    async def answer(self, request: Request) -> Answer:
        """Authenticate, parse, do the work, write the answer. Raises what the problem table knows."""
        headers = request.headers
        if self._needs_caller or b"authorization" in headers or b"x-api-key" in headers:
            caller = request.caller = await self._gate.caller(headers)
            if caller is None:
                raise Unauthenticated(
                    "This operation needs a key.", remedy="Send `Authorization: Bearer <key>` or `X-API-Key: <key>`."
                )
            if self._scope is not None:
                caller.require(self._scope)
        arguments = self._fixed.copy()
        for name, index, parse in self._path:
            try:
                arguments[name] = parse(request.values[index])
            except msgspec.ValidationError as error:
                raise refused_parameter(name, error) from None
        if self._takes_query:
            arguments["query"] = self._read_query(request.query)
        elif request.query:
            self._read_query(request.query)
        if self._takes_tx is None and self._is_get:  # the hot path
            if self._takes_caller is not None:
                arguments[self._takes_caller] = request.caller
            if self._takes_if_match is not None:
                arguments[self._takes_if_match] = self._if_match(headers)
            return self._written(request, await self._handler(**arguments))
        return await self._changed(request, arguments)

    async def _changed(self, request: Request, arguments: dict[str, Any]) -> Answer:
        if self._read_body is not None:
            self._check_content_type(request)
            arguments["body"] = self._read_body(request.body)
        if self._takes_caller is not None:
            arguments[self._takes_caller] = request.caller
        if self._takes_if_match is not None:
            arguments[self._takes_if_match] = self._if_match(request.headers)
        takes_tx = self._takes_tx
        if takes_tx is None:
            return self._written(request, await self._handler(**arguments))
        if self._is_get:
            async with self._headwater.transaction(isolation="repeatable read", read_only=True) as snapshot:
                return self._written(request, await self._handler(**arguments, **{takes_tx: snapshot}))
        asked = self._claim(request) if self._is_idempotent and b"idempotency-key" in request.headers else None

        async def work(tx: Transaction) -> Answer:
            if asked is None:
                return self._written(request, await self._handler(**arguments, **{takes_tx: tx}))
            before = await idempotency.claim(tx, asked)
            if before is not None:
                self._metrics.idempotency_replays_total += 1
                headers = [(name.encode("latin-1"), text.encode("latin-1")) for name, text in before.headers.items()]
                return Answer(before.status, [*headers, (b"idempotency-replayed", b"true")], before.body)
            answer = self._written(request, await self._handler(**arguments, **{takes_tx: tx}))
            kept = {name.decode("latin-1"): text.decode("latin-1") for name, text in answer.headers}
            await idempotency.store(tx, asked, idempotency.StoredAnswer(answer.status, kept, answer.body))
            return answer

        answer = await self._headwater.run(work, isolation=self._isolation, context=_in_whose_name(request))
        if asked is not None:
            self._claims += 1
            if self._claims % 256 == 0:
                await idempotency.sweep(self._headwater.autocommit)
        return answer

    def _written(self, request: Request, result: Any) -> Answer:
        if result is None:
            return Answer(self._status if self._status != 200 else 204, [NO_CACHE], b"")
        body, tag = self._render(result)
        headers = [JSON, NO_CACHE]
        if self._is_get:
            if tag is None:
                tag = body_tag(body)
            headers.append((b"etag", tag))
            known = request.headers.get(b"if-none-match")
            if known is not None and matches(known, tag):
                return Answer(304, headers[1:], b"")
            if self._is_page and result.next is not None:
                headers.append(next_link(request.prefix, request.path, request.query, result.next))
        else:
            if tag is not None:
                headers.append((b"etag", tag))
            if self._location is not None:
                path, attribute = self._location
                key = quote(str(getattr(result, attribute)), safe="")
                headers.append((b"location", (request.prefix + path.format(key)).encode("ascii")))
        return Answer(self._status, headers, body)

    def _check_content_type(self, request: Request) -> None:
        given = request.headers.get(b"content-type", b"").partition(b";")[0].strip().lower()
        if given not in self._content_types:
            said = given.decode("latin-1") or "none"
            raise Refusal(
                "unsupported-media-type",
                f"The content type of the body is {said}; {self._label} reads "
                f"{' and '.join(one.decode() for one in self._content_types)}.",
                headers=((b"accept-patch", b", ".join(self._content_types)),) if request.method == "PATCH" else (),
            )
        if not request.body:
            raise Refusal("malformed", "The operation needs a JSON body, and there is none.")

    def _if_match(self, headers: Mapping[bytes, bytes]) -> int | None:
        """The version If-Match names. `*` asks only that the row exists, which every change needs anyway."""
        given = headers.get(b"if-match")
        if given is None or given.strip() == b"*":
            return None
        version, _, _ = given.strip().strip(b'"').partition(b"-")
        if given.strip() != b'"%s-%s"' % (version, self._fingerprint) or not version.isdigit() or len(version) > 18:
            raise Refusal(
                "precondition-failed",
                f"If-Match names the tag {given.decode('latin-1')}, which this entity never had.",
                remedy="Read the row and send its ETag as it is. One tag, or `*`.",
            )
        return int(version)

    def _claim(self, request: Request) -> idempotency.Claim:
        key = request.headers[b"idempotency-key"].decode("latin-1")
        if not _IDEMPOTENCY_KEY.match(key):
            raise Refusal(
                "invalid-value",
                "The Idempotency-Key is malformed.",
                errors=[FieldError(parameter="Idempotency-Key", detail="Expected 1 to 255 visible ASCII characters.")],
            )
        asked = hashlib.sha256(b"\0".join((request.path.encode("utf-8", "replace"), request.query, request.body)))
        return idempotency.Claim(
            key=key,
            caller_id=request.caller.id if request.caller is not None else idempotency.NOBODY,
            route=self._label,
            request_sha256=asked.digest(),
        )


def _in_whose_name(request: Request) -> Context:
    """What stands on each change this request makes, in the change stream."""
    caller = request.caller
    return Context(actor=None if caller is None else str(caller.user_id or caller.id), request=request.id)
