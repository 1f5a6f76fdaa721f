"""The wire: order, refusals, silence, and the way back."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from headwater.embedded.valkey import EmbeddedValkey
from headwater.kernel.errors import InvalidValue, Unreachable
from headwater.kernel.wire import Address, ReplyError, Script, Wire


@pytest_asyncio.fixture
async def server(tmp_path: Path) -> AsyncIterator[EmbeddedValkey]:
    """A Valkey that may be harmed."""
    async with EmbeddedValkey(tmp_path / "home") as embedded:
        yield embedded


@pytest_asyncio.fixture
async def wire(valkey_server: Any) -> AsyncIterator[Wire]:
    opened = Wire(valkey_server.url)
    await opened.open()
    yield opened
    await opened.close()


async def test_many_commands_of_one_turn_are_answered_in_order(wire: Wire) -> None:
    sent = [wire.send("ECHO", str(i)) for i in range(1_000)]
    assert [int(reply) for reply in await asyncio.gather(*sent)] == list(range(1_000))


async def test_a_refused_command_fails_alone(wire: Wire) -> None:
    before, refused, after = wire.send("PING"), wire.send("NO SUCH COMMAND"), wire.send("PING")
    assert await before == b"PONG"
    with pytest.raises(ReplyError, match="unknown command"):
        await refused
    assert await after == b"PONG"


async def test_a_reader_that_gives_up_does_not_shift_the_replies_of_others(wire: Wire) -> None:
    first, second = wire.send("ECHO", "first"), wire.send("ECHO", "second")
    first.cancel()
    assert await second == b"second"


async def test_a_script_is_sent_by_text_when_the_server_does_not_know_it(wire: Wire, tmp_path: Path) -> None:
    path = tmp_path / "double.lua"
    path.write_text(f"return tonumber(ARGV[1]) * 2 -- {os.urandom(8).hex()}")
    script = Script.load(path)
    assert await wire.run(script, [], 21) == 42
    assert await wire.send("EVALSHA", script.sha, 0, 4) == 8


async def test_it_speaks_over_a_unix_socket_to_the_same_server(server: EmbeddedValkey) -> None:
    over_tcp, over_socket = Wire(server.dsn), Wire(server.socket_dsn)
    await asyncio.gather(over_tcp.open(), over_socket.open())
    assert over_tcp.run_id == over_socket.run_id != ""
    await asyncio.gather(over_tcp.close(), over_socket.close())


async def test_a_silent_server_fails_everyone_at_once_and_is_taken_back_when_it_answers(server: EmbeddedValkey) -> None:
    losses: list[int] = []
    wire = Wire(server.dsn, lost=lambda: losses.append(1))
    await wire.open()
    assert server.server.identity is not None
    os.kill(server.server.identity.pid, signal.SIGSTOP)
    try:
        started = asyncio.get_running_loop().time()
        sent = [wire.send("PING") for _ in range(100)]
        outcomes = await asyncio.gather(*sent, return_exceptions=True)
        assert asyncio.get_running_loop().time() - started < 1  # 0.05 on an idle machine
        assert all(isinstance(outcome, Unreachable) for outcome in outcomes)
        assert not wire.up
        with pytest.raises(Unreachable, match="not connected"):
            wire.send("PING")
    finally:
        os.kill(server.server.identity.pid, signal.SIGCONT)
    async with asyncio.timeout(10):
        while not wire.up:  # noqa: ASYNC110  # it comes back by itself
            await asyncio.sleep(0.01)
    assert await wire.send("PING") == b"PONG"
    assert losses == [1]
    await wire.close()


async def test_what_the_server_pushes_comes_before_the_replies_sent_after_it(valkey_server: Any) -> None:
    seen: list[Any] = []
    wire = Wire(valkey_server.url, pushed=seen.append)
    wire.greet.append(("CLIENT", "TRACKING", "ON"))
    await wire.open()
    key = f"test:{os.urandom(6).hex()}"
    await wire.send("SET", key, "1")
    await wire.send("GET", key)
    wire.send("SET", key, "2")
    await wire.send("PING")
    assert seen == [[b"invalidate", [key.encode()]]]
    await wire.send("DEL", key)
    await wire.close()


async def test_nobody_there_is_said_at_once() -> None:
    wire = Wire("redis://127.0.0.1:1")
    await wire.open()
    assert not wire.up
    with pytest.raises(Unreachable):
        wire.send("PING")
    await wire.close()


async def test_a_wrong_password_does_not_come_up(server: EmbeddedValkey) -> None:
    wire = Wire(f"redis://:wrong@127.0.0.1:{server.port}/0")
    await wire.open()
    assert not wire.up
    await wire.close()


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("redis://localhost", Address("localhost", 6379, "", "", "", 0, False)),
        ("rediss://u:p%40@host:7000/3", Address("host", 7000, "", "u", "p@", 3, True)),
        ("unix://:p@/run/valkey.sock?db=2", Address("localhost", 6379, "/run/valkey.sock", "", "p", 2, False)),
    ],
)
def test_an_address_is_read(url: str, expected: Address) -> None:
    assert Address.parse(url) == expected


@pytest.mark.parametrize("url", ["http://:secret@host", "redis://:secret@host:port", "redis://:secret@host/x"])
def test_an_address_that_cannot_be_read_is_not_repeated(url: str) -> None:
    with pytest.raises(InvalidValue) as refused:
        Address.parse(url)
    assert "secret" not in str(refused.value)
