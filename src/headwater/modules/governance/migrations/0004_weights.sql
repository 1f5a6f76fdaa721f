-- What the vote of a user can weigh on proposals about a token: the balance of the user's account at that instant, what
-- orders hold of it included.
--
-- The account is locked as long as the transaction lasts (FOR SHARE): a transfer that began before the instant and has not
-- committed holds the row, so that we wait for it and see it. Otherwise its tokens could vote here and where they went.
-- Found by its owner and not by its asset (`+ 0`), whatever the statistics say.
create function governance.weight_of(voter uuid, token text, instant timestamptz) returns numeric
language plpgsql security definer
set search_path = pg_catalog, pg_temp
as $function$
declare
    account bigint;
begin
    select a.id into account from ledger.accounts a
     where a.owner_kind = 'user' and a.owner_id = voter and a.purpose = 'main'
       and a.asset_id + 0 = (select s.id from ledger.assets s where s.code = token)
       for share;
    return greatest(coalesce(ledger.balance_at(account, instant), 0), 0);
end
$function$;

-- next
-- A vote on a proposal that names a token weighs at most what its user had of it when voting started; without a weight,
-- all of that. On other proposals the weight is what the caller vouches for; without one, 1. Whoever writes the vote.
create function governance.weigh_vote() returns trigger
language plpgsql
set search_path = pg_catalog, pg_temp
as $function$
declare
    about record;
    most numeric;
begin
    select p.voting_token, p.voting_starts_at into about from governance.proposals p where p.id = new.proposal_id;
    if about.voting_token is null then
        new.weight := coalesce(new.weight, 1);
        return new;
    end if;
    if about.voting_starts_at > clock_timestamp() then
        raise exception 'governance.votes: what a vote on % weighs is not known before its voting starts', new.proposal_id
            using errcode = 'object_not_in_prerequisite_state', hint = 'Vote inside the voting period.';
    end if;
    most := governance.weight_of(new.user_id, about.voting_token, about.voting_starts_at);
    new.weight := coalesce(new.weight, most);
    if most < 1 or new.weight > most then
        raise exception 'governance.votes: the user % had % of % when voting started, and cannot vote with %',
            new.user_id, most, about.voting_token, greatest(new.weight, 1)
            using errcode = 'object_not_in_prerequisite_state', column = 'weight',
                  hint = 'Vote with no weight: it is all that the user had.';
    end if;
    return new;
end
$function$;

-- next
create trigger votes_weigh before insert or update of proposal_id, user_id, weight on governance.votes
    for each row execute function governance.weigh_vote();

-- next
-- What votes weigh by stays as it is once one can vote.
create function governance.keep_weights() returns trigger
language plpgsql
set search_path = pg_catalog, pg_temp
as $function$
begin
    raise exception 'governance.proposals: the proposal % keeps its voting token and the start of its voting', old.id
        using errcode = 'object_not_in_prerequisite_state', hint = 'Cancel it, and propose anew.';
end
$function$;

-- next
create trigger proposals_keep_weights before update of voting_token, voting_starts_at on governance.proposals
    for each row when (old.status <> 'draft' and (new.voting_token is distinct from old.voting_token
                       or old.voting_token is not null and new.voting_starts_at <> old.voting_starts_at))
    execute function governance.keep_weights();
