"""Stores: the PostgreSQL a benchmark runs on: embedded, durable (fsync on), in a home that is removed afterwards."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from headwater.embedded.postgres import EmbeddedPostgres


@asynccontextmanager
async def temporary_home() -> AsyncIterator[Path]:
    """A folder for one run."""
    folder = Path(tempfile.mkdtemp(prefix="headwater-benchmark-"))
    try:
        yield folder / "home"
    finally:
        shutil.rmtree(folder)


@asynccontextmanager
async def durable_postgres() -> AsyncIterator[EmbeddedPostgres]:
    """A running server with the settings `headwater up` gives it."""
    async with temporary_home() as home, EmbeddedPostgres(home) as postgres:
        yield postgres
