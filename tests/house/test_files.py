"""Every file has a sentence on its door, no secrets, no places of one machine, no values in SQL, a test of its name."""

from __future__ import annotations

import ast
import getpass
import re
from collections.abc import Iterator
from pathlib import Path

from .conftest import ROOT, Source

# Files of src that are tested under another name: where, and why. Everything else has a test file of its name.
TESTED_ELSEWHERE = {
    "kernel/routes.py": ("tests/house/test_routes.py", "a declaration; what it says is checked route by route"),
    "kernel/migration_ledger.py": (
        "tests/kernel/test_migrations.py",
        "its rows are what migrate and validate speak of",
    ),
    "kernel/resource.py": ("tests/service/test_resource.py", "its point is the requests it answers"),
    "kernel/idempotency.py": ("tests/service/test_idempotency.py", "its point is a request that is sent twice"),
}
# Files without logic of their own: declarations that the house tests compare.
DECLARATIONS = {"__init__.py", "models.py"}


def test_every_file_begins_with_a_sentence_that_says_what_it_is(python_files: list[Source]) -> None:
    wrong = []
    for source in python_files:
        if not source.text.strip() and source.path.name == "__init__.py":
            wrong.append(f"{source.name}: is empty")
            continue
        said = ast.get_docstring(source.tree) or ""
        first = said.split("\n")[0].strip()
        lines = source.text.split("\n")
        at = 1 if lines[0].startswith("#!") else 0
        if not lines[at].startswith('"""'):
            wrong.append(f"{source.name}: its first line is not a docstring")
        elif len(first.split()) < 3 or first[-1] not in ".:!":
            wrong.append(f"{source.name}: {first!r} is not a sentence")
    assert not wrong, "\n".join(wrong)


# What would be true on one machine only, or must not be published. The patterns are put together so that they do not
# find themselves.
_PLACES = [
    re.compile(pattern)
    for pattern in (
        r"/(?:root|home|Users)/\w+",
        r"/wo" + r"rk/(?:main|shared|\.)",
        r"/tm" + r"p/(?:contract|bash_jobs)",
        r"https?://[\w.-]*(?:artifactory|nexus|jfrog|devpi|pypi-proxy|pkg\.dev)[\w.-]*",
        r"--(?:extra-)?index-url",
        r"(?<![\d.])(?:10(?:\.\d{1,3}){3}|(?:192\.168|172\.(?:1[6-9]|2\d|3[01]))(?:\.\d{1,3}){2})(?![\d.])",
    )
]
_SECRETS = [
    re.compile(pattern)
    for pattern in (
        r"-----BEGIN [A-Z ]*PRIVATE" + r" KEY-----",
        r"\bAKIA[0-9A-Z]{16}\b",
        r"\bgh[pousr]_[A-Za-z0-9]{36}\b",
        r"\bglpat-[\w-]{20}\b",
        r"\bpypi-AgEI[\w-]{20,}",
        r"\bxox[baprs]-[\w-]{10,}",
    )
]
_BINARY = {".png", ".ico", ".woff2", ".gz"}


def _texts(files: list[Path]) -> Iterator[tuple[str, str]]:
    for path in files:
        if path.suffix not in _BINARY:
            yield path.relative_to(ROOT).as_posix(), path.read_text(encoding="utf-8")


def test_no_file_names_a_place_of_one_machine_or_a_private_registry(committed: list[Path]) -> None:
    found = []
    for name, text in _texts(committed):
        for number, line in enumerate(text.split("\n"), 1):
            found += [f"{name}:{number}: {hit[0]}" for pattern in _PLACES if (hit := pattern.search(line))]
    assert not found, "\n".join(found)


def test_no_file_holds_the_marks_of_a_merge(committed: list[Path]) -> None:
    found = [name for name, text in _texts(committed) if re.search(r"^(<{7}|>{7}) ", text, re.MULTILINE)]
    assert not found, "\n".join(found)


def test_no_file_holds_a_credential(committed: list[Path]) -> None:
    found = []
    for name, text in _texts(committed):
        found += [f"{name}: {hit[0][:12]}…" for pattern in _SECRETS if (hit := pattern.search(text))]
    assert not found, "\n".join(found)


def test_the_patterns_find_what_they_are_for() -> None:
    user = getpass.getuser()
    assert any(p.search(f"/home/{user}x/project") for p in _PLACES)
    assert any(p.search("http://10." + "0.0.7:8080") for p in _PLACES)
    assert any(p.search("-----BEGIN RSA PRIVATE" + " KEY-----") for p in _SECRETS)
    assert not any(p.search("version 10.1.2, port 8003, 127.0.0.1") for p in _PLACES)


# -- SQL -------------------------------------------------------------------------------------------------------------

_SQL_CALLS = {
    *("execute", "executemany", "fetch", "fetchrow", "fetchval", "fetch_one", "fetch_value", "prepare", "cursor"),
    *("text", "literal_column", "exec_driver_sql", "_command"),
}
# SQL text that is put together from identifiers, which cannot be parameters. File: reason. No value is among them.
_IDENTIFIERS_ONLY = {
    "src/headwater/kernel/bulk.py": "table and column names of declared models; the values travel through COPY",
    "src/headwater/kernel/transaction.py": "the numbered name of a savepoint",
    "src/headwater/kernel/migrations.py": "DROP INDEX takes no parameters; PostgreSQL itself quoted the name",
    "src/headwater/embedded/postgres.py": "CREATE DATABASE takes no parameters; both names are constants",
    "src/headwater/kernel/json_rows.py": "column names of declared models, quoted; no value is in it",
}


def _built_from_parts(node: ast.expr) -> bool:
    """An f-string with something in it, text added to something, `%`, or .format()."""
    if isinstance(node, ast.JoinedStr):
        return any(isinstance(part, ast.FormattedValue) for part in node.values)
    if isinstance(node, ast.BinOp) and isinstance(node.op, (ast.Add, ast.Mod)):
        return any(_is_text(side) or _built_from_parts(side) for side in (node.left, node.right))
    return (
        isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr in ("format", "join")
        and (_is_text(node.func.value))
    )


def _is_text(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and isinstance(node.value, str)


def _sql_from_parts(tree: ast.AST) -> list[int]:
    """Lines on which SQL that was put together is handed to a database."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and node.args:
            name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            if name in _SQL_CALLS and any(_built_from_parts(argument) for argument in node.args[:2]):
                found.append(node.lineno)
    return found


def test_no_sql_is_put_together_from_values(sources: list[Source]) -> None:
    found = [
        f"{source.name}:{line}"
        for source in sources
        if source.name not in _IDENTIFIERS_ONLY and not {"migrations", "revisions"} & set(source.path.parts)
        for line in _sql_from_parts(source.tree)
    ]
    assert not found, "bind parameters, or say in _IDENTIFIERS_ONLY why not: " + ", ".join(found)


def test_the_list_of_files_that_put_sql_together_is_not_longer_than_needed() -> None:
    idle = [name for name in _IDENTIFIERS_ONLY if not _sql_from_parts(Source(ROOT / name).tree)]
    assert not idle, f"take them off the list: {idle}"


def test_sql_that_is_put_together_is_found() -> None:
    for guilty in (
        'tx.execute(f"delete from users where id = {user_id}")',
        'connection.fetch("select * from users where id = " + user_id)',
        'text("select %s" % name)',
        'connection.fetchval("select {}".format(name))',
    ):
        assert _sql_from_parts(ast.parse(guilty)), guilty
    assert not _sql_from_parts(ast.parse('tx.fetch(QUERIES["order_book"], asset_id=asset_id)'))


def test_nothing_is_added_to_across_an_await(python_files: list[Source]) -> None:
    """`x += await f()` reads x before the await and writes it after: what others added meanwhile is lost.

    In src also for local names, which are safe only until someone makes them nonlocal.
    """
    found = [
        f"{source.name}:{node.lineno}"
        for source in python_files
        for node in ast.walk(source.tree)
        if isinstance(node, ast.AugAssign)
        and (source.name.startswith("src/") or not isinstance(node.target, ast.Name))
        and any(isinstance(part, ast.Await) for part in ast.walk(node.value))
    ]
    assert not found, "\n".join(found)


def test_no_error_is_swallowed_without_a_word(sources: list[Source]) -> None:
    """`except Exception: pass` without a comment that says why."""
    found = []
    for source in sources:
        lines = source.text.split("\n")
        for node in ast.walk(source.tree):
            if not isinstance(node, ast.ExceptHandler) or not all(isinstance(part, ast.Pass) for part in node.body):
                continue
            caught = ast.unparse(node.type) if node.type is not None else "everything"
            if caught in ("Exception", "BaseException", "everything"):
                said = any("#" in line for line in lines[node.lineno - 1 : node.body[-1].lineno])
                if not said:
                    found.append(f"{source.name}:{node.lineno} catches {caught}")
    assert not found, "\n".join(found)


def test_nothing_is_suppressed_without_a_word(sources: list[Source]) -> None:
    """`contextlib.suppress(Exception)` without a comment that says why."""
    found = []
    for source in sources:
        lines = source.text.split("\n")
        for node in ast.walk(source.tree):
            if isinstance(node, ast.Call) and ast.unparse(node.func).endswith("suppress"):
                broad = {ast.unparse(argument) for argument in node.args} & {"Exception", "BaseException"}
                if broad and "#" not in lines[node.lineno - 1]:
                    found.append(f"{source.name}:{node.lineno}")
    assert not found, "\n".join(found)


FILE_LINES_MAX = 700
CLASS_METHODS_MAX = 30


def test_nothing_grows_into_the_class_that_everybody_reaches_for(sources: list[Source]) -> None:
    """The limits are where we stand and some room. Who needs more has found a second thing."""
    found = []
    for source in sources:
        count = source.text.count("\n")
        if count > FILE_LINES_MAX:
            found.append(f"{source.name} has {count} lines")
        for node in ast.walk(source.tree):
            if isinstance(node, ast.ClassDef):
                methods = [n for n in node.body if isinstance(n, (ast.FunctionDef, ast.AsyncFunctionDef))]
                if len(methods) > CLASS_METHODS_MAX:
                    found.append(f"{source.name}:{node.lineno} {node.name} has {len(methods)} methods")
    assert not found, "\n".join(found)


# -- tests mirror src ------------------------------------------------------------------------------------------------


def _mirror_of(path: Path) -> tuple[Path, ...]:
    """Where the test of a file may be: tests/<folder>/test_<name>.py."""
    inside = path.relative_to(ROOT / "src/headwater")
    tests = ROOT / "tests"
    return (tests / inside.parent / f"test_{inside.name}",)


def _has_logic(source: Source) -> bool:
    if source.path.name in DECLARATIONS or {"migrations", "revisions"} & set(source.path.parts):
        return False
    return any(isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) for node in ast.walk(source.tree))


def test_every_file_with_logic_has_a_test_of_its_name(sources: list[Source]) -> None:
    missing = []
    for source in sources:
        inside = source.name.removeprefix("src/headwater/")
        if inside in TESTED_ELSEWHERE or not _has_logic(source):
            continue
        if not any(path.exists() for path in _mirror_of(source.path)):
            missing.append(f"{source.name}: no {_mirror_of(source.path)[0].relative_to(ROOT)}")
    assert not missing, "\n".join(missing)


def test_the_list_of_files_tested_elsewhere_is_not_longer_than_needed() -> None:
    for name, (elsewhere, _) in TESTED_ELSEWHERE.items():
        path = ROOT / "src/headwater" / name
        assert path.exists(), f"{name} is gone: take it off the list"
        assert (ROOT / elsewhere).exists(), f"{name}: {elsewhere} is gone"
        assert not any(mirror.exists() for mirror in _mirror_of(path)), f"{name} has its test: take it off the list"


def test_every_test_file_has_something_to_test() -> None:
    """A test in a folder that mirrors src names a file of src; tests of the whole are in house, docs and examples."""
    whole = {"house", "docs", "examples", "conformance", "systems"}
    strays = []
    for path in sorted((ROOT / "tests").rglob("test_*.py")):
        inside = path.relative_to(ROOT / "tests")
        if inside.parts[0] in whole:
            continue
        folder = ROOT / "src/headwater" / inside.parent
        if not folder.is_dir():
            strays.append(f"{inside}: there is no folder src/headwater/{inside.parent}")
    assert not strays, "\n".join(strays)


def test_tests_wait_for_signals_and_use_no_mocks() -> None:
    found = []
    for path in sorted((ROOT / "tests").rglob("*.py")):
        source = Source(path)
        for node in ast.walk(source.tree):
            names = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                names = [node.module or ""]
            found += [
                f"{source.name}:{node.lineno} imports {name}"
                for name in names
                if name.split(".")[0] in ("mock", "pytest_mock", "fakeredis") or name == "unittest.mock"
            ]
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "time.sleep":
                found.append(f"{source.name}:{node.lineno} sleeps")
    assert not found, "\n".join(found)
