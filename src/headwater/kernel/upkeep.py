"""Upkeep: work that a module wants done again and again by itself, in one process at a time: where the ticker leads."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from headwater.kernel.postgres import Postgres
    from headwater.kernel.ticker import Ticker


@dataclass(frozen=True, kw_only=True)
class Upkeep:
    """`work(postgres)` is called every so many seconds. It may be called twice at once while the lead changes hands:
    it takes its locks as any other writer does, and a call that finds nothing to do is cheap."""

    name: str
    every_seconds: float
    work: Callable[[Postgres], Awaitable[object]]


@dataclass(slots=True)
class UpkeepFigures:
    """What one upkeep has done in this process."""

    runs_total: int = 0
    last_error: str = ""


@contextlib.asynccontextmanager
async def upkept(
    postgres: Postgres, ticker: Ticker, upkeeps: Sequence[Upkeep]
) -> AsyncIterator[dict[str, UpkeepFigures]]:
    """Do the work for as long as the block lasts, whenever this process leads. An error is told and tried again."""
    figures = {one.name: UpkeepFigures() for one in upkeeps}
    tasks = [asyncio.create_task(_keep(postgres, ticker, one, figures[one.name])) for one in upkeeps]
    try:
        yield figures
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _keep(postgres: Postgres, ticker: Ticker, one: Upkeep, figures: UpkeepFigures) -> None:
    while True:
        await ticker.leads()
        try:
            await one.work(postgres)
            figures.last_error = ""
        except Exception as error:  # nobody waits for this work: the figures say it, and it is tried again
            figures.last_error = f"{type(error).__name__}: {error}"
        figures.runs_total += 1
        await asyncio.sleep(one.every_seconds)
