"""Commands are checked before they are sent, and every status has its reason."""

from __future__ import annotations

from uuid import uuid4

import pytest

from headwater.kernel.errors import InvalidValue, StateConflict
from headwater.modules.ledger.commands import Hold, Move, PostHold, Receipt, Status, columns_of, id_of, new_id


def test_an_id_of_names_is_the_same_in_every_try_and_new_ids_are_in_order_of_time() -> None:
    assert id_of("order", 7, "pay") == id_of("order", "7", "pay") != id_of("order", 7, "refund")
    made = [new_id() for _ in range(100)]
    assert len(set(made)) == 100
    assert [key.int >> 80 for key in made] == sorted(key.int >> 80 for key in made)
    assert {key.version for key in made} == {7}


def test_every_status_says_why() -> None:
    assert len({status.reason for status in Status}) == len(Status)
    refused = Receipt(uuid4(), Status.EXCEEDS_BALANCE)
    with pytest.raises(StateConflict, match="has not enough") as caught:
        refused.or_raise()
    assert caught.value.detail["status"] == "exceeds_balance"
    done = Receipt(uuid4(), Status.DONE)
    assert done.or_raise() is done


def test_an_array_that_nobody_needs_is_not_sent() -> None:
    columns = columns_of([Move(debit=1, credit=2, amount=3), Hold(debit=1, credit=2, amount=4, up_to=True)])
    assert columns[1:] == ([1, 2], [1, 1], [2, 2], "3,4", [0, 2], None, None, None, None)
    hold = uuid4()
    posted = columns_of([PostHold(hold=hold, keep_rest=True, reference="part")])
    assert posted[1:] == ([3], [None], [None], "0", [8], [hold], None, ["part"], None)


@pytest.mark.parametrize("amount", [0, -5, 1.5, True, 10**38])
def test_what_is_no_amount_is_refused(amount: object) -> None:
    with pytest.raises(InvalidValue, match="is not an amount"):
        columns_of([Move(debit=1, credit=2, amount=amount)])  # type: ignore[arg-type]


def test_a_chain_has_an_end() -> None:
    with pytest.raises(InvalidValue, match="linked with a next one"):
        columns_of([Move(debit=1, credit=2, amount=1, linked=True)])
