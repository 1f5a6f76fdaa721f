"""Revision files: read, ordered, and refused with the name of the file when they do not fit."""

from __future__ import annotations

from pathlib import Path

import pytest

from headwater.kernel import revision_files
from headwater.kernel.errors import MigrationError
from headwater.kernel.migrations import migrate
from headwater.kernel.module import Module
from headwater.kernel.settings import Settings

from .workshop import Workshop


@pytest.fixture
def workshop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workshop:
    monkeypatch.syspath_prepend(str(tmp_path))
    return Workshop(tmp_path)


async def test_what_is_needed_comes_before_who_needs_it_whatever_the_order_of_modules(workshop: Workshop) -> None:
    b, a = workshop.module("b", "a"), workshop.module("a")
    workshop.revision(a, 1, "select 1")
    workshop.revision(a, 2, "select 1")
    workshop.revision(b, 1, "select 1", depends_on=("kernel_0001", "a_0002"))
    order = [r.revision for r in revision_files.read(workshop.system()).order]
    assert order == ["kernel_0001", "kernel_0002", "kernel_0003", "kernel_0004", "a_0001", "a_0002", "b_0001"]


async def test_a_revision_of_a_module_that_the_system_lacks_is_named(empty_database: str, workshop: Workshop) -> None:
    shop = workshop.module("shop")
    workshop.revision(shop, 1, "select 1", depends_on=("kernel_0001", "identity_0001"))
    with pytest.raises(MigrationError, match=r"needs 'identity_0001'.*Add the module 'identity' to the system"):
        await migrate(workshop.system(), Settings(database_url=empty_database))


async def test_a_revision_must_not_need_a_module_that_its_module_does_not_declare(workshop: Workshop) -> None:
    a, b = workshop.module("a"), workshop.module("b")
    workshop.revision(a, 1, "select 1")
    workshop.revision(b, 1, "select 1", depends_on=("a_0001",))
    with pytest.raises(MigrationError, match="does not depend on 'a'"):
        revision_files.read(workshop.system())


async def test_a_misspelt_revision_is_answered_with_the_nearest(workshop: Workshop) -> None:
    shop = workshop.module("shop")
    workshop.revision(shop, 1, "select 1")
    workshop.revision(shop, 2, "select 1", down="shop_001")
    with pytest.raises(MigrationError, match="Did you mean 'shop_0001'"):
        revision_files.read(workshop.system())


async def test_revisions_in_a_ring_are_told_as_a_ring(workshop: Workshop) -> None:
    shop = workshop.module("shop")
    workshop.revision(shop, 1, "select 1", depends_on=("shop_0002",))
    workshop.revision(shop, 2, "select 1")
    with pytest.raises(MigrationError, match="shop_0001 -> shop_0002 -> shop_0001"):
        revision_files.read(workshop.system())


async def test_two_heads_of_one_module_are_refused(workshop: Workshop) -> None:
    shop = workshop.module("shop")
    workshop.revision(shop, 1, "select 1")
    workshop.revision(shop, 2, "select 1")
    workshop.revision(shop, 3, "select 1", down="shop_0001")
    with pytest.raises(MigrationError, match="2 heads: shop_0002, shop_0003"):
        revision_files.read(workshop.system())


async def test_one_id_in_two_files_is_refused_with_both_files(workshop: Workshop) -> None:
    shop = workshop.module("shop")
    path = workshop.revision(shop, 1, "select 1")
    (path.parent / "0002_copy.py").write_text(path.read_text())
    with pytest.raises(
        MigrationError, match=r"Two files are revision 'shop_0001': .*0001_step\.py and .*0002_copy\.py"
    ):
        revision_files.read(workshop.system())


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("revision = ", "cannot be read: SyntaxError"),
        ("import nowhere_to_be_found", "cannot be read"),
        ("x = 1", "is not"),
    ],
)
async def test_a_file_that_is_no_revision_is_named(workshop: Workshop, text: str, said: str) -> None:
    shop = workshop.module("shop")
    (shop.migrations / "0001_broken.py").write_text(text)
    with pytest.raises(MigrationError, match=rf"0001_broken\.py.*{said}"):
        revision_files.read(workshop.system())


def test_a_module_without_revisions_has_none(workshop: Workshop) -> None:
    made: Module = workshop.module("shop")
    made.migrations.rmdir()
    assert revision_files.read(workshop.system()).of("shop") == ()
