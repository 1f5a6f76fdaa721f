"""Manufacturing over HTTP: an order from pending to completed, and what is refused at the edge."""

from __future__ import annotations

from uuid import uuid4

from headwater.modules.manufacturing.repository import ManufacturingRepository
from headwater.modules.manufacturing.routes import ROUTES

ORDERS, MILESTONES = "/api/manufacturing/orders", "/api/manufacturing/milestones"


async def test_an_order_is_made_and_taken_to_completed_step_by_step(client, people, parts, give) -> None:
    await give(people[0], 10**9)
    body = {
        "user_id": str(people[0]),
        "asset_id": str(parts[0]),
        "quantity": 4,
        "specifications": {"material": "PEEK CF30"},
        "milestones": [{"title": "Design approved", "amount": 100}],
        "due_at": "2026-03-01T00:00:00Z",
    }
    made = await client.post(ORDERS, json=body)
    assert made.status_code == 201, made.text
    order = made.json()
    path = f"{ORDERS}/{order['id']}"
    assert (order["status"], order["specifications"], order["due_at"]) == (
        "pending", {"material": "PEEK CF30"}, "2026-03-01T00:00:00Z",
    )  # fmt: skip
    assert made.headers["location"].endswith(path)
    added = await client.post(f"{path}/milestones", json={"title": "Assembled", "amount": 200})
    assert (added.status_code, added.json()["position"]) == (201, 2)
    assert added.headers["location"].endswith(f"{MILESTONES}/{added.json()['id']}")
    started = await client.post(
        f"{path}/advance", json={"to": "in_production"}, headers={"If-Match": made.headers["etag"]}
    )
    assert (started.status_code, started.json()["status"]) == (200, "in_production")
    steps = (await client.get(f"{path}/milestones")).json()["items"]
    for done, step in enumerate(steps, 1):
        where = f"{MILESTONES}/{step['id']}"
        assert (await client.get(where)).json() == step
        for to in ("in_progress", "completed"):
            assert (await client.post(f"{where}/advance", json={"to": to})).json()["status"] == to
        found = await client.post(
            f"{where}/inspections", json={"inspector_id": str(people[1]), "result": "passed", "findings": {"n": done}}
        )
        assert found.status_code == 201, found.text
        assert (await client.get(f"{where}/inspections")).json()["items"] == [found.json()]
        progress = (await client.get(f"{path}/progress")).json()
        assert (progress["milestones_passed"], progress["percent"]) == (done, {1: 33.33, 2: 100}[done])
    for to in ("quality_check", "completed"):
        assert (await client.post(f"{path}/advance", json={"to": to})).json()["status"] == to
    assert (await client.post(f"{path}/cancel")).status_code == 409
    listed = await client.get(ORDERS, params={"status": "completed", "asset_id": str(parts[0])})
    assert [one["id"] for one in listed.json()["items"]] == [order["id"]]
    statistics = (await client.get("/api/analytics/manufacturing")).json()
    assert (statistics["orders_completed"], statistics["parts_completed"], statistics["pass_rate_percent"]) == (
        1,
        4,
        100,
    )


async def test_bad_input_is_refused_at_the_edge_and_changes_nothing(client, headwater, people, parts) -> None:
    good = {"user_id": str(people[0]), "asset_id": str(parts[0]), "quantity": 1}
    step = {"title": "a", "amount": 1}
    for wrong in (
        {"quantity": 0}, {"quantity": 10**12}, {"specifications": [1]}, {"milestones": [step | {"amount": 0}]},
        {"milestones": [step | {"title": ""}]}, {"milestones": [step | {"colour": 1}]}, {"milestones": [step] * 101},
        {"due_at": "2026-03-01T00:00:00"}, {"due_at": "9999-12-31T23:59:59-12:00"}, {"user_id": 5},
        {"status": "completed"},
    ):  # fmt: skip
        answer = await client.post(ORDERS, json=good | wrong)
        assert 400 <= answer.status_code < 500, wrong
        assert answer.headers["content-type"] == "application/problem+json"
    assert "there is no such asset" in (await client.post(ORDERS, json=good | {"asset_id": str(uuid4())})).text
    assert await headwater.repository(ManufacturingRepository).count() == 0
    order = (await client.post(ORDERS, json=good)).json()
    for to in ("cancelled", "pending", "nonsense", None):
        assert 400 <= (await client.post(f"{ORDERS}/{order['id']}/advance", json={"to": to})).status_code < 500
    assert (await client.post(f"{ORDERS}/{order['id']}/advance", json={"to": "in_production"})).status_code == 409


async def test_what_does_not_exist_is_not_found(client, people) -> None:
    inspection = {"inspector_id": str(people[0]), "result": "passed"}
    for method, path, body in (
        ("GET", f"{ORDERS}/{uuid4()}", None),
        ("GET", f"{ORDERS}/{uuid4()}/progress", None),
        ("GET", f"{ORDERS}/{uuid4()}/milestones", None),
        ("GET", f"{MILESTONES}/{uuid4()}", None),
        ("GET", f"{MILESTONES}/{uuid4()}/inspections", None),
        ("POST", f"{ORDERS}/{uuid4()}/cancel", None),
        ("POST", f"{ORDERS}/{uuid4()}/advance", {"to": "completed"}),
        ("POST", f"{ORDERS}/{uuid4()}/milestones", {"title": "a", "amount": 1}),
        ("POST", f"{MILESTONES}/{uuid4()}/advance", {"to": "completed"}),
        ("POST", f"{MILESTONES}/{uuid4()}/inspections", inspection),
    ):
        assert (await client.request(method, path, json=body)).status_code == 404, path


async def test_an_order_can_be_cancelled_and_its_milestones_go_with_it(client, people, parts, give) -> None:
    await give(people[0], 10**9)
    body = {
        "user_id": str(people[0]),
        "asset_id": str(parts[0]),
        "quantity": 1,
        "milestones": [{"title": "a", "amount": 1, "position": 3}],
    }
    path = f"{ORDERS}/{(await client.post(ORDERS, json=body)).json()['id']}"
    assert (await client.post(f"{path}/cancel")).json()["status"] == "cancelled"
    (milestone,) = (await client.get(f"{path}/milestones")).json()["items"]
    assert (milestone["status"], milestone["position"]) == ("cancelled", 3)


async def test_writes_need_a_key(client, people, parts) -> None:
    del client.headers["Authorization"]
    body = {"user_id": str(people[0]), "asset_id": str(parts[0]), "quantity": 1}
    assert (await client.post(ORDERS, json=body)).status_code == 401
    assert (await client.get(ORDERS)).status_code == 200


def test_every_operation_says_what_it_does_with_examples() -> None:
    for route in ROUTES:
        assert route.summary
        assert route.answer_example is not None
        assert (route.scope is None) == (route.method == "GET")
        assert set(route.path_examples) == {part[1:-1] for part in route.path.split("/") if part.startswith("{")}
