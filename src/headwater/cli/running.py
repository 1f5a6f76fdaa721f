"""Running: the life of one `up`: the home taken, stores started, schema and seeds brought up, served, ended in turn."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from headwater.cli.exits import FAILED, CommandError
from headwater.cli.stores import Running, forget_record, lock_or_running, with_keyring, write_record
from headwater.embedded.home import Home
from headwater.embedded.processes import ProcessIdentity
from headwater.kernel.errors import HeadwaterError, RefusedError, Unreachable
from headwater.kernel.settings import Settings

if TYPE_CHECKING:
    import uvicorn

    from headwater.embedded.postgres import EmbeddedPostgres
    from headwater.embedded.valkey import EmbeddedValkey
    from headwater.kernel.lifecycle import Headwater
    from headwater.kernel.module import System

HOST = "127.0.0.1"
_BACKLOG = 2048
_DRAIN_SECONDS_MAX = 10
_READY_SECONDS_MAX = 30.0

Progress = Callable[[str], None]
Ready = Callable[[dict[str, Any], bool], None]
"""Told once: what `up --json` prints, and whether this `up` started it (False: it ran already)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What was asked of `up`."""

    home: Path
    system_name: str
    port: int
    seeded: bool


def run_detached(plan: Plan, progress: Progress) -> tuple[dict[str, Any], bool]:
    """Start `up` in a session of its own and wait until it is ready. Raises its error if it fails."""
    home = Home(plan.home)
    home.prepare()
    reading, writing = os.pipe()
    arguments = [sys.executable, "-m", "headwater.cli.main", "up", "--report-to", str(writing)]
    arguments += ["--home", str(home.path), "--system", plan.system_name, "--port", str(plan.port)]
    if not plan.seeded:
        arguments.append("--no-seed")
    log_path = home.log("up")
    with log_path.open("ab") as log:
        child = subprocess.Popen(  # noqa: S603  # this very program
            arguments, stdin=subprocess.DEVNULL, stdout=log, stderr=log, pass_fds=(writing,), start_new_session=True
        )
    os.close(writing)
    try:
        with os.fdopen(reading) as reports:
            for line in reports:
                report = json.loads(line)
                if "progress" in report:
                    progress(report["progress"])
                elif "error" in report:
                    child.wait()
                    error = report["error"]
                    raise CommandError(
                        error["message"],
                        remedy=error.get("remedy", ""),
                        exit_code=error["exit_code"],
                        kind=error["type"],
                        **error.get("detail", {}),
                    )
                else:
                    child.returncode = 0  # it lives on; nobody will ask this object how it ended
                    return report["ready"], report["fresh"]
    except KeyboardInterrupt:
        child.terminate()
        child.wait()
        raise
    code = child.wait()
    raise CommandError(
        f"`up` ended before it was ready (exit code {code}).", remedy=f"Its log is {log_path}.", exit_code=FAILED
    )


def run_here(plan: Plan, progress: Progress, ready: Ready) -> int:
    """Run `up` in this process until it is told to end."""
    import uvloop  # only `up` wants it

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_run(plan, progress, ready))


async def _run(plan: Plan, progress: Progress, ready: Ready) -> int:
    home = Home(plan.home)
    home.prepare()
    held = await lock_or_running(home)
    if isinstance(held, Running):
        await _wake(home, held, progress)
        progress(f"Already running in {home.path} (process {held.identity.pid}, port {held.port}).")
        ready(held.facts, False)
        return 0
    try:
        with _listening(plan.port) as listener:
            return await _run_until_told(home, plan, listener, progress, ready)
    finally:
        os.close(held)


@contextlib.contextmanager
def _listening(port: int) -> Iterator[socket.socket]:
    """The service's socket, taken before anything is started: whoever asks early waits in its queue."""
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((HOST, port))
            listener.listen(_BACKLOG)
        except OSError as why:
            raise RefusedError(
                f"Port {port} of {HOST} cannot be used: {(why.strerror or str(why)).lower()}.",
                remedy="End what listens there, or name another port with --port.",
                port=port,
            ) from None
        listener.setblocking(False)
        yield listener


async def _run_until_told(home: Home, plan: Plan, listener: socket.socket, progress: Progress, ready: Ready) -> int:
    """Everything of one `up`. SIGINT and SIGTERM end it, in whatever it is doing."""
    loop = asyncio.get_running_loop()
    this = asyncio.current_task()
    assert this is not None
    told = _Told(this)
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, told.end)
    try:
        async with _up(home, plan, progress) as (running, server):
            serving = asyncio.create_task(_serve(server, listener))
            told.server = server
            try:
                await _until_ready(server, serving, plan.port)
                write_record(home, running)
                # From here on another `up` waits for the end instead of taking this one for running.
                told.before_drain = lambda: write_record(home, replace(running, ready=False))
                ready(running.facts, True)
                await serving
            except asyncio.CancelledError:
                server.should_exit = True
                await serving
                raise
            progress("Ending.")
    except asyncio.CancelledError:
        if not told.ending:
            raise
        progress("Ended before it was ready.")
        return 130
    finally:
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(number)
    return 0


class _Told:
    """What a signal means: before the service serves, give up; while it serves, drain; a second time, do not drain."""

    def __init__(self, task: asyncio.Task[Any]) -> None:
        self.server: uvicorn.Server | None = None
        self.before_drain: Callable[[], None] = lambda: None
        self.ending = False
        self._task = task

    def end(self) -> None:
        if self.server is None or not self.server.started:
            if not self.ending:
                self._task.cancel()
        elif self.ending:
            self.server.force_exit = True
        else:
            self.before_drain()
            self.server.should_exit = True
        self.ending = True


@asynccontextmanager
async def _up(home: Home, plan: Plan, progress: Progress) -> AsyncIterator[tuple[Running, uvicorn.Server]]:
    """Start in order; leave in the reverse one: the data layer, then Valkey, then PostgreSQL."""
    from headwater.systems import find

    system = find(plan.system_name)
    identity = ProcessIdentity.of(os.getpid())
    assert identity is not None
    began = time.monotonic()
    starting = Running(
        identity=identity,
        ready=False,
        system=plan.system_name,
        port=plan.port,
        facts={},
        database_url="",
        valkey_url="",
    )
    async with AsyncExitStack() as ending:
        ending.callback(forget_record, home)
        write_record(home, starting)
        settings, shown = await _start_stores(home, progress, ending)
        settings = with_keyring(settings, home)
        progress("Applying migrations.")
        await _migrate(system, settings, progress)
        from headwater.followers.follow import follow
        from headwater.kernel.lifecycle import Headwater

        headwater = await ending.enter_async_context(Headwater.open(system, settings))
        await ending.enter_async_context(follow(headwater))
        if plan.seeded:
            await _seed(headwater, progress)
        admin_key = await _admin_key(home, headwater)
        server = _server(headwater)
        facts = {
            "postgres": shown["postgres"],
            "valkey": shown["valkey"],
            "http": f"http://{HOST}:{plan.port}",
            "admin_key": admin_key,
            "pid": identity.pid,
        }
        progress(f"Everything is prepared after {time.monotonic() - began:.1f} s.")
        yield (
            Running(
                identity=identity,
                ready=True,
                system=plan.system_name,
                port=plan.port,
                facts=facts,
                database_url=settings.database_url,
                valkey_url=settings.valkey_url,
            ),
            server,
        )


async def _start_stores(home: Home, progress: Progress, ending: AsyncExitStack) -> tuple[Settings, dict[str, str]]:
    """Settings that lead to both stores, and the URLs that users are shown. The environment wins over the home."""
    from headwater.embedded.postgres import EmbeddedPostgres
    from headwater.embedded.valkey import EmbeddedValkey

    settings = Settings.from_environment()
    postgres = None if settings.database_url else EmbeddedPostgres(home)
    valkey = None if settings.valkey_url else EmbeddedValkey(home)
    own: list[EmbeddedPostgres | EmbeddedValkey] = [store for store in (postgres, valkey) if store is not None]
    for store in own:  # left in the reverse order: Valkey first
        ending.push_async_callback(store.stop)
    if own:
        progress(f"Starting the stores in {home.path}.")
    starts = [asyncio.create_task(store.start()) for store in own]
    await asyncio.sleep(0)
    import headwater.kernel.lifecycle  # noqa: F401  # half a second of imports, while the stores start

    try:
        await asyncio.gather(*starts)
    except BaseException:
        for start in starts:
            start.cancel()
        await asyncio.gather(*starts, return_exceptions=True)
        raise
    shown = {
        "postgres": settings.database_url if postgres is None else postgres.dsn,
        "valkey": settings.valkey_url if valkey is None else valkey.dsn,
    }
    settings = Settings.from_environment(
        database_url=settings.database_url if postgres is None else postgres.socket_dsn,
        valkey_url=shown["valkey"],
    )
    await _check_outside(settings, check_postgres=postgres is None, check_valkey=valkey is None)
    watch = asyncio.create_task(_watch(own, progress))
    ending.push_async_callback(_cancelled, watch)
    return settings, shown


async def _check_outside(settings: Settings, *, check_postgres: bool, check_valkey: bool) -> None:
    """Whether the stores that somebody else runs answer. Raises Unreachable, naming the host and no password."""
    if check_postgres:
        from headwater.kernel.postgres import connect

        connection = await connect(settings.direct, settings)
        await connection.close()
    if check_valkey:
        from headwater.kernel.lifecycle import open_valkey

        client = open_valkey(settings.valkey_url)
        assert client is not None
        try:
            await client.ping()
        except Exception as why:  # whatever the client raises means the same here
            raise Unreachable(
                f"Valkey at {_without_password(settings.valkey_url)} does not answer: {str(why).rstrip('.')}.",
                remedy="Check HEADWATER_VALKEY_URL or REDIS_URL, or unset it to use the home's own Valkey.",
            ) from None
        finally:
            await client.aclose()


def _without_password(url: str) -> str:
    before, at, after = url.rpartition("@")
    return before.partition("://")[0] + "://" + after if at else url


async def _cancelled(task: asyncio.Task[None]) -> None:
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task


async def _watch(own: list[EmbeddedPostgres | EmbeddedValkey], progress: Progress) -> None:
    """Tell when a store of ours ends by itself; start it again when another `up` asks for it (SIGUSR1).

    Not on our own: who ends a store by hand wants to see what happens, and the service goes on with what is left.
    """
    wanted = asyncio.Event()
    told: set[str] = set()
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGUSR1, wanted.set)
    try:
        while True:
            for store in own:
                name = type(store).__name__.removeprefix("Embedded")
                if not store.server.died:
                    told.discard(name)
                elif wanted.is_set():
                    progress(f"Starting {name} again.")
                    try:
                        await store.start()
                    except HeadwaterError as error:
                        progress(str(error))
                elif name not in told:
                    told.add(name)
                    progress(f"{name} has ended by itself. `headwater up` on this home starts it again.")
            wanted.clear()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(wanted.wait(), timeout=1.0)
    finally:
        loop.remove_signal_handler(signal.SIGUSR1)


async def _wake(home: Home, running: Running, progress: Progress) -> None:
    """Ask the running `up` to start the stores that have ended, and wait for them."""
    from headwater.embedded.postgres import EmbeddedPostgres
    from headwater.embedded.valkey import EmbeddedValkey

    stores = [store for store in (EmbeddedPostgres(home), EmbeddedValkey(home)) if store.server.died]
    if not stores:
        return
    progress("A store of this home has ended; starting it again.")
    deadline = time.monotonic() + _READY_SECONDS_MAX
    running.identity.send(signal.SIGUSR1)
    while not all(store.server.ready for store in stores):
        if time.monotonic() > deadline or not running.identity.alive:
            raise Unreachable(
                f"A store of {home.path} has ended and could not be started again.",
                remedy=f"Run `headwater down --home {home.path}`, then `up`. The logs are in {home.path}/logs.",
            )
        await asyncio.sleep(0.02)
    await _until_answered(running.port, deadline)


async def _migrate(system: System, settings: Settings, progress: Progress) -> None:
    from headwater.kernel.migrations import migrate

    await migrate(system, settings, progress=progress)


async def _seed(headwater: Headwater, progress: Progress) -> None:
    from headwater.kernel.seeds import seed

    report = await seed(headwater, "demo")
    added = sum(report.added.values())
    progress(f"Planted {added:,} demo rows." if added else "The demo rows are there.")


async def _admin_key(home: Home, headwater: Headwater) -> str:
    """The key that `up` prints: the same every time, because its plain text is kept in the home."""
    if "identity" not in headwater.system:
        return ""
    from headwater.modules.identity.repository import ensure_admin_key

    kept = home.known_secret("admin")
    key = await ensure_admin_key(headwater, kept)
    if key != kept:
        home.keep_secret("admin", key)
    return key


def _server(headwater: Headwater) -> uvicorn.Server:
    import uvicorn

    from headwater.service.app import create_app

    class Server(uvicorn.Server):
        @contextlib.contextmanager
        def capture_signals(self) -> Iterator[None]:
            """Signals are ours: they may come before the server runs, and stores must be stopped after it."""
            yield

    return Server(
        uvicorn.Config(
            create_app(headwater),
            http="httptools",
            log_level="warning",
            access_log=False,
            server_header=False,
            backlog=_BACKLOG,
            timeout_graceful_shutdown=_DRAIN_SECONDS_MAX,
        )
    )


async def _serve(server: uvicorn.Server, listener: socket.socket) -> None:
    try:
        await server.serve(sockets=[listener])
    except SystemExit:
        raise CommandError(
            "The service could not be started.", remedy="What it said is above, or in logs/up.log."
        ) from None


async def _until_ready(server: uvicorn.Server, serving: asyncio.Task[None], port: int) -> None:
    deadline = time.monotonic() + _READY_SECONDS_MAX
    while not server.started:
        if serving.done():
            await serving
            raise CommandError("The service ended before it was ready.")
        await asyncio.sleep(0.005)
    await _until_answered(port, deadline)


async def _until_answered(port: int, deadline: float) -> None:
    """Wait until /ready answers 200."""
    said = "nothing"
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError, TimeoutError):
            async with asyncio.timeout(5):
                said = await _ask_ready(port)
            if said.split(" ")[1:2] == ["200"]:
                return
        await asyncio.sleep(0.05)
    raise CommandError(f"http://{HOST}:{port}/ready did not answer 200 in time; it said: {said}.")


async def _ask_ready(port: int) -> str:
    """The status line of GET /ready."""
    reader, writer = await asyncio.open_connection(HOST, port)
    try:
        writer.write(f"GET /ready HTTP/1.1\r\nHost: {HOST}:{port}\r\nConnection: close\r\n\r\n".encode())
        line = await reader.readline()
        await reader.read()
        return line.decode("latin-1").strip()
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()
