"""Governance: the users decide. Owns proposals with their voting periods and quorums, and the votes.

A proposal goes draft -> active -> passed or rejected, and passed -> executed; a draft or active one can be cancelled.
Each user votes once, with a weight, inside the voting period by PostgreSQL's clock. The tally is never stored: it is
computed from the votes wherever it is read (`governance.tally`), so it cannot differ from them, whoever wrote them.

A proposal can name a token of the ledger: then a vote weighs at most what its user's account had of it when voting
started, so that tokens which move after that do not vote twice. On others the weight is what the caller vouches for.
A proposal can spend from the treasury, which is one account per currency in the ledger (owner kind `treasury`): when it
is executed, its recipient is paid, once.

A proposal passes when all weight cast (for, against and abstain) reaches its quorum and more is for it than against it.

Public names: `headwater.modules.governance.models` (Proposal, Vote, ProposalStatus, Choice) and
`headwater.modules.governance.repository` (GovernanceRepository, Spending, Tally).
"""

from __future__ import annotations

from headwater.kernel.module import Module

MODULE = Module(
    name="governance",
    package=__name__,
    summary="Proposals, the weighted votes that decide them, and the treasury they spend.",
    depends_on=("identity", "ledger"),
)
