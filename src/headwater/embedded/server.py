"""Server: one server process of a home: recorded there so that the next command knows it, awaited, and ended."""

from __future__ import annotations

import asyncio
import subprocess
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from pathlib import Path
from signal import Signals

from headwater.embedded.home import Home
from headwater.embedded.processes import ProcessIdentity, end, ended, launch, living_in
from headwater.kernel.errors import ProgrammingError, Unreachable

_PORT_ATTEMPTS_MAX = 5


class Server:
    """What a home knows of one of its servers; which program it is and how it is asked is its owner's business.

    `name` is what its data folder, its record and its log are called; `title` is how its children begin their command
    line. `stopping` are the signals to end it with, each with the seconds to wait after it.
    """

    def __init__(
        self,
        home: Home,
        name: str,
        *,
        display_name: str,
        program: str,
        title: str = "",
        stopping: Sequence[tuple[Signals, float]],
        ready_seconds_max: float,
        ask_every_seconds: float,
    ) -> None:
        self.home = home
        self.name = name
        self.display_name = display_name
        self.data = home.path / name
        self._program = program
        self._title = title
        self._stopping = stopping
        self._ready_seconds_max = ready_seconds_max
        self._ask_every_seconds = ask_every_seconds
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def identity(self) -> ProcessIdentity | None:
        """The server as recorded in the home, when it still runs."""
        recorded = self.home.read(self.name)
        if not recorded.get("pid"):
            return None
        identity = ProcessIdentity(int(recorded["pid"]), str(recorded.get("started")))
        return identity if identity.alive else None

    @property
    def running(self) -> bool:
        """Whether the server of this home runs, no matter who started it."""
        if self._process is not None:
            return self._process.poll() is None
        return self.identity is not None

    @property
    def ready(self) -> bool:
        """Whether it runs and has answered since it was started, no matter who started it."""
        return self.identity is not None and bool(self.home.read(self.name).get("ready"))

    @property
    def died(self) -> bool:
        """Whether it was started and has ended without `stop`."""
        if self._process is not None:
            return self._process.poll() is not None
        return bool(self.home.read(self.name).get("pid")) and self.identity is None

    @property
    def recorded_port(self) -> int:
        """Where it listened last."""
        port = self.home.read(self.name).get("port", 0)
        if not port:
            raise ProgrammingError(f"The {self.display_name} of {self.home.path} has never been started.")
        return int(port)

    def ports(self) -> Iterator[int]:
        """Ports to start it on, one after the other until it could keep one. Raises Unreachable at the end."""
        taken = None
        for _ in range(_PORT_ATTEMPTS_MAX):
            taken = self.home.port(self.name, avoid=taken)
            yield taken
        raise Unreachable(
            f"No port could be kept for the {self.display_name} of {self.home.path} in {_PORT_ATTEMPTS_MAX} attempts.",
            remedy="See what else opens ports on this machine, and try again.",
        )

    async def start(
        self,
        command: Sequence[str],
        *,
        port: int,
        socket: Path,
        answers: Callable[[], Awaitable[bool]],
        death_signal: Signals,
        needs: Iterable[Path],
    ) -> str | None:
        """Start it and wait until it has its socket and answers: None. What it said, when it ends before that."""
        log_path = self.home.log(self.name)
        with log_path.open("ab") as log:
            said_before = log.tell()
            self._process = launch(command, log=log, death_signal=death_signal, needs=needs)
        identity = ProcessIdentity.of(self._process.pid)
        if identity is not None:
            self.home.write(self.name, {"port": port, "pid": identity.pid, "started": identity.started})
        try:
            if await self._is_answering(self._process, socket, answers):
                self.home.write(self.name, {**self.home.read(self.name), "ready": True})
                return None
        except BaseException:
            await self.stop()
            raise
        self._process = None
        with log_path.open("rb") as log:
            log.seek(said_before)
            return log.read().decode(errors="replace")

    async def _is_answering(
        self, process: subprocess.Popen[bytes], socket: Path, answers: Callable[[], Awaitable[bool]]
    ) -> bool:
        """Wait for an answer; False if the server ends."""
        deadline = time.monotonic() + self._ready_seconds_max
        while process.poll() is None:
            if time.monotonic() > deadline:
                raise Unreachable(
                    f"{self.display_name} was not ready within {self._ready_seconds_max:.0f} s.",
                    remedy=f"Its log is {self.home.log(self.name)}.",
                )
            if socket.exists() and await answers():  # noqa: ASYNC240  # one stat of a local file
                return True
            await asyncio.sleep(self._ask_every_seconds)
        return False

    def ended_early(self, last_words: str) -> Unreachable:
        """The error of a server that ended before it was ready."""
        return Unreachable(
            f"{self.display_name} ended before it was ready: {last_words}",
            remedy=f"Its log is {self.home.log(self.name)}.",
        )

    async def end_leftovers(self) -> None:
        """End what a killed run has left: a server that is shutting down, or children that follow it in a moment."""
        leftovers = self._processes()
        if leftovers and not await ended(leftovers, within_seconds=0.5):
            await self.stop()

    async def stop(self) -> bool:
        """Stop it, also one that a killed process of this home has left. Whether anything ran."""
        ours = self._processes()
        if ours:
            await end(ours, self._stopping)
        if self._process is not None:
            self._process.wait()
            self._process = None
        recorded = self.home.read(self.name)
        if recorded.get("pid"):
            self.home.write(self.name, {"port": recorded.get("port")})
        return bool(ours)

    def _processes(self) -> list[ProcessIdentity]:
        """What runs on our data: the recorded server first, then whatever has the folder as working directory."""
        found: dict[int, ProcessIdentity] = {}
        if (recorded := self.identity) is not None:
            found[recorded.pid] = recorded
        for identity in living_in(self.data, self._program, title=self._title):
            found.setdefault(identity.pid, identity)
        return list(found.values())
