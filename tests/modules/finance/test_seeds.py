"""The seeded savings add up, have every kind and status of transaction, and are planted once."""

from __future__ import annotations

from collections import Counter
from uuid import UUID

from sqlalchemy import select

from headwater.kernel.lifecycle import Headwater
from headwater.kernel.rows import as_dict
from headwater.kernel.seeds import clear, seed
from headwater.kernel.settings import Settings
from headwater.modules.finance.models import Distribution, MoneyTransaction, TransactionStatus, TransactionType
from headwater.modules.finance.repository import FinanceRepository
from headwater.modules.finance.routes import ROUTES
from headwater.modules.finance.seeds import SAVERS_DEMO, YIELD_MINOR
from headwater.systems.abunfi import ABUNFI


async def test_the_demo_has_every_kind_and_status_and_adds_up(settings: Settings) -> None:
    async with Headwater.open(ABUNFI, settings) as headwater:
        first = await seed(headwater)
        rows = await headwater.postgres.fetch(select(MoneyTransaction))
        assert {row.type for row in rows} == set(TransactionType)
        assert {row.status for row in rows} == set(TransactionStatus)
        assert len({row.user_id for row in rows}) == SAVERS_DEMO
        assert any(row.network == "solana" for row in rows)
        paid = [row for row in rows if row.type is TransactionType.YIELD]
        assert sum(row.amount for row in paid) == YIELD_MINOR
        finance = headwater.repository(FinanceRepository)
        assert (await finance.verify()).faults == []
        assert first.added["finance.transactions"] > 40
        before = sorted(map(repr, map(as_dict, rows)))
        again = await seed(headwater)
        assert (again.added["finance.transactions"], again.added["finance.distributions"]) == (0, 0)
        assert sorted(map(repr, map(as_dict, await headwater.postgres.fetch(select(MoneyTransaction))))) == before


async def test_the_examples_of_the_routes_are_seeded(settings: Settings) -> None:
    async with Headwater.open(ABUNFI, settings) as headwater:
        await seed(headwater)
        finance = headwater.repository(FinanceRepository)
        shown = {name: UUID(value) for route in ROUTES for name, value in route.path_examples.items()}
        assert (await finance.get(shown["transaction_id"])).user_id == shown["user_id"]
        assert (await finance.dashboard(shown["user_id"])).user.name == "Ada Lindqvist"
        assert (await headwater.repository(Distribution).get(shown["distribution_id"])).amount == YIELD_MINOR


async def test_a_load_gives_so_many_a_deposit_beside_the_demo(settings: Settings) -> None:
    async with Headwater.open(ABUNFI, settings) as headwater:
        await seed(headwater)
        load = await seed(headwater, "load:10000")
        assert load.added["finance.transactions"] == 200
        assert (await seed(headwater, "load:10000")).added["finance.transactions"] == 0
        assert (await headwater.repository(FinanceRepository).verify()).faults == []


async def test_clear_leaves_money_and_whose_it_is(settings: Settings) -> None:
    async with Headwater.open(ABUNFI, settings) as headwater:
        await seed(headwater)
        report = await clear(headwater)
        assert report.kept == {"users": SAVERS_DEMO}
        finance = headwater.repository(FinanceRepository)
        kinds = Counter(row.type for row in await headwater.postgres.fetch(select(MoneyTransaction)))
        assert kinds[TransactionType.DEPOSIT] == SAVERS_DEMO
        assert (await finance.verify()).faults == []
        assert (await seed(headwater)).added["finance.transactions"] == 0
