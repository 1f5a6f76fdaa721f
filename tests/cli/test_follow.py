"""headwater follow: processes of which one leads, and another takes over when it is killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import IO

from headwater.kernel.settings import Settings


def _follow(settings: Settings, tmp_path: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "headwater.cli.main", "follow", "--json"],
        env={
            **os.environ,
            "HEADWATER_DATABASE_URL": settings.database_url,
            "HEADWATER_VALKEY_URL": settings.valkey_url,
        },
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def _line(stream: IO[str] | None) -> str:
    assert stream is not None
    return stream.readline()


def test_one_leads_another_takes_over_when_it_is_killed_and_ends_when_told(settings: Settings, tmp_path: Path) -> None:
    with ExitStack() as ending:
        first = ending.enter_context(_follow(settings, tmp_path))
        ending.callback(first.kill)
        said = json.loads(_line(first.stdout))
        assert said == {"pid": first.pid, "ticker": True, "relay": True}
        assert _line(first.stderr) == "Its ticker leads.\n"
        second = ending.enter_context(_follow(settings, tmp_path))
        ending.callback(second.kill)
        assert json.loads(_line(second.stdout))["pid"] == second.pid
        first.kill()
        assert _line(second.stderr) == "Its ticker leads.\n"
        second.send_signal(signal.SIGTERM)
        assert second.wait(timeout=30) == 0
