"""The launcher: what a server keeps of root, and what ends it."""

from __future__ import annotations

import os
import shutil
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from headwater.embedded import unprivileged
from headwater.embedded.processes import ProcessIdentity, ended

LAUNCHER = unprivileged.__file__
NOBODY = "65534:65534"
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="there is nothing to lay down without root")


def launched(*command: str, needs: list[Path] | None = None, become: str = "", parent: int = 0) -> list[str]:
    arguments = [sys.executable, "-I", "-S", LAUNCHER, "--parent", str(parent or os.getpid())]
    arguments += ["--death-signal", str(int(signal.SIGTERM))]
    if become:
        arguments += ["--become", become]
    return [*arguments, *(f"--needs={path}" for path in needs or []), "--", *command]


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(arguments, capture_output=True, text=True, timeout=30)


@as_root
def test_where_everyone_may_go_it_keeps_nothing_of_root() -> None:
    shell = shutil.which("sh")
    assert shell is not None
    found = run(*launched(shell, "-c", "id -u; grep Cap /proc/self/status", become=NOBODY, needs=[Path("/tmp")]))
    uid, *capabilities = found.stdout.splitlines()
    assert uid == "65534", found.stderr
    held = {line.split(":")[0]: int(line.split(":")[1], 16) for line in capabilities}
    assert held["CapEff"] == held["CapPrm"] == held["CapAmb"] == 0


@as_root
def test_below_a_closed_folder_it_keeps_the_right_to_walk_there_and_no_more(tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    (closed / "file").write_text("read")
    script = f"cat {closed}/file; grep CapEff /proc/self/status; touch {closed}/new 2>/dev/null || echo refused"
    found = run(*launched("/bin/sh", "-c", script, become=NOBODY, needs=[closed]))
    read, effective, written = found.stdout.replace("readCap", "read\nCap").splitlines()
    assert read == "read", found.stderr
    assert int(effective.split(":")[1], 16) == 1 << 2  # CAP_DAC_READ_SEARCH
    assert written == "refused"


@as_root
def test_without_the_capability_the_error_says_what_to_do(tmp_path: Path) -> None:
    setpriv = shutil.which("setpriv")
    if setpriv is None:
        pytest.skip("setpriv is not installed")
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    dropped = ["--bounding-set", "-dac_override,-dac_read_search", "--inh-caps", "-dac_override,-dac_read_search"]
    found = run(setpriv, *dropped, "--", *launched("/bin/true", become=NOBODY, needs=[closed], parent=os.getpid()))
    assert found.returncode == unprivileged.CANNOT_LAUNCH
    assert str(closed) in found.stderr
    assert "run the command as an ordinary user" in found.stderr
    open_to_all = run(setpriv, *dropped, "--", *launched("/bin/true", become=NOBODY, needs=[Path("/usr")]))
    assert open_to_all.returncode == 0, open_to_all.stderr


@as_root
def test_a_binary_for_its_owner_alone_is_still_run(tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    true = shutil.which("true")
    assert true is not None
    shutil.copy(true, closed / "true")
    (closed / "true").chmod(stat.S_IRWXU)
    found = run(*launched(str(closed / "true"), become=NOBODY, needs=[closed / "true"]))
    assert found.returncode == 0, found.stderr


@pytest.mark.parametrize("become", ["", pytest.param(NOBODY, marks=as_root)])
async def test_it_ends_when_its_parent_is_killed(become: str, tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    command = launched("/bin/sh", "-c", "echo runs; exec sleep 600", become=become, needs=[closed])
    parent, pid = parent_of(["PARENT" if part == str(os.getpid()) else part for part in command])
    server = ProcessIdentity.of(pid)
    assert server is not None
    parent.kill()
    parent.wait()
    assert await ended([server], within_seconds=10)


def parent_of(command: list[str]) -> tuple[subprocess.Popen[str], int]:
    """A process that has started `command` and waits for it; the command's number, once it has said that it runs."""
    program = (
        "import subprocess, os, sys\n"
        "command = [part.replace('PARENT', str(os.getpid())) for part in sys.argv[1:]]\n"
        "child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)\n"
        "print(child.pid, child.stdout.readline(), flush=True)\n"
        "child.wait()\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", program, *command], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    with parent.stdout:
        pid, said = parent.stdout.readline().split()
    assert said == "runs"
    return parent, int(pid)


def test_a_parent_that_has_gone_already_is_noticed() -> None:
    found = run(*launched("/bin/true", parent=1))
    assert found.returncode == unprivileged.CANNOT_LAUNCH
    assert "has ended meanwhile" in found.stderr


def test_a_program_that_is_not_there_is_told_in_one_line() -> None:
    found = run(*launched("/no/such/server"))
    assert found.returncode == unprivileged.CANNOT_LAUNCH
    assert "/no/such/server" in found.stderr
    assert "Traceback" not in found.stderr
