"""The ledger over HTTP: money moves, holds are spent in parts, a refusal is told again, balances need a scope."""

from __future__ import annotations

from uuid import uuid4

LEDGER = "/api/ledger"


async def test_money_moves_and_the_statement_tells(client, purse) -> None:
    body = {
        "id": str(uuid4()),
        "debit_account_id": purse.alice,
        "credit_account_id": purse.bob,
        "amount": 250,
        "reference": "rent",
    }
    made = await client.post(f"{LEDGER}/transfers", json=body)
    assert made.status_code == 201, made.text
    assert (made.json()["debit_balance"], made.json()["repeated"]) == (750, False)
    again = await client.post(f"{LEDGER}/transfers", json=body)
    assert (again.json()["debit_balance"], again.json()["repeated"]) == (750, True)
    other = await client.post(f"{LEDGER}/transfers", json=body | {"amount": 251})
    assert other.status_code == 409
    shown = (await client.get(made.headers["location"])).json()
    assert (shown["amount"], shown["reference"], shown["state"]) == (250, "rent", "posted")
    assert "checksum" not in shown
    account = (await client.get(f"{LEDGER}/accounts/{purse.alice}")).json()
    assert (account["balance"], "head" in account) == (750, False)
    page = (await client.get(f"{LEDGER}/accounts/{purse.alice}/statement", params={"limit": 1})).json()
    assert [(e["change"], e["balance"]) for e in page["items"]] == [(-250, 750)]
    rest = await client.get(f"{LEDGER}/accounts/{purse.alice}/statement", params={"cursor": page["next"]})
    assert [e["change"] for e in rest.json()["items"]] == [1_000]
    then = await client.get(f"{LEDGER}/accounts/{purse.alice}/balance", params={"at": "2020-01-01T00:00:00Z"})
    assert then.json()["balance"] == 0
    back = await client.post(f"{LEDGER}/transfers/{body['id']}/reverse", json={"id": str(uuid4())})
    assert (back.status_code, back.json()["credit_balance"]) == (200, 1_000)


async def test_a_refusal_is_told_again_although_there_is_enough_by_then(client, purse) -> None:
    body = {"id": str(uuid4()), "debit_account_id": purse.alice, "credit_account_id": purse.bob, "amount": 1_500}
    refused = await client.post(f"{LEDGER}/transfers", json=body)
    assert refused.status_code == 409
    assert "has not enough" in refused.text
    more = {"id": str(uuid4()), "debit_account_id": purse.bob, "credit_account_id": purse.alice, "amount": 1_000}
    assert (await client.post(f"{LEDGER}/transfers", json=more)).status_code == 201
    assert (await client.post(f"{LEDGER}/transfers", json=body)).status_code == 409


async def test_a_hold_is_posted_in_parts_and_the_rest_is_voided(client, purse) -> None:
    hold = {"id": str(uuid4()), "debit_account_id": purse.alice, "credit_account_id": purse.bob, "amount": 300}
    assert (await client.post(f"{LEDGER}/holds", json=hold)).status_code == 201
    path = f"{LEDGER}/holds/{hold['id']}"
    part = await client.post(f"{path}/post", json={"id": str(uuid4()), "amount": 100, "keep_rest": True})
    assert part.json()["credit_balance"] == 1_100
    assert (await client.get(f"{LEDGER}/accounts/{purse.alice}")).json()["held"] == 200
    assert (await client.post(f"{path}/void", json={"id": str(uuid4())})).json()["amount"] == 200
    assert (await client.post(f"{path}/post", json={"id": str(uuid4())})).status_code == 409


async def test_accounts_are_listed_and_balances_need_a_scope(client, anyone, client_with_role, purse) -> None:
    listed = (await client.get(f"{LEDGER}/accounts", params={"owner_kind": "user"})).json()["items"]
    assert [one["id"] for one in listed] == [purse.alice, purse.bob, purse.carol]
    assets = (await anyone.get(f"{LEDGER}/assets")).json()["items"]
    assert ("USD", 2) in [(one["code"], one["scale"]) for one in assets]
    assert (await anyone.get(f"{LEDGER}/accounts/{purse.alice}")).status_code == 401
    reader = await client_with_role("reader")
    assert (await reader.get(f"{LEDGER}/accounts/{purse.alice}")).status_code == 200
    body = {"id": str(uuid4()), "debit_account_id": purse.alice, "credit_account_id": purse.bob, "amount": 1}
    assert (await reader.post(f"{LEDGER}/transfers", json=body)).status_code == 403


async def test_an_account_is_opened_once_and_receives(client, purse) -> None:
    body = {"owner_kind": "user", "owner_id": str(uuid4()), "asset": "USD"}
    made = await client.post(f"{LEDGER}/accounts", json=body)
    assert (made.status_code, made.json()["balance"], made.json()["credit_limit"]) == (201, 0, 0)
    again = await client.post(f"{LEDGER}/accounts", json=body)
    assert again.json()["id"] == made.json()["id"]
    gift = {"id": str(uuid4()), "debit_account_id": purse.alice, "credit_account_id": made.json()["id"], "amount": 5}
    assert (await client.post(f"{LEDGER}/transfers", json=gift)).status_code == 201
    assert (await client.get(made.headers["location"])).json()["balance"] == 5
    unknown = await client.post(f"{LEDGER}/accounts", json=body | {"asset": "NOTHING"})
    assert 400 <= unknown.status_code < 500
