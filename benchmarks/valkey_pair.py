"""ValkeyPair: a Valkey and its replica, and every harm that can come to them, behind one address."""

from __future__ import annotations

import asyncio
import os
import random
import shutil
import signal
import socket
import subprocess
from contextlib import suppress
from pathlib import Path
from typing import Any

from valkey.asyncio import Valkey

from headwater.embedded.processes import give_to_server, launch
from headwater.embedded.valkey import program


class ValkeyPair:
    """The address stays; which server answers there does not."""

    def __init__(self, home: Path, *, replica: bool) -> None:
        self.home = home
        self.port = free_port()
        self._with_replica = replica
        self._names = iter(f"valkey-{number}" for number in range(10_000))
        self._primary: tuple[subprocess.Popen[bytes], Path]
        self._replica: tuple[subprocess.Popen[bytes], Path, int] | None = None

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    async def __aenter__(self) -> ValkeyPair:
        folder = self._folder()
        self._primary = (self._start(folder, self.port), folder)
        await self._answers(self.port)
        await self._follow()
        return self

    async def __aexit__(self, *_: object) -> None:
        for process in [self._primary[0], *([self._replica[0]] if self._replica else [])]:
            with suppress(ProcessLookupError):
                os.kill(process.pid, signal.SIGCONT)
            process.kill()
            process.wait()

    async def ask(self, *command: Any, port: int = 0) -> Any:
        """One command, on a connection of its own."""
        async with Valkey(host="127.0.0.1", port=port or self.port, socket_timeout=5) as client:
            return await client.execute_command(*command)

    async def flush(self) -> None:
        """Everything is forgotten."""
        await self.ask("FLUSHALL")

    async def disconnect(self) -> None:
        """All connections are closed by the server."""
        await self.ask("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")

    async def freeze(self, seconds: float) -> None:
        """The server stands still with its connections open."""
        pid = self._primary[0].pid
        os.kill(pid, signal.SIGSTOP)
        try:
            await asyncio.sleep(seconds)
        finally:
            os.kill(pid, signal.SIGCONT)

    async def fill_up(self, seconds: float, policy: str, lot: random.Random) -> None:
        """No memory is left: writes are refused (`noeviction`) or push other keys out (`allkeys-lru`)."""
        used = int((await self.ask("INFO", "memory"))["used_memory"])
        await self.ask("CONFIG", "SET", "maxmemory-policy", policy)
        await self.ask("CONFIG", "SET", "maxmemory", max(1, used - lot.randrange(1_000, 40_000)))
        try:
            await asyncio.sleep(seconds)
        finally:
            await self.ask("CONFIG", "SET", "maxmemory", 0)

    async def stop(self) -> None:
        """Nobody answers at the address any more."""
        self._primary[0].kill()
        self._primary[0].wait()

    async def fall_back(self, seconds: float) -> None:
        """It is killed and starts from a file that is some time old."""
        await self.ask("SAVE")
        await asyncio.sleep(seconds)
        await self.restart()

    async def promote(self, seconds: float) -> None:
        """The replica takes the place of its primary, without what came in the last moment."""
        await self.part()
        await asyncio.sleep(seconds)
        await self.replace()

    async def part(self) -> None:
        """From now on whoever comes next hears nothing: the replica follows no more, or the file is written."""
        if self._replica is None:
            await self.ask("SAVE")
        else:
            await self.ask("REPLICAOF", "NO", "ONE", port=self._replica[2])

    async def replace(self, *, follow: bool = True) -> None:
        """The primary is killed; the replica, or what the file holds, answers in its place."""
        if self._replica is None:
            await self.restart()
            return
        process, folder, port = self._replica
        await self.stop()
        shutil.rmtree(self._primary[1], ignore_errors=True)
        await self.ask("CONFIG", "SET", "port", self.port, port=port)
        self._primary, self._replica = (process, folder), None
        await self._answers(self.port)
        if follow:
            await self._follow()

    async def restart(self) -> None:
        """kill -9, and start with what the file holds."""
        await self.stop()
        self._primary = (self._start(self._primary[1], self.port), self._primary[1])
        await self._answers(self.port)
        await self._follow()

    async def _follow(self) -> None:
        if not self._with_replica:
            return
        if self._replica is not None:
            self._replica[0].kill()
            self._replica[0].wait()
            shutil.rmtree(self._replica[1], ignore_errors=True)
        folder, port = self._folder(), free_port()
        self._replica = (self._start(folder, port, "--replicaof", "127.0.0.1", str(self.port)), folder, port)
        await self._answers(port)
        async with asyncio.timeout(20):
            while (await self.ask("INFO", "replication", port=port)).get("master_link_status") != "up":
                await asyncio.sleep(0.01)

    def _folder(self) -> Path:
        folder = self.home / next(self._names)
        folder.mkdir(parents=True)
        give_to_server(folder)
        return folder

    def _start(self, folder: Path, port: int, *more: str) -> subprocess.Popen[bytes]:
        command = [str(program()), "--port", str(port), "--bind", "127.0.0.1", "--dir", str(folder), "--save", ""]
        command += ["--repl-diskless-sync-delay", "0", "--repl-backlog-size", "16mb", *more]
        with (folder / "log").open("ab") as log:
            return launch(command, log=log, death_signal=signal.SIGKILL, needs=(program(), folder))

    async def _answers(self, port: int) -> None:
        async with asyncio.timeout(20):
            while True:
                with suppress(Exception):
                    if await self.ask("PING", port=port):
                        return
                await asyncio.sleep(0.005)


def free_port() -> int:
    """A port nobody uses now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
