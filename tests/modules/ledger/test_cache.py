"""Balances through the cache: strict also for a transaction of more changes than are told one by one."""

from __future__ import annotations

import asyncio
from uuid import uuid4

from tests.kernel.caching import trusted

from headwater.followers.invalidation import relaying
from headwater.kernel.lifecycle import Headwater
from headwater.kernel.settings import Settings
from headwater.kernel.written import CHANGES_MAX
from headwater.modules.ledger.repository import LedgerRepository, Move
from headwater.systems.everything import EVERYTHING


async def test_a_large_batch_is_seen_by_every_process_when_it_returns_and_it_returns(settings: Settings) -> None:
    async with (
        Headwater.open(EVERYTHING, settings) as writer,
        Headwater.open(EVERYTHING, settings) as reader,
        relaying(EVERYTHING, settings),
    ):
        ledger, seen = writer.repository(LedgerRepository), reader.repository(LedgerRepository)
        await ledger.open_asset(writer.postgres, "USD", scale=2)
        issuance = await ledger.account(writer.postgres, "system", None, "USD", purpose="issuance", credit_limit=None)
        people = await ledger.accounts(writer.postgres, "user", [uuid4() for _ in range(CHANGES_MAX + 200)], "USD")
        keys = [one.id for one in people.values()]
        await trusted(writer, reader)
        cache = reader.postgres.cache
        assert cache is not None
        for round_ in (1, 2):
            for key in keys[:20]:  # they stand in the cache, with the balances of before
                assert (await seen.get(key)).balance == round_ - 1
            async with asyncio.timeout(30):  # a commit that cannot tell its rows waits for the guard, and no longer
                receipts = await ledger.post(
                    writer.postgres, [Move(debit=issuance.id, credit=key, amount=1) for key in keys]
                )
            assert all(receipt.done for receipt in receipts)
            for key in keys[:20] + keys[-20:]:
                assert (await seen.get(key)).balance == round_
            assert (await seen.get(issuance.id)).balance == -round_ * len(keys)
            await trusted(reader)
        assert cache.figures["account"].hits > 0
