"""Gathered reads: entries of one kind asked for in one turn of the loop travel in one MGET; each reader gets a future.

One command, and one look at the clock, the guard and the floors for all that arrive together: that is what brings a
read, decoded and proved coherent, near the cost of a bare GET. The futures are the loop's own: a task that waits for a
subclass of them pays a microsecond more. What is more than a plain hit (a miss, a lease, an entry near its end) goes on
in a task of its own.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from time import monotonic
from typing import TYPE_CHECKING, Any
from uuid import UUID

import msgspec

from headwater.kernel.errors import Unreachable

if TYPE_CHECKING:
    from headwater.kernel.cached_rows import Entity

TOGETHER_MAX = 256
"""Keys one command carries at most."""
_quoted = msgspec.json.Encoder().encode  # of a UUID: three times as fast as str()

Absent = Callable[[Any], Exception]
"""From a key to what is raised when there is no such row."""
Asked = tuple["asyncio.Future[Any]", Any, Absent | None, bool]
"""A reader that waits: for which key, what no row is to be, and whether it wants the row's JSON. (A NamedTuple would
cost a fifth of a microsecond.)"""


class GatheredReads:
    """The reads of one kind that wait for the end of the turn."""

    def __init__(self, entity: Entity, stem: bytes, *, by_uuid: bool) -> None:
        self._entity = entity
        self._stem = stem
        self._loop = asyncio.get_running_loop()
        self._promise = self._loop.create_future
        # What stands between two names of one command, where all are of one length.
        self._between = b"\r\n$%d\r\n" % (len(stem) + 36) if by_uuid else b""
        self._asked: list[Asked] = []

    def ask(self, key: Any, absent: Absent | None = None, as_json: bool = False) -> asyncio.Future[Any]:
        """What will be read."""
        answer = self._promise()
        if not self._asked:
            self._loop.call_soon(self._depart)
        self._asked.append((answer, key, absent, as_json))
        return answer

    async def read(self, key: Any, absent: Absent | None = None, as_json: bool = False) -> Any:
        """`ask`, and wait."""
        return await self.ask(key, absent, as_json)

    def _depart(self) -> None:
        asked, self._asked = self._asked, []
        stem, cache = self._stem, self._entity.cache
        names = [stem + (_quoted(key)[1:-1] if type(key) is UUID else str(key).encode()) for _, key, _, _ in asked]
        if monotonic() >= cache.good_until:
            self._go_past(asked, names)
            return
        for start in range(0, len(asked), TOGETHER_MAX):
            self._send(asked[start : start + TOGETHER_MAX], names[start : start + TOGETHER_MAX])

    def _send(self, asked: list[Asked], names: list[bytes]) -> None:
        entity, between = self._entity, self._between
        many = b"*%d\r\n$4\r\nMGET" % (len(names) + 1)
        if between:
            packed = b"%b%b%b\r\n" % (many, between, between.join(names))
        else:
            packed = b"%b\r\n%b" % (many, b"".join([b"$%d\r\n%b\r\n" % (len(name), name) for name in names]))
        prefix, near = entity.prefix, entity.near
        try:
            if near is None:
                entity.cache.wire.put(packed, Departure(self, asked, names, prefix, None))
            else:  # one word to the server, that it should say when one of these changes, and one ticket for each
                tickets = [near.begin(key) for _, key, _, _ in asked]
                entity.cache.wire.send(b"CLIENT", b"CACHING", b"YES").add_done_callback(_quiet)
                entity.cache.wire.put(packed, Departure(self, asked, names, prefix, tickets))
        except Unreachable:
            self._go_past(asked, names)

    def arrived(self, departure: Departure, replies: list[bytes | None]) -> None:
        """Decode what is plainly there; examine the rest."""
        if departure.tickets is not None:
            self._arrived_near(departure, departure.tickets, replies)
            return
        entity, prefix = self._entity, departure.prefix
        cache, head_of, body = entity.cache, entity.head_of, entity.BODY
        unpack, restore = entity.plain or (entity.decode, _as_it_is)
        length_of_prefix, floors, now, hits = len(prefix), cache.floors, monotonic() + cache.epoch, 0
        for one, name, raw in zip(departure.asked, departure.names, replies, strict=True):
            answer = one[0]
            if answer.done():  # its reader has given up
                continue
            if raw is not None and raw[:length_of_prefix] == prefix and name not in floors:
                expiry, load_seconds, length = head_of(raw, length_of_prefix)
                payload = raw[body + length :]
                if payload and expiry - now > 20 * load_seconds:
                    hits += 1
                    try:
                        answer.set_result(entity.decode_json(payload) if one[3] else restore(unpack(payload)))
                    except (msgspec.MsgspecError, ValueError) as error:
                        answer.set_exception(error)
                    continue
            self._follow_up(one, entity.examine(one[1], name, prefix, raw))
        entity.figures.hits += hits

    def _arrived_near(self, departure: Departure, tickets: list[object], replies: list[bytes | None]) -> None:
        """The same for a kind with a near cache: what was there is kept, unless a push has taken its ticket."""
        entity, prefix = self._entity, departure.prefix
        near = entity.near
        assert near is not None
        for one, name, raw, ticket in zip(departure.asked, departure.names, replies, tickets, strict=True):
            answer, key, absent, as_json = one
            kept = None if raw is None else entity.keep(near, key, ticket, name, prefix, raw)
            if kept is None:
                near.abandon(key, ticket)
                if not answer.done():
                    self._follow_up(one, entity.examine(key, name, prefix, raw))
            elif not answer.done():
                settle(answer, entity, key, kept, absent, as_json)

    def refused(self, departure: Departure) -> None:
        """Valkey does not answer, or not this: everyone goes past it."""
        near = self._entity.near
        if departure.tickets is not None and near is not None:
            for one, ticket in zip(departure.asked, departure.tickets, strict=True):
                near.abandon(one[1], ticket)
        self._go_past(departure.asked, departure.names)

    def _go_past(self, asked: list[Asked], names: list[bytes]) -> None:
        for one, name in zip(asked, names, strict=True):
            if not one[0].done():
                self._follow_up(one, self._entity.direct(one[1], name))

    def _follow_up(self, one: Asked, work: Coroutine[Any, Any, Any]) -> None:
        self._entity.cache.spawn(self._finish(one, work))

    async def _finish(self, one: Asked, work: Coroutine[Any, Any, Any]) -> None:
        answer, key, absent, as_json = one
        try:
            value = await work
        except Exception as error:
            if not answer.done():
                answer.set_exception(error)
            return
        except BaseException:
            answer.cancel()
            raise
        if answer.done():
            return
        if value is None and absent is not None:
            answer.set_exception(absent(key))
        else:
            answer.set_result(self._entity.render(value) if as_json else value)


class Departure:
    """What stands in the wire's queue for the reply of one MGET, in the place of a future."""

    __slots__ = ("_reads", "asked", "names", "prefix", "tickets")

    def __init__(
        self, reads: GatheredReads, asked: list[Asked], names: list[bytes], prefix: bytes, tickets: list[object] | None
    ) -> None:
        self._reads = reads
        self.asked = asked
        self.names = names
        self.prefix = prefix
        self.tickets = tickets

    def done(self) -> bool:
        """Nobody gives up for all."""
        return False

    def set_result(self, replies: list[bytes | None]) -> None:
        """The values, in the order of the names."""
        self._reads.arrived(self, replies)

    def set_exception(self, _: BaseException) -> None:
        """Valkey has refused, or is gone."""
        self._reads.refused(self)

    def exception(self) -> None:
        """It has been seen."""


def settle(
    answer: asyncio.Future[Any], entity: Entity, key: Any, payload: bytes, absent: Absent | None, as_json: bool
) -> None:
    """Give a reader what an entry holds, or the error that it makes."""
    try:
        answer.set_result(entity.given(key, payload, absent, as_json))
    except Exception as error:
        answer.set_exception(error)


def _as_it_is(value: Any) -> Any:
    return value


def _quiet(done: asyncio.Future[Any]) -> None:
    if not done.cancelled():
        done.exception()
