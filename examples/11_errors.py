"""Errors: one tree, told apart by class, each with what happened, what to do, and facts for programs."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from uuid import UUID, uuid4

from sqlalchemy import CheckConstraint, ForeignKey
from sqlalchemy.orm import Mapped, mapped_column
from throwaway import create_tables, database

from headwater import Headwater, Keyed, Model, Settings, System
from headwater.kernel.errors import ConflictError, HeadwaterError, InputError


class Customer(Keyed, Model):
    """Someone who buys."""

    __tablename__ = "customers"

    email: Mapped[str] = mapped_column(unique=True)


class Invoice(Keyed, Model):
    """What they owe."""

    __tablename__ = "invoices"
    __table_args__ = (CheckConstraint("cents > 0", name="cents"),)

    customer_id: Mapped[UUID] = mapped_column(ForeignKey("customers.id"))
    cents: Mapped[int]


async def told(what: Awaitable[object]) -> None:
    """Print the error."""
    try:
        await what
    except HeadwaterError as error:
        kind = "input" if isinstance(error, InputError) else "conflict" if isinstance(error, ConflictError) else "other"
        print(f"{type(error).__name__} ({kind}, {error.slug}): {error.message}")


async def main() -> None:
    async with database() as dsn, Headwater.open(System("shop", []), Settings(database_url=dsn)) as headwater:
        await create_tables(headwater, Customer, Invoice)
        customers, invoices, alone = headwater.repository(Customer), headwater.repository(Invoice), headwater.autocommit
        ada = await customers.create(alone, email="ada@example.org")
        await invoices.create(alone, customer_id=ada.id, cents=100)

        await told(customers.create(alone, email="ada@example.org"))
        await told(invoices.create(alone, customer_id=UUID(int=1), cents=100))
        await told(invoices.create(alone, customer_id=ada.id, cents=0))
        await told(customers.delete(alone, ada.id))
        await told(customers.get("not a key"))
        await told(customers.create(alone, emial="bo@example.org"))
        try:
            await customers.get(uuid4())
        except HeadwaterError as error:
            print(type(error).__name__, "-", error.remedy)


asyncio.run(main())

# It prints:
# AlreadyExists (conflict, already-exists): public.customers: this email is already taken.
# MissingReference (input, missing-reference): public.invoices: no row of customers has the given customer_id.
# InvalidValue (input, invalid-value): public.invoices: the row breaks the rule 'invoices_cents_check'.
# StillReferenced (conflict, still-referenced): The row is still referred to by public.invoices.
# InvalidValue (input, invalid-value): customers: 'not a key' is not a key.
# ProgrammingError (other, programming): Customer has no attribute 'emial'.
# NotFound - Check the key.
