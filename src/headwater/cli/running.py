"""Running: the life of one `up`: the home taken, stores started, schema and seeds brought up, served, and ended in turn."""

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
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from headwater.cli.exits import FAILED, CommandError
from headwater.cli.stores import Running, forget_record, lock_or_running, read_record, write_record
from headwater.embedded.home import Home
from headwater.embedded.processes import ProcessIdentity
from headwater.kernel.errors import RefusedError, Unreachable
from headwater.kernel.settings import Settings

if TYPE_CHECKING:
    import uvicorn

    from headwater.embedded.postgres import EmbeddedPostgres
    from headwater.embedded.valkey import EmbeddedValkey
    from headwater.kernel.lifecycle import Headwater

HOST = "127.0.0.1"
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
                        error["message"], remedy=error.get("remedy", ""), exit_code=error["exit_code"], **error.get("detail", {})
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
def _listening(port: int) -> Any:
    """The service's socket, taken before anything is started: whoever asks early waits in its queue."""
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((HOST, port))
            listener.listen(2048)
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
        async with _up(home, plan, listener, progress, told) as (facts, server):
            serving = asyncio.create_task(server.serve(sockets=[listener]))
            told.server = server
            try:
                await _until_ready(server, serving, plan.port)
                write_record(home, facts)
                ready(facts.facts, True)
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
    """What the signals mean: before the service serves, give up; while it serves, drain; a second time, do not drain."""

    def __init__(self, task: asyncio.Task[Any]) -> None:
        self.server: uvicorn.Server | None = None
        self.ending = False
        self._task = task

    def end(self) -> None:
        if self.server is None or not self.server.started:
            if not self.ending:
                self._task.cancel()
        elif self.ending:
            self.server.force_exit = True
        else:
            self.server.should_exit = True
        self.ending = True


@asynccontextmanager
async def _up(
    home: Home, plan: Plan, listener: socket.socket, progress: Progress, told: _Told
) -> AsyncIterator[tuple[Running, uvicorn.Server]]:
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
        progress("Applying migrations.")
        await _migrate(system, settings, progress)
        from headwater.kernel.lifecycle import Headwater

        headwater = await ending.enter_async_context(Headwater.open(system, settings))
        if plan.seeded:
            progress("Planting the demo rows.")
            from headwater.kernel.seeds import seed

            await seed(headwater, "demo", progress=progress)
        admin_key = await _admin_key(home, headwater)
        server = _server(headwater)
        facts = {
            "postgres": shown["postgres"],
            "valkey": shown["valkey"],
            "http": f"http://{HOST}:{plan.port}",
            "admin_key": admin_key,
            "pid": identity.pid,
        }
        progress(f"Ready to serve after {time.monotonic() - began:.1f} s.")
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
