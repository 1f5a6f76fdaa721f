"""Seeds of the ledger: dollars for the seeded users, payments between them, a hold. History is kept by `clear`.

What is planted goes through the functions like everything else, with ids that are the same in every run: planting it
again changes nothing.
"""

from __future__ import annotations

import random

from headwater.kernel.seeds import Sowing
from headwater.modules.ledger.commands import AnyCommand, Hold, Move, id_of
from headwater.modules.ledger.repository import LedgerRepository

USERS_DEMO = 60
PAYMENTS_DEMO = 200
LOAD_SHARE = 0.05
"""Which part of the rows of `load:N` are transfers."""
_BATCH = 500
_LOAD_FIRST = 1_000_000


async def seed(sowing: Sowing) -> None:
    """A deposit for each user, payments between neighbours, and one open hold."""
    ledger = LedgerRepository(sowing.tx.postgres)
    demo = sowing.profile == "demo"
    users = USERS_DEMO if demo else max(2, int(sowing.rows * LOAD_SHARE / 5))
    payments = PAYMENTS_DEMO if demo else int(sowing.rows * LOAD_SHARE)
    first = 1 if demo else _LOAD_FIRST
    asset = await ledger.open_asset(sowing.tx, "USD", scale=2)
    issuance = (await ledger.account(sowing.tx, "system", None, asset.code, purpose="deposits", credit_limit=None)).id
    owners = [sowing.key("users", first + n) for n in range(users)]
    made = await ledger.accounts(sowing.tx, "user", owners, asset.code)
    accounts = [made[owner].id for owner in owners]
    chance = random.Random(f"ledger/{sowing.profile}")  # noqa: S311  # repeatable on purpose
    commands: list[AnyCommand] = [
        Move(
            id=id_of("seed", "deposit", first + n),
            debit=issuance,
            credit=account,
            amount=125_000 + 5_000 * (n % 7),
            reference="deposit",
        )
        for n, account in enumerate(accounts)
    ]
    for n in range(payments):
        debit = chance.randrange(users)
        commands.append(
            Move(
                id=id_of("seed", "payment", first + n),
                debit=accounts[debit],
                credit=accounts[(debit + 1 + chance.randrange(users - 1)) % users],
                amount=chance.randrange(100, 9_000),
                reference="payment",
            )
        )
    if demo:
        commands.append(Hold(id=id_of("seed", "hold", 1), debit=accounts[0], credit=accounts[1], amount=4_200))
    added = 0
    for start in range(0, len(commands), _BATCH):
        receipts = await ledger.post(sowing.tx, commands[start : start + _BATCH])
        added += sum(receipt.done and not receipt.repeated for receipt in receipts)
    sowing.added["ledger.transfers"] = added
