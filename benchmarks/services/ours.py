"""Ours: the service of the system `construct` as `headwater up` serves it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from benchmarks.services.serving import dsn, serve
from headwater import Headwater, Settings
from headwater.service.app import create_app
from headwater.systems.construct import CONSTRUCT


@asynccontextmanager
async def app() -> AsyncIterator[Any]:
    async with Headwater.open(CONSTRUCT, Settings(database_url=dsn())) as headwater:
        yield create_app(headwater)


if __name__ == "__main__":
    serve(app())
