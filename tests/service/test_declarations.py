"""Declarations: a route that cannot work, or that forgets its door, stops the start and says why."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import pytest
from tests.service.conftest import SYSTEM, Part, authenticate

from headwater.kernel.errors import ProgrammingError
from headwater.kernel.routes import Route
from headwater.service.app import create_app
from headwater.service.declarations import declarations, declare


async def _nothing() -> None: ...


@pytest.mark.parametrize(
    ("route", "says"),
    [
        (Route(method="POST", path="/v1/open", handler=_nothing, summary=""), "has no scope"),
        (Route(method="GET", path="/api/admin/secrets", handler=_nothing, summary=""), "under /admin/"),
        (Route(method="POST", path="/api/admin/x", handler=_nothing, summary="", public=True), "under /admin/"),
        (Route(method="POST", path="/v1/x", handler=_nothing, summary="", public=True, scope="a:b:c"), "is public"),
        (Route(method="GET", path="/v1/shop/products/{sku}", handler=_nothing, summary=""), "takes no 'sku'"),
    ],
)
async def test_the_service_does_not_start_with_a_route_that_forgets_its_door(
    shop: Any, route: Route, says: str
) -> None:
    with pytest.raises(ProgrammingError, match=says):
        create_app(shop, routes=[route], authenticate=authenticate)


async def test_a_path_declared_twice_stops_the_start(shop: Any) -> None:
    async def read(sku: str) -> None: ...

    route = Route(method="GET", path="/v1/shop/products/{sku}", handler=read, summary="")
    with pytest.raises(ProgrammingError, match="declared twice"):
        create_app(shop, routes=[route], authenticate=authenticate)


async def _mystery(what: complex) -> None: ...


async def _silent(): ...  # type: ignore[no-untyped-def]  # that is what is refused


@pytest.mark.parametrize(("handler", "says"), [(_mystery, "nothing is known"), (_silent, "what it returns")])
def test_a_handler_that_cannot_be_called_is_refused(handler: Any, says: str) -> None:
    with pytest.raises(ProgrammingError, match=says):
        declare(Route(method="GET", path="/x", handler=handler, summary=""), "shop")


def test_a_created_entity_is_found_under_the_get_of_its_key() -> None:
    async def make() -> Part: ...

    route = Route(method="POST", path="/v1/shop/imports", handler=make, summary="", status=201, public=True)
    made = declarations(SYSTEM, [("shop", route)])[-1]
    assert made.location == ("/v1/shop/products/{}", "id")


def test_what_an_operation_can_answer_follows_from_what_it_takes() -> None:
    async def change(part_id: UUID, if_match: int | None) -> Part: ...

    route = Route(method="PUT", path="/v1/p/{part_id}", handler=change, summary="", scope="a:b:c")
    assert set(declare(route, "shop").statuses()) == {401, 403, 404, 412, 422, 500, 503}
