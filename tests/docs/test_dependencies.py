"""Every dependency has its line on the page that says why, and the page names no other."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[2]


def _names(requirements: list[str]) -> set[str]:
    return {re.split(r"[\[<>=;! ]", requirement)[0] for requirement in requirements}


def test_every_dependency_says_why_it_is_there() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    page = (ROOT / "docs/why/dependencies.md").read_text()
    installed, _, development = page.partition("## For development")
    assert set(re.findall(r"^\| `([\w-]+)` \|", installed, re.MULTILINE)) == _names(project["dependencies"])
    named = set(re.findall(r"^\| `([\w-]+)` \|", development, re.MULTILINE))
    assert named == _names(project["optional-dependencies"]["dev"])


def test_nothing_of_the_product_imports_what_only_tests_install() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    only_dev = {
        name.replace("-", "_") for extra in ("dev", "bench") for name in _names(project["optional-dependencies"][extra])
    } - {name.replace("-", "_") for name in _names(project["dependencies"])}
    guilty = [
        f"{path.relative_to(ROOT)}: {name}"
        for path in (ROOT / "src").rglob("*.py")
        for name in re.findall(r"^\s*(?:from|import) (\w+)", path.read_text(encoding="utf-8"), re.MULTILINE)
        if name in only_dev
    ]
    assert not guilty
