"""The service has the routes of the mission, and every route says enough for a client who reads only the document."""

from __future__ import annotations

import json
from typing import Any

import pytest

from headwater.kernel.module import System
from headwater.service import openapi
from headwater.service.admin import admin_routes
from headwater.service.declarations import Declaration, declarations
from headwater.systems.everything import EVERYTHING

# The routes of the mission that the modules built so far must serve; later modules bring the others.
PROMISED = {
    "GET /health",
    "GET /ready",
    "GET /metrics",
    "GET /api/users/{}",
    "GET /api/users/wallet/{}",
    "GET /api/users/{}/stats",
    "GET /api/assets/{}",
    "GET /api/assets/search",
    "GET /api/trading/orders/{}",
    "GET /api/trading/orderbook/{}",
    "GET /api/manufacturing/orders/{}",
    "GET /api/manufacturing/orders/{}/progress",
    "GET /api/governance/proposals/active",
    "GET /api/governance/proposals/{}",
    "GET /api/blockchain/transactions/{}",
    "GET /api/blockchain/prices/{}",
    "GET /api/analytics/market",
    "GET /api/analytics/manufacturing",
    "POST /api/admin/migrate",
    "POST /api/admin/seed",
    "GET /api/admin/migration-status",
    "POST /api/auth/register",
    "POST /api/auth/login",
}
# The writes that the operations of the mission name.
WRITES = {
    "POST /api/users",
    "PATCH /api/users/{}",
    "POST /api/assets",
    "PATCH /api/assets/{}",
    "POST /api/trading/orders",
    "POST /api/trading/orders/{}/cancel",
    "POST /api/manufacturing/orders",
    "POST /api/governance/proposals",
}


# What is created here has no path of its own: it is found in the list at the same path.
LISTED_ONLY = {
    "/api/governance/proposals/{proposal_id}/votes": "a vote is one line of its proposal",
    "/api/manufacturing/milestones/{milestone_id}/inspections": "an inspection is one line of its milestone",
}


def _declared(system: System = EVERYTHING) -> list[Declaration]:
    return declarations(system, [("service", route) for route in admin_routes()])


@pytest.fixture(scope="module")
def document() -> dict[str, Any]:
    """The OpenAPI document, made without any store."""
    read: dict[str, Any] = json.loads(openapi.document(EVERYTHING, _declared()))
    return read


def _operations(document: dict[str, Any]) -> dict[str, dict[str, Any]]:
    found = {}
    for path, item in document["paths"].items():
        plain = "/".join("{}" if part.startswith("{") else part for part in path.split("/"))
        for method, operation in item.items():
            if method != "parameters":
                found[f"{method.upper()} {plain}"] = operation
    return found


def test_the_routes_of_the_mission_are_served(document: dict[str, Any]) -> None:
    assert sorted((PROMISED | WRITES) - set(_operations(document))) == []


def test_the_document_is_openapi_3_1(document: dict[str, Any]) -> None:
    assert document["openapi"].startswith("3.1")


def test_every_operation_has_a_summary_and_an_answer(document: dict[str, Any]) -> None:
    silent = [
        name
        for name, operation in _operations(document).items()
        if not operation.get("summary") or not any(status.startswith("2") for status in operation["responses"])
    ]
    assert silent == []


def test_operation_ids_are_unique(document: dict[str, Any]) -> None:
    ids = [operation.get("operationId") for operation in _operations(document).values()]
    assert None not in ids
    assert len(ids) == len(set(ids))


@pytest.mark.parametrize("one", _declared(), ids=lambda one: f"{one.route.method} {one.route.path}")
def test_a_route_gives_an_example_of_everything_it_takes(one: Declaration) -> None:
    route = one.route
    assert set(route.path_examples) == set(one.path_names)
    if one.read_body is not None:
        assert route.body_example, "a body without an example"
    if one.answer is not None:
        assert route.tag, "an operation without a tag"


@pytest.mark.parametrize("one", _declared(), ids=lambda one: f"{one.route.method} {one.route.path}")
def test_a_scope_names_the_module_that_declares_it(one: Declaration) -> None:
    """`module:entity:action`; the service's own operations are under admin."""
    scope = one.route.scope
    if scope is None:
        return
    module, entity, action = scope.split(":")
    assert module == ("admin" if one.module == "service" else one.module)
    assert entity
    assert action in ("read", "write", "admin")


def test_a_route_that_creates_says_where_the_created_thing_is() -> None:
    lost = {one.route.path for one in _declared() if one.status == 201 and one.location is None}
    assert lost == set(LISTED_ONLY)
    listed = {one.route.path for one in _declared() if one.route.method == "GET"}
    assert lost <= listed
