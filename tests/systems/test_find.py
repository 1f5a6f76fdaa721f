"""Systems: which there are, and how a name becomes one."""

from __future__ import annotations

from pathlib import Path

import pytest

from headwater.kernel.errors import InvalidValue
from headwater.systems import find
from headwater.systems.abunfi import ABUNFI
from headwater.systems.construct import CONSTRUCT
from headwater.systems.everything import EVERYTHING


def test_the_known_names_are_found() -> None:
    assert find("construct") is CONSTRUCT
    assert find("abunfi") is ABUNFI
    assert find("all") is EVERYTHING
    assert find("headwater.systems.construct:CONSTRUCT") is CONSTRUCT


def test_the_construct_has_its_modules_and_everything_has_them_too() -> None:
    names = {module.name for module in CONSTRUCT.modules}
    assert names == {"identity", "ledger", "blockchain", "trading", "manufacturing", "governance"}
    assert names <= {module.name for module in EVERYTHING.modules}


def test_abunfi_has_its_modules_but_documents_which_is_not_there_yet() -> None:
    names = {module.name for module in ABUNFI.modules}
    assert names == {"identity", "ledger", "finance"}
    assert names <= {module.name for module in EVERYTHING.modules}


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("constuct", "Did you mean 'construct'"),
        ("zzz", "There are: construct, abunfi, all"),
        ("no.such.package:SYSTEM", "'no' cannot be found"),
        ("headwater.systems.nothing:SYSTEM", "'headwater.systems.nothing' cannot be found"),
        ("headwater.systems.construct:CONSTRUKT", "It has: CONSTRUCT"),
        ("headwater.kernel.errors:HeadwaterError", "is not a System"),
        (":SYSTEM", "Write package.module:NAME"),
    ],
)
def test_a_name_that_is_no_system_is_answered_with_what_to_do(name: str, said: str) -> None:
    with pytest.raises(InvalidValue, match=said):
        find(name)


def test_what_is_missing_inside_a_users_module_is_not_hidden(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "systems_fixture.py").write_text("import not_installed_here\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(ModuleNotFoundError, match="not_installed_here"):
        find("systems_fixture:SYSTEM")
