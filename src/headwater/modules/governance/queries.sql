-- name: tally
-- What the votes on one proposal say, and whether they decide it. No row: no such proposal.
select p.id as proposal_id,
       t.votes_for,
       t.votes_against,
       t.votes_abstain,
       t.voters,
       p.quorum,
       t.votes_for + t.votes_against + t.votes_abstain >= p.quorum as quorum_reached,
       t.votes_for > t.votes_against as majority
from governance.proposals as p
cross join lateral governance.tally(p.id) as t
where p.id = :proposal_id::uuid

-- name: with_tally
-- The proposals with these ids, each with its tally.
select p.id,
       p.proposer_id,
       p.title,
       p.description,
       p.status,
       p.voting_starts_at,
       p.voting_ends_at,
       p.quorum,
       p.closed_at,
       p.executed_at,
       p.spend_recipient_id,
       p.spend_amount,
       p.spend_currency,
       p.voting_token,
       p.created_at,
       p.updated_at,
       p.version,
       t.votes_for,
       t.votes_against,
       t.votes_abstain,
       t.voters,
       t.votes_for + t.votes_against + t.votes_abstain >= p.quorum as quorum_reached
from governance.proposals as p
cross join lateral governance.tally(p.id) as t
where p.id = any(:proposal_ids::uuid[])

-- name: voting_phase
-- Where a proposal stands by PostgreSQL's clock, to say why a step is refused. No row: no such proposal.
select status,
       version,
       voting_starts_at,
       voting_ends_at,
       clock_timestamp() < voting_starts_at as early,
       clock_timestamp() >= voting_ends_at as late
from governance.proposals
where id = :proposal_id::uuid
