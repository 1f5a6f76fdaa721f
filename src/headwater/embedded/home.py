"""Home: one folder that holds everything of one embedded Headwater: data, logs, sockets, secrets, who runs there."""

from __future__ import annotations

import asyncio
import fcntl
import hashlib
import json
import os
import pwd
import secrets
import socket
import stat
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from headwater.embedded.processes import give_to_server
from headwater.kernel.errors import LockNotAvailable, RefusedError

_MARKER = "headwater.json"
_SOCKET_PATH_BYTES_MAX = 107
_LONGEST_SOCKET_NAME = ".s.PGSQL.65535.lock"
_PORT_FIRST = 16_000
_PORT_COUNT = 16_000


class Home:
    """A folder of ours. Naming it touches nothing; `prepare` makes it."""

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path).absolute()

    def __repr__(self) -> str:
        return f"Home({str(self.path)!r})"

    @property
    def exists(self) -> bool:
        """Whether there is a home of ours at this path."""
        return (self.path / _MARKER).is_file()

    def prepare(self) -> None:
        """Make the folder, or make sure that it is ours. Raises RefusedError and touches nothing otherwise."""
        try:
            present = self.path.stat()
        except FileNotFoundError:
            self._make()
            return
        except OSError as why:
            raise RefusedError(
                f"The home {self.path} cannot be entered: {why.strerror}.", remedy="Name another one with --home."
            ) from None
        self._check_owner(present)
        if self.exists:
            return
        if any(self.path.iterdir()):
            raise RefusedError(
                f"{self.path} is not empty and not a home of Headwater.",
                remedy="Name a new or empty folder with --home.",
            )
        self._mark()

    def check(self) -> None:
        """Raise RefusedError when the folder is there and belongs to someone else."""
        try:
            self._check_owner(self.path.stat())
        except FileNotFoundError:
            return
        except OSError as why:
            raise RefusedError(
                f"The home {self.path} cannot be entered: {why.strerror}.", remedy="Name another one with --home."
            ) from None

    def _check_owner(self, present: os.stat_result) -> None:
        if not stat.S_ISDIR(present.st_mode):
            raise RefusedError(f"The home {self.path} is not a folder.", remedy="Name another one with --home.")
        if present.st_uid != os.geteuid():
            raise RefusedError(
                f"The home {self.path} belongs to {_user(present.st_uid)}, and this is {_user(os.geteuid())}.",
                remedy="Run the command as its owner, or name another home with --home.",
            )

    def _make(self) -> None:
        try:
            self.path.mkdir(parents=True)
            # When root makes the home, the servers' user must be able to walk through it; secrets have mode 0600.
            self.path.chmod(0o711 if os.geteuid() == 0 else 0o700)
            self._mark()
        except OSError as why:
            raise RefusedError(
                f"The home {self.path} cannot be made: {why.strerror}.", remedy="Name another one with --home."
            ) from None

    def _mark(self) -> None:
        self.write("headwater", {"layout": 1})

    def folder(self, name: str, *, for_server: bool = False) -> Path:
        """A folder in the home; `for_server` makes the user of the servers its owner."""
        path = self.path / name
        path.mkdir(mode=0o700, exist_ok=True)
        if for_server:
            give_to_server(path)
        return path

    def sockets(self) -> Path:
        """The folder of the Unix sockets: in the home, or below /tmp when the home's path is too long for a socket."""
        inside = self.path / "run"
        if len(os.fsencode(inside / _LONGEST_SOCKET_NAME)) <= _SOCKET_PATH_BYTES_MAX:
            return self.folder("run", for_server=True)
        name = hashlib.sha256(os.fsencode(self.path)).hexdigest()[:16]
        outside = Path(f"/tmp/headwater-{os.geteuid()}-{name}")  # noqa: S108  # ownership is checked below
        outside.mkdir(mode=0o700, exist_ok=True)
        found = outside.lstat()
        if not stat.S_ISDIR(found.st_mode) or stat.S_IMODE(found.st_mode) & 0o077:
            raise RefusedError(
                f"{outside} was made by someone else.", remedy="Remove it, or use a home with a shorter path."
            )
        try:
            give_to_server(outside)
        except PermissionError:
            raise RefusedError(
                f"{outside} belongs to {_user(found.st_uid)}.", remedy="Remove it, or use a home with a shorter path."
            ) from None
        return outside

    def log(self, name: str) -> Path:
        """The path of a log file; one that has grown past 16 MB is moved aside, over the one moved before."""
        path = self.folder("logs") / f"{name}.log"
        if path.exists() and path.stat().st_size > 16 * 2**20:
            path.replace(path.with_suffix(".log.1"))
        return path

    def secret(self, name: str) -> str:
        """The secret of this name, made on first use and kept in a file that only the owner reads."""
        path = self.path / f"{name}.secret"
        try:
            return path.read_text().strip()
        except FileNotFoundError:
            self.keep_secret(name, secrets.token_urlsafe(24))
            return path.read_text().strip()

    def known_secret(self, name: str) -> str | None:
        """The secret of this name if there is one."""
        try:
            return (self.path / f"{name}.secret").read_text().strip()
        except FileNotFoundError:
            return None

    def keep_secret(self, name: str, value: str) -> None:
        """Keep a secret that was made elsewhere."""
        self._replace(self.path / f"{name}.secret", value + "\n")

    def read(self, name: str) -> dict[str, Any]:
        """What was written under this name; empty when nothing was, or nothing readable."""
        try:
            found = json.loads((self.path / f"{name}.json").read_bytes())
        except (OSError, ValueError):
            return {}
        return found if isinstance(found, dict) else {}

    def write(self, name: str, facts: dict[str, Any]) -> None:
        """Keep facts under a name, all or nothing."""
        self._replace(self.path / f"{name}.json", json.dumps(facts, indent=1) + "\n")

    def forget(self, name: str) -> None:
        """Drop what was written under this name."""
        (self.path / f"{name}.json").unlink(missing_ok=True)

    def _replace(self, path: Path, text: str) -> None:
        descriptor, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=self.path)
        try:
            with os.fdopen(descriptor, "w") as file:
                file.write(text)
            Path(temporary).replace(path)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise

    def port(self, name: str, *, avoid: int | None = None) -> int:
        """A free port of 127.0.0.1 for a server: the one it had before, else one that follows from the home's path.

        Below 32768: the ports above are the ones Linux gives to outgoing connections.
        """
        preferred = self.read(name).get("port")
        if isinstance(preferred, int) and preferred != avoid and port_is_free(preferred):
            return preferred
        start = int.from_bytes(hashlib.sha256(f"{self.path}:{name}".encode()).digest()[:4])
        for step in range(_PORT_COUNT):
            candidate = _PORT_FIRST + (start + step) % _PORT_COUNT
            if candidate != avoid and port_is_free(candidate):
                return candidate
        raise RefusedError(
            f"No port of 127.0.0.1 between {_PORT_FIRST} and {_PORT_FIRST + _PORT_COUNT} is free for {name}.",
            remedy="End some of the programs that listen there.",
        )

    def try_lock(self) -> int | None:
        """Take the home for this process; the descriptor that holds it, or None when another process has it."""
        descriptor = os.open(self.path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            return None
        return descriptor

    @asynccontextmanager
    async def locked(self, *, within_seconds: float) -> AsyncIterator[None]:
        """Have the home to ourselves. Raises LockNotAvailable when another process keeps it too long."""
        deadline = time.monotonic() + within_seconds
        while (descriptor := self.try_lock()) is None:
            if time.monotonic() > deadline:
                raise LockNotAvailable(
                    f"Another command has kept the home {self.path} for {within_seconds:.0f} s.",
                    remedy="Wait for it to end, or see what it does.",
                )
            await asyncio.sleep(0.05)
        try:
            yield
        finally:
            os.close(descriptor)


def port_is_free(port: int) -> bool:
    """Whether a server could listen on this port of 127.0.0.1 now."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
            probe.listen(1)
        except OSError:
            return False
    return True


def _user(uid: int) -> str:
    try:
        return f"user {pwd.getpwuid(uid).pw_name}"
    except KeyError:
        return f"user {uid}"
