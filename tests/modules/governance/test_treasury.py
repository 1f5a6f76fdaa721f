"""The treasury takes money in from users and pays what passed proposals say, once."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid4

import pytest

from headwater.kernel.errors import InvalidValue, MissingReference, StateConflict
from headwater.kernel.lifecycle import Headwater
from headwater.modules.governance.models import Proposal, ProposalStatus
from headwater.modules.governance.repository import GovernanceRepository, Spending

LONG_AGO, LATER = datetime(2020, 1, 1, tzinfo=UTC), datetime(2020, 2, 1, tzinfo=UTC)


@pytest.fixture
def governance(headwater: Headwater) -> GovernanceRepository:
    return headwater.repository(GovernanceRepository)


async def passed(headwater: Headwater, proposer_id: UUID, spending: Spending | None) -> Proposal:
    """A proposal that has passed: how it came to that is told in test_repository.py."""
    governance = headwater.repository(GovernanceRepository)
    async with headwater.transaction() as tx:
        draft = await governance.create_proposal(
            tx, proposer_id=proposer_id, title="Pay", voting_starts_at=LONG_AGO, voting_ends_at=LATER, quorum=0,
            spending=spending,
        )  # fmt: skip
        return (await governance.update(tx, draft.id, status=ProposalStatus.PASSED, closed_at=LATER)).new


async def execute(headwater: Headwater, proposal: Proposal) -> Proposal:
    return await headwater.run(lambda tx: headwater.repository(GovernanceRepository).execute(tx, proposal.id))


async def deposit(headwater: Headwater, user_id: UUID, amount: int, currency: str = "USD") -> Any:
    treasury = headwater.repository(GovernanceRepository).treasury
    return await headwater.run(lambda tx: treasury.deposit(tx, user_id=user_id, amount=amount, currency=currency))


async def test_an_executed_proposal_pays_its_recipient_from_the_treasury(
    headwater, governance, people, give, money_of
) -> None:
    await give(people[0], 1_000)
    await deposit(headwater, people[0], 700)
    assert (await money_of(people[0]), await governance.treasury.balance("USD")) == (300, 700)
    proposal = await passed(headwater, people[0], Spending(recipient_id=people[1], amount=450))
    assert (proposal.spend_recipient_id, proposal.spend_amount, proposal.spend_currency) == (people[1], 450, "USD")
    assert (await execute(headwater, proposal)).status is ProposalStatus.EXECUTED
    assert (await money_of(people[1]), await governance.treasury.balance("USD")) == (450, 250)
    with pytest.raises(StateConflict, match="is executed and cannot be executed"):
        await execute(headwater, proposal)
    assert await money_of(people[1]) == 450
    told = await governance.with_tally(proposal.id)
    assert (told.spend_recipient_id, told.spend_amount, told.spend_currency) == (people[1], 450, "USD")


async def test_a_proposal_the_treasury_cannot_pay_stays_passed(headwater, governance, people, give, money_of) -> None:
    await give(people[0], 1_000)
    await deposit(headwater, people[0], 99)
    proposal = await passed(headwater, people[0], Spending(recipient_id=people[1], amount=100))
    with pytest.raises(StateConflict, match="the treasury cannot pay 100 of USD") as refused:
        await execute(headwater, proposal)
    assert (refused.value.detail["needed"], refused.value.detail["available"]) == (100, 99)
    assert (await governance.get(proposal.id)).status is ProposalStatus.PASSED
    assert await money_of(people[1]) == 0
    await deposit(headwater, people[0], 1)
    await execute(headwater, proposal)
    assert (await money_of(people[1]), await governance.treasury.balance("USD")) == (100, 0)


async def test_a_proposal_without_a_spending_moves_nothing(headwater, governance, people, give) -> None:
    await give(people[0], 10)
    await deposit(headwater, people[0], 10)
    await execute(headwater, await passed(headwater, people[0], None))
    assert await governance.treasury.balance("USD") == 10


async def test_many_who_execute_at_once_pay_once_and_never_more_than_there_is(
    headwater, governance, people, give, money_of, crowd
) -> None:
    await give(people[0], 1_000)
    await deposit(headwater, people[0], 250)
    proposals = [await passed(headwater, people[0], Spending(recipient_id=people[1], amount=100)) for _ in range(3)]
    outcomes = await asyncio.gather(
        *(execute(headwater, proposal) for proposal in proposals for _ in range(3)), return_exceptions=True
    )
    assert sum(isinstance(outcome, Proposal) for outcome in outcomes) == 2
    assert all(isinstance(outcome, (Proposal, StateConflict)) for outcome in outcomes)
    assert (await money_of(people[1]), await governance.treasury.balance("USD")) == (200, 50)


async def test_what_cannot_be_spent_or_given_is_refused(headwater, governance, people, give) -> None:
    for wrong, error in (
        (Spending(recipient_id=people[1], amount=0), InvalidValue),
        (Spending(recipient_id=uuid4(), amount=5), MissingReference),
    ):
        with pytest.raises(error):
            await passed(headwater, people[0], wrong)
    unknown = await passed(headwater, people[0], Spending(recipient_id=people[1], amount=5, currency="XXX"))
    with pytest.raises(MissingReference, match="knows no currency 'XXX'"):
        await execute(headwater, unknown)
    with pytest.raises(StateConflict, match="has no USD to give"):
        await deposit(headwater, people[2], 1)
    await give(people[2], 5)
    with pytest.raises(StateConflict):
        await deposit(headwater, people[2], 6)
    with pytest.raises(InvalidValue):
        await deposit(headwater, people[2], 0)


async def test_a_spending_has_all_its_parts_or_none_for_every_writer(headwater, governance, people) -> None:
    proposal = await passed(headwater, people[0], None)
    for wrong in ({"spend_amount": 5}, {"spend_recipient_id": people[1], "spend_currency": "USD"}):
        with pytest.raises(InvalidValue, match="a spending has a recipient, an amount above zero and a currency"):
            await governance.update(headwater.autocommit, proposal.id, **wrong)
