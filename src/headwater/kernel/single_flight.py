"""Single flight: one load of a name at a time, shared by all who ask before it begins."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Hashable
from typing import Any, TypeVar, cast

T = TypeVar("T")


class SingleFlight:
    """Belongs to one event loop. `spawn` begins work that ends with its owner.

    Who asks during a load shares the one that begins after it: the one under way may have read before what they know of
    was written.
    """

    def __init__(self, spawn: Callable[[Any], asyncio.Task[Any]]) -> None:
        self._spawn = spawn
        self._next: dict[Hashable, asyncio.Task[Any]] = {}
        self._under_way: dict[Hashable, asyncio.Task[Any]] = {}

    async def load(self, name: Hashable, load: Callable[[], Awaitable[T]]) -> T:
        """What `load` gives, or that of somebody who asked for the same name. Raises what it raises.

        Whoever gives up takes nothing from the others.
        """
        task = self._next.get(name)
        if task is None:
            task = self._next[name] = self._spawn(self._run(name, load))
        return cast(T, await asyncio.shield(task))

    async def _run(self, name: Hashable, load: Callable[[], Awaitable[T]]) -> T:
        before = self._under_way.get(name)
        if before is not None:
            await asyncio.wait([before])
        self._under_way[name] = self._next.pop(name)
        try:
            return await load()
        finally:
            del self._under_way[name]
