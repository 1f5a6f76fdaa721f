"""Upkeep is done again and again where the ticker leads, and nowhere else; an error is told and it is tried again."""

from __future__ import annotations

import asyncio
from typing import Any

from headwater.kernel.lifecycle import Headwater
from headwater.kernel.postgres import Postgres
from headwater.kernel.settings import Settings
from headwater.kernel.ticker import Ticker, ticking
from headwater.kernel.upkeep import Upkeep, upkept


async def _until(condition: Any) -> None:
    async with asyncio.timeout(30):
        while not condition():  # noqa: ASYNC110  # another task makes it so
            await asyncio.sleep(0.005)


async def test_it_is_done_again_and_an_error_is_told_and_tried_again(headwater: Headwater, settings: Settings) -> None:
    outcomes = iter([None, ValueError("no luck"), None, None])
    seen: list[str] = []

    async def work(postgres: Postgres) -> None:
        assert postgres is headwater.postgres
        outcome = next(outcomes, None)
        seen.append(figures["sweep"].last_error)
        if outcome is not None:
            raise outcome

    sweep = Upkeep(name="sweep", every_seconds=0.01, work=work)
    async with ticking(settings) as ticker, upkept(headwater.postgres, ticker, [sweep]) as figures:
        await _until(lambda: figures["sweep"].runs_total >= 4)
    assert seen[:4] == ["", "", "ValueError: no luck", ""]
    done = len(seen)
    await asyncio.sleep(0.05)
    assert len(seen) == done, "it goes on after the block"


async def test_who_does_not_lead_does_not_do_it(headwater: Headwater, settings: Settings) -> None:
    did: list[str] = []

    def upkeep_of(name: str) -> Upkeep:
        async def work(_: Postgres) -> None:
            did.append(name)

        return Upkeep(name=name, every_seconds=0.01, work=work)

    async with ticking(settings) as leading:
        await leading.leads()
        idle = Ticker(settings)
        standing = asyncio.create_task(idle.run())
        async with (
            upkept(headwater.postgres, idle, [upkeep_of("idle")]),
            upkept(headwater.postgres, leading, [upkeep_of("leading")]),
        ):
            await _until(lambda: len(did) >= 5)
        standing.cancel()
        await asyncio.gather(standing, return_exceptions=True)
    assert set(did) == {"leading"}
