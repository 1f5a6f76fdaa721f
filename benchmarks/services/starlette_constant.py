"""The bare framework: Starlette answers bytes of the right size and knows nothing."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from benchmarks.services.serving import serve

ONE = b"{" + b'"name":"servo"' * 48 + b"}"
PAGE = ONE * 100


async def read(request: Request) -> Response:
    return Response(ONE, media_type="application/json")


async def search(request: Request) -> Response:
    return Response(PAGE, media_type="application/json")


@asynccontextmanager
async def app() -> AsyncIterator[Any]:
    yield Starlette(routes=[Route("/api/assets/search", search), Route("/api/assets/{asset_id}", read)])


if __name__ == "__main__":
    serve(app())
