"""Processes: which one is ours, is it alive, how it is started and ended. Nothing is ever ended by name alone."""

from __future__ import annotations

import asyncio
import os
import pwd
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from headwater.kernel.errors import ProgrammingError

_PROC = Path("/proc")
_LAUNCHER = Path(__file__).with_name("unprivileged.py")


@dataclass(frozen=True, slots=True)
class ProcessIdentity:
    """A process and nothing that may get its number later: the number alone is given again by the kernel."""

    pid: int
    started: str

    @classmethod
    def of(cls, pid: int) -> ProcessIdentity | None:
        """Who has this number now, or None when nobody has (a zombie is nobody)."""
        started = _started(pid)
        return None if started is None else cls(pid, started)

    @property
    def alive(self) -> bool:
        """Whether this very process still runs."""
        return _started(self.pid) == self.started

    def send(self, signal_number: int) -> None:
        """Send a signal, unless the process has gone."""
        if self.alive:
            try:
                os.kill(self.pid, signal_number)
            except ProcessLookupError:
                return


def _started(pid: int) -> str | None:
    """When the process began, in the kernel's own count, which no change of the clock moves."""
    if not _PROC.joinpath("self/stat").exists():
        return _started_elsewhere(pid)
    try:
        line = _PROC.joinpath(str(pid), "stat").read_text(errors="replace")
    except OSError:
        return None
    fields = line.rpartition(")")[2].split()
    # A zombie has ended, unless only its first thread has: then the others still hold its port and its files.
    if fields[0] in "ZXx" and int(fields[17]) <= 1:
        return None
    return f"{_boot()}:{fields[19]}"


def _started_elsewhere(pid: int) -> str | None:
    import psutil  # where there is no /proc

    try:
        process = psutil.Process(pid)
        return None if process.status() == psutil.STATUS_ZOMBIE else f"{process.create_time():.2f}"
    except psutil.Error:
        return None


def _boot() -> str:
    try:
        return _PROC.joinpath("sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


def number_is_used(pid: int) -> bool:
    """Whether any process, even a zombie, has this number."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def living_in(folder: Path, program: str, *, title: str = "") -> list[ProcessIdentity]:
    """The processes of a server whose data folder this is: they run `program` and have the folder as working directory.

    Both servers go to their data folder on start, and so do all the children of PostgreSQL. Where the working directory
    may not be read (root in a container, without CAP_SYS_PTRACE), a command line that begins with `title` is proof too.
    """
    found = []
    wanted = os.path.realpath(folder)
    for pid in _pids():
        if _program(pid) != program:
            continue
        directory = _working_directory(pid)
        if directory == wanted or (title and not directory and _command_line(pid).startswith(title)):
            identity = ProcessIdentity.of(pid)
            if identity is not None:
                found.append(identity)
    return found


def _pids() -> list[int]:
    if _PROC.joinpath("self/stat").exists():
        return [int(entry.name) for entry in os.scandir(_PROC) if entry.name.isdigit()]
    import psutil  # where there is no /proc

    return psutil.pids()


def _program(pid: int) -> str:
    try:
        return _PROC.joinpath(str(pid), "comm").read_text(errors="replace").strip()
    except OSError:
        import psutil  # where there is no /proc, or the process has just gone

        try:
            return psutil.Process(pid).name()
        except psutil.Error:
            return ""


def _working_directory(pid: int) -> str:
    try:
        return str(_PROC.joinpath(str(pid), "cwd").readlink())
    except FileNotFoundError:
        import psutil  # where there is no /proc, or the process has just gone

        try:
            return psutil.Process(pid).cwd()
        except psutil.Error:
            return ""
    except OSError:
        return ""


def _command_line(pid: int) -> str:
    try:
        return _PROC.joinpath(str(pid), "cmdline").read_text(errors="replace")
    except OSError:
        return ""


async def ended(processes: Iterable[ProcessIdentity], *, within_seconds: float) -> bool:
    """Wait until none of them runs; False when time is up."""
    waiting = list(processes)
    deadline = time.monotonic() + within_seconds
    pause = 0.002
    while waiting := [process for process in waiting if process.alive]:
        if time.monotonic() > deadline:
            return False
        await asyncio.sleep(pause)
        pause = min(pause * 1.5, 0.05)
    return True


async def finished(process: subprocess.Popen[bytes]) -> int:
    """Wait for a child of ours to end, without blocking the loop; its exit code."""
    pause = 0.002
    while (code := process.poll()) is None:
        await asyncio.sleep(pause)
        pause = min(pause * 1.5, 0.05)
    return code


def server_owner() -> tuple[int, int] | None:
    """As whom the servers run: user and group of `nobody` when we are root, ourselves (None) otherwise.

    PostgreSQL refuses to run as root. The rule is one and the same on every machine, so that a home stays usable.
    """
    if os.geteuid() != 0:
        return None
    try:
        entry = pwd.getpwnam("nobody")
    except KeyError:
        return (65534, 65534)
    return (entry.pw_uid, entry.pw_gid)


def give_to_server(path: Path) -> None:
    """Make the user of the servers the owner of a file or folder."""
    owner = server_owner()
    if owner is not None:
        os.chown(path, *owner)


def launch(
    command: Sequence[str], *, log: IO[bytes], death_signal: signal.Signals, needs: Iterable[Path] = ()
) -> subprocess.Popen[bytes]:
    """Start a server in a session of its own, as an unprivileged user when we are root, to be ended when we end.

    `needs` are paths that the server must reach. Linux sends `death_signal` to the server when the *thread* that
    started it ends; that must be the main thread, or a finished worker thread would take the server with it.
    """
    if threading.current_thread() is not threading.main_thread():
        raise ProgrammingError(
            "An embedded server was started from a thread that is not the main one.",
            remedy="Start it from the main thread: the server ends with the thread that started it.",
        )
    arguments = [sys.executable, "-I", "-S", str(_LAUNCHER), "--parent", str(os.getpid())]
    arguments += ["--death-signal", str(int(death_signal))]
    owner = server_owner()
    if owner is not None:
        arguments += ["--become", f"{owner[0]}:{owner[1]}"]
        arguments += [f"--needs={path}" for path in needs]
    # A session of its own: Ctrl-C in a terminal reaches the whole foreground group, and we want to drain first.
    return subprocess.Popen(  # noqa: S603  # programs of the wheels, arguments of ours
        [*arguments, "--", *command],
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=log,
        env=_environment(),
        start_new_session=True,
    )


def _environment() -> dict[str, str]:
    """Ours without what would steer a PostgreSQL or its initdb behind our back."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PG", "LC_"))}
    return {**kept, "LC_ALL": "C", "TZ": "UTC"}


async def end(processes: Sequence[ProcessIdentity], steps: Iterable[tuple[signal.Signals, float]]) -> bool:
    """Send each signal in turn, waiting as many seconds after it, until none of the processes runs."""
    for signal_number, seconds in steps:
        for process in processes:
            process.send(signal_number)
        if await ended(processes, within_seconds=seconds):
            return True
    return False
