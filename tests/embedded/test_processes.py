"""Which process is ours, and that no other is ever touched."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from headwater.embedded.processes import ProcessIdentity, end, ended, finished, launch, living_in, number_is_used
from headwater.kernel import errors


def sleeper() -> subprocess.Popen[bytes]:
    return subprocess.Popen(["sleep", "600"])


def deaf() -> subprocess.Popen[bytes]:
    """A process that ignores SIGTERM."""
    script = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(1, flush=True); time.sleep(600)"
    process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE)
    assert process.stdout is not None
    with process.stdout:
        process.stdout.readline()
    return process


async def test_a_process_is_known_until_it_ends_also_as_a_zombie() -> None:
    process = sleeper()
    identity = ProcessIdentity.of(process.pid)
    assert identity is not None
    assert identity.alive
    assert not await ended([identity], within_seconds=0.01)
    process.kill()
    assert await ended([identity], within_seconds=10)
    assert number_is_used(process.pid), "nobody has waited for it yet"
    assert ProcessIdentity.of(process.pid) is None
    process.wait()
    assert not number_is_used(process.pid)


def test_the_same_number_with_another_beginning_is_somebody_else() -> None:
    process = sleeper()
    try:
        stranger = ProcessIdentity(process.pid, "boot:1")
        assert not stranger.alive
        stranger.send(signal.SIGKILL)
        assert process.poll() is None
    finally:
        process.kill()
        process.wait()


async def test_who_does_not_listen_to_the_first_signal_gets_the_next() -> None:
    process = deaf()
    identity = ProcessIdentity.of(process.pid)
    assert identity is not None
    assert not await end([identity], [(signal.SIGTERM, 0.05)])
    assert await end([identity], [(signal.SIGTERM, 0.05), (signal.SIGKILL, 10.0)])
    assert await finished(process) == -signal.SIGKILL


def test_only_the_right_program_in_the_right_folder_is_found(tmp_path: Path) -> None:
    process = subprocess.Popen(["sleep", "600"], cwd=tmp_path)
    try:
        while not living_in(tmp_path, "sleep"):  # between fork and exec it is not `sleep` yet
            assert process.poll() is None
        assert [found.pid for found in living_in(tmp_path, "sleep")] == [process.pid]
        assert living_in(tmp_path, "postgres") == []
        assert living_in(tmp_path.parent, "sleep") == []
    finally:
        process.kill()
        process.wait()


async def test_a_server_is_started_from_the_main_thread_or_not_at_all(tmp_path: Path) -> None:
    with (tmp_path / "log").open("wb") as log, pytest.raises(errors.ProgrammingError, match="not the main one"):
        await asyncio.to_thread(launch, ["/bin/true"], log=log, death_signal=signal.SIGTERM)
