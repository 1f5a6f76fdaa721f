"""The reference says what the code says: every command, setting, error, route and table, and nothing that is gone."""

from __future__ import annotations

import ast
import importlib.util
import re
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[2]
REFERENCE = ROOT / "docs/reference"
_VARIABLE = re.compile(r"HEADWATER_[A-Z_]*[A-Z]|DATABASE_URL|REDIS_URL|MONGODB_URI|FIRESTORE_EMULATOR_HOST")
_LINK = re.compile(r"\]\(([^)#\s]+)(?:#[^)]*)?\)")


def _links(page: Path) -> list[str]:
    """Where a page points to inside the project."""
    return [target for target in _LINK.findall(page.read_text(encoding="utf-8")) if "://" not in target]


@pytest.fixture(scope="module")
def generate() -> ModuleType:
    """docs/generate.py, imported from where it stands."""
    spec = importlib.util.spec_from_file_location("docs_generate", ROOT / "docs/generate.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def test_the_reference_is_up_to_date(generate: ModuleType) -> None:
    assert generate.stale() == [], "run `python docs/generate.py`"


def test_a_page_that_was_edited_by_hand_is_noticed(
    generate: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = generate.stale()
    for page in REFERENCE.glob("*.md"):
        (tmp_path / page.name).write_text(page.read_text())
    (tmp_path / "settings.md").write_text("# Settings\n")
    monkeypatch.setattr(generate, "REFERENCE", tmp_path)
    assert set(generate.stale()) - set(before) == {"settings"}


def test_every_page_of_the_reference_is_generated(generate: ModuleType) -> None:
    assert {page.stem for page in REFERENCE.glob("*.md")} == set(generate.PAGES)


def test_every_command_is_documented() -> None:
    page = (REFERENCE / "commands.md").read_text()
    files = {path.stem for path in (ROOT / "src/headwater/cli").glob("*.py")}
    plumbing = {"__init__", "main", "exits", "options", "running", "stores", "ledger_torture"}
    for name in files - plumbing:
        assert f"## headwater {name}\n" in page


def test_every_setting_says_what_it_is_for() -> None:
    for line in (REFERENCE / "settings.md").read_text().split("\n"):
        if line.startswith("| `"):
            assert line.rstrip(" |").count("|") >= 2
            assert not line.endswith("|  |"), f"no meaning: {line}"


def test_every_environment_variable_that_the_code_reads_is_documented() -> None:
    page = (REFERENCE / "settings.md").read_text()
    read: set[str] = set()
    for path in (ROOT / "src").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and _VARIABLE.fullmatch(node.value):
                read.add(node.value)
    assert read
    assert {name for name in read if f"`{name}`" not in page} == set()


def test_every_error_is_documented() -> None:
    from headwater.kernel import errors

    page = (REFERENCE / "errors.md").read_text()
    names = [n for n, v in vars(errors).items() if isinstance(v, type) and issubclass(v, errors.HeadwaterError)]
    assert [name for name in names if f"| `{name}` |" not in page] == []


def test_links_between_pages_lead_somewhere() -> None:
    broken = [
        f"{page.relative_to(ROOT)}: {target}"
        for page in [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]
        for target in _links(page)
        if not (page.parent / target).exists()
    ]
    assert not broken, "\n".join(broken)


def test_every_page_of_the_documentation_is_reachable_from_the_readme() -> None:
    seen: set[Path] = set()
    waiting = [ROOT / "README.md"]
    while waiting:
        page = waiting.pop()
        if page in seen:
            continue
        seen.add(page)
        waiting += [(page.parent / target).resolve() for target in _links(page) if target.endswith(".md")]
    lost = {page.resolve() for page in (ROOT / "docs").rglob("*.md")} - seen
    assert not lost, sorted(str(page.relative_to(ROOT)) for page in lost)


def test_the_architecture_names_every_file_of_the_kernel_and_no_other() -> None:
    page = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8")
    table = page.partition("### The kernel")[2].partition("###")[0]
    files = {path.name for path in (ROOT / "src/headwater/kernel").glob("*.py")} - {"__init__.py"}
    assert set(re.findall(r"`(\w+\.py)`", table)) == files


def test_files_and_names_that_the_architecture_follows_exist() -> None:
    """`service/app.py`, `Service._serve`: the file is there, and so is the name in it."""
    page = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8")
    walk = page.partition("## One read")[2].partition("## Decisions")[0]
    for file, names in re.findall(r"`([\w/]+\.py)`((?:(?:,| →) `[\w.]+`)*)", walk):
        path = ROOT / "src/headwater" / file
        assert path.exists(), file
        text = path.read_text(encoding="utf-8")
        for name in re.findall(r"`([\w.]+)`", names):
            if "/" not in name and not name.endswith(".py"):
                for part in name.split("."):
                    assert re.search(rf"(?:def|class) {part}\b", text), f"{file} has no {part}"


def test_places_in_the_code_that_the_documentation_names_exist() -> None:
    """`src/...`, `tests/...` and other paths in backticks."""
    place = re.compile(r"`((?:src|tests|docs|examples|benchmarks)/[\w./-]*\w/?)`")
    missing = [
        f"{page.relative_to(ROOT)}: {name}"
        for page in [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]
        for name in place.findall(page.read_text(encoding="utf-8"))
        if not (ROOT / name).exists()
    ]
    assert not missing, "\n".join(missing)
