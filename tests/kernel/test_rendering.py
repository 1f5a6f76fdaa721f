"""Rendering: what leaves the process, written once."""

from __future__ import annotations

from uuid import uuid4

import msgspec
from tests.kernel.shop import Product

from headwater.kernel.pages import Page
from headwater.kernel.rendering import encode, written
from headwater.kernel.rows import shape


def product(**values: object) -> Product:
    known = shape(Product)
    made: Product = known.restore([values.get(name) for name in known.names])
    return made


def test_an_entity_is_written_without_its_private_columns_and_with_its_version() -> None:
    json = written(product(id=uuid4(), name="Ä", version=3, secret="s"))
    said = msgspec.json.decode(json.body)
    assert (said["name"], json.version) == ("Ä", 3)
    assert "secret" not in said


def test_a_page_and_a_plain_result_have_no_version() -> None:
    page = Page((product(id=uuid4(), name="a"),), None)
    assert msgspec.json.decode(written(page).body)["items"][0]["name"] == "a"
    assert written({"a": 1}).body == encode({"a": 1})
    assert written({"a": 1}).version is None
