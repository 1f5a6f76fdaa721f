"""Headwater: the open data layer of one system: its pool, its Valkey, its repositories."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, TypeVar, cast, overload

from valkey.asyncio import Valkey

from headwater.kernel.cache import Cache
from headwater.kernel.errors import InvalidValue
from headwater.kernel.models import Model
from headwater.kernel.module import System
from headwater.kernel.postgres import Postgres
from headwater.kernel.repository import Repository
from headwater.kernel.settings import Settings
from headwater.kernel.tracking import Context
from headwater.kernel.transaction import Autocommit, Isolation, Transaction, run, transaction

T = TypeVar("T")
M = TypeVar("M", bound=Model)
R = TypeVar("R", bound=Repository[Any])


class Headwater:
    """What an application holds: made by `Headwater.open(system)`."""

    def __init__(self, system: System, settings: Settings, postgres: Postgres, valkey: Valkey | None) -> None:
        self.system = system
        self.settings = settings
        self.postgres = postgres
        self.valkey = valkey
        self.autocommit = Autocommit(postgres)
        self._repositories: dict[Any, Any] = {}

    @classmethod
    @contextlib.asynccontextmanager
    async def open(cls, system: System, settings: Settings | None = None) -> AsyncIterator[Headwater]:
        """Open the stores of `settings` (default: from the environment) and close them when the block ends.

        PostgreSQL must answer (Unreachable otherwise); Valkey need not, now or later.
        """
        chosen = settings if settings is not None else Settings.from_environment()
        async with contextlib.AsyncExitStack() as stack:
            valkey = open_valkey(chosen.valkey_url)
            if valkey is not None:
                stack.push_async_callback(valkey.aclose)
            postgres = await Postgres.open(chosen)
            stack.push_async_callback(postgres.close)
            if valkey is not None:
                cache = Cache(chosen.valkey_url, postgres, [p for module in system.modules for p in module.cache])
                await cache.open()
                stack.push_async_callback(cache.close)
                postgres.cache = cache
            yield cls(system, chosen, postgres, valkey)

    def transaction(
        self,
        *,
        isolation: Isolation = "read committed",
        read_only: bool = False,
        context: Context | None = None,
    ) -> contextlib.AbstractAsyncContextManager[Transaction]:
        """A transaction that commits when its `async with` ends well and rolls back when an error leaves it.

        `context` says in whose name: it stands on each of its changes in the change stream.
        """
        return transaction(self.postgres, isolation=isolation, read_only=read_only, context=context)

    async def run(
        self,
        work: Callable[[Transaction], Awaitable[T]],
        *,
        isolation: Isolation = "read committed",
        attempts_max: int | None = None,
        context: Context | None = None,
    ) -> T:
        """Run `work(tx)` in a transaction, again after serialization failures, deadlocks and lock timeouts."""
        return await run(self.postgres, work, isolation=isolation, attempts_max=attempts_max, context=context)

    @overload
    def repository(self, of: type[R]) -> R: ...

    @overload
    def repository(self, of: type[M]) -> Repository[M]: ...

    def repository(self, of: type[Any]) -> Any:
        """The repository of an entity, or of a Repository class; made once."""
        made = self._repositories.get(of)
        if made is None:
            made = (
                of(self.postgres) if issubclass(of, Repository) else Repository(self.postgres, cast("type[Model]", of))
            )
            self._repositories[of] = made
        return made


def open_valkey(url: str) -> Valkey | None:
    """A client for everything but the hot path, or None without a URL. Connects when it is first used.

    Raises InvalidValue for a URL that cannot be read.
    """
    if not url:
        return None
    try:
        return cast(Valkey, Valkey.from_url(url, socket_timeout=1.0, socket_connect_timeout=1.0))
    except ValueError:  # what it says may quote a password
        raise InvalidValue(
            "valkey_url cannot be read.", remedy="Write it as redis://:password@host:port/0.", field="valkey_url"
        ) from None
