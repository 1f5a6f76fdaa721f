"""follow: what follows the change stream of a system, in this process: ticker, relay of the cache, your own followers.

Any number of processes may do it: one ticker and one relay lead, and others take over.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass

from headwater.followers.invalidation import Invalidation, relaying
from headwater.kernel.followers import Follower, following
from headwater.kernel.lifecycle import Headwater
from headwater.kernel.ticker import Ticker, ticking


@dataclass(frozen=True, slots=True)
class Following:
    """What runs. `relay` is None without a Valkey."""

    ticker: Ticker
    relay: Invalidation | None


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
        yield Following(ticker, relay)
