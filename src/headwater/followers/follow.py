"""follow: what follows the change stream of a system, in this process: ticker, relay of the cache, your own followers.

Any number of processes may do it: one ticker and one relay lead, and others take over. The upkeep of the modules goes
with the ticker.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass

from headwater.followers.invalidation import Invalidation, relaying
from headwater.kernel.followers import Follower, following
from headwater.kernel.lifecycle import Headwater
from headwater.kernel.ticker import Ticker, ticking
from headwater.kernel.upkeep import UpkeepFigures, upkept


@dataclass(frozen=True, slots=True)
class Following:
    """What runs. `relay` is None without a Valkey; `upkeep` has the figures of each, by name."""

    ticker: Ticker
    relay: Invalidation | None
    upkeep: dict[str, UpkeepFigures]


@contextlib.asynccontextmanager
async def follow(headwater: Headwater, *followers: Follower) -> AsyncIterator[Following]:
    """Follow for as long as the block lasts. Without anybody who does, the stream is not told and no cache is believed.

    `async with Headwater.open(SHOP) as headwater, follow(headwater): ...`
    """
    async with contextlib.AsyncExitStack() as ending:
        ticker = await ending.enter_async_context(ticking(headwater.settings))
        relay = await ending.enter_async_context(relaying(headwater.system, headwater.settings))
        if followers:
            await ending.enter_async_context(following(*followers))
        upkeeps = [one for module in headwater.system.modules for one in module.upkeep]
        yield Following(ticker, relay, await ending.enter_async_context(upkept(headwater.postgres, ticker, upkeeps)))
