"""Seeds of governance: proposals in every status, with votes that explain the outcome."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from datetime import timedelta
from typing import Any, NamedTuple
from uuid import UUID

from sqlalchemy import select

from headwater.kernel.seeds import FIRST_KEY, LAST_KEY, Sowing
from headwater.modules.governance.models import Choice, Proposal, ProposalStatus, Vote
from headwater.modules.governance.treasury import spend_id
from headwater.modules.identity.models import User
from headwater.modules.ledger.repository import LedgerRepository, Move, id_of

LOAD_SHARE = 0.1
"""Which part of the rows of `load:N` are proposals and votes."""
LOAD_FIRST = 1_000_001
"""Numbers from here on belong to the load profile, so that it can be planted beside the demo."""
LOAD_VOTERS = 500

TREASURY_AMOUNT = 25_000_000
"""What the treasury was given, in cents."""

Row = Mapping[str, Any]


class _Plan(NamedTuple):
    title: str
    description: str
    status: ProposalStatus
    leaning: tuple[int, int, int]
    """How many of ten voters are for, against and abstain."""
    turnout: float = 0.6
    quorum_share: float = 0.5
    """The quorum as a part of the weight that was cast; above 1 it is missed."""
    starts_in_days: int = -30
    ends_in_days: int = -10
    spends: int = 0
    """What it pays from the treasury, in cents. In the demo only."""


_OPEN: dict[str, Any] = {"ends_in_days": 3_650}  # ten years: whoever runs the demo finds them open

_PLANS = (
    _Plan("Lower the listing fee to 0.5 %", "New parts pay half of today's fee for a year.", ProposalStatus.ACTIVE,
          (6, 3, 1), **_OPEN),
    _Plan("Fund an open gripper standard", "A working group writes a free interface standard for end effectors.",
          ProposalStatus.ACTIVE, (7, 1, 2), spends=1_200_000, **_OPEN),
    _Plan("Require a torque certificate for drives", "Harmonic drives are listed only with a measured torque curve.",
          ProposalStatus.ACTIVE, (4, 5, 1), **_OPEN),
    _Plan("Extend settlement to weekends", "Inspections on Saturdays count as working days.", ProposalStatus.ACTIVE,
          (1, 0, 0), turnout=0.0, starts_in_days=3_000, ends_in_days=3_650),
    _Plan("Add a marketplace for used parts", "Refurbished parts get a section of their own.", ProposalStatus.DRAFT,
          (1, 0, 0), turnout=0.0, starts_in_days=30, ends_in_days=3_650),
    _Plan("Sponsor a student robotics league", "Parts worth 20,000 for twelve teams.", ProposalStatus.DRAFT,
          (1, 0, 0), turnout=0.0, starts_in_days=60, ends_in_days=3_650, spends=2_000_000),
    _Plan("Inspect every titanium part", "No sampling: each part is measured.", ProposalStatus.PASSED, (7, 2, 1)),
    _Plan("Publish oracle prices hourly", "Price feeds are recorded at least once an hour.", ProposalStatus.PASSED,
          (6, 2, 2), spends=350_000),
    _Plan("Double the quorum", "Proposals need twice the weight.", ProposalStatus.REJECTED, (2, 7, 1)),
    _Plan("Rename the token", "A new name and symbol.", ProposalStatus.REJECTED, (6, 3, 1), quorum_share=1.5),
    _Plan("Adopt the arbitration rules", "Disputed escrows go to three arbiters.", ProposalStatus.EXECUTED, (8, 1, 1),
          starts_in_days=-90, ends_in_days=-70),
    _Plan("Open the inspection reports", "Findings are visible to every buyer.", ProposalStatus.EXECUTED, (7, 2, 1),
          starts_in_days=-120, ends_in_days=-100, spends=480_000),
    _Plan("Move the servers to the moon", "Low gravity, good cooling.", ProposalStatus.CANCELLED, (2, 3, 1),
          turnout=0.2),
)  # fmt: skip


async def seed(sowing: Sowing) -> None:
    """Proposals in every status, and the votes on them; the open ones stay open for years."""
    demo = sowing.profile == "demo"
    users = await sowing.tx.fetch(
        select(User.id)
        .where(User.id.between(FIRST_KEY, LAST_KEY))
        .order_by(User.id)
        .limit(100 if demo else LOAD_VOTERS)
    )
    if not users:
        return
    voters = [row.id for row in users]
    first = 1 if demo else LOAD_FIRST
    if demo:
        await _fill_treasury(sowing, voters)
    per_proposal = 1 + 0.45 * len(voters)
    proposals = len(_PLANS) if demo else max(1, int(sowing.rows * LOAD_SHARE / per_proposal))
    for model in (Proposal, Vote):  # two passes over the same rows: nothing is kept in memory
        rows = (row for kind, row in _grow(sowing, voters, first, proposals) if kind is model)
        await sowing.plant(model, rows, total=proposals if model is Proposal else None)


async def _fill_treasury(sowing: Sowing, voters: list[UUID]) -> None:
    """Money in the treasury, and out of it what the executed proposals have spent, under the ids the verb gives it."""
    ledger = LedgerRepository(sowing.tx.postgres)
    await ledger.open_asset(sowing.tx, "USD", scale=2)
    issuance = await ledger.account(sowing.tx, "system", None, "USD", purpose="issuance", credit_limit=None)
    treasury = await ledger.account(sowing.tx, "treasury", None, "USD")
    moves = [
        Move(id=id_of("seed", "treasury"), debit=issuance.id, credit=treasury.id, amount=TREASURY_AMOUNT),
    ]
    for number, plan in enumerate(_PLANS, 1):
        if plan.status is ProposalStatus.EXECUTED and plan.spends:
            recipient = await ledger.account(sowing.tx, "user", _recipient(voters, number), "USD")
            spent = spend_id(sowing.key("governance.proposals", number))
            reference = f"proposal:{sowing.key('governance.proposals', number)}"
            moves.append(
                Move(id=spent, debit=treasury.id, credit=recipient.id, amount=plan.spends, reference=reference)
            )
    for receipt in await ledger.post(sowing.tx, moves):
        receipt.or_raise()


def _recipient(voters: list[UUID], number: int) -> UUID:
    return voters[number * 17 % len(voters)]


def _grow(sowing: Sowing, voters: list[UUID], first: int, proposals: int) -> Iterator[tuple[type[Any], Row]]:
    """Proposal by proposal: the proposal, then its votes."""
    chance = random.Random(f"governance/{sowing.profile}")  # noqa: S311  # repeatable on purpose
    for number in range(first, first + proposals):
        round_number, which = divmod(number - first, len(_PLANS))
        plan = _PLANS[which]
        proposal_id = sowing.key("governance.proposals", number)
        starts = sowing.now + timedelta(days=plan.starts_in_days)
        ends = sowing.now + timedelta(days=plan.ends_in_days)
        votes = _votes(sowing, plan, voters, number, proposal_id, chance)
        cast = sum(vote["weight"] for vote in votes)
        decided = plan.status in (ProposalStatus.PASSED, ProposalStatus.REJECTED, ProposalStatus.EXECUTED)
        written = starts - timedelta(days=7) if plan.starts_in_days < 0 else sowing.now - timedelta(days=7)
        yield (
            Proposal,
            {
                "id": proposal_id,
                "proposer_id": voters[number * 31 % len(voters)],
                "title": plan.title if round_number == 0 else f"{plan.title} (round {round_number + 1})",
                "description": plan.description,
                "status": plan.status,
                "voting_starts_at": starts,
                "voting_ends_at": ends,
                "quorum": max(1, int(cast * plan.quorum_share)) if cast else 5_000,
                "closed_at": ends + timedelta(hours=1) if decided else None,
                "executed_at": ends + timedelta(days=2) if plan.status is ProposalStatus.EXECUTED else None,
                "spend_recipient_id": _recipient(voters, number) if plan.spends and number < LOAD_FIRST else None,
                "spend_amount": plan.spends if plan.spends and number < LOAD_FIRST else None,
                "spend_currency": "USD" if plan.spends and number < LOAD_FIRST else None,
                "created_at": written,
                "updated_at": written,
            },
        )
        for vote in votes:
            yield Vote, vote


def _votes(
    sowing: Sowing, plan: _Plan, voters: list[UUID], number: int, proposal_id: UUID, chance: random.Random
) -> list[Row]:
    """One vote each for a part of the voters. Every tenth person follows the leaning in turn, so that it decides."""
    turnout = min(len(voters), max(1, int(len(voters) * plan.turnout))) if plan.turnout else 0
    ballot = [Choice.FOR] * plan.leaning[0] + [Choice.AGAINST] * plan.leaning[1] + [Choice.ABSTAIN] * plan.leaning[2]
    votes: list[Row] = []
    opened = sowing.now + timedelta(days=plan.starts_in_days)
    for place, voter in enumerate(sorted(chance.sample(range(len(voters)), turnout))):
        choice = ballot[place * 7 % len(ballot)]
        # The side that is to win has the heavier voters: the outcome does not hang on chance.
        heavy = (choice is Choice.FOR) == (plan.leaning[0] > plan.leaning[1])
        votes.append(
            {
                "id": sowing.key("governance.votes", number * 1_000 + place),
                "proposal_id": proposal_id,
                "user_id": voters[voter],
                "choice": choice,
                "weight": chance.randrange(500, 1_000) if heavy else chance.randrange(50, 500),
                "created_at": opened + timedelta(minutes=11 * place),
            }
        )
    return votes
