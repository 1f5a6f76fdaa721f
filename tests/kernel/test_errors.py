"""Errors: one tree, each with a message, a remedy and facts that survive the way to another process."""

from __future__ import annotations

import copy
import inspect
import pickle

import pytest

from headwater.kernel import errors
from headwater.kernel.errors import HeadwaterError, InvalidValue, VersionConflict

ALL = [e for _, e in inspect.getmembers(errors, inspect.isclass) if issubclass(e, HeadwaterError)]


def test_each_error_has_a_slug_of_its_own() -> None:
    assert len({e.slug for e in ALL}) == len(ALL)


def test_the_tree_in_the_documentation_is_the_tree() -> None:
    assert errors.__doc__ is not None
    drawn = [line for line in errors.__doc__.splitlines() if "──" in line]
    parents: dict[int, str] = {}
    for line in drawn:
        depth, name = line.index("──"), line.split("── ")[1].split()[0]
        parents[depth] = name
        above = parents.get(depth - 4, "HeadwaterError")
        assert getattr(errors, name).__base__.__name__ == above
    assert len(drawn) + 1 == len(ALL)


def test_an_error_says_what_happened_and_what_to_do() -> None:
    error = InvalidValue("It is wrong.", remedy="Make it right.", field="x")
    assert str(error) == "It is wrong. Make it right."
    assert str(InvalidValue("It is wrong.")) == "It is wrong."
    assert error.detail == {"field": "x"}


@pytest.mark.parametrize("kind", ALL)
def test_an_error_survives_pickling_and_copying(kind: type[HeadwaterError]) -> None:
    error = kind("m", remedy="r", field="x")
    for again in (pickle.loads(pickle.dumps(error)), copy.copy(error)):
        assert type(again) is kind
        assert (again.message, again.remedy, again.detail, str(again)) == ("m", "r", {"field": "x"}, "m r")
    conflict = pickle.loads(pickle.dumps(VersionConflict("m", current=5)))
    assert conflict.current == 5
