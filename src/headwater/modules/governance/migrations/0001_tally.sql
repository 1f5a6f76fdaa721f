-- The tally of a proposal, computed from its votes: there is no stored sum that could differ from them.
-- STABLE and plain SQL, so that PostgreSQL inlines it; votes_proposal_id_user_id_key alone answers it.
create function governance.tally(of_proposal uuid)
returns table (votes_for numeric, votes_against numeric, votes_abstain numeric, voters bigint)
language sql stable parallel safe
as $$
    select coalesce(sum(weight) filter (where choice = 'for'), 0),
           coalesce(sum(weight) filter (where choice = 'against'), 0),
           coalesce(sum(weight) filter (where choice = 'abstain'), 0),
           count(*)
    from governance.votes
    where proposal_id = of_proposal
$$
