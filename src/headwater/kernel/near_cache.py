"""NearCache: values of one kind inside the process, bounded, and not washed out by a scan.

SIEVE (Zhang et al., NSDI 2024): a hit sets a mark and moves nothing; the hand passes marked entries by once and
removes the first unmarked one. What is read once leaves before what is read again. Who stores must say which read it
was (`begin`), so that an invalidation that came in between wins.
"""

from __future__ import annotations

import asyncio
from typing import Any
from uuid import UUID


class Answer(asyncio.Future[Any]):
    """What a read gives: a future with the verbs of a coroutine, so that `asyncio.create_task` and a TaskGroup take it.

    One that has arrived may be awaited by any number of readers, at the price of a function call.
    """

    __slots__ = ("hits",)
    hits: int

    def send(self, _: None) -> Any:
        """What a task does with a coroutine: a step, which ends or waits for itself."""
        if self.done():
            raise StopIteration(self.result())
        self._asyncio_future_blocking = True
        return self

    def throw(self, error: BaseException) -> Any:
        """The task was cancelled, or what it waited for has failed."""
        raise error

    def close(self) -> None:
        """Nothing is held."""


class _Node:
    __slots__ = ("answer", "deadline", "key", "newer", "older", "value", "visited")

    def __init__(self, key: Any, value: Any, deadline: float) -> None:
        self.key = key
        self.value = value
        self.deadline = deadline
        self.visited = False
        self.answer: Answer | None = None
        self.newer: _Node | None = None
        self.older: _Node | None = None

    def was_read(self) -> bool:
        """Whether it was read since this was last asked."""
        read, self.visited = self.visited, False
        if self.answer is not None and self.answer.hits:
            read = True
        return read


class NearCache:
    """A bounded map from keys to values with a time each ends.

    `answers` are those of its values that anybody may hold, by the same keys (and UUIDs also by their `int`, whose
    hash costs less): they may be given away while `monotonic() < until`. They need no time of their own: when an entry
    ends in Valkey, the server says so, as when it changes.
    """

    __slots__ = ("_hand", "_hits", "_newest", "_oldest", "_reading", "answers", "entries", "size_max", "until")

    def __init__(self, size_max: int) -> None:
        self.size_max = size_max
        self.until = 0.0
        self.answers: dict[Any, Answer] = {}
        self._hits = 0
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

    def answer(self, key: Any, value: Any) -> None:
        """From now on this is given to whoever asks for the key that was just stored, as it is."""
        answer = Answer(loop=asyncio.get_running_loop())
        answer.hits = 0
        answer.set_result(value)
        self.entries[key].answer = self.answers[key] = answer
        if isinstance(key, UUID):
            self.answers[key.int] = answer

    def count(self) -> int:
        """How many answers were given since this was last asked."""
        counted, self._hits = self._hits, 0
        for node in self.entries.values():
            counted += self._counted(node)
        return counted

    def _counted(self, node: _Node) -> int:
        answer = node.answer
        if answer is None or not answer.hits:
            return 0
        node.visited = True
        hits, answer.hits = answer.hits, 0
        return hits

    def _retract(self, node: _Node) -> None:
        if node.answer is not None:
            self._hits += self._counted(node)
            self.answers.pop(node.key)
            if isinstance(node.key, UUID):
                self.answers.pop(node.key.int)
            node.answer = None

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
            self._retract(node)
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
            self._retract(node)
            self._unlink(node)

    def clear(self) -> None:
        """Forget everything, the reads on their way too."""
        self._hits = self.count()
        self.answers.clear()
        self.entries.clear()
        self._reading.clear()
        self._newest = self._oldest = self._hand = None

    def _evict(self) -> None:
        node = self._hand or self._oldest
        while node is not None and node.was_read():
            self._hits += self._counted(node)
            node.visited = False
            node = node.newer or self._oldest
        if node is not None:
            self._hand = node.newer
            del self.entries[node.key]
            self._retract(node)
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
