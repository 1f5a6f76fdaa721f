"""Problems: each kernel error has a type, a status and a way out, and the types explain themselves."""

from __future__ import annotations

import uuid
from typing import Any

import httpx
import pytest

from headwater.kernel import errors
from headwater.service.problems import KINDS, kind_of, problem_of


def every_error() -> list[type[errors.HeadwaterError]]:
    found, waiting = [], [errors.HeadwaterError]
    while waiting:
        one = waiting.pop()
        found.append(one)
        waiting += one.__subclasses__()
    return [one for one in found if one.__module__.startswith("headwater.kernel.")]


def test_every_error_of_the_tree_has_a_kind() -> None:
    for error in every_error():
        assert kind_of(error).slug == error.slug


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (errors.InvalidValue("x"), 422),
        (errors.InvalidCursor("x"), 422),
        (errors.MissingReference("x"), 409),
        (errors.NotFound("x"), 404),
        (errors.AlreadyExists("x"), 409),
        (errors.VersionConflict("x"), 409),
        (errors.StillReferenced("x"), 409),
        (errors.StateConflict("x"), 409),
        (errors.Unauthenticated("x"), 401),
        (errors.Forbidden("x"), 403),
        (errors.DeadlockDetected("x"), 503),
        (errors.PoolExhausted("x"), 503),
        (errors.RefusedError("x"), 409),
        (errors.ProgrammingError("secret"), 500),
    ],
)
def test_the_status_of_each_error(error: errors.HeadwaterError, status: int) -> None:
    problem, headers = problem_of(error, "request-1")
    assert problem.status == status
    assert problem.instance == "request-1"
    assert problem.remedy
    assert "secret" not in problem.detail
    assert (b"retry-after" in dict(headers)) == (status == 503)
    assert (b"www-authenticate" in dict(headers)) == (status == 401)


def test_an_error_of_a_module_takes_the_kind_of_its_nearest_ancestor() -> None:
    class OutOfStock(errors.StateConflict):
        slug = "out-of-stock"

    problem, _ = problem_of(OutOfStock("Gone.", left=0), "r")
    assert (problem.type, problem.status, problem.facts) == ("/problems/state-conflict", 409, {"left": 0})


async def test_every_type_explains_itself(anyone: httpx.AsyncClient) -> None:
    for kind in KINDS.values():
        shown = (await anyone.get(kind.type)).json()
        assert shown["status"] == kind.status
        assert shown["remedy"]
        page = await anyone.get(kind.type, headers={"Accept": "text/html"})
        assert page.headers["content-type"].startswith("text/html")
        assert kind.title in page.text
    assert (await anyone.get("/problems/none")).status_code == 404


async def test_errors_of_the_database_are_told_by_what_they_mean(seller: httpx.AsyncClient, product: Any) -> None:
    taken = await seller.post("/v1/shop/products", json={"sku": "HD-20", "name": "x", "price": "1"})
    assert taken.status_code == 409
    assert taken.json()["type"] == "/problems/already-exists"
    missing = await seller.post("/v1/shop/notes", json={"part_id": str(uuid.uuid4()), "said": "x"})
    assert missing.status_code == 409
    assert missing.json()["type"] == "/problems/missing-reference"
    await seller.post("/v1/shop/notes", json={"part_id": str(product.id), "said": "x"})
    referenced = await seller.delete(f"/v1/shop/products/{product.id}")
    assert referenced.status_code == 409
    assert referenced.json()["type"] == "/problems/still-referenced"
