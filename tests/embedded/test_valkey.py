"""The embedded Valkey: started, saved, stopped, and never in its own way after something was killed."""

from __future__ import annotations

import os
import signal
import socket
from pathlib import Path

import pytest
from valkey.asyncio import Valkey
from valkey.exceptions import AuthenticationError

from headwater.embedded.processes import ended, living_in
from headwater.embedded.valkey import EmbeddedValkey


@pytest.fixture(scope="module")
def made_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("valkey") / "home"


async def test_it_keeps_its_keys_over_a_stop_and_wants_a_password(made_home: Path) -> None:
    async with EmbeddedValkey(made_home) as valkey:
        async with Valkey.from_url(valkey.dsn) as client:
            await client.set("kept", "7")
        async with Valkey(port=valkey.port) as stranger:
            with pytest.raises(AuthenticationError):
                await stranger.get("kept")
    async with EmbeddedValkey(made_home) as valkey, Valkey.from_url(valkey.socket_dsn) as client:
        assert await client.get("kept") == b"7"
        assert await client.config_get("bind") == {"bind": "127.0.0.1"}
    assert not living_in(made_home / "valkey", "valkey-server")


async def test_after_sigkill_the_next_start_succeeds(made_home: Path) -> None:
    valkey = EmbeddedValkey(made_home)
    await valkey.start()
    assert valkey.server.identity is not None
    killed = valkey.server.identity
    os.kill(killed.pid, signal.SIGKILL)
    assert await ended([killed], within_seconds=10)
    assert valkey.server.died
    await valkey.start()
    assert valkey.server.running
    assert await valkey.stop()
    assert not await valkey.stop()


async def test_a_taken_port_makes_it_choose_another(made_home: Path) -> None:
    async with EmbeddedValkey(made_home) as valkey:
        port = valkey.port
    with socket.socket() as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        taken.bind(("127.0.0.1", port))
        taken.listen()
        async with EmbeddedValkey(made_home) as valkey:
            assert valkey.port != port
