"""Postgres: the pool of connections to the one truth, and statements that run each on their own.

A small LIFO pool on asyncpg. asyncpg's own costs a reset round trip at every release; here nothing is reset because
nothing is left behind: the kernel sets no session state on pooled connections, and a borrower who does says so.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from time import perf_counter
from typing import Any

import asyncpg
import msgspec
from sqlalchemy.sql import Executable

from headwater.kernel.errors import PoolExhausted, ProgrammingError, TransientError, Unreachable
from headwater.kernel.queries import NamedQuery
from headwater.kernel.rows import Record
from headwater.kernel.settings import Settings
from headwater.kernel.statements import Prepared, prepare
from headwater.kernel.translation import BROKEN, translate

Statement = Executable | NamedQuery

_decode_json = msgspec.json.Decoder().decode
_encode_json = msgspec.json.Encoder(decimal_format="number").encode

STATEMENTS_MAX = 500
"""Prepared statements one connection keeps; the oldest goes first."""


class Link:
    """One connection and what is prepared on it."""

    __slots__ = ("connection", "dirty", "statements")

    def __init__(self, connection: asyncpg.Connection) -> None:
        self.connection = connection
        self.statements: dict[str, Any] = {}
        self.dirty = False

    async def prepare(self, sql: str) -> Any:
        """The statement, prepared on this connection now or earlier."""
        statement = self.statements.get(sql)
        if statement is None:
            statement = await self.connection.prepare(sql, record_class=Record)
            if len(self.statements) >= STATEMENTS_MAX:
                self.statements.pop(next(iter(self.statements)))
            self.statements[sql] = statement
        return statement


@dataclass(frozen=True, slots=True)
class PoolFigures:
    """What the pool did and does. Counters grow for the life of the pool."""

    size: int
    idle: int
    in_use: int
    waiting: int
    size_max: int
    acquired_total: int
    waited_total: int
    wait_seconds_total: float
    opened_total: int
    exhausted_total: int


class Runner:
    """Runs statements: Postgres runs each alone, Transaction runs them together. Verbs that take `tx` take either."""

    async def _run(self, prepared: Prepared) -> tuple[list[Any], str]:
        raise NotImplementedError

    def _borrow(self) -> contextlib.AbstractAsyncContextManager[Link]:
        """The connection statements run on, for COPY."""
        raise NotImplementedError

    async def fetch(self, statement: Statement, /, *, into: type[Any] | None = None, **parameters: Any) -> list[Any]:
        """All rows. `select(User)` gives values; several columns give rows with names; `into` builds a Struct by column name."""
        prepared = prepare(statement, parameters, into)
        records, _ = await self._run(prepared)
        return records if prepared.make is None else [prepared.make(record) for record in records]

    async def fetch_one(self, statement: Statement, /, *, into: type[Any] | None = None, **parameters: Any) -> Any:
        """The first row, or None."""
        prepared = prepare(statement, parameters, into)
        records, _ = await self._run(prepared)
        if not records:
            return None
        return records[0] if prepared.make is None else prepared.make(records[0])

    async def fetch_value(self, statement: Statement, /, **parameters: Any) -> Any:
        """The first column of the first row, or None."""
        row = await self.fetch_one(statement, **parameters)
        return row[0] if isinstance(row, (tuple, Record)) else row

    async def execute(self, statement: Statement, /, **parameters: Any) -> int:
        """Run a statement and say how many rows it touched."""
        _, status = await self._run(prepare(statement, parameters))
        last = status.rpartition(" ")[2]
        return int(last) if last.isdigit() else 0

    def require_block(self, verb: str) -> None:
        """Refuse a verb of several statements where each would be committed alone."""
        raise ProgrammingError(
            f"{verb} runs several statements that belong together, but was given no transaction.",
            remedy="Call it inside `async with headwater.transaction() as tx:` and pass tx.",
        )


class Postgres(Runner):
    """The pool. Made by `Postgres.open`, ended by `close`."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._free: list[Link] = []
        self._waiting: deque[asyncio.Future[Link | None]] = deque()
        self._links: set[Link] = set()
        self._opening = 0
        self._closing = False
        self._drained: asyncio.Event | None = None
        self._acquired = self._waited = self._opened = self._exhausted = 0
        self._wait_seconds = 0.0
        self.loaders: dict[Any, Any] = {}

    @classmethod
    async def open(cls, settings: Settings) -> Postgres:
        """Connect once, to fail early and clearly. Raises Unreachable."""
        if not settings.database_url:
            raise Unreachable(
                "There is no database: database_url is not set.",
                remedy="Set HEADWATER_DATABASE_URL (or DATABASE_URL), or start the embedded one with `headwater up`.",
            )
        postgres = cls(settings)
        postgres.give(await postgres.take())
        return postgres

    async def close(self, *, grace_seconds: float = 10.0) -> None:
        """Let what runs finish for `grace_seconds`, then end every connection."""
        self._closing = True
        for waiter in self._waiting:
            if not waiter.done():
                waiter.set_exception(Unreachable("The pool is closing.", remedy="Open the data layer again."))
        self._waiting.clear()
        idle, self._free = self._free, []
        for link in idle:
            await self._end(link)
        if self._links:
            self._drained = asyncio.Event()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._drained.wait(), grace_seconds)
        for link in list(self._links):
            self._links.discard(link)
            link.connection.terminate()

    def figures(self) -> PoolFigures:
        """The pool's state now."""
        return PoolFigures(
            size=len(self._links),
            idle=len(self._free),
            in_use=len(self._links) - len(self._free),
            waiting=len(self._waiting),
            size_max=self.settings.pool_size_max,
            acquired_total=self._acquired,
            waited_total=self._waited,
            wait_seconds_total=self._wait_seconds,
            opened_total=self._opened,
            exhausted_total=self._exhausted,
        )

    async def ping(self) -> float:
        """Seconds one round trip takes. Raises UnavailableError."""
        started = perf_counter()
        link = await self.take()
        try:
            await link.connection.execute("select 1")
        except BaseException as error:
            raise translate(error) or error from error
        finally:
            self.give(link)
        return perf_counter() - started

    @contextlib.asynccontextmanager
    async def connection(self) -> AsyncIterator[asyncpg.Connection]:
        """A raw asyncpg connection for what the kernel does not offer. It is reset when it comes back."""
        link = await self.take()
        link.dirty = True
        try:
            yield link.connection
        except asyncpg.PostgresError as error:
            raise translate(error) or error from error
        finally:
            await self._give_reset(link)

    # -- taking and giving -------------------------------------------------------------------------------------------

    def take_now(self) -> Link | None:
        """An idle connection, or None when one must be waited for or made."""
        free = self._free
        while free:
            link = free.pop()
            if not link.connection.is_closed():
                self._acquired += 1
                return link
            self._links.discard(link)
        return None

    async def take(self) -> Link:
        """A connection: idle, new, or the next one given back. Raises PoolExhausted after `pool_wait_seconds`."""
        link = self.take_now()
        if link is not None:
            return link
        if self._closing:
            raise Unreachable("The pool is closed.", remedy="Open the data layer again.")
        if len(self._links) + self._opening < self.settings.pool_size_max:
            return await self._open()
        waiter: asyncio.Future[Link | None] = asyncio.get_running_loop().create_future()
        self._waiting.append(waiter)
        self._waited += 1
        started = perf_counter()
        try:
            async with asyncio.timeout(self.settings.pool_wait_seconds):
                given = await waiter
        except TimeoutError:
            self._exhausted += 1
            raise PoolExhausted(
                f"No connection became free within {self.settings.pool_wait_seconds:g} s; "
                f"all {self.settings.pool_size_max} are at work.",
                remedy="Shorten transactions, raise HEADWATER_POOL_SIZE_MAX, or try again later.",
            ) from None
        except asyncio.CancelledError:
            if waiter.done() and not waiter.cancelled() and waiter.exception() is None:
                late = waiter.result()
                if late is not None:
                    self.give(late)
                else:
                    self._pass_turn()
            raise
        finally:
            self._wait_seconds += perf_counter() - started
            if not waiter.done():
                waiter.cancel()
            with contextlib.suppress(ValueError):
                self._waiting.remove(waiter)
        if given is None:  # a place became free, but its connection was broken
            return await self._open()
        self._acquired += 1
        return given

    def give(self, link: Link) -> None:
        """Give a connection back. One that is closed or inside a transaction is ended instead."""
        connection = link.connection
        if connection.is_closed() or connection.is_in_transaction() or self._closing:
            self._links.discard(link)
            if not connection.is_closed():
                connection.terminate()
            self._pass_turn()
            if self._drained is not None and not self._links:
                self._drained.set()
            return
        while self._waiting:
            waiter = self._waiting.popleft()
            if not waiter.done():
                waiter.set_result(link)
                return
        self._free.append(link)

    def _pass_turn(self) -> None:
        while self._waiting:
            waiter = self._waiting.popleft()
            if not waiter.done():
                waiter.set_result(None)
                return

    async def _give_reset(self, link: Link) -> None:
        if not link.connection.is_closed():
            try:
                await link.connection.reset(timeout=self.settings.connect_timeout_seconds)
                link.dirty = False
            except Exception:  # whatever made the reset fail, the connection is not to be trusted
                link.connection.terminate()
        self.give(link)

    async def _open(self) -> Link:
        self._opening += 1
        try:
            connection = await connect(self.settings.database_url, self.settings, pooled=self.settings.pooled)
        except BaseException:
            self._pass_turn()
            raise
        finally:
            self._opening -= 1
        link = Link(connection)
        self._links.add(link)
        self._opened += 1
        self._acquired += 1
        return link

    async def _end(self, link: Link) -> None:
        self._links.discard(link)
        with contextlib.suppress(Exception):  # it is being thrown away; how it dies does not matter
            await link.connection.close(timeout=1)

    # -- statements, each on its own ---------------------------------------------------------------------------------

    @contextlib.asynccontextmanager
    async def _borrow(self) -> AsyncIterator[Link]:
        link = self.take_now() or await self.take()
        try:
            yield link
        finally:
            self.give(link)

    async def _run(self, prepared: Prepared) -> tuple[list[Any], str]:
        link = self.take_now() or await self.take()
        try:
            return await run_on(link, prepared)
        except BROKEN as error:
            if not prepared.reads_only:
                raise translate(error) or error from error
        except TransientError:
            if not prepared.reads_only:
                raise
        finally:
            self.give(link)
        link = await self.take()  # a read met a connection that had died while idle, or an old plan: once more
        try:
            return await run_on(link, prepared)
        except BROKEN as error:
            raise translate(error) or error from error
        finally:
            self.give(link)


async def run_on(link: Link, prepared: Prepared) -> tuple[list[Any], str]:
    """Run a prepared statement on a connection. Lets BROKEN pass for the caller to judge; translates the rest."""
    try:
        statement = link.statements.get(prepared.sql) or await link.prepare(prepared.sql)
        records = await statement.fetch(*prepared.arguments)
        return records, statement.get_statusmsg()
    except BROKEN:
        raise
    except Exception as error:
        if isinstance(error, (asyncpg.InvalidCachedStatementError, asyncpg.exceptions.OutdatedSchemaCacheError)):
            link.statements.clear()
        ours = translate(error)
        if ours is None or ours is error:
            raise
        raise ours from error


async def connect(dsn: str, settings: Settings, *, pooled: bool = False) -> asyncpg.Connection:
    """A connection with the kernel's codecs and limits. Raises Unreachable, which names the host but no password."""
    limits: Mapping[str, str] = (
        {} if pooled else {"statement_timeout": str(settings.statement_timeout_ms), "application_name": "headwater"}
    )
    try:
        connection = await asyncpg.connect(
            dsn,
            timeout=settings.connect_timeout_seconds,
            server_settings=dict(limits),
            record_class=Record,
            max_cached_statement_lifetime=0,
        )
        for name in ("json", "jsonb"):
            await connection.set_type_codec(
                name,
                schema="pg_catalog",
                format="binary",
                encoder=_to_jsonb if name == "jsonb" else _encode_json,
                decoder=_from_jsonb if name == "jsonb" else _decode_json,
            )
        return connection
    except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError, TimeoutError, ValueError) as error:
        raise Unreachable(
            f"PostgreSQL at {where(dsn)} cannot be reached: {error or type(error).__name__}.",
            remedy="Check that the server runs and that the DSN, user and password are right.",
        ) from error


def _to_jsonb(value: Any) -> bytes:
    return b"\x01" + _encode_json(value)


def _from_jsonb(raw: bytes) -> Any:
    return _decode_json(memoryview(raw)[1:])


def where(dsn: str) -> str:
    """Host, port and database of a DSN, without user and password."""
    from urllib.parse import parse_qs, urlsplit

    try:
        parts = urlsplit(dsn)
        host = parts.hostname or parse_qs(parts.query).get("host", ["?"])[0]
        return f"{host}:{parts.port}{parts.path}" if parts.port else f"{host}{parts.path}"
    except ValueError:
        return "the given DSN"
