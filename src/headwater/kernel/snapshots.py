"""Snapshots of PostgreSQL as text (`xmin:xmax:running,running`): what a read has seen, and which of two saw more.

On one primary all snapshots lie in one order: whatever an earlier one shows, a later one shows too. That makes them
the version of every cached value: exact for any writer, whatever columns it touches.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from time import monotonic
from typing import NamedTuple


class Snapshot(NamedTuple):
    """Transactions below `xmin` have ended, from `xmax` on none is seen; `running` are those between that are not."""

    xmin: int
    xmax: int
    running: frozenset[int]


@lru_cache(maxsize=4_096)
def parse(text: bytes | str) -> Snapshot:
    """Read what `pg_current_snapshot()::text` wrote."""
    xmin, xmax, running = (text.decode() if isinstance(text, bytes) else text).split(":")
    return Snapshot(int(xmin), int(xmax), frozenset(map(int, running.split(","))) if running else frozenset())


def seen(xid: int, snapshot: Snapshot) -> bool:
    """Whether the transaction had ended when the snapshot was taken."""
    return xid < snapshot.xmin or (xid < snapshot.xmax and xid not in snapshot.running)


def covers(later: bytes | str, earlier: bytes | str) -> bool:
    """Whether `later` shows everything that `earlier` shows."""
    if later == earlier:
        return True
    new, old = parse(later), parse(earlier)
    if any(xid < old.xmax and seen(xid, old) for xid in new.running):
        return False
    if new.xmax >= old.xmax:
        return True
    hidden = sum(1 for xid in old.running if xid >= new.xmax)
    return hidden == old.xmax - max(new.xmax, old.xmin) and new.xmax >= old.xmin


def fulfilled(needs: bytes, snapshot: bytes | str) -> bool:
    """Whether a read in `snapshot` has seen what an entry's `floor;xid,xid` asks for (as in cache.lua)."""
    floor, _, xids = needs.partition(b";")
    taken = parse(snapshot)
    if int(floor) > 0 and taken.xmin <= int(floor):
        return False
    return all(seen(int(xid), taken) for xid in xids.split(b",") if xid)


FLOORS_MAX = 10_000


class Floors(dict[bytes, tuple[str, float]]):
    """By key, what this process has seen of it past the cache: what the cache gives must have seen as much.

    So a process never reads back in time. After `seconds` a floor is no longer needed: the guard says the same.
    `lifted` hears of each: a value that is kept nearby has seen less.
    """

    def __init__(self, seconds: float, *, lifted: Callable[[bytes], None]) -> None:
        super().__init__()
        self._seconds = seconds
        self._lifted = lifted

    def lift(self, name: bytes, snapshot: str) -> None:
        """A read went past the cache."""
        if len(self) >= FLOORS_MAX:
            self.forget_old()
        self[name] = (snapshot, monotonic())
        self._lifted(name)

    def above(self, name: bytes, snapshot: bytes) -> bool:
        """Whether an entry has seen less than this process has."""
        floor = self.get(name)
        if floor is None:
            return False
        if not covers(snapshot.decode(), floor[0]):
            return True
        del self[name]
        return False

    def forget_old(self) -> None:
        """Remove those that are not needed any more."""
        old = monotonic() - self._seconds
        for name in [name for name, floor in self.items() if floor[1] <= old]:
            del self[name]
