"""Launcher: the step between us and a server. It lays down root, ties the server's life to ours, and becomes it.

Run as a file of its own (`python -I -S unprivileged.py ... -- command`), so that it imports nothing of Headwater and
the work between fork and exec happens in a fresh process. Exit code 71: it could not do its work, and said why.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import signal
import stat
import sys

CANNOT_LAUNCH = 71

_PR_SET_PDEATHSIG = 1
_PR_SET_KEEPCAPS = 8
_PR_CAP_AMBIENT = 47
_PR_CAP_AMBIENT_RAISE = 2
_CAP_DAC_OVERRIDE = 1
_CAP_DAC_READ_SEARCH = 2
_CAPABILITY_VERSION_3 = 0x20080522


class _Header(ctypes.Structure):
    _fields_ = [("version", ctypes.c_uint32), ("pid", ctypes.c_int)]


class _Sets(ctypes.Structure):
    _fields_ = [("effective", ctypes.c_uint32), ("permitted", ctypes.c_uint32), ("inheritable", ctypes.c_uint32)]


class LaunchError(Exception):
    """Why the server cannot be started, with what to do about it."""


def main(arguments: list[str]) -> None:
    """Become the server. Returns only by raising."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--parent", type=int, required=True)
    parser.add_argument("--death-signal", type=int, required=True)
    parser.add_argument("--become", default="")
    parser.add_argument("--needs", action="append", default=[])
    parser.add_argument("command", nargs="+")
    given = parser.parse_args(arguments)
    os.umask(0o077)
    on_linux = sys.platform == "linux"
    libc = ctypes.CDLL(None, use_errno=True) if on_linux else None
    if given.become:
        uid, gid = (int(part) for part in given.become.split(":"))
        lay_down_root(libc, uid, gid, given.needs)
    if libc is not None:
        # After the change of user: changing it clears the setting. Exec keeps it.
        if libc.prctl(_PR_SET_PDEATHSIG, given.death_signal, 0, 0, 0) != 0:
            raise LaunchError(f"prctl(PR_SET_PDEATHSIG) failed: {os.strerror(ctypes.get_errno())}.")
        if os.getppid() != given.parent:
            raise LaunchError("The process that wanted this server has ended meanwhile.")
    # Python ignores SIGPIPE and an ignored signal stays ignored across exec; the server gets the ordinary disposition.
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    try:
        os.execv(given.command[0], given.command)  # noqa: S606  # no shell wanted
    except OSError as why:
        raise LaunchError(f"{given.command[0]} cannot be run: {why.strerror}.") from None


def lay_down_root(libc: ctypes.CDLL | None, uid: int, gid: int, needs: list[str]) -> None:
    """Become `uid`, keeping only what it takes to reach `needs`: nothing at all when they are reachable for everyone.

    Otherwise a home or a .venv below a folder like /root: CAP_DAC_READ_SEARCH is enough to walk there; where it is not
    granted (Docker's default) or a binary is executable for its owner alone, CAP_DAC_OVERRIDE is taken.
    """
    if libc is not None:
        libc.prctl(_PR_SET_KEEPCAPS, 1, 0, 0, 0)
    try:
        os.setgroups([])
        os.setresgid(gid, gid, gid)
        os.setresuid(uid, uid, uid)
    except OSError as refused:
        raise LaunchError(
            f"PostgreSQL does not run as root, and root may not become user {uid} here ({refused.strerror}). "
            "Run the command as an ordinary user."
        ) from None
    # access() asks as the real user, without the capabilities that are still held.
    if all(os.access(path, os.R_OK | os.X_OK) for path in needs):
        if libc is not None:
            _hold(libc, 0, 0)
        return
    permitted = 0 if libc is None else _permitted(libc)
    for capability in (_CAP_DAC_READ_SEARCH, _CAP_DAC_OVERRIDE):
        mask = 1 << capability
        if libc is None or not permitted & mask or not _hold(libc, permitted, mask):
            continue
        if not all(_opens(path, any_file_runs=capability == _CAP_DAC_OVERRIDE) for path in needs):
            continue
        # Permitted becomes equal to ambient, not more: exec of a process that holds more is a privileged one to the
        # kernel, which would clear the parent-death signal and make the loader ignore $ORIGIN.
        if libc.prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_RAISE, capability, 0, 0) == 0 and _hold(libc, mask, mask):
            return
    unreachable = next(path for path in needs if not os.access(path, os.R_OK | os.X_OK))
    raise LaunchError(
        f"User {uid}, as whom the server runs because root may not, cannot reach {unreachable}, and the capability to "
        "do so (CAP_DAC_READ_SEARCH or CAP_DAC_OVERRIDE) is not granted here. Move the home and the .venv to folders "
        "that every user may enter, or run the command as an ordinary user."
    )


def _opens(path: str, *, any_file_runs: bool) -> bool:
    """Whether this process, with the capabilities it holds now, may read and enter or run `path`."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except OSError:
        return False
    try:
        mode = os.fstat(descriptor).st_mode
        return any_file_runs or stat.S_ISDIR(mode) or bool(mode & stat.S_IXOTH)
    finally:
        os.close(descriptor)


def _permitted(libc: ctypes.CDLL) -> int:
    """The capabilities this process may hold, as a bit mask of the first 32."""
    header, sets = _Header(_CAPABILITY_VERSION_3, 0), (_Sets * 2)()
    return int(sets[0].permitted) if libc.capget(ctypes.byref(header), sets) == 0 else 0


def _hold(libc: ctypes.CDLL, permitted: int, mask: int) -> bool:
    """Hold `mask` now and across exec, and stay able to hold `permitted`; False when that is refused."""
    header, sets = _Header(_CAPABILITY_VERSION_3, 0), (_Sets * 2)()
    sets[0] = _Sets(mask, permitted, mask)
    return bool(libc.capset(ctypes.byref(header), sets) == 0)


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except LaunchError as why:
        os.write(2, f"FATAL:  {why}\n".encode())
        os._exit(CANNOT_LAUNCH)
