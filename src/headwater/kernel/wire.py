"""Wire: the connection to Valkey of the hot path: one per process, all commands of a loop turn in one write.

Replies are matched in order (RESP3), and what the server pushes is handled in that same order, which is what a near
cache needs to stay coherent. A watchdog ends a connection whose server is silent: its callers fail at once and read
PostgreSQL instead. The well-kept client `valkey` serves everything else.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import random
import ssl
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast
from urllib.parse import parse_qs, unquote, urlsplit

import hiredis

from headwater.kernel.errors import InvalidValue, Unreachable

SILENCE_SECONDS_MAX = 0.04
"""A server that owes a reply and says nothing for so long is taken for gone."""
_CONNECT_SECONDS_MAX = 1.0
_PAUSE_SECONDS_MIN, _PAUSE_SECONDS_MAX = 0.01, 0.5

Reply = Any
Push = Callable[[list[Any]], None]


class ReplyError(Exception):
    """Valkey refused one command; the connection is well."""


@dataclass(frozen=True, slots=True)
class Script:
    """A Lua script: its text, and the name EVALSHA knows it by."""

    name: str
    text: bytes
    sha: bytes

    @classmethod
    def load(cls, path: Path) -> Script:
        """Read a script from a file."""
        text = path.read_bytes()
        return cls(path.stem, text, hashlib.sha1(text).hexdigest().encode())  # noqa: S324  # the name Valkey gives it


@dataclass(frozen=True, slots=True)
class Address:
    """Where a Valkey listens, and what it wants to hear first."""

    host: str
    port: int
    path: str
    username: str
    password: str
    database: int
    tls: bool

    @classmethod
    def parse(cls, url: str) -> Address:
        """Read redis://, rediss://, valkey://, valkeys:// or unix:// URLs. Raises InvalidValue without quoting them."""
        try:
            parts = urlsplit(url)
            query = parse_qs(parts.query)
            unix = parts.scheme == "unix"
            database = query["db"][0] if "db" in query else "0" if unix else parts.path.strip("/") or "0"
            if parts.scheme not in ("redis", "rediss", "valkey", "valkeys", "unix"):
                raise ValueError
            return cls(
                host=parts.hostname or "localhost",
                port=parts.port or 6379,
                path=unquote(parts.path) if unix else "",
                username=unquote(parts.username or ""),
                password=unquote(parts.password or ""),
                database=int(database),
                tls=parts.scheme in ("rediss", "valkeys"),
            )
        except ValueError:
            raise InvalidValue(
                "valkey_url cannot be read.", remedy="Write it as redis://:password@host:port/0.", field="valkey_url"
            ) from None


class Wire:
    """A connection that keeps itself alive. `up` says whether it can be used now; it never waits for it.

    `greet` runs after each connect, before `up` turns true, and may send commands. `lost` runs when a connection ends.
    `pushed` takes what the server says unasked.
    """

    def __init__(
        self,
        url: str,
        *,
        silence_seconds_max: float = SILENCE_SECONDS_MAX,
        pushed: Push | None = None,
        lost: Callable[[], None] | None = None,
    ) -> None:
        self.up = False
        self.run_id = ""
        self.connects_total = 0
        self.greet: list[tuple[Any, ...]] = []
        self.send_packed: Callable[[bytes], asyncio.Future[Reply]] = _refuse
        """`send` of one command in RESP already: the line's own verb while there is one."""
        self._address = Address.parse(url)
        self._silence = silence_seconds_max
        self._pushed = pushed
        self._lost = lost
        self._line: _Line | None = None
        self._keeping: asyncio.Task[None] | None = None
        self._settled = asyncio.Event()

    async def open(self) -> None:
        """Begin to connect, and return when the first attempt has succeeded or failed; others follow by themselves."""
        self._keeping = asyncio.get_running_loop().create_task(self._keep())
        await self._settled.wait()

    async def close(self) -> None:
        """End the connection; what is under way fails."""
        if self._keeping is not None:
            self._keeping.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._keeping
        if self._line is not None:
            self._line.drop("it was closed")

    def send(self, *command: Any) -> asyncio.Future[Reply]:
        """Send a command with the others of this loop turn. Raises Unreachable at once when not connected.

        The future fails with ReplyError when Valkey refuses the command, with Unreachable when it does not answer.
        """
        line = self._line
        if line is None or not self.up:
            raise _gone("not connected")
        return line.send(hiredis.pack_command(command))

    def send_get(self, key: bytes) -> asyncio.Future[Reply]:
        """`send("GET", key)` with less work."""
        return self.send_packed(b"*2\r\n$3\r\nGET\r\n$%d\r\n%b\r\n" % (len(key), key))

    def put(self, packed: bytes, receiver: Any) -> None:
        """Send a command, at once, whose reply goes to `receiver`, which has the verbs of a future."""
        line = self._line
        if line is None or not self.up:
            raise _gone("not connected")
        line.put(packed, receiver, soon=False)
        line.flush()

    async def run(self, script: Script, keys: list[Any], *arguments: Any) -> Reply:
        """Run a script by its name, or by its text when the server does not know it yet."""
        try:
            return await self.send(b"EVALSHA", script.sha, len(keys), *keys, *arguments)
        except ReplyError as error:
            if not str(error).startswith("NOSCRIPT"):
                raise
        return await self.send(b"EVAL", script.text, len(keys), *keys, *arguments)

    async def _keep(self) -> None:
        """Connect, again and again."""
        pause = _PAUSE_SECONDS_MIN
        while True:
            try:
                line = await self._connect()
            except (OSError, TimeoutError, Unreachable, ReplyError):
                self._settled.set()
                await asyncio.sleep(pause * random.uniform(0.5, 1))  # noqa: S311  # jitter, not secrecy
                pause = min(pause * 2, _PAUSE_SECONDS_MAX)
                continue
            pause = _PAUSE_SECONDS_MIN
            self._line, self.up, self.send_packed = line, True, line.send
            self.connects_total += 1
            self._settled.set()
            try:
                await line.ended.wait()
            finally:
                self._ended()
                self._line = None
                line.drop("it was closed")
                if self._lost is not None:
                    self._lost()

    async def _connect(self) -> _Line:
        loop = asyncio.get_running_loop()
        address = self._address

        def make() -> _Line:
            return _Line(self._silence, self._pushed, self._ended)

        async with asyncio.timeout(_CONNECT_SECONDS_MAX):
            if address.path:
                _, line = await loop.create_unix_connection(make, address.path)
            else:
                context = ssl.create_default_context() if address.tls else None
                _, line = await loop.create_connection(make, address.host, address.port, ssl=context)
            try:
                await self._introduce(line)
            except BaseException:
                line.drop("it did not greet")
                raise
        return line

    def _ended(self) -> None:
        """The line broke: nobody may use it from this moment on, though its keeper wakes later."""
        self.up, self.send_packed = False, _refuse

    async def _introduce(self, line: _Line) -> None:
        address = self._address
        hello: tuple[Any, ...] = (b"HELLO", 3)
        if address.password:
            hello += (b"AUTH", address.username or "default", address.password)
        commands: list[tuple[Any, ...]] = [hello]
        if address.database:
            commands.append((b"SELECT", address.database))
        commands += [*self.greet, (b"INFO", b"server")]
        sent = [line.send(hiredis.pack_command(command)) for command in commands]
        outcomes: list[Any] = await asyncio.gather(*sent, return_exceptions=True)
        for outcome in outcomes:
            if isinstance(outcome, BaseException):
                raise outcome
        said = outcomes[-1].split(b"\r\nrun_id:", 1)
        self.run_id = said[1].split(b"\r\n", 1)[0].decode() if len(said) == 2 else ""


class _Line(asyncio.Protocol):
    """One connection while it lives."""

    def __init__(self, silence: float, pushed: Push | None, ended: Callable[[], None]) -> None:
        self.ended = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._promise = self._loop.create_future
        self._reader = hiredis.Reader(replyError=ReplyError)
        self._silence = silence
        self._pushed = pushed
        self._told_end = ended
        self._transport: asyncio.Transport | None = None
        self._outgoing: list[bytes] = []
        self._waiting: deque[Any] = deque()
        self._heard_at = 0.0
        self._watch: asyncio.TimerHandle | None = None
        self._watch_at = 0.0
        self._why = ""

    # -- what the loop calls -----------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is one without saying so

    def data_received(self, data: bytes) -> None:
        self._heard_at = self._loop.time()
        waiting, gets = self._waiting, self._reader.gets
        self._reader.feed(data)
        try:
            reply = gets()
            while reply is not False:  # hiredis says so when nothing is left; no command here answers with a boolean
                kind = type(reply)
                if kind is bytes and waiting:
                    future = waiting.popleft()
                    if not future.done():
                        future.set_result(reply)
                elif kind is hiredis.PushNotification:
                    if self._pushed is not None:
                        self._pushed(reply)
                elif not waiting:
                    self.drop("it answered what nobody asked")
                    return
                else:
                    future = waiting.popleft()
                    if not future.done():
                        if kind is ReplyError:
                            future.set_exception(reply)
                        else:
                            future.set_result(reply)
                reply = gets()
        except hiredis.ProtocolError:
            self.drop("it does not speak RESP3")

    def connection_lost(self, exc: Exception | None) -> None:
        self.drop("the connection was closed" if exc is None else str(exc) or type(exc).__name__)

    # -- what Wire calls ---------------------------------------------------------------------------------------------

    def send(self, packed: bytes) -> asyncio.Future[Reply]:
        future: asyncio.Future[Reply] = self._promise()
        self.put(packed, future)
        return future

    def put(self, packed: bytes, receiver: Any, *, soon: bool = True) -> None:
        """Send a command whose reply goes to `receiver`: a future, or what has its verbs. Else the caller flushes."""
        outgoing = self._outgoing
        if not outgoing:
            if self._why:
                receiver.set_exception(_gone(self._why))
                return
            if soon:
                self._loop.call_soon(self.flush)
            if not self._waiting:
                self._heard_at = self._loop.time()
                if self._watch is None:
                    self._arm(self._silence)
        outgoing.append(packed)
        self._waiting.append(receiver)

    def drop(self, why: str) -> None:
        """End it now; everyone who waits hears of it at once."""
        if self._why:
            return
        self._why = why
        self._told_end()
        if self._transport is not None:
            self._transport.abort()
        if self._watch is not None:
            self._watch.cancel()
            self._watch = None
        self._outgoing.clear()
        for future in self._waiting:
            if not future.done():
                future.set_exception(_gone(why))
                future.exception()  # seen: a reader that was cancelled in this very turn leaves no warning behind
        self._waiting.clear()
        self.ended.set()

    def flush(self) -> None:
        """Write what has gathered."""
        outgoing = self._outgoing
        if outgoing and self._transport is not None:
            self._transport.write(outgoing[0] if len(outgoing) == 1 else b"".join(outgoing))
            outgoing.clear()

    # -- inside ------------------------------------------------------------------------------------------------------

    def _arm(self, seconds: float) -> None:
        self._watch_at = self._loop.time() + seconds
        self._watch = self._loop.call_later(seconds, self._look)

    def _look(self) -> None:
        """Whether the server has been silent too long. A loop that was itself held up gets one more turn to read."""
        self._watch = None
        if not self._waiting:
            return
        now = self._loop.time()
        silent = now - self._heard_at
        late = now - self._watch_at
        if late > self._silence / 2:
            self._heard_at = max(self._heard_at, now - self._silence / 2)
            self._arm(self._silence / 2)
        elif silent >= self._silence:
            self.drop(f"it was silent for {silent * 1000:.0f} ms")
        else:
            self._arm(max(self._silence - silent, 0.001))


def _refuse(packed: bytes) -> asyncio.Future[Reply]:
    raise _gone("not connected")


def _gone(why: str) -> Unreachable:
    return Unreachable(
        f"Valkey does not answer: {why}.", remedy="Reads fall back to PostgreSQL; see `headwater health`."
    )
