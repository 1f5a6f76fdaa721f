"""Module and System: declared as data, ordered by what they depend on, refused when they cannot stand."""

from __future__ import annotations

import pytest

from headwater.kernel.errors import ProgrammingError
from headwater.kernel.module import Module, System


def module(name: str, *needs: str, package: str = "headwater.kernel") -> Module:
    return Module(name=name, package=package, summary=name, depends_on=needs)


def test_modules_stand_after_what_they_depend_on_in_whatever_order_they_are_given() -> None:
    a, b, c = module("a", "b", "c"), module("b", "c"), module("c")
    for given in ([a, b, c], [c, b, a], [b, a, c, a]):
        system = System("s", given, "summary")
        assert [m.name for m in system.modules] == ["c", "b", "a"]
    assert "a" in system
    assert "z" not in system
    assert (system.name, system.summary) == ("s", "summary")


def test_a_system_that_lacks_what_a_module_needs_is_refused() -> None:
    with pytest.raises(ProgrammingError, match=r"has the module 'a', but not 'b'.*Add 'b'"):
        System("s", [module("a", "b")])


def test_modules_that_depend_on_each_other_in_a_ring_are_refused() -> None:
    with pytest.raises(ProgrammingError, match="in a ring"):
        System("s", [module("a", "b"), module("b", "c"), module("c", "a")])


def test_two_modules_of_one_name_are_refused() -> None:
    with pytest.raises(ProgrammingError, match="two modules named 'a'"):
        System("s", [module("a"), module("a", package="elsewhere")])


def test_modules_and_systems_can_be_keys() -> None:
    assert len({module("a"), module("a"), module("b")}) == 2
    assert len({System("s", [module("a")]), System("s", [module("a")])}) == 1


def test_a_module_without_submodules_has_nothing() -> None:
    bare = Module(name="bare", package="headwater.embedded", summary="")
    assert (bare.models, bare.routes, bare.seed) == ((), (), None)
    assert bare.migrations.name == "migrations"


def test_a_module_whose_package_does_not_exist_says_so() -> None:
    with pytest.raises(ModuleNotFoundError, match="no_such_package"):
        _ = Module(name="x", package="no_such_package", summary="").models


def test_models_are_those_declared_in_the_module_itself() -> None:
    identity = Module(name="identity", package="headwater.modules.identity", summary="")
    assert "User" in [m.__name__ for m in identity.models]
    assert all(m.__module__ == "headwater.modules.identity.models" for m in identity.models)
