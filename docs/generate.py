"""Writes docs/reference from the code: commands, settings, errors, the Python surface, routes, tables.

    python docs/generate.py            writes the pages
    python docs/generate.py --check    ends with 1 when a page is out of date

A test runs the check, so the reference cannot drift from the code.
"""

from __future__ import annotations

import ast
import dataclasses
import importlib
import inspect
import itertools
import json
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click

REFERENCE = Path(__file__).parent / "reference"
_NOTE = "<!-- Written by docs/generate.py from the code. Change the code, then run `python docs/generate.py`. -->"
_WIDTH = 100

# Environment variables that are no field of Settings.
OTHER_VARIABLES = {
    "DATABASE_URL": "The same as HEADWATER_DATABASE_URL, which wins.",
    "REDIS_URL": "The same as HEADWATER_VALKEY_URL, which wins.",
    "HEADWATER_TRACEBACK": "Set to 1, the command shows the Python traceback of an error.",
}

# The parts of the kernel that modules use beside what `headwater` itself exports.
FOR_MODULES = {
    "headwater.kernel.routes": ("Route", "PageQuery"),
    "headwater.kernel.caller": ("Caller",),
    "headwater.kernel.queries": ("Queries", "NamedQuery"),
    "headwater.kernel.seeds": ("Sowing",),
    "headwater.kernel.postgres": ("Runner", "Postgres", "PoolFigures"),
    "headwater.kernel.repository": ("Updated", "Upserted", "BulkUpserted"),
    "headwater.kernel.transaction": ("Autocommit",),
    "headwater.kernel.changes": ("Stream", "Position", "Change", "Batch", "Bell", "emit"),
    "headwater.kernel.followers": ("Follower", "Sink", "PostgresSink", "CallingSink", "Standing", "following"),
    "headwater.kernel.ticker": ("Ticker", "TickerFigures", "ticking"),
    "headwater.kernel.rows": ("as_dict",),
    "headwater.kernel.keyring": ("Keyring", "new_key", "key_of"),
    "headwater.kernel.sealed": ("SealedColumn", "sealed_column", "reseal", "count_by_key"),
    "headwater.kernel.migrations": ("migrate", "status", "validate"),
    "headwater.service.app": ("create_app",),
}


def commands() -> str:
    """Every command with its help, as the command prints it."""
    from headwater.cli.main import headwater

    parts = [_page("Commands", "What `headwater --help` and the help of each command say.")]
    for names, command in _commands(headwater, ("headwater",)):
        context = click.Context(command, info_name=" ".join(names), max_content_width=_WIDTH, terminal_width=_WIDTH)
        parts.append(f"## {' '.join(names)}\n\n```text\n{command.get_help(context)}\n```\n")
    return "\n".join(parts)


def _commands(command: click.Command, names: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    yield names, command
    if isinstance(command, click.Group):
        context = click.Context(command)
        for name in command.list_commands(context):
            found = command.get_command(context, name)
            assert found is not None
            yield from _commands(found, (*names, name))


def settings() -> str:
    """Every setting with its variable, type, default and meaning."""
    from headwater.kernel.settings import Settings

    told = _attribute_docs(Settings)
    rows = [
        (f"`{f.name}`", f"`HEADWATER_{f.name.upper()}`", f"`{f.type}`", f"`{f.default!r}`", told.get(f.name, ""))
        for f in dataclasses.fields(Settings)
    ]
    others = [(f"`{name}`", meaning) for name, meaning in OTHER_VARIABLES.items()]
    return "\n".join(
        [
            _page("Settings", "A setting is an argument of `Settings(...)` or an environment variable."),
            _table(("setting", "variable", "type", "default", "meaning"), rows),
            "## Other environment variables\n",
            _table(("variable", "meaning"), others),
        ]
    )


def errors() -> str:
    """The tree, and for each error its slug, HTTP status and exit code."""
    from headwater.cli.exits import exit_code_of
    from headwater.kernel import errors as tree
    from headwater.service.problems import KINDS, kind_of

    drawing = (tree.__doc__ or "").partition("\n\n")[2]
    rows = []
    for name, kind in vars(tree).items():
        if inspect.isclass(kind) and issubclass(kind, tree.HeadwaterError):
            problem = kind_of(kind)
            rows.append((f"`{name}`", f"`{kind.slug}`", problem.status, exit_code_of(kind("")), problem.meaning))
    own = {kind.slug for kind in vars(tree).values() if inspect.isclass(kind) and hasattr(kind, "slug")}
    beside = [(f"`{k.slug}`", k.status, k.meaning) for k in KINDS.values() if k.slug not in own]
    return "\n".join(
        [
            _page(
                "Errors",
                "Every error has `message`, `remedy` and `detail`. Import them from `headwater.kernel.errors`.",
            ),
            f"```text\n{textwrap.dedent(drawing).strip()}\n```\n",
            _table(("error", "slug", "HTTP status", "exit code", "over HTTP it means"), rows),
            "## Problems of the service itself\n",
            "The `type` of a problem is `/problems/<slug>`; the service explains it there.\n",
            _table(("slug", "HTTP status", "meaning"), beside),
        ]
    )


def python() -> str:
    """The public names with their signatures and what they say of themselves."""
    import headwater

    parts = [_page("Python", "Names to import from `headwater`, then what modules use of the kernel and the service.")]
    parts += [_described("headwater", name) for name in headwater.__all__]
    for module, names in FOR_MODULES.items():
        parts += [_described(module, name) for name in names]
    return "\n".join(parts)


def routes() -> str:
    """Every operation of the system `all`, by tag."""
    document, scopes = openapi()
    rows: dict[str, list[tuple[object, ...]]] = {}
    for path, item in document["paths"].items():
        for method, operation in item.items():
            scope = scopes.get((path, method)) or ""
            answers = " ".join(sorted(operation["responses"]))
            tag = operation.get("tags", ["service"])[0]
            rows.setdefault(tag, []).append(
                (f"`{method.upper()} {path}`", operation["summary"], f"`{scope}`" if scope else "", answers)
            )
    parts = [
        _page("Routes", "What the service of the system `all` answers. `/openapi.json` says it in full, with examples.")
    ]
    for tag in sorted(rows):
        parts += [f"## {tag}\n", _table(("operation", "what it does", "scope", "answers"), rows[tag])]
    return "\n".join(parts)


def openapi() -> tuple[dict[str, Any], dict[tuple[str, str], str | None]]:
    """The OpenAPI document of the system `all`, made without any store, and the scope of each operation."""
    from headwater.service import openapi as writer
    from headwater.service.admin import admin_routes
    from headwater.service.declarations import declarations
    from headwater.systems.everything import EVERYTHING

    declared = declarations(EVERYTHING, [("service", route) for route in admin_routes()])
    document: dict[str, Any] = json.loads(writer.document(EVERYTHING, declared))
    scopes = {(one.route.path, one.route.method.lower()): one.route.scope for one in declared}
    return document, scopes


def tables() -> str:
    """Every table of every module with its columns, as the models declare them."""
    from headwater.systems.everything import EVERYTHING

    parts = [_page("Tables", "The modules, what they depend on, and their tables.")]
    for module in EVERYTHING.modules:
        needs = ", ".join(module.depends_on) or "nothing but the kernel"
        parts.append(f"## {module.name}\n\n{module.summary} Depends on {needs}.\n")
        for model in module.models:
            table: Any = model.__table__
            said = (inspect.getdoc(model) or "").split("\n\n")[0].replace("\n", " ")
            rows = []
            for column in table.columns:
                refers = ", ".join(f"`{key.target_fullname}`" for key in column.foreign_keys)
                kind = column.type.compile(dialect=_dialect()).lower()
                marks = [m for m, is_so in (("key", column.primary_key), ("may be null", column.nullable)) if is_so]
                if refers:
                    marks.append(f"refers to {refers}")
                if column.info.get("private"):
                    marks.append("never leaves the process")
                rows.append((f"`{column.name}`", kind, "; ".join(marks)))
            parts += [f"### {table.schema or 'public'}.{table.name}\n\n{said}\n", _table(("column", "type", ""), rows)]
    return "\n".join(parts)


def _dialect() -> Any:
    from headwater.kernel.rows import DIALECT

    return DIALECT


def _described(module: str, name: str) -> str:
    """One class or function: signature, docstring, and the same of its public members."""
    thing = getattr(importlib.import_module(module), name)
    source_module = getattr(thing, "__module__", module)
    lines = [f"## {name}\n", f"`from {module} import {name}`\n"]
    node = _definition(thing, source_module, name)
    if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
        lines.append(f"```python\n{_signature(node)}\n```\n")
    lines.append(f"{inspect.getdoc(thing) or ''}\n")
    if isinstance(node, ast.ClassDef):
        overloads: list[str] = []
        for member in node.body:
            if isinstance(member, (ast.FunctionDef, ast.AsyncFunctionDef)) and not member.name.startswith("_"):
                if any(ast.unparse(d) == "overload" for d in member.decorator_list):
                    overloads.append(_signature(member))
                    continue
                signatures, overloads = overloads or [_signature(member)], []
                said = ast.get_docstring(member) or ""
                lines.append("```python\n" + "\n".join(signatures) + f"\n```\n\n{said}\n")
    return "\n".join(lines)


def _definition(thing: Any, module: str, name: str) -> ast.AST | None:
    tree = ast.parse(inspect.getsource(importlib.import_module(module)))
    kinds = (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    return next((node for node in tree.body if isinstance(node, kinds) and node.name == name), None)


def _signature(node: ast.FunctionDef | ast.AsyncFunctionDef) -> str:
    prefix = "async def" if isinstance(node, ast.AsyncFunctionDef) else "def"
    marks = [f"@{ast.unparse(d)}\n" for d in node.decorator_list if ast.unparse(d) in ("property", "classmethod")]
    returns = f" -> {ast.unparse(node.returns)}" if node.returns is not None else ""
    arguments = ast.unparse(node.args)
    for own in ("self, ", "cls, ", "self", "cls"):
        if arguments.startswith(own):
            arguments = arguments.removeprefix(own)
            break
    flat = f"{prefix} {node.name}({arguments}){returns}"
    if len(flat) > _WIDTH:
        parts = [ast.unparse(part) for part in _parameters(node)]
        flat = f"{prefix} {node.name}(\n    " + ",\n    ".join(parts) + f",\n){returns}"
    return "".join(marks) + flat


def _parameters(node: ast.FunctionDef | ast.AsyncFunctionDef) -> Iterator[ast.AST]:
    """The parameters one by one, each as a list of one, so that it can be written on a line of its own."""
    given = node.args
    plain = [*given.posonlyargs, *given.args]
    defaults: list[ast.expr | None] = [*([None] * (len(plain) - len(given.defaults))), *given.defaults]
    for argument, default in zip(plain, defaults, strict=True):
        if argument.arg not in ("self", "cls"):
            yield _one(argument, default)
    if given.vararg is not None:
        yield ast.arguments([], [], given.vararg, [], [], None, [])
    elif given.kwonlyargs:
        yield ast.Name("*")
    for argument, default in zip(given.kwonlyargs, given.kw_defaults, strict=True):
        yield _one(argument, default)
    if given.kwarg is not None:
        yield ast.arguments([], [], None, [], [], given.kwarg, [])


def _one(argument: ast.arg, default: ast.expr | None) -> ast.arguments:
    return ast.arguments([], [argument], None, [], [], None, [default] if default is not None else [])


def _attribute_docs(kind: type) -> dict[str, str]:
    """The strings that stand below the fields of a class."""
    tree = ast.parse(textwrap.dedent(inspect.getsource(kind)))
    body = tree.body[0].body  # type: ignore[attr-defined]
    found = {}
    for field, below in itertools.pairwise(body):
        if not isinstance(field, ast.AnnAssign) or not isinstance(field.target, ast.Name):
            continue
        if isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant):
            found[field.target.id] = str(below.value.value)
    return found


def _page(title: str, about: str) -> str:
    return f"# {title}\n\n{_NOTE}\n\n{about}\n"


def _table(head: tuple[str, ...], rows: list[Any]) -> str:
    lines = ["| " + " | ".join(head) + " |", "|" + " --- |" * len(head)]
    lines += ["| " + " | ".join(str(cell).replace("|", "\\|") for cell in row) + " |" for row in rows]
    return "\n".join(lines) + "\n"


PAGES: dict[str, Callable[[], str]] = {
    "commands": commands,
    "settings": settings,
    "errors": errors,
    "python": python,
    "routes": routes,
    "tables": tables,
}


def stale() -> list[str]:
    """The pages that do not say what the code says."""
    found = []
    for name, write in PAGES.items():
        path = REFERENCE / f"{name}.md"
        if not path.exists() or path.read_text(encoding="utf-8") != write():
            found.append(name)
    return found


def main() -> int:
    """Write the pages, or check them."""
    if "--check" in sys.argv[1:]:
        out_of_date = stale()
        for name in out_of_date:
            print(f"docs/reference/{name}.md is out of date: run `python docs/generate.py`.")
        return 1 if out_of_date else 0
    REFERENCE.mkdir(exist_ok=True)
    for name, write in PAGES.items():
        (REFERENCE / f"{name}.md").write_text(write(), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
