"""The public surface: the names that users may import, that they exist, and that each says what it is for."""

from __future__ import annotations

import ast
import importlib
import inspect

import headwater
from headwater.kernel.repository import Repository

from .conftest import Source

# What users import from `headwater` itself. A name is added here on purpose and removed never.
PROMISED = {
    "Headwater",
    "Keyed",
    "Model",
    "Module",
    "Page",
    "Repository",
    "Settings",
    "System",
    "Timestamped",
    "Transaction",
    "Versioned",
    "WholeNumber",
    "orm_session",
}

# The repositories of the mission, by their roles, and the module each lives in.
ROLES = {
    "UserRepository": "identity",
    "AssetRepository": "blockchain",
    "BlockchainRepository": "blockchain",
    "TradingRepository": "trading",
    "ManufacturingRepository": "manufacturing",
    "GovernanceRepository": "governance",
}

# Methods that say nothing beyond what their name says everywhere in Python.
_SPEAK_FOR_THEMSELVES = {"__init__"}


def test_headwater_has_the_names_it_promises() -> None:
    assert set(headwater.__all__) >= PROMISED
    for name in headwater.__all__:
        assert getattr(headwater, name).__name__ == name


def test_an_unknown_name_is_refused_and_the_known_ones_are_told() -> None:
    try:
        headwater.Repositry  # type: ignore[attr-defined]  # noqa: B018  # the misspelling is the test
    except AttributeError as error:
        assert "Repositry" in str(error)
        assert "Repository" in str(error)
    else:
        raise AssertionError("headwater.Repositry exists")


def test_the_six_repositories_of_the_mission_exist() -> None:
    for name, module in ROLES.items():
        repository = getattr(importlib.import_module(f"headwater.modules.{module}.repository"), name)
        assert issubclass(repository, Repository)
        assert repository.model.__module__ == f"headwater.modules.{module}.models"


def test_everything_that_headwater_exports_has_a_docstring() -> None:
    silent = []
    for name in headwater.__all__:
        thing = getattr(headwater, name)
        if not inspect.getdoc(thing):
            silent.append(name)
        if inspect.isclass(thing):
            for attribute, member in vars(thing).items():
                is_verb = inspect.isfunction(member) or isinstance(member, (classmethod, staticmethod, property))
                if is_verb and not attribute.startswith("_") and not inspect.getdoc(member):
                    silent.append(f"{name}.{attribute}")
    assert not silent


def test_every_public_class_and_verb_of_kernel_and_modules_has_a_docstring(sources: list[Source]) -> None:
    """Handlers of routes are declared with a summary instead, revisions speak by their file."""
    silent = []
    for source in sources:
        if not source.name.startswith(("src/headwater/kernel/", "src/headwater/modules/", "src/headwater/systems/")):
            continue
        if source.path.name == "routes.py" or {"migrations", "revisions"} & set(source.path.parts):
            continue
        for name, node in _public(source.tree):
            if ast.get_docstring(node) is None and not _is_error(node):
                silent.append(f"{source.name}:{node.lineno} {name}")
    assert not silent, "\n".join(silent)


def _public(tree: ast.Module) -> list[tuple[str, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef]]:
    """Public classes and functions at the top of a file. Methods are described by their class or by themselves."""
    return [
        (node.name, node)
        for node in tree.body
        if isinstance(node, (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)) and not node.name.startswith("_")
    ]


def _is_error(node: ast.AST) -> bool:
    """The classes of errors.py are described where their tree is drawn, in the docstring of the file."""
    return isinstance(node, ast.ClassDef) and any(
        isinstance(part, ast.Assign) and any(isinstance(t, ast.Name) and t.id == "slug" for t in part.targets)
        for part in node.body
    )


def test_every_error_is_drawn_in_the_tree_of_errors_py() -> None:
    from headwater.kernel import errors

    for name, kind in vars(errors).items():
        if inspect.isclass(kind) and issubclass(kind, errors.HeadwaterError):
            assert name in (errors.__doc__ or ""), f"{name} is not in the drawing"


def test_each_error_has_a_slug_of_its_own() -> None:
    from headwater.kernel import errors

    slugs = [
        kind.slug for kind in vars(errors).values() if inspect.isclass(kind) and issubclass(kind, errors.HeadwaterError)
    ]
    assert len(slugs) == len(set(slugs))


def test_verbs_of_repositories_never_commit(sources: list[Source]) -> None:
    """A verb takes the transaction and leaves it open: commits belong to whoever opened it."""
    guilty = []
    for source in sources:
        if source.path.name != "repository.py" or "modules" not in source.path.parts:
            continue
        guilty += [
            f"{source.name}:{node.lineno}"
            for node in ast.walk(source.tree)
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "commit"
        ]
    assert not guilty
