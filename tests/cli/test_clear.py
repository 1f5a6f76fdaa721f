"""headwater clear: it asks, or is forced."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys

from .conftest import CommandHome


def test_with_nobody_to_ask_it_is_refused_and_starts_nothing(new_home: CommandHome) -> None:
    refused = new_home.run("clear", "--json")
    assert refused.returncode == 8
    assert json.loads(refused.stdout)["error"]["type"] == "refused"
    assert not new_home.path.exists()


def test_on_a_terminal_it_asks_and_takes_no_for_an_answer(new_home: CommandHome) -> None:
    ours, its = pty.openpty()
    command = [sys.executable, "-m", "headwater.cli.main", "clear", "--home", str(new_home.path)]
    process = subprocess.Popen(command, stdin=its, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    os.close(its)
    os.write(ours, b"n\n")
    _, said = process.communicate(timeout=60)
    os.close(ours)
    assert process.returncode == 8
    assert "Remove every seeded row?" in said
    assert "Nothing was removed" in said
    assert not new_home.path.exists()
