"""Transaction: statements that happen together or not at all. It belongs to whoever opened it."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import asyncpg

from headwater.kernel.cache import NO_MARKS, Cache
from headwater.kernel.errors import ProgrammingError, TransientError, Unreachable
from headwater.kernel.postgres import Connection, Link, Postgres, Runner, run_on
from headwater.kernel.statements import Prepared
from headwater.kernel.tracking import Context
from headwater.kernel.translation import BROKEN, raise_translated
from headwater.kernel.written import Written

if TYPE_CHECKING:
    from headwater.kernel.models import Model

Isolation = Literal["read committed", "repeatable read", "serializable"]
T = TypeVar("T")

_BEGIN: dict[tuple[Isolation, bool], str] = {
    ("read committed", False): "BEGIN",
    ("read committed", True): "BEGIN READ ONLY",
    ("repeatable read", False): "BEGIN ISOLATION LEVEL REPEATABLE READ",
    ("repeatable read", True): "BEGIN ISOLATION LEVEL REPEATABLE READ, READ ONLY",
    ("serializable", False): "BEGIN ISOLATION LEVEL SERIALIZABLE",
    ("serializable", True): "BEGIN ISOLATION LEVEL SERIALIZABLE, READ ONLY",
}

_IN_WHOSE_NAME = "SELECT set_config('headwater.context', $1, true)"


class Transaction(Runner):
    """An open transaction. Made by `transaction()`; verbs take it and never end it."""

    def __init__(self, postgres: Postgres, link: Link, isolation: Isolation) -> None:
        self.postgres = postgres
        self.isolation = isolation
        self._link = link
        self._open = True
        self._depth = 0
        self._statements = 0  # that may have written
        self._told = 0  # writes of which a verb has said what they concern
        self.written: Written | None = Written(postgres.cache) if postgres.cache is not None else None

    @property
    def connection(self) -> Connection:
        """The asyncpg connection underneath, for what the kernel does not offer. Do not end the transaction on it."""
        self._require_open()
        self._statements += 1
        return self._link.connection

    def require_block(self, verb: str) -> None:
        self._require_open()

    @contextlib.asynccontextmanager
    async def savepoint(self) -> AsyncIterator[Transaction]:
        """What happens inside is undone alone when an error leaves the block; the transaction goes on."""
        self._require_open()
        self._depth += 1
        name = f"headwater_{self._depth}"
        connection = self._link.connection
        undo = f"ROLLBACK TO SAVEPOINT {name}; RELEASE SAVEPOINT {name}"
        try:
            await _command(self._link, "SAVEPOINT " + name)
            try:
                yield self
            except BaseException as error:
                if not connection.is_closed():
                    await _command(self._link, undo)
                if isinstance(error, (asyncpg.PostgresError, asyncpg.InterfaceError)):
                    raise_translated(error)
                raise
            try:
                await _command(self._link, "RELEASE SAVEPOINT " + name)
            except ProgrammingError:  # a failed statement was swallowed inside; the rest of the transaction can go on
                await _command(self._link, undo)
                raise
        finally:
            self._depth -= 1

    async def _wrote(self, model: type[Model], *values: Any) -> None:
        if self.written is not None:
            self._told += not model.__tracked__.writes_more
            self.written.add_values(model, values)

    async def _run(self, prepared: Prepared) -> tuple[list[Any], str]:
        self._require_open()
        if not prepared.reads_only:
            self._statements += 1
        try:
            return await run_on(self._link, prepared)
        except BROKEN as error:
            raise_translated(error)

    @contextlib.asynccontextmanager
    async def _borrow(self) -> AsyncIterator[Link]:
        self._require_open()
        self._statements += 1
        yield self._link

    def _require_open(self) -> None:
        if not self._open:
            raise ProgrammingError(
                "The transaction has ended.", remedy="Use it only inside its `async with` block, or open another."
            )


@contextlib.asynccontextmanager
async def transaction(
    postgres: Postgres,
    *,
    isolation: Isolation = "read committed",
    read_only: bool = False,
    context: Context | None = None,
) -> AsyncIterator[Transaction]:
    """Open a transaction; commit when the block ends well, roll back when an error leaves it.

    `context` stands on every change the transaction makes, in the change stream.
    Raises what the statements raise; TransientError from COMMIT in a serializable transaction; ProgrammingError when
    the block swallowed a failed statement, since PostgreSQL then rolls back what it was told to commit.
    """
    begin = _BEGIN.get((isolation, read_only))
    if begin is None:
        raise ProgrammingError(
            f"There is no isolation level '{isolation}'.",
            remedy="Use 'read committed', 'repeatable read' or 'serializable'.",
        )
    link = await _begin(postgres, begin)
    tx = Transaction(postgres, link, isolation)
    try:
        try:
            if context is not None:
                await tx._run(Prepared(_IN_WHOSE_NAME, (context.as_json(),), None, True))
            yield tx
        except BaseException:
            await _roll_back(link)
            raise
        finally:
            tx._open = False
        if postgres.cache is None or tx.written is None or not tx._statements:
            await _commit(link)
        else:
            await _commit_coherently(postgres.cache, tx, tx.written, link)
    except (asyncpg.PostgresError, asyncpg.InterfaceError) as error:  # from tx.connection, used directly
        raise_translated(error)
    finally:
        postgres.give(link)


async def _begin(postgres: Postgres, begin: str) -> Link:
    link = postgres.take_now() or await postgres.take()
    try:
        await _begin_on(link, postgres, begin)
    except BROKEN:  # it died while idle; nothing has happened yet, so another one will do
        link = postgres.take_now() or await postgres.take()
        try:
            await _begin_on(link, postgres, begin)
        except BROKEN as error:
            raise_translated(error)
    return link


async def _begin_on(link: Link, postgres: Postgres, begin: str) -> None:
    try:
        await link.connection.execute(begin)
    except BaseException as error:
        if isinstance(error, BROKEN):
            link.connection.terminate()
            postgres.distrust_idle()
        link.unsettled = True  # BEGIN may have reached the server
        postgres.give(link)
        if isinstance(error, BROKEN):
            raise
        raise_translated(error)


async def _commit_coherently(cache: Cache, tx: Transaction, written: Written, link: Link) -> None:
    """COMMIT, and tell the cache what was written: strict rows are marked before it, everything is gone after it."""
    complete, marks = True, NO_MARKS
    try:
        if tx._statements > tx._told or cache.strict:  # a trigger or a cascade may have written strict rows
            try:
                complete = await written.add_captured(link.connection)
            except asyncpg.PostgresError:  # a statement had failed; COMMIT will say so
                complete = False
        marks = await cache.mark(written)
    except BaseException:
        await _roll_back(link)
        raise
    try:
        await _commit(link)
    except BaseException:  # it may have been committed
        await cache.settle(written, marks, complete=complete)
        raise
    await cache.settle(written, marks, complete=complete)


async def _commit(link: Link) -> None:
    try:
        outcome = await link.connection.execute("COMMIT")
    except (*BROKEN, asyncpg.InterfaceError) as error:
        if isinstance(error, asyncpg.InterfaceError) and not link.connection.is_closed():
            raise
        raise Unreachable(
            "The connection broke during COMMIT; the transaction may or may not have been committed.",
            remedy="Read what it wrote before you try again.",
        ) from error
    except asyncio.CancelledError:
        await _roll_back(link)
        raise
    if outcome == "ROLLBACK":
        raise ProgrammingError(
            "Nothing was committed: a statement had failed inside the transaction and its error was swallowed.",
            remedy="Let errors leave the block, or wrap what may fail in tx.savepoint().",
        )


async def _roll_back(link: Link) -> None:
    connection = link.connection
    if connection.is_closed():
        return
    link.unsettled = True  # until it is done: a second cancellation may end the wait for it
    try:
        await connection.execute("ROLLBACK")
        link.unsettled = False
    except (asyncpg.PostgresError, asyncpg.InterfaceError, *BROKEN):
        connection.terminate()  # the server rolls back when the connection goes; the first error is the one to tell


async def _command(link: Link, sql: str) -> None:
    try:
        await link.connection.execute(sql)
    except (asyncpg.PostgresError, asyncpg.InterfaceError, *BROKEN) as error:
        raise_translated(error)


async def run(
    postgres: Postgres,
    work: Callable[[Transaction], Awaitable[T]],
    *,
    isolation: Isolation = "read committed",
    attempts_max: int | None = None,
    context: Context | None = None,
) -> T:
    """Run `work` in a transaction, again with growing, jittered pauses when PostgreSQL reports a serialization failure,
    a deadlock or a lock timeout. `work` must have no effect outside the transaction. Raises the last TransientError
    after `attempts_max` tries (default: settings.transaction_attempts_max).

    The pauses are full jitter over an exponential bound, after Marc Brooker, "Exponential Backoff And Jitter" (2015).
    """
    attempts = attempts_max if attempts_max is not None else postgres.settings.transaction_attempts_max
    for attempt in range(1, attempts + 1):
        try:
            async with transaction(postgres, isolation=isolation, context=context) as tx:
                return await work(tx)
        except TransientError:
            if attempt >= attempts:
                raise
            await asyncio.sleep(random.uniform(0, min(1.0, 0.002 * 2**attempt)))  # noqa: S311  # jitter, not secrecy
    raise ProgrammingError("attempts_max must be at least 1.", remedy=f"It was {attempts}.")


class Autocommit(Runner):
    """Each statement on its own, committed when it ends: what a verb of one statement may take for `tx`."""

    def __init__(self, postgres: Postgres) -> None:
        self.postgres = postgres

    def _borrow(self) -> contextlib.AbstractAsyncContextManager[Link]:
        return self.postgres._borrow()

    async def _run(self, prepared: Prepared) -> tuple[list[Any], str]:
        return await self.postgres._run(prepared)

    async def _wrote(self, model: type[Model], *values: Any) -> None:
        await self.postgres._wrote(model, *values)
