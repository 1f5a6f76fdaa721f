"""Finance over HTTP: each operation, once for each Idempotency-Key, and what is refused at the edge."""

from __future__ import annotations

from uuid import UUID, uuid4

from headwater.kernel.caller import Caller
from headwater.modules.finance.routes import ROUTES


async def test_money_is_deposited_moved_withdrawn_and_shown(client, people) -> None:
    ada, emeka = (str(user) for user in people[:2])
    made = await client.post("/api/finance/deposits", json={"user_id": ada, "amount": 12_000, "reference": "first"})
    assert made.status_code == 201, made.text
    deposit = made.json()
    assert (deposit["status"], deposit["direction"], deposit["shares"]) == ("completed", "in", 12_000)
    assert made.headers["location"].endswith(f"/api/finance/transactions/{deposit['id']}")
    assert (await client.get(f"/api/finance/transactions/{deposit['id']}")).json() == deposit
    moved = await client.post(
        "/api/finance/transfers", json={"from_user_id": ada, "to_user_id": emeka, "amount": 2_000}
    )
    assert (moved.status_code, moved.json()["counterparty_id"]) == (201, emeka)
    taken = await client.post("/api/finance/withdrawals", json={"user_id": emeka, "amount": 500})
    assert (taken.status_code, taken.json()["shares"]) == (201, 500)
    balance = (await client.get(f"/api/finance/users/{ada}/balance")).json()
    assert (balance["balance"], balance["shares"], balance["held"], balance["currency"]) == (10_000, 10_000, 0, "USD")
    listed = (await client.get(f"/api/finance/users/{emeka}/transactions", params={"limit": 1})).json()
    assert [one["id"] for one in listed["items"]] == [taken.json()["id"]]
    older = await client.get(f"/api/finance/users/{emeka}/transactions", params={"limit": 1, "cursor": listed["next"]})
    assert [one["direction"] for one in older.json()["items"]] == ["in"]
    shown = (await client.get(f"/api/finance/users/{ada}/dashboard")).json()
    assert (shown["user"]["id"], shown["balances"][0]["balance"]) == (ada, 10_000)
    assert [one["type"] for one in shown["transactions"]] == ["transfer", "deposit"]


async def test_the_dashboard_shows_a_deposit_to_the_very_next_read(client, people) -> None:
    path = f"/api/finance/users/{people[0]}/dashboard"
    for amount in range(1, 6):
        await client.post("/api/finance/deposits", json={"user_id": str(people[0]), "amount": amount})
        assert (await client.get(path)).json()["transactions"][0]["amount"] == amount


async def test_yield_is_divided_once_however_often_it_is_sent(client, people) -> None:
    for user, amount in zip(people, (300, 200, 100), strict=True):
        await client.post("/api/finance/deposits", json={"user_id": str(user), "amount": amount})
    body = {"distribution_id": str(uuid4()), "amount": 100, "reference": "May"}
    answers = [await client.post("/api/finance/distributions", json=body) for _ in range(3)]
    assert {answer.status_code for answer in answers} == {201}
    made = answers[0].json()
    assert all(answer.json() == made for answer in answers)
    assert (made["shares"], made["holders"]) == (600, 3)
    assert (await client.get(f"/api/finance/distributions/{made['id']}")).json() == made
    balances = [(await client.get(f"/api/finance/users/{user}/balance")).json() for user in people]
    assert [one["yield_earned"] for one in balances] == [50, 33, 17]
    other = await client.post("/api/finance/distributions", json=body | {"amount": 101})
    assert (other.status_code, "was another one" in other.text) == (409, True)


async def test_a_repeated_request_gets_the_kept_answer(client, people) -> None:
    body = {"user_id": str(people[0]), "amount": 70}
    headers = {"Idempotency-Key": uuid4().hex}
    first, again = [await client.post("/api/finance/deposits", json=body, headers=headers) for _ in range(2)]
    assert (first.status_code, again.status_code) == (201, 201)
    assert first.json() == again.json()
    assert (await client.get(f"/api/finance/users/{people[0]}/balance")).json()["balance"] == 70


async def test_what_is_pending_is_completed_or_given_up(client, people) -> None:
    user = str(people[0])
    await client.post("/api/finance/deposits", json={"user_id": user, "amount": 100})
    one = (await client.post("/api/finance/withdrawals", json={"user_id": user, "amount": 60, "pending": True})).json()
    assert one["status"] == "pending"
    too_much = await client.post("/api/finance/withdrawals", json={"user_id": user, "amount": 41})
    assert (too_much.status_code, "does not have so many" in too_much.text) == (409, True)
    path = f"/api/finance/transactions/{one['id']}"
    done = await client.post(f"{path}/complete", json={"tx_hash": "5VERv8", "network": "solana"})
    assert (done.status_code, done.json()["status"], done.json()["tx_hash"]) == (200, "completed", "5VERv8")
    assert (await client.post(f"{path}/fail", json={"reason": "late"})).status_code == 409
    two = (await client.post("/api/finance/withdrawals", json={"user_id": user, "amount": 40, "pending": True})).json()
    failed = await client.post(f"/api/finance/transactions/{two['id']}/fail", json={"reason": "returned"})
    assert (failed.status_code, failed.json()["reason"]) == (200, "returned")
    assert (await client.get(f"/api/finance/users/{user}/balance")).json()["held"] == 0


async def test_bad_input_is_refused_at_the_edge_and_changes_nothing(client, people) -> None:
    good = {"user_id": str(people[0]), "amount": 10}
    for wrong in (
        {"amount": 0}, {"amount": -1}, {"amount": 1.5}, {"amount": "10"}, {"amount": 2**63}, {"amount": None},
        {"user_id": "nobody"}, {"user_id": str(uuid4())}, {"currency": ""}, {"currency": "XXX"}, {"shares": -1},
        {"tx_hash": "5VERv8"}, {"colour": "red"},
    ):  # fmt: skip
        answer = await client.post("/api/finance/deposits", json=good | wrong)
        assert 400 <= answer.status_code < 500, wrong
        assert answer.headers["content-type"] == "application/problem+json"
    own = {"from_user_id": str(people[0]), "to_user_id": str(people[0]), "amount": 1}
    assert 400 <= (await client.post("/api/finance/transfers", json=own)).status_code < 500
    assert (await client.get(f"/api/finance/users/{people[0]}/transactions")).json() == {"items": [], "next": None}
    for path in ("users/{}/balance", "users/{}/dashboard", "transactions/{}", "distributions/{}"):
        assert (await client.get(f"/api/finance/{path.format(uuid4())}")).status_code == 404
        assert 400 <= (await client.get(f"/api/finance/{path.format('nonsense')}")).status_code < 500


async def test_money_is_shown_and_moved_with_a_key_only(anyone, client_with_role, people) -> None:
    body = {"user_id": str(people[0]), "amount": 10}
    paths = [f"/api/finance/users/{people[0]}/{what}" for what in ("balance", "transactions", "dashboard")]
    for path in paths:
        assert (await anyone.get(path)).status_code == 401
    assert (await anyone.post("/api/finance/deposits", json=body)).status_code == 401
    reader, writer = await client_with_role("reader"), await client_with_role("writer")
    assert (await reader.post("/api/finance/deposits", json=body)).status_code == 403
    assert (await writer.post("/api/finance/deposits", json=body)).status_code == 201
    for path in paths:
        assert (await reader.get(path)).status_code == 200
    divide = {"distribution_id": str(uuid4()), "amount": 1}
    assert (await writer.post("/api/finance/distributions", json=divide)).status_code == 403


async def test_a_person_sees_their_own_money_alone(headwater, client, client_of, people) -> None:
    from headwater.modules.identity.repository import ApiKeyRepository

    made = await client.post("/api/finance/deposits", json={"user_id": str(people[1]), "amount": 10})
    keys = headwater.repository(ApiKeyRepository)
    person = await client_of(
        (await keys.issue(headwater.autocommit, name="phone", role="member", user_id=people[0])).key
    )
    assert (await person.get(f"/api/finance/users/{people[0]}/dashboard")).status_code == 200
    for what in ("balance", "transactions", "dashboard"):
        assert (await person.get(f"/api/finance/users/{people[1]}/{what}")).status_code == 403
    assert (await person.get(f"/api/finance/transactions/{made.json()['id']}")).status_code == 403
    assert (
        await person.post("/api/finance/withdrawals", json={"user_id": str(people[0]), "amount": 1})
    ).status_code == 403


def test_every_operation_says_what_it_does_with_examples() -> None:
    for route in ROUTES:
        assert route.summary
        assert route.answer_example is not None
        assert (route.body_example is None) == (route.method == "GET")
        assert set(route.path_examples) == {part[1:-1] for part in route.path.split("/") if part.startswith("{")}
    assert Caller(id=UUID(int=1), name="x", scopes=frozenset({"*:*:write"})).may("finance:transaction:write")
