"""What a home knows of its servers: recorded for the next command, awaited, ended with their children."""

from __future__ import annotations

import os
import signal
from collections.abc import AsyncIterator
from itertools import islice, pairwise
from pathlib import Path

import pytest
import pytest_asyncio

from headwater.embedded.home import Home
from headwater.embedded.processes import ended, living_in
from headwater.embedded.server import Server
from headwater.kernel.errors import ProgrammingError, Unreachable


def sleeper(home: Home, *, ready_seconds_max: float = 30.0) -> Server:
    """A server that does nothing: `sleep`."""
    return Server(
        home,
        "sleeper",
        display_name="Sleeper",
        program="sleep",
        stopping=((signal.SIGTERM, 10.0), (signal.SIGKILL, 5.0)),
        ready_seconds_max=ready_seconds_max,
        ask_every_seconds=0.002,
    )


async def yes() -> bool:
    return True


async def start(server: Server, script: str = "touch socket; exec sleep 600") -> str | None:
    return await server.start(
        ["/bin/sh", "-c", f"cd '{server.data}'; {script}"],
        port=16_001,
        socket=server.data / "socket",
        answers=yes,
        death_signal=signal.SIGKILL,
        needs=(server.home.path,),
    )


@pytest_asyncio.fixture
async def server(tmp_path: Path) -> AsyncIterator[Server]:
    """A server that has not been started, in a home of its own; what runs there is ended afterwards."""
    home = Home(tmp_path / "home")
    home.prepare()
    home.folder("sleeper", for_server=True)
    made = sleeper(home)
    yield made
    await made.stop()
    assert not living_in(made.data, "sleep")


async def test_a_started_server_is_known_to_others_until_it_is_stopped(server: Server) -> None:
    other = sleeper(server.home)
    assert (other.running, other.ready, other.died) == (False, False, False)
    assert await start(server) is None
    assert (other.running, other.ready, other.died) == (True, True, False)
    assert other.identity == server.identity
    assert other.recorded_port == 16_001
    assert await other.stop()
    assert (other.running, other.ready, other.died) == (False, False, False)
    assert other.recorded_port == 16_001
    assert not await other.stop()


async def test_a_killed_server_has_died_for_whoever_started_it_and_for_others(server: Server) -> None:
    await start(server)
    killed, other = server.identity, sleeper(server.home)
    assert killed is not None
    os.kill(killed.pid, signal.SIGKILL)
    assert await ended([killed], within_seconds=10)
    for one in (server, other):
        assert (one.running, one.ready, one.died) == (False, False, True)
    assert await start(server) is None
    assert not other.died


async def test_what_a_killed_run_left_is_ended_also_where_nothing_recorded_it(server: Server) -> None:
    await start(server)
    server.home.forget("sleeper")
    other = sleeper(server.home)
    assert not other.running
    await other.end_leftovers()
    assert not living_in(server.data, "sleep")


async def test_a_server_that_ends_at_once_is_told_by_what_it_said_this_time(server: Server) -> None:
    assert await start(server, "echo the first; exit 1") == "the first\n"
    assert await start(server, "echo the second; exit 1") == "the second\n"
    assert server.died
    assert str(server.ended_early("the second")).startswith("Sleeper ended before it was ready: the second")


async def test_a_server_that_does_not_answer_in_time_is_ended(server: Server) -> None:
    hasty = sleeper(server.home, ready_seconds_max=0)
    with pytest.raises(Unreachable, match="Sleeper was not ready within 0 s"):
        await start(hasty, "exec sleep 600")
    assert not hasty.running
    assert not hasty.died


def test_ports_are_tried_until_there_were_enough(tmp_path: Path) -> None:
    home = Home(tmp_path / "home")
    home.prepare()
    server = sleeper(home)
    with pytest.raises(ProgrammingError, match=r"The Sleeper of .* has never been started"):
        _ = server.recorded_port
    with pytest.raises(Unreachable, match=r"No port could be kept for the Sleeper of .* in 5 attempts"):
        list(server.ports())
    tried = list(islice(server.ports(), 5))
    assert len(tried) == 5
    assert all(before != after for before, after in pairwise(tried))
