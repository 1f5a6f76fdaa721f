"""Trading over HTTP: each operation once, and what is refused at the edge."""

from __future__ import annotations

from uuid import uuid4

from headwater.modules.trading.models import Order
from headwater.modules.trading.repository import TradingRepository
from headwater.modules.trading.routes import ROUTES


async def test_an_order_is_placed_read_listed_shown_in_the_book_and_cancelled(client, people, parts) -> None:
    body = {"user_id": str(people[0]), "asset_id": str(parts[0]), "side": "buy", "price": 118_400, "quantity": 25}
    placed = await client.post("/api/trading/orders", json=body)
    assert placed.status_code == 201, placed.text
    order = placed.json()
    assert order | body == order
    assert (order["status"], order["filled_quantity"], order["version"]) == ("open", 0, 1)
    assert placed.headers["location"].endswith(f"/api/trading/orders/{order['id']}")
    assert (await client.get(f"/api/trading/orders/{order['id']}")).json() == order
    listed = await client.get("/api/trading/orders", params={"user_id": str(people[0]), "status": "open"})
    assert listed.json() == {"items": [order], "next": None}
    book = (await client.get(f"/api/trading/orderbook/{parts[0]}", params={"depth": 5})).json()
    assert (book["bids"], book["best_bid"]) == ([{"price": 118_400, "quantity": 25, "orders": 1}], 118_400)
    assert (book["asks"], book["spread"]) == ([], None)
    cancelled = await client.post(
        f"/api/trading/orders/{order['id']}/cancel", headers={"If-Match": placed.headers["etag"]}
    )
    assert (cancelled.status_code, cancelled.json()["status"]) == (200, "cancelled")
    again = await client.post(f"/api/trading/orders/{order['id']}/cancel")
    assert again.status_code == 409
    assert "is cancelled and cannot be cancelled" in again.text


async def test_the_market_is_shown(client, headwater, people, parts) -> None:
    empty = await client.get("/api/analytics/market")
    assert (empty.status_code, empty.json()["markets"]) == (200, [])
    body = {"user_id": str(people[0]), "asset_id": str(parts[0]), "side": "sell", "price": 7, "quantity": 1}
    await client.post("/api/trading/orders", json=body)
    market = (await client.get("/api/analytics/market", params={"limit": 1})).json()
    assert (market["orders_open"], market["markets"][0]["best_ask"]) == (1, 7)


async def test_bad_input_is_refused_at_the_edge_and_changes_nothing(client, headwater, people, parts) -> None:
    good = {"user_id": str(people[0]), "asset_id": str(parts[0]), "side": "buy", "price": 10, "quantity": 1}
    for wrong in (
        {"price": 0}, {"price": -1}, {"price": 1.5}, {"price": "10"}, {"price": 2**63}, {"price": None},
        {"quantity": 0}, {"side": "hold"}, {"user_id": "nobody"}, {"colour": "red"},
    ):  # fmt: skip
        answer = await client.post("/api/trading/orders", json=good | wrong)
        assert 400 <= answer.status_code < 500, wrong
        assert answer.headers["content-type"] == "application/problem+json"
    for unknown in ({"user_id": str(uuid4())}, {"asset_id": str(uuid4())}):
        answer = await client.post("/api/trading/orders", json=good | unknown)
        assert 400 <= answer.status_code < 500
        assert "there is no such" in answer.text
    assert await headwater.repository(TradingRepository).count() == 0


async def test_what_does_not_exist_or_is_malformed_is_said(client) -> None:
    for path in ("/api/trading/orders/{}", "/api/trading/orderbook/{}"):
        assert (await client.get(path.format(uuid4()))).status_code == 404
        assert 400 <= (await client.get(path.format("nonsense"))).status_code < 500
    assert (await client.post(f"/api/trading/orders/{uuid4()}/cancel")).status_code == 404
    for query in ({"limit": 0}, {"limit": 10_000}, {"cursor": "x"}, {"status": "lost"}, {"what": 1}):
        assert 400 <= (await client.get("/api/trading/orders", params=query)).status_code < 500
    assert 400 <= (await client.get(f"/api/trading/orderbook/{uuid4()}", params={"depth": 501})).status_code < 500


async def test_writes_need_a_key_and_reads_do_not(client, people, parts) -> None:
    del client.headers["Authorization"]
    body = {"user_id": str(people[0]), "asset_id": str(parts[0]), "side": "buy", "price": 10, "quantity": 1}
    assert (await client.post("/api/trading/orders", json=body)).status_code == 401
    assert (await client.post(f"/api/trading/orders/{uuid4()}/cancel")).status_code == 401
    assert (await client.get(f"/api/trading/orderbook/{parts[0]}")).status_code == 200


async def test_a_cancel_against_an_old_version_is_refused(client, headwater, people, parts) -> None:
    body = {"user_id": str(people[0]), "asset_id": str(parts[0]), "side": "buy", "price": 10, "quantity": 5}
    placed = await client.post("/api/trading/orders", json=body)
    order_id = placed.json()["id"]
    await headwater.repository(Order).update(headwater.autocommit, order_id, price=11)
    stale = await client.post(f"/api/trading/orders/{order_id}/cancel", headers={"If-Match": placed.headers["etag"]})
    assert stale.status_code == 412
    assert (await client.get(f"/api/trading/orders/{order_id}")).json()["status"] == "open"


def test_every_operation_says_what_it_does_with_examples() -> None:
    for route in ROUTES:
        assert route.summary
        assert route.answer_example is not None
        assert (route.scope is None) == (route.method == "GET")
        assert set(route.path_examples) == {part[1:-1] for part in route.path.split("/") if part.startswith("{")}
