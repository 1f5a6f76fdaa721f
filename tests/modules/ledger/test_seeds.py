"""The seeded ledger adds up, planting it again changes nothing, and the examples of the routes are there."""

from __future__ import annotations

from uuid import UUID

from sqlalchemy import text

from headwater.kernel.seeds import clear, seed
from headwater.modules.ledger.proof import verify
from headwater.modules.ledger.repository import LedgerRepository
from headwater.modules.ledger.routes import ROUTES

TRANSFERS = text("select id from ledger.transfers")


async def test_the_seeded_ledger_adds_up_and_is_planted_once(headwater) -> None:
    for profile in ("demo", "load:2000"):
        first = await seed(headwater, profile)
        assert first.added["ledger.transfers"] > 100
        again = await seed(headwater, profile)
        assert again.added["ledger.transfers"] == 0
    assert (await verify(headwater.postgres)).sound


async def test_clear_keeps_history(headwater) -> None:
    assert (await seed(headwater)).added["ledger.transfers"] > 100
    before = {row.id for row in await headwater.postgres.fetch(TRANSFERS)}
    await clear(headwater)
    after = {row.id for row in await headwater.postgres.fetch(TRANSFERS)}
    assert before <= after, "nothing is taken out; what orders had reserved is given back by more transfers"
    assert (await verify(headwater.postgres)).sound


async def test_the_examples_of_the_routes_are_seeded(headwater) -> None:
    await seed(headwater)
    ledger = headwater.repository(LedgerRepository)
    shown = {name: value for route in ROUTES for name, value in route.path_examples.items()}
    assert (await ledger.get(int(shown["account_id"]))).owner_kind == "user"
    assert (await ledger.get_transfer(UUID(shown["transfer_id"]))).reference == "deposit"
    assert (await ledger.get_transfer(UUID(shown["hold_id"]))).state.value == "pending"
