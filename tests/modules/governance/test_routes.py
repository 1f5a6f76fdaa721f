"""Governance over HTTP: a proposal from draft to executed, and what is refused at the edge."""

from __future__ import annotations

from datetime import UTC, datetime
from uuid import uuid4

from sqlalchemy import update

from headwater.modules.governance.models import Proposal
from headwater.modules.governance.repository import GovernanceRepository
from headwater.modules.governance.routes import ROUTES

PROPOSALS = "/api/governance/proposals"
PERIOD = {"voting_starts_at": "2020-01-01T00:00:00Z", "voting_ends_at": "2500-01-01T00:00:00Z"}


async def test_a_proposal_is_written_voted_on_closed_and_executed(client, headwater, people) -> None:
    body = {"proposer_id": str(people[0]), "title": "Lower the fee", "quorum": 5, **PERIOD}
    written = await client.post(PROPOSALS, json=body)
    assert written.status_code == 201, written.text
    path = f"{PROPOSALS}/{written.json()['id']}"
    assert written.headers["location"].endswith(path)
    assert (await client.get(f"{PROPOSALS}/active")).json() == {"items": [], "next": None}
    assert (await client.post(f"{path}/activate")).json()["status"] == "active"
    for user_id, choice, weight in ((people[0], "for", 4), (people[1], "against", 1)):
        cast = await client.post(f"{path}/votes", json={"user_id": str(user_id), "choice": choice, "weight": weight})
        assert (cast.status_code, cast.json()["weight"]) == (201, weight)
    counted = (await client.get(path)).json()
    assert (counted["votes_for"], counted["votes_against"], counted["votes_abstain"]) == (4, 1, 0)
    assert (counted["voters"], counted["quorum_reached"], counted["status"]) == (2, True, "active")
    assert (await client.get(f"{PROPOSALS}/active")).json()["items"] == [counted]
    assert len((await client.get(f"{path}/votes")).json()["items"]) == 2
    early = await client.post(f"{path}/close")
    assert early.status_code == 409
    assert "before its voting ends" in early.text
    await headwater.postgres.execute(
        update(Proposal).values(voting_ends_at=datetime(2021, 1, 1, tzinfo=UTC))  # every proposal there is: this one
    )
    assert (await client.post(f"{path}/close")).json()["status"] == "passed"
    assert (await client.post(f"{path}/execute")).json()["status"] == "executed"
    assert (await client.post(f"{path}/execute")).status_code == 409
    listed = await client.get(PROPOSALS, params={"status": "executed", "proposer_id": str(people[0])})
    assert [one["title"] for one in listed.json()["items"]] == ["Lower the fee"]


async def test_voting_twice_after_the_end_or_by_nobody_is_refused_and_not_counted(client, headwater, people) -> None:
    body = {"proposer_id": str(people[0]), "title": "Lower the fee", "quorum": 5, **PERIOD}
    path = f"{PROPOSALS}/{(await client.post(PROPOSALS, json=body)).json()['id']}"
    mine = {"user_id": str(people[0]), "choice": "for"}
    assert (await client.post(f"{path}/votes", json=mine)).status_code == 409
    await client.post(f"{path}/activate")
    assert (await client.post(f"{path}/votes", json=mine)).status_code == 201
    twice = await client.post(f"{path}/votes", json=mine | {"choice": "against"})
    assert twice.status_code == 409
    assert "already voted" in twice.text
    for wrong in (
        {"weight": 0}, {"weight": 1.5}, {"weight": 2**64}, {"choice": "maybe"}, {"user_id": "x"},
        {"user_id": str(uuid4())},
    ):  # fmt: skip
        answer = await client.post(f"{path}/votes", json={"user_id": str(people[1]), "choice": "for"} | wrong)
        assert 400 <= answer.status_code < 500, wrong
    await headwater.postgres.execute(update(Proposal).values(voting_ends_at=datetime(2021, 1, 1, tzinfo=UTC)))
    late = await client.post(f"{path}/votes", json={"user_id": str(people[1]), "choice": "for"})
    assert late.status_code == 409
    assert "voting ended" in late.text
    assert (await client.get(path)).json()["voters"] == 1


async def test_bad_proposals_are_refused_at_the_edge_and_change_nothing(client, headwater, people) -> None:
    good = {"proposer_id": str(people[0]), "title": "Lower the fee", "quorum": 5, **PERIOD}
    for wrong in (
        {"title": ""}, {"title": "x" * 201}, {"quorum": -1}, {"quorum": 2**63}, {"proposer_id": str(uuid4())},
        {"voting_ends_at": "2019-01-01T00:00:00Z"}, {"voting_ends_at": "2500-01-01T00:00:00"},
        {"voting_ends_at": "9999-12-31T23:59:59-12:00"}, {"status": "passed"},
    ):  # fmt: skip
        answer = await client.post(PROPOSALS, json=good | wrong)
        assert 400 <= answer.status_code < 500, wrong
        assert answer.headers["content-type"] == "application/problem+json"
    assert await headwater.repository(GovernanceRepository).count() == 0


async def test_what_does_not_exist_is_not_found(client, people) -> None:
    path = f"{PROPOSALS}/{uuid4()}"
    assert (await client.get(path)).status_code == 404
    assert (await client.get(f"{path}/votes")).status_code == 404
    for step in ("activate", "close", "execute", "cancel"):
        assert (await client.post(f"{path}/{step}")).status_code == 404
    assert (await client.post(f"{path}/votes", json={"user_id": str(people[0]), "choice": "for"})).status_code == 404


async def test_a_draft_can_be_cancelled_and_writes_need_a_key(client, people) -> None:
    body = {"proposer_id": str(people[0]), "title": "Lower the fee", "quorum": 5, **PERIOD}
    path = f"{PROPOSALS}/{(await client.post(PROPOSALS, json=body)).json()['id']}"
    assert (await client.post(f"{path}/cancel")).json()["status"] == "cancelled"
    del client.headers["Authorization"]
    assert (await client.post(PROPOSALS, json=body)).status_code == 401
    assert (await client.get(path)).status_code == 200


def test_every_operation_says_what_it_does_with_examples() -> None:
    for route in ROUTES:
        assert route.summary
        assert route.answer_example is not None
        assert (route.scope is None) == (route.method == "GET")
        assert set(route.path_examples) == {part[1:-1] for part in route.path.split("/") if part.startswith("{")}
