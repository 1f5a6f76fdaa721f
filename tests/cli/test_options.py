"""Options and output that every command shares."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from headwater.cli.options import TableProgress

from .conftest import CommandHome


def test_progress_that_is_no_terminal_is_one_line_for_each_finished_table(capsys: pytest.CaptureFixture[str]) -> None:
    with TableProgress() as progress:
        progress("users", 10, 20)
        progress("users", 20, 20)
        progress("orders", 1_500, None)
    out, err = capsys.readouterr()
    assert out == ""
    assert err == "  users 20\n  orders 1,500\n"


def test_a_system_of_ones_own_is_found_from_the_folder_one_is_in(tmp_path: Path, new_home: CommandHome) -> None:
    (tmp_path / "shop.py").write_text("from headwater import System\nSHOP = System('shop', [])\n")
    script = "import sys, click; from headwater.cli.options import system_option; from headwater.systems import find\n"
    script += "@click.command()\n@system_option\ndef command(system_name): print(find(system_name).name)\ncommand()\n"
    # -P: the interpreter itself does not look into the current folder either.
    done = subprocess.run(
        [sys.executable, "-P", "-c", script, "--system", "shop:SHOP"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.stdout == "shop\n", done.stderr
