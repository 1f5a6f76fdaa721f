"""headwater backup: comes with a later issue, and says so."""

from __future__ import annotations

import json

from .conftest import CommandHome


def test_it_says_that_it_comes_later_with_exit_code_2_and_does_nothing(new_home: CommandHome) -> None:
    done = new_home.run("backup", "--backup-file", "my_backup.json", "--json")
    assert done.returncode == 2
    assert "comes with a later issue" in done.stderr
    assert json.loads(done.stdout)["error"]["exit_code"] == 2
    assert not new_home.path.exists()
