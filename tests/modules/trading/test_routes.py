"""Trading over HTTP: each operation once, and what is refused at the edge."""

from __future__ import annotations

from uuid import uuid4

from headwater.modules.trading.models import Settlement, Side
from headwater.modules.trading.repository import TradingRepository
from headwater.modules.trading.routes import ROUTES


async def test_an_order_is_placed_read_listed_shown_in_the_book_and_cancelled(
    client, people, parts, marketplace
) -> None:
    await marketplace.fund()
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


async def test_the_market_is_shown(client, people, parts, marketplace) -> None:
    await marketplace.fund()
    empty = await client.get("/api/analytics/market")
    assert (empty.status_code, empty.json()["markets"]) == (200, [])
    body = {"user_id": str(people[0]), "asset_id": str(parts[0]), "side": "sell", "price": 7, "quantity": 1}
    await client.post("/api/trading/orders", json=body)
    market = (await client.get("/api/analytics/market", params={"limit": 1})).json()
    assert (market["orders_open"], market["markets"][0]["best_ask"]) == (1, 7)


async def test_bad_input_is_refused_at_the_edge_and_changes_nothing(
    client, headwater, people, parts, marketplace
) -> None:
    await marketplace.fund()
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


async def test_an_order_that_cannot_be_paid_is_refused_with_what_to_do(client, people, parts) -> None:
    body = {"user_id": str(people[0]), "asset_id": str(parts[0]), "side": "buy", "price": 118_400, "quantity": 25}
    refused = await client.post("/api/trading/orders", json=body)
    assert (refused.status_code, refused.json()["type"]) == (409, "/problems/state-conflict")
    assert "cannot pay for the order: it needs 2960000" in refused.text


async def test_a_batch_of_commands_tells_what_became_of_each(client, people, parts, marketplace) -> None:
    await marketplace.fund(money=1_000, tokens=10)
    waiting = await marketplace.place(1, Side.SELL, price=50, quantity=4)
    place = {"do": "place", "user_id": str(people[0]), "asset_id": str(parts[0]), "side": "buy", "price": 60}
    answer = await client.post(
        "/api/trading/commands",
        json={
            "commands": [
                place | {"quantity": 1},
                place | {"quantity": 1_000},
                {"do": "cancel", "order_id": str(waiting.id)},
                {"do": "cancel", "order_id": str(waiting.id), "version": 7},
            ]
        },
    )
    assert answer.status_code == 200, answer.text
    outcomes = answer.json()["outcomes"]
    assert [o["outcome"] for o in outcomes] == ["filled", "insufficient_funds", "cancelled", "not_open"]
    assert (outcomes[0]["filled_quantity"], outcomes[1]["id"], outcomes[2]["status"]) == (1, None, "cancelled")
    trades = (await client.get(f"/api/trading/trades/{parts[0]}")).json()["items"]
    assert [(t["price"], t["quantity"], t["taker_side"]) for t in trades] == [(50, 1, "buy")]
    for wrong in ([], [{"do": "dance"}], [place | {"quantity": 0}], [{"do": "cancel"}]):
        assert 400 <= (await client.post("/api/trading/commands", json={"commands": wrong})).status_code < 500


async def test_a_market_is_opened_once_and_tokens_are_issued_in_it(client, people, parts) -> None:
    path = f"/api/trading/markets/{parts[0]}"
    assert (await client.get(path)).status_code == 404
    opened = await client.post(path, json={"currency": "CHF", "settlement": "on_release"})
    assert (opened.json()["currency"], opened.json()["settlement"]) == ("CHF", "on_release")
    assert (await client.post(path, json={"currency": "CHF", "settlement": "on_release"})).status_code == 200
    assert (await client.post(path, json={})).status_code == 409
    assert (await client.get(path)).json()["currency"] == "CHF"
    for total in (5, 10):
        issued = await client.post(f"{path}/tokens", json={"user_id": str(people[1]), "quantity": 5})
        assert issued.json()["tokens"] == total
    assert (await client.post(f"{path}/tokens", json={"user_id": str(uuid4()), "quantity": 5})).status_code == 409
    assert (await client.post(f"/api/trading/markets/{uuid4()}", json={})).status_code == 409


async def test_an_escrow_is_disputed_and_refunded_over_http(client, people, marketplace) -> None:
    await marketplace.open(Settlement.ON_RELEASE)
    await marketplace.fund()
    await marketplace.place(1, Side.SELL, price=50, quantity=4)
    await marketplace.place(0, Side.BUY, price=50, quantity=4)
    held = (await client.get("/api/trading/escrows", params={"state": "held", "user_id": str(people[0])})).json()
    [escrow] = held["items"]
    path = f"/api/trading/escrows/{escrow['id']}"
    assert (await client.get(path)).json() == escrow
    tag = (await client.get(path)).headers["etag"]
    disputed = await client.post(f"{path}/dispute", headers={"If-Match": tag})
    assert (disputed.status_code, disputed.json()["state"]) == (200, "disputed")
    assert (await client.post(f"{path}/refund")).json()["state"] == "refunded"
    assert (await client.post(f"{path}/release")).status_code == 409
    assert (await client.post(f"/api/trading/escrows/{uuid4()}/release")).status_code == 404
    await marketplace.audit()


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


async def test_a_cancel_against_an_old_version_is_refused(client, headwater, people, parts, marketplace) -> None:
    await marketplace.fund()
    body = {"user_id": str(people[0]), "asset_id": str(parts[0]), "side": "buy", "price": 10, "quantity": 5}
    placed = await client.post("/api/trading/orders", json=body)
    order_id = placed.json()["id"]
    await marketplace.place(1, Side.SELL, price=10, quantity=2)
    stale = await client.post(f"/api/trading/orders/{order_id}/cancel", headers={"If-Match": placed.headers["etag"]})
    assert stale.status_code == 412
    assert (await client.get(f"/api/trading/orders/{order_id}")).json()["status"] == "partially_filled"


def test_every_operation_says_what_it_does_with_examples() -> None:
    for route in ROUTES:
        assert route.summary
        assert route.answer_example is not None
        assert (route.scope is None) == (route.method == "GET")
        assert set(route.path_examples) == {part[1:-1] for part in route.path.split("/") if part.startswith("{")}
