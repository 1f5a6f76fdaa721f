"""The floors of the house: imports point down only, as `[tool.importlinter]` in pyproject.toml draws them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path


def _lint_imports(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", "from importlinter.cli import lint_imports_command as c; c()", "--no-cache", *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(folder), "NO_COLOR": "1"},
        capture_output=True,
        text=True,
        check=False,
    )


def test_imports_point_down_only(root: Path) -> None:
    """The same as `lint-imports`, said by a test as well."""
    result = _lint_imports(root)
    assert result.returncode == 0, result.stdout + result.stderr


def test_the_floors_are_broken_by_an_import_that_points_up(root: Path, tmp_path: Path) -> None:
    """Proof that the contracts above can fail: the same contracts over a small house in which the kernel looks up."""
    house = tmp_path / "headwater"
    for package in (
        *("", "cli", "service", "systems", "modules", "embedded", "kernel"),
        *(f"modules/{name}" for name in ("trading", "manufacturing", "governance", "blockchain", "identity", "ledger")),
        "modules/finance",
    ):
        (house / package).mkdir(parents=True, exist_ok=True)
        (house / package / "__init__.py").touch()
    (house / "kernel" / "errors.py").touch()
    contracts = (root / "pyproject.toml").read_text().partition("[tool.importlinter]")
    (tmp_path / "pyproject.toml").write_text(contracts[1] + contracts[2])

    clean = _lint_imports(tmp_path)
    assert clean.returncode == 0, clean.stdout + clean.stderr

    for importer, imported, contract in (
        ("kernel/errors.py", "headwater.modules.identity", "Imports point down"),
        ("service/__init__.py", "headwater.embedded", "Only the command"),
        ("embedded/__init__.py", "headwater.kernel.settings", "The embedded stores know"),
        ("modules/trading/__init__.py", "headwater.modules.governance", "Modules import only"),
    ):
        (house / "kernel" / "settings.py").touch()
        file = house / importer
        file.write_text(f"import {imported}\n")
        broken = _lint_imports(tmp_path)
        file.write_text("")
        assert broken.returncode == 1, f"{importer} imports {imported}, and nobody minds"
        assert any(contract in line and "BROKEN" in line for line in _joined(broken.stdout)), broken.stdout


def _joined(text: str) -> list[str]:
    """Lines, with the ones that the linter wrapped put together again."""
    return text.replace("\n", " ").replace(" KEPT", " KEPT\n").replace(" BROKEN", " BROKEN\n").split("\n")
