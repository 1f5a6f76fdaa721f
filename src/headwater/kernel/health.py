"""Health: whether each store answers, and how fast. PostgreSQL decides whether we are up; Valkey only how well."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from time import perf_counter
from typing import TYPE_CHECKING, Literal

import msgspec

from headwater.kernel.errors import HeadwaterError

if TYPE_CHECKING:
    from headwater.kernel.lifecycle import Headwater

PROBE_TIMEOUT_SECONDS = 2.0
Status = Literal["ok", "degraded", "down"]


class StoreHealth(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One store: `ok` with its latency, `down` with the reason, or `off` when none is configured."""

    status: Literal["ok", "down", "off"]
    latency_ms: float | None = None
    reason: str | None = None


class Health(msgspec.Struct, frozen=True, kw_only=True):
    """`ok`: all stores answer. `degraded`: PostgreSQL answers, another does not. `down`: PostgreSQL does not answer."""

    status: Status
    stores: dict[str, StoreHealth]


async def probe(headwater: Headwater, *, timeout_seconds: float = PROBE_TIMEOUT_SECONDS) -> Health:
    """Ask every store at the same time; none may take longer than `timeout_seconds`. Never raises for a store."""
    names = ["postgres", "valkey"]
    pings: list[Callable[[], Awaitable[object]] | None] = [
        headwater.postgres.ping,
        headwater.valkey.ping if headwater.valkey is not None else None,
    ]
    found = await asyncio.gather(*(_probe(ping, timeout_seconds) for ping in pings))
    stores = dict(zip(names, found, strict=True))
    status: Status = "ok"
    if stores["postgres"].status != "ok":
        status = "down"
    elif any(store.status == "down" for store in found):
        status = "degraded"
    return Health(status=status, stores=stores)


async def _probe(ping: Callable[[], Awaitable[object]] | None, timeout_seconds: float) -> StoreHealth:
    if ping is None:
        return StoreHealth(status="off")
    started = perf_counter()
    try:
        async with asyncio.timeout(timeout_seconds):
            await ping()
    except TimeoutError:
        return StoreHealth(status="down", reason=f"It did not answer within {timeout_seconds:g} s.")
    except HeadwaterError as error:
        return StoreHealth(status="down", reason=error.message)
    except Exception as error:  # a client raises what it likes; here each failure means the same: it does not answer
        return StoreHealth(status="down", reason=f"It does not answer ({type(error).__name__}).")
    return StoreHealth(status="ok", latency_ms=round((perf_counter() - started) * 1000, 3))
