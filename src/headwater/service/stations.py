"""Stations: what the service answers about itself: health, readiness, metrics, documents, problem types.

They take no slot: a service that is full must still be able to say so.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from time import monotonic

import msgspec

from headwater import __version__
from headwater.followers.invalidation import relay_standing
from headwater.kernel import health
from headwater.kernel.changes import Stream
from headwater.kernel.errors import HeadwaterError, Unreachable
from headwater.kernel.followers import standings
from headwater.kernel.health import StoreHealth
from headwater.kernel.lifecycle import Headwater
from headwater.kernel.rendering import encode
from headwater.kernel.wire import ReplyError
from headwater.service import docs
from headwater.service.answers import JSON, Answer, body_tag, matches
from headwater.service.metrics import CONTENT_TYPE, Metrics, StreamFigures, Tally
from headwater.service.operations import NO_CACHE, Request
from headwater.service.problems import KINDS, Refusal

READINESS_REMEMBERED_SECONDS = 2.0
_STREAM_SECONDS_MAX = 1.0


class HealthAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """How the service is: `ok`, `degraded` (it serves without Valkey) or `down` (PostgreSQL does not answer)."""

    status: str
    system: str
    version: str
    stores: dict[str, StoreHealth]


class ReadyAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """Whether requests should be sent here; `reasons` says why not."""

    ready: bool
    reasons: list[str]


class KindAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """What a type of problem means and what to do about it."""

    type: str
    title: str
    status: int
    meaning: str
    remedy: str


class Station:
    """One GET of the service itself."""

    needs_slot = False
    reads_body = False

    def __init__(self, path: str, work: Callable[[Request], Awaitable[Answer]], tally: Tally) -> None:
        self.path = path
        self.tally = tally
        self.answer = work


def stations(headwater: Headwater, metrics: Metrics, document: bytes, for_clients: bytes) -> list[Station]:
    """All of them."""
    readiness = _Readiness(headwater)

    async def healthy(_: Request) -> Answer:
        found = await health.probe(headwater)
        shown = HealthAnswer(
            status=found.status, system=headwater.system.name, version=__version__, stores=found.stores
        )
        return Answer(503 if found.status == "down" else 200, [JSON, NO_CACHE], encode(shown))

    async def ready(_: Request) -> Answer:
        reasons = await readiness.reasons()
        shown = ReadyAnswer(ready=not reasons, reasons=reasons)
        return Answer(503 if reasons else 200, [JSON, NO_CACHE], encode(shown))

    async def figures(_: Request) -> Answer:
        metrics.stream = await _stream_figures(headwater)
        return Answer(200, [(b"content-type", CONTENT_TYPE), NO_CACHE], metrics.exposition())

    async def problem(request: Request) -> Answer:
        kind = KINDS.get(request.values[0])
        if kind is None:
            raise Refusal("not-found", f"There is no problem type '{request.values[0]}'.")
        if b"text/html" in request.headers.get(b"accept", b""):
            return _page(request, docs.problem_page(kind))
        shown = KindAnswer(
            type=kind.type, title=kind.title, status=kind.status, meaning=kind.meaning, remedy=kind.remedy
        )
        return _constant(request, encode(shown), JSON)

    async def described(request: Request) -> Answer:
        return _constant(request, for_clients if request.query == b"for=clients" else document, JSON)

    page = docs.operations_page(msgspec.json.decode(document))

    async def documented(request: Request) -> Answer:
        return _page(request, page)

    index_body = encode(
        {
            "service": "headwater",
            "system": headwater.system.name,
            "version": __version__,
            "docs": "/docs",
            "openapi": "/openapi.json",
            "health": "/health",
            "ready": "/ready",
            "metrics": "/metrics",
        }
    )

    async def index(request: Request) -> Answer:
        return _constant(request, index_body, JSON)

    works: dict[str, Callable[[Request], Awaitable[Answer]]] = {
        "/health": healthy,
        "/ready": ready,
        "/metrics": figures,
        "/problems/{slug}": problem,
        "/openapi.json": described,
        "/docs": documented,
        "/": index,
    }
    return [Station(path, work, metrics.tally("GET", path)) for path, work in works.items()]


class _Readiness:
    """Ready means: PostgreSQL answers and no revision is pending. A good answer is remembered for a moment."""

    def __init__(self, headwater: Headwater) -> None:
        self._headwater = headwater
        self._good_until = 0.0

    async def reasons(self) -> list[str]:
        headwater = self._headwater
        found = await health.probe(headwater)
        postgres = found.stores["postgres"]
        if postgres.status != "ok":
            return [f"PostgreSQL does not answer. {postgres.reason or ''}".rstrip()]
        if monotonic() < self._good_until:
            return []
        try:
            pending = await _pending(headwater)
        except HeadwaterError as error:
            return [str(error)]
        if pending:
            return [f"Revisions are pending: {', '.join(pending)}."]
        self._good_until = monotonic() + READINESS_REMEMBERED_SECONDS
        return []


async def _stream_figures(headwater: Headwater) -> StreamFigures | None:
    """None while PostgreSQL is away or has no stream yet: the other figures are shown all the same."""
    try:
        async with asyncio.timeout(_STREAM_SECONDS_MAX):
            postgres, cache = headwater.postgres, headwater.postgres.cache
            relay = None
            if cache is not None:
                with contextlib.suppress(Unreachable, ReplyError):
                    relay = await relay_standing(cache)
            return StreamFigures(await Stream(postgres).head(), await standings(postgres), relay)
    except (HeadwaterError, TimeoutError):
        return None


async def _pending(headwater: Headwater) -> list[str]:
    from headwater.kernel import migrations  # Alembic is loaded by the first who asks

    return [planned.revision for planned in await migrations.plan(headwater.system, headwater.settings)]


def _constant(request: Request, body: bytes, kind: tuple[bytes, bytes]) -> Answer:
    tag = body_tag(body)
    known = request.headers.get(b"if-none-match")
    if known is not None and matches(known, tag):
        return Answer(304, [NO_CACHE, (b"etag", tag)], b"")
    return Answer(200, [kind, NO_CACHE, (b"etag", tag)], body)


def _page(request: Request, page: str) -> Answer:
    answer = _constant(request, page.encode(), (b"content-type", b"text/html; charset=utf-8"))
    policy = f"default-src 'none'; style-src '{docs.STYLE_HASH}'; base-uri 'none'; form-action 'none'"
    return Answer(answer.status, [*answer.headers, (b"content-security-policy", policy.encode())], answer.body)
