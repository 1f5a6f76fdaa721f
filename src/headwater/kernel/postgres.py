"""Postgres: the pool of connections to the one truth, and statements that run each on their own.

A small LIFO pool on asyncpg. asyncpg's own costs a reset round trip at every release; here nothing is reset because
nothing is left behind: the kernel sets no session state on pooled connections, and a borrower who does says so.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections import deque
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from time import perf_counter
from typing import TYPE_CHECKING, Any, TypeAlias
from urllib.parse import parse_qs, urlsplit

import asyncpg
import msgspec
from sqlalchemy.sql import Executable

from headwater.kernel.errors import PoolExhausted, ProgrammingError, TransientError, Unreachable
from headwater.kernel.queries import NamedQuery
from headwater.kernel.rows import Record
from headwater.kernel.settings import Settings
from headwater.kernel.statements import Prepared, prepare
from headwater.kernel.translation import BROKEN, raise_translated

if TYPE_CHECKING:
    from headwater.kernel.cache import Cache
    from headwater.kernel.models import Model

Statement = Executable | NamedQuery
Connection: TypeAlias = "asyncpg.Connection[Any]"

_decode_json = msgspec.json.Decoder().decode
_encode_json = msgspec.json.Encoder(decimal_format="number").encode

_serial = itertools.count(1)
_PING = Prepared("SELECT 1", (), None, True)

STATEMENTS_MAX = 500
"""Prepared statements one connection keeps; the oldest goes first."""


class Link:
    """One connection and what is prepared on it. `unsettled`: its state is not known, it is reset before reuse."""

    __slots__ = ("connection", "statements", "unsettled")

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.statements: dict[str, Any] = {}
        self.unsettled = False

    async def prepare(self, sql: str) -> Any:
        """The statement, prepared on this connection now or earlier."""
        statement = self.statements.get(sql)
        if statement is None:
            # Named, or else PostgreSQL would not refuse a plan whose columns have changed since.
            statement = await self.connection.prepare(sql, name=f"headwater_{next(_serial)}", record_class=Record)
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

    async def _wrote(self, model: type[Model], *values: Any) -> None:
        """A verb has written: these are the row's values, before and after. Runs after the statement."""

    async def fetch(self, statement: Statement, /, *, into: type[Any] | None = None, **parameters: Any) -> list[Any]:
        """All rows. `select(User)` gives values, several columns rows with names, `into` builds Structs by name."""
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
        self._places_taken = 0  # by connections being made, and by the turns of waiters who will make one
        self._settling: set[asyncio.Task[None]] = set()
        self._closing = False
        self._drained: asyncio.Event | None = None
        self._acquired = self._waited = self._opened = self._exhausted = 0
        self._wait_seconds = 0.0
        self.loaders: dict[Any, Any] = {}
        self.cache: Cache | None = None  # set by whoever opens one on top

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
        while self._waiting:
            waiter = self._waiting.popleft()
            if not waiter.done():
                waiter.set_exception(_closed())
        idle, self._free = self._free, []
        await asyncio.gather(*(self._end(link) for link in idle))
        if self._links or self._places_taken:
            self._drained = asyncio.Event()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(grace_seconds):
                    await self._drained.wait()
        for link in self._links:
            link.connection.terminate()
        self._links.clear()

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
        await self._run(_PING)
        return perf_counter() - started

    @contextlib.asynccontextmanager
    async def connection(self) -> AsyncIterator[Connection]:
        """A raw asyncpg connection for what the kernel does not offer. It is reset when it comes back."""
        link = await self.take()
        try:
            yield link.connection
        except (asyncpg.PostgresError, asyncpg.InterfaceError) as error:
            raise_translated(error)
        finally:
            await asyncio.shield(self._settle(link))

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
        """A connection: idle, new, or the next one given back. Raises PoolExhausted after `pool_wait_seconds`.

        Whoever waits is served before whoever comes later: a connection or a place that becomes free is handed to the
        first waiter at once, so that nobody can take it in between.
        """
        link = self.take_now()
        if link is not None:
            return link
        if self._closing:
            raise _closed()
        if len(self._links) + self._places_taken < self.settings.pool_size_max:
            self._places_taken += 1
            return await self._open()
        waiter: asyncio.Future[Link | None] = asyncio.get_running_loop().create_future()
        self._waiting.append(waiter)
        self._waited += 1
        started = perf_counter()
        try:
            async with asyncio.timeout(self.settings.pool_wait_seconds):
                given = await waiter
        except TimeoutError:
            if waiter.cancelled():
                self._forget(waiter)
                self._exhausted += 1
                raise PoolExhausted(
                    f"No connection became free within {self.settings.pool_wait_seconds:g} s; "
                    f"all {self.settings.pool_size_max} are at work.",
                    remedy="Shorten transactions, raise HEADWATER_POOL_SIZE_MAX, or try again later.",
                ) from None
            given = waiter.result()  # it was handed over in the very moment the time ran out
        except asyncio.CancelledError:
            self._decline(waiter)
            raise
        finally:
            self._wait_seconds += perf_counter() - started
        if given is None:  # a place, not a connection
            return await self._open()
        self._acquired += 1
        return given

    def give(self, link: Link) -> None:
        """Give a connection back. One that is closed or inside a transaction is ended instead."""
        connection = link.connection
        if link.unsettled and not connection.is_closed():
            self._settle(link)
            return
        if connection.is_closed() or connection.is_in_transaction() or self._closing:
            if not connection.is_closed():
                connection.terminate()
            if link in self._links:
                self._links.discard(link)
                self._places_taken += 1
                self._place_freed()
            return
        while self._waiting:
            waiter = self._waiting.popleft()
            if not waiter.done():
                waiter.set_result(link)
                return
        self._free.append(link)

    def distrust_idle(self) -> None:
        """End every idle connection: one was found dead, and what killed it has mostly killed the others too."""
        idle, self._free = self._free, []
        for link in idle:
            link.connection.terminate()
            self._links.discard(link)

    def _place_freed(self) -> None:
        """Hand a place that is taken to the first who waits, or free it."""
        while self._waiting:
            waiter = self._waiting.popleft()
            if not waiter.done():
                waiter.set_result(None)
                return
        self._places_taken -= 1
        if self._drained is not None and not self._links and not self._places_taken:
            self._drained.set()

    def _decline(self, waiter: asyncio.Future[Link | None]) -> None:
        """A waiter was cancelled; what it was handed in the same moment goes on to the next."""
        if not waiter.done() or waiter.cancelled():
            self._forget(waiter)
        elif waiter.exception() is None:
            given = waiter.result()
            if given is None:
                self._place_freed()
            else:
                self.give(given)

    def _forget(self, waiter: asyncio.Future[Link | None]) -> None:
        with contextlib.suppress(ValueError):
            self._waiting.remove(waiter)

    async def _open(self) -> Link:
        """A new connection in a place its caller has taken."""
        try:
            if self._closing:
                raise _closed()
            connection = await connect(self.settings.database_url, self.settings, pooled=self.settings.pooled)
            if self._closing:
                connection.terminate()
                raise _closed()
        except BaseException:
            self._place_freed()
            raise
        link = Link(connection)
        self._links.add(link)
        self._places_taken -= 1
        self._opened += 1
        self._acquired += 1
        return link

    def _settle(self, link: Link) -> asyncio.Task[None]:
        """Bring a connection whose state is not known back to a clean one, in the background, then give it back."""
        link.unsettled = True
        task = asyncio.get_running_loop().create_task(self._settled(link))
        self._settling.add(task)
        task.add_done_callback(self._settling.discard)
        return task

    async def _settled(self, link: Link) -> None:
        connection = link.connection
        try:
            async with asyncio.timeout(self.settings.connect_timeout_seconds):
                await connection.execute("ROLLBACK")  # waits for a statement that is being cancelled
                await connection.reset()
        except BaseException as error:  # whatever made it fail, the connection is not to be trusted
            connection.terminate()
            if not isinstance(error, Exception):
                raise
        finally:
            link.unsettled = False
            self.give(link)

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

    async def _wrote(self, model: type[Model], *values: Any) -> None:
        if self.cache is not None:
            await self.cache.committed(model, values)

    async def _run(self, prepared: Prepared) -> tuple[list[Any], str]:
        link = self.take_now() or await self.take()
        try:
            return await run_on(link, prepared)
        except BROKEN as error:
            self.distrust_idle()
            if not prepared.reads_only:
                raise Unreachable(
                    "The connection broke while a statement ran; it may or may not have been committed.",
                    remedy="Read the row before you try again.",
                ) from error
        except TransientError:
            if not prepared.reads_only:
                raise
        finally:
            self.give(link)
        link = self.take_now() or await self.take()  # a read met a connection that had died while idle: once more
        try:
            return await run_on(link, prepared)
        except BROKEN as error:
            raise_translated(error)
        finally:
            self.give(link)


async def run_on(link: Link, prepared: Prepared) -> tuple[list[Any], str]:
    """Run a prepared statement on a connection. Lets BROKEN pass for the caller to judge; translates the rest."""
    try:
        statement = link.statements.get(prepared.sql) or await link.prepare(prepared.sql)
        try:
            records = await statement.fetch(*prepared.arguments)
        except asyncpg.InvalidCachedStatementError:
            link.statements.clear()
            if link.connection.is_in_transaction():
                raise
            statement = await link.prepare(prepared.sql)  # PostgreSQL refused an old plan; it has done nothing yet
            records = await statement.fetch(*prepared.arguments)
        return records, statement.get_statusmsg()
    except BROKEN:
        link.connection.terminate()  # the driver may not have noticed yet
        raise
    except asyncio.CancelledError:
        link.unsettled = True
        raise
    except Exception as error:
        if isinstance(error, asyncpg.exceptions.OutdatedSchemaCacheError):
            link.statements.clear()
        raise_translated(error)


async def connect(dsn: str, settings: Settings, *, pooled: bool = False) -> Connection:
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
            statement_cache_size=0,  # the driver's own cache would serve stale types to COPY after an ALTER TABLE
        )
        try:
            await connection.set_type_codec(
                "json", schema="pg_catalog", format="binary", encoder=_encode_json, decoder=_decode_json
            )
            await connection.set_type_codec(
                "jsonb", schema="pg_catalog", format="binary", encoder=_to_jsonb, decoder=_from_jsonb
            )
        except BaseException:
            connection.terminate()
            raise
        return connection
    except ValueError:  # how the driver finds fault with a DSN; what it says may quote a password
        raise Unreachable(
            f"PostgreSQL at {where(dsn)} cannot be reached: the DSN cannot be read.",
            remedy="Write it as postgresql://user:password@host:port/database, special characters percent-encoded.",
        ) from None
    except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError) as error:
        raise Unreachable(
            f"PostgreSQL at {where(dsn)} cannot be reached: {error or type(error).__name__}.",
            remedy="Check that the server runs and that the DSN, user and password are right.",
        ) from error


def _closed() -> Unreachable:
    return Unreachable("The pool is closed.", remedy="Open the data layer again.")


def _to_jsonb(value: Any) -> bytes:
    return b"\x01" + _encode_json(value)


def _from_jsonb(raw: bytes) -> Any:
    return _decode_json(raw[1:])  # the first byte is the format's version; a memoryview would cost more than the copy


def where(dsn: str) -> str:
    """Host, port and database of a DSN, without user and password."""
    try:
        parts = urlsplit(dsn)
        if parts.scheme not in ("postgresql", "postgres") or ("@" in dsn and "@" not in parts.netloc):
            return "the given DSN"  # not to be told apart from its password
        host = parts.hostname or parse_qs(parts.query).get("host", ["?"])[0]
        return f"{host}:{parts.port}{parts.path}" if parts.port else f"{host}{parts.path}"
    except ValueError:
        return "the given DSN"
