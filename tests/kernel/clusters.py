"""Clusters of their own for tests that promote a standby or go back to an earlier point: real servers, real backups."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import shutil
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import asyncpg

from headwater.embedded.home import Home
from headwater.embedded.postgres import EmbeddedPostgres, programs
from headwater.embedded.processes import give_to_server


async def started(home: Path) -> EmbeddedPostgres:
    """A server as `headwater up` makes it, that may lose what it wrote when the machine fails."""
    server = EmbeddedPostgres(home)
    await server.start()
    connection = await asyncpg.connect(server.socket_dsn)
    try:
        await connection.execute("alter system set fsync = off")
        await connection.execute("select pg_reload_conf()")
    finally:
        await connection.close()
    return server


async def backed_up(server: EmbeddedPostgres, home: Path, *options: str) -> EmbeddedPostgres:
    """A base backup of a running server in another home, not started yet."""
    place = Home(home)
    place.prepare()
    place.keep_secret("postgres", server.home.secret("postgres"))
    other = EmbeddedPostgres(place)
    command = [str(programs() / "pg_basebackup"), "-D", str(other.data), "-c", "fast", "-X", "stream", *options]
    password = server.home.secret("postgres")
    folder, port = re.findall(r"host=([^&]+)&port=(\d+)", server.socket_dsn)[0]
    words = f"host={unquote(folder)} port={port} user=headwater password={password}"
    process = await asyncio.create_subprocess_exec(*command, "-d", words, stderr=asyncio.subprocess.PIPE)
    _, said = await process.communicate()
    assert process.returncode == 0, said.decode()
    for path in (other.data, *other.data.rglob("*")):
        give_to_server(path)
    return other


def goes_back_to(server: EmbeddedPostgres, point: str, wal_of: Path) -> None:
    """Let a server that was not started yet recover to a named point of the WAL of another, and go on from there."""
    with (server.data / "postgresql.auto.conf").open("a") as settings:
        settings.write(f"restore_command = 'cp {wal_of}/%f %p'\nrecovery_target_name = '{point}'\n")
        settings.write("recovery_target_action = 'promote'\n")
    (server.data / "recovery.signal").touch()
    give_to_server(server.data / "recovery.signal")


async def killed(server: EmbeddedPostgres) -> None:
    """kill -9 of the postmaster; what it leaves is cleaned up."""
    os.kill(int((server.data / "postmaster.pid").read_text().splitlines()[0]), signal.SIGKILL)
    await server.stop()


async def until(dsn: str, question: str, *arguments: Any) -> None:
    """Until a server answers a question with true."""
    async with asyncio.timeout(30):
        connection = await asyncpg.connect(dsn)
        try:
            while not await connection.fetchval(question, *arguments):  # noqa: ASYNC110  # another server's recovery
                await asyncio.sleep(0.01)
        finally:
            await connection.close()


@contextlib.contextmanager
def folder() -> Iterator[Path]:
    """Where such clusters live: in memory where there is room."""
    memory = Path("/dev/shm")
    roomy = memory.is_dir() and os.access(memory, os.W_OK) and shutil.disk_usage(memory).free > 2 * 2**30
    with tempfile.TemporaryDirectory(prefix="headwater-tests-", dir=memory if roomy else None) as name:
        place = Path(name)
        place.chmod(0o711)  # the user of the servers must be able to walk through it
        yield place
