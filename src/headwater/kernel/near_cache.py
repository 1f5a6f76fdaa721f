"""NearCache: values of one kind inside the process, bounded, and not washed out by a scan.

SIEVE (Zhang et al., NSDI 2024): a hit sets a mark and moves nothing; the hand passes marked entries by once and
removes the first unmarked one. What is read once leaves before what is read again. Who stores must say which read it
was (`begin`), so that an invalidation that came in between wins.
"""

from __future__ import annotations

from typing import Any


class _Node:
    __slots__ = ("deadline", "key", "newer", "older", "value", "visited")

    def __init__(self, key: Any, value: Any, deadline: float) -> None:
        self.key = key
        self.value = value
        self.deadline = deadline
        self.visited = False
        self.newer: _Node | None = None
        self.older: _Node | None = None


class NearCache:
    """A bounded map from keys to values with a time each ends."""

    __slots__ = ("_hand", "_newest", "_oldest", "_reading", "entries", "size_max")

    def __init__(self, size_max: int) -> None:
        self.size_max = size_max
        self.entries: dict[Any, _Node] = {}
        self._reading: dict[Any, object] = {}
        self._newest: _Node | None = None
        self._oldest: _Node | None = None
        self._hand: _Node | None = None

    def __len__(self) -> int:
        return len(self.entries)

    def get(self, key: Any, now: float, absent: Any = None) -> Any:
        """The value, or `absent`."""
        node = self.entries.get(key)
        if node is None or now >= node.deadline:
            return absent
        node.visited = True
        return node.value

    def begin(self, key: Any) -> object:
        """A read of `key` is on its way; `store` needs what this returns. Called before the request is sent."""
        ticket = self._reading[key] = object()
        return ticket

    def store(self, key: Any, ticket: object, value: Any, deadline: float) -> bool:
        """Keep what was read, unless the key was discarded, or read anew, since `begin`."""
        if self._reading.get(key) is not ticket:
            return False
        del self._reading[key]
        node = self.entries.get(key)
        if node is not None:
            node.value, node.deadline = value, deadline
            return True
        if len(self.entries) >= self.size_max:
            self._evict()
        node = self.entries[key] = _Node(key, value, deadline)
        node.older, self._newest = self._newest, node
        if node.older is not None:
            node.older.newer = node
        else:
            self._oldest = node
        return True

    def abandon(self, key: Any, ticket: object) -> None:
        """The read gave nothing to keep."""
        if self._reading.get(key) is ticket:
            del self._reading[key]

    def discard(self, key: Any) -> None:
        """The key has changed: forget its value and the reads of it that are on their way."""
        self._reading.pop(key, None)
        node = self.entries.pop(key, None)
        if node is not None:
            self._unlink(node)

    def clear(self) -> None:
        """Forget everything, the reads on their way too."""
        self.entries.clear()
        self._reading.clear()
        self._newest = self._oldest = self._hand = None

    def _evict(self) -> None:
        node = self._hand or self._oldest
        while node is not None and node.visited:
            node.visited = False
            node = node.newer or self._oldest
        if node is not None:
            self._hand = node.newer
            del self.entries[node.key]
            self._unlink(node)

    def _unlink(self, node: _Node) -> None:
        if node is self._hand:
            self._hand = node.newer
        if node.newer is not None:
            node.newer.older = node.older
        else:
            self._newest = node.older
        if node.older is not None:
            node.older.newer = node.newer
        else:
            self._oldest = node.newer
        node.newer = node.older = None
