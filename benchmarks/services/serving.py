"""Serving: how every service of the benchmark is run: uvicorn with uvloop and httptools, one worker, one core."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
import threading
from contextlib import AbstractAsyncContextManager
from typing import Any

import uvicorn
import uvloop


def serve(app: AbstractAsyncContextManager[Any]) -> None:
    """Open the app, tell the port on stdout, and serve until stdin closes. Arguments: DSN and core."""

    async def run() -> None:
        with socket.socket() as listener:
            listener.bind(("127.0.0.1", 0))
            listener.listen(4096)
            listener.setblocking(False)
            async with app as ready:
                config = uvicorn.Config(
                    ready, http="httptools", access_log=False, log_level="warning", timeout_graceful_shutdown=1
                )
                print(listener.getsockname()[1], flush=True)
                await uvicorn.Server(config).serve(sockets=[listener])

    os.sched_setaffinity(0, {int(sys.argv[2])})
    threading.Thread(target=_end_with_parent, daemon=True).start()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(run())


def dsn() -> str:
    """Where PostgreSQL is."""
    return sys.argv[1]


def _end_with_parent() -> None:
    sys.stdin.read()
    os.kill(os.getpid(), signal.SIGTERM)
