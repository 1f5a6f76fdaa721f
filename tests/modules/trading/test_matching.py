"""The matcher in the database makes the trades of the reference matcher, and the ledger always adds up."""

from __future__ import annotations

from uuid import UUID

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.modules.trading import reference
from tests.modules.trading.marketplace import Marketplace

from headwater.modules.trading.commands import Cancel, Place
from headwater.modules.trading.models import Settlement, Side

PEOPLE, PARTS = 3, 2

_places = st.builds(
    reference.Place,
    user=st.integers(0, PEOPLE - 1),
    asset=st.integers(0, PARTS - 1),
    side=st.sampled_from(["buy", "sell"]),
    price=st.integers(1, 6),
    quantity=st.integers(1, 8) | st.integers(1, 40),
)
_commands = st.lists(_places | st.builds(reference.Cancel, order=st.integers(0, 25)), min_size=1, max_size=30)
_amounts = st.lists(st.integers(0, 60) | st.just(1_000), min_size=PEOPLE, max_size=PEOPLE)


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    commands=_commands,
    sizes=st.lists(st.integers(1, 12), min_size=1, max_size=30),
    money=_amounts,
    tokens=_amounts,
    at_once=st.booleans(),
)
async def test_any_commands_in_any_batches_trade_as_the_reference_does(
    marketplace: Marketplace,
    commands: list[reference.Place | reference.Cancel],
    sizes: list[int],
    money: list[int],
    tokens: list[int],
    at_once: bool,
) -> None:
    here = await marketplace.found(PEOPLE, PARTS)
    await here.open(Settlement.IMMEDIATE if at_once else Settlement.ON_RELEASE)
    exchange = reference.Exchange(settles=at_once)
    exchange.money.update(enumerate(money))
    exchange.tokens.update({(user, asset): tokens[user] for user in range(PEOPLE) for asset in range(PARTS)})
    await here.endow(
        dict(zip(here.people, money, strict=True)),
        {(here.people[user], here.parts[asset]): n for (user, asset), n in exchange.tokens.items()},
    )

    ids: dict[int, UUID] = {}
    at = 0
    while at < len(commands):
        size = sizes[at % len(sizes)]
        # Whoever cancels has seen the order: one of this batch has no id yet.
        batch = [
            command
            for command in commands[at : at + size]
            if isinstance(command, reference.Place) or command.order in ids
        ]
        numbers = range(exchange.commands, exchange.commands + len(batch))
        expected = [exchange.run(command) for command in batch]
        outcomes = await here.run(*(_translated(here, ids, command) for command in batch))
        for number, command, outcome in zip(numbers, batch, outcomes, strict=True):
            if isinstance(command, reference.Place) and outcome.id is not None:
                ids[number] = outcome.id
        # An order that the same batch filled further is told as it stands after the batch.
        for number, command, outcome, said in zip(numbers, batch, outcomes, expected, strict=True):
            placed = isinstance(command, reference.Place) and number in exchange.orders
            assert outcome.outcome.value == (exchange.orders[number].status if placed else said)
        at += size

    number_of = {order_id: number for number, order_id in ids.items()}
    assert [
        reference.Trade(number_of[t.buy_order_id], number_of[t.sell_order_id], t.taker_side.value, t.price, t.quantity)
        for t in await here.trades()
    ] == exchange.trades
    for number, order in exchange.orders.items():
        stored = await here.trading.get(ids[number])
        assert (stored.status.value, stored.filled_quantity) == (order.status, order.filled)
    for user in range(PEOPLE):
        assert await here.money(user) == (exchange.money[user], exchange.held_money(user))
        for asset in range(PARTS):
            assert await here.tokens(user, asset) == (exchange.tokens[user, asset], exchange.held_tokens(user, asset))
    await here.audit()


def _translated(here: Marketplace, ids: dict[int, UUID], command: reference.Place | reference.Cancel) -> Place | Cancel:
    if isinstance(command, reference.Cancel):
        return Cancel(order_id=ids[command.order])
    return Place(
        user_id=here.people[command.user],
        asset_id=here.parts[command.asset],
        side=Side(command.side),
        price=command.price,
        quantity=command.quantity,
    )
