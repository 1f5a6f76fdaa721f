"""Transactions belong to the caller: several verbs together or not at all, and savepoints for what may fail alone."""

from __future__ import annotations

import asyncio

from sqlalchemy import CheckConstraint
from sqlalchemy.orm import Mapped, mapped_column
from throwaway import create_tables, database

from headwater import Headwater, Keyed, Model, Settings, System
from headwater.kernel.errors import AlreadyExists, InvalidValue


class Account(Keyed, Model):
    """Money that must not go below zero."""

    __tablename__ = "accounts"
    __table_args__ = (
        CheckConstraint("cents >= 0", name="cents", info={"message": "accounts: there is not enough money."}),
    )

    owner: Mapped[str] = mapped_column(unique=True)
    cents: Mapped[int]


async def main() -> None:
    async with database() as dsn, Headwater.open(System("bank", []), Settings(database_url=dsn)) as headwater:
        await create_tables(headwater, Account)
        accounts = headwater.repository(Account)
        async with headwater.transaction() as tx:
            ada = await accounts.create(tx, owner="Ada", cents=100)
            bo = await accounts.create(tx, owner="Bo", cents=0)

        async def move(cents: int) -> None:
            async with headwater.transaction() as tx:
                to = await accounts.lock(tx, bo.id)
                await accounts.update(tx, bo.id, cents=to.cents + cents)
                source = await accounts.lock(tx, ada.id)
                await accounts.update(tx, ada.id, cents=source.cents - cents)

        await move(70)
        try:
            await move(70)
        except InvalidValue as error:
            print(error.message)
        print("Ada", (await accounts.get(ada.id)).cents, "Bo", (await accounts.get(bo.id)).cents)

        async with headwater.transaction() as tx:
            await accounts.create(tx, owner="Cy", cents=1)
            try:
                async with tx.savepoint():
                    await accounts.create(tx, owner="Ada", cents=1)
            except AlreadyExists:
                print("Ada exists; the rest of the transaction goes on")
        print("accounts:", await accounts.count())


asyncio.run(main())

# It prints:
# accounts: there is not enough money.
# Ada 30 Bo 70
# Ada exists; the rest of the transaction goes on
# accounts: 3
