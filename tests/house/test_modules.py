"""One truth: what a module declares in `depends_on` is what it imports, refers to and migrates after."""

from __future__ import annotations

import ast
import importlib
from collections.abc import Iterable

import asyncpg
import pytest

from headwater.kernel.models import Model
from headwater.kernel.module import Module
from headwater.systems.construct import CONSTRUCT
from headwater.systems.everything import EVERYTHING

from .conftest import ROOT, Source

MODULES = {module.name: module for module in EVERYTHING.modules}
PREFIX = "headwater.modules."


def _each_module() -> pytest.MarkDecorator:
    return pytest.mark.parametrize("module", MODULES.values(), ids=lambda module: module.name)


def _imported(tree: ast.AST, within: str = "") -> set[str]:
    """The dotted names a file imports, wherever in the file it does so. `within` is the package of the file."""
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            parts = within.split(".")
            base = ".".join(parts[: len(parts) - node.level + 1]) if node.level else ""
            source = ".".join(part for part in (base, node.module or "") if part)
            names |= {source} | {f"{source}.{alias.name}" for alias in node.names}
    return names


def _modules_in(names: Iterable[str]) -> set[str]:
    return {name.removeprefix(PREFIX).split(".")[0] for name in names if name.startswith(PREFIX)}


def _imports_of(module: Module) -> set[str]:
    folder = ROOT / "src" / module.package.replace(".", "/")
    found: set[str] = set()
    for path in folder.rglob("*.py"):
        package = ".".join(path.relative_to(ROOT / "src").parent.parts)
        found |= _modules_in(_imported(Source(path).tree, package))
    return found - {module.name}


def _owners() -> dict[str, str]:
    """Which module owns a table: the one whose `models` declares it."""
    return {str(model.__table__): name for name, module in MODULES.items() for model in module.models}  # type: ignore[attr-defined]


def _references_of(module: Module) -> set[str]:
    owners = _owners()
    found: set[str] = set()
    for model in module.models:
        for key in model.__table__.foreign_keys:
            found.add(owners[str(key.column.table)])
    return found - {module.name}


def test_every_module_package_is_part_of_the_system_all() -> None:
    folders = {path.parent.name for path in (ROOT / "src/headwater/modules").glob("*/__init__.py")}
    assert set(MODULES) == folders


def test_a_module_is_called_like_its_package() -> None:
    for name, module in MODULES.items():
        assert module.package == PREFIX + name
        assert importlib.import_module(module.package).MODULE is module
        assert module.summary.endswith("."), f"{name}: the summary is a sentence"


@_each_module()
def test_a_module_imports_only_modules_it_depends_on(module: Module) -> None:
    undeclared = _imports_of(module) - set(module.depends_on)
    assert not undeclared, f"{module.name} imports {undeclared} without depends_on"


@_each_module()
def test_a_module_imports_others_by_their_front_door(module: Module) -> None:
    """The package itself, its `models` and its `repository`: the rest is private to the module."""
    folder = ROOT / "src" / module.package.replace(".", "/")
    for path in folder.rglob("*.py"):
        for node in ast.walk(Source(path).tree):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith(PREFIX):
                owner, *rest = (node.module or "").removeprefix(PREFIX).split(".")
                if owner != module.name:
                    assert rest in ([], ["models"], ["repository"]), f"{path.name}: {node.module} is not a front door"


@_each_module()
def test_the_foreign_keys_of_a_module_point_only_to_modules_it_depends_on(module: Module) -> None:
    undeclared = _references_of(module) - set(module.depends_on)
    assert not undeclared, f"{module.name} has foreign keys to {undeclared} without depends_on"


@_each_module()
def test_a_module_declares_no_dependency_in_vain(module: Module) -> None:
    idle = set(module.depends_on) - _imports_of(module) - _references_of(module)
    assert not idle, f"{module.name} declares {idle} and uses neither an import nor a foreign key of it"


@_each_module()
def test_the_first_revision_of_a_module_needs_the_modules_it_depends_on(module: Module) -> None:
    needed: set[str] = set()
    first: list[str] = []
    for path in sorted(module.migrations.glob("[0-9]*.py")):
        facts = _assignments(Source(path).tree)
        assert facts["revision"] == f"{module.name}_{path.name[:4]}", f"{path.name}: its id follows from its name"
        needed |= {name.rpartition("_")[0] for name in facts.get("depends_on") or ()}
        if facts.get("down_revision") is None:
            first.append(path.name)
            assert tuple(facts["branch_labels"]) == (module.name,)
    assert len(first) == 1, f"{module.name} has {len(first)} first revisions"
    assert needed == {"kernel", *module.depends_on}


def _assignments(tree: ast.Module) -> dict[str, object]:
    """The literal values a revision assigns at its top."""
    found: dict[str, object] = {}
    for node in tree.body:
        target, value = None, None
        if isinstance(node, ast.Assign):
            target, value = node.targets[0], node.value
        elif isinstance(node, ast.AnnAssign):
            target, value = node.target, node.value
        if isinstance(target, ast.Name) and value is not None:
            found[target.id] = ast.literal_eval(value)
    return found


def test_every_entity_belongs_to_one_module_and_one_schema() -> None:
    owners = _owners()
    for name, module in MODULES.items():
        schemas = {model.__table__.schema for model in module.models}  # type: ignore[attr-defined]
        assert len(schemas) == 1, f"{name} owns tables in {schemas}"
        if name != "identity":
            assert schemas == {name}
        else:
            assert schemas <= {None, "public"}
    product = {str(t) for t in Model.metadata.tables.values() if _is_ours(t)}
    assert product == set(owners)


def _is_ours(table: object) -> bool:
    """Tests declare entities of their own in the same registry; those are not in one of the product's schemas."""
    schemas = {model.__table__.schema for module in MODULES.values() for model in module.models}  # type: ignore[attr-defined]
    named = {"users", "roles", "api_keys"}
    schema, name = getattr(table, "schema", None), getattr(table, "name", "")
    return schema in schemas if schema is not None else name in named


async def test_the_foreign_keys_of_the_migrated_database_are_those_of_the_models(database: str) -> None:
    connection = await asyncpg.connect(database)
    try:
        rows = await connection.fetch(
            """
            select c.conname as name, s.nspname as schema, t.relname as "table",
                   fs.nspname as other_schema, ft.relname as other
              from pg_constraint c
              join pg_class t on t.oid = c.conrelid
              join pg_namespace s on s.oid = t.relnamespace
              join pg_class ft on ft.oid = c.confrelid
              join pg_namespace fs on fs.oid = ft.relnamespace
             where c.contype = 'f' and s.nspname not in ('headwater', 'pg_catalog', 'information_schema')
            """
        )
    finally:
        await connection.close()
    in_database = {
        (row["name"], f"{row['schema']}.{row['table']}", f"{row['other_schema']}.{row['other']}") for row in rows
    }
    declared = {
        (str(constraint.name), _qualified(model.__table__), _qualified(constraint.referred_table))
        for module in MODULES.values()
        for model in module.models
        for constraint in model.__table__.foreign_key_constraints  # type: ignore[attr-defined]
    }
    assert in_database == declared


def _qualified(table: object) -> str:
    return f"{getattr(table, 'schema', None) or 'public'}.{getattr(table, 'name', '')}"


def test_construct_is_what_the_mission_composes_of_what_exists() -> None:
    mission = {"identity", "ledger", "blockchain", "trading", "manufacturing", "governance"}
    assert {module.name for module in CONSTRUCT.modules} == mission & set(MODULES)
