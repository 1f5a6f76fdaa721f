"""The verbs of the ledger: open accounts, move, hold, post, void, reverse, read balances and statements.

The rules are in PostgreSQL (migrations/0001_post.sql): a verb sends commands and reads receipts.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

import msgspec
from sqlalchemy import Select, and_, select

from headwater.kernel.errors import InvalidCursor, InvalidValue, MissingReference, NotFound, StateConflict
from headwater.kernel.pages import Page
from headwater.kernel.postgres import Runner
from headwater.kernel.queries import Queries
from headwater.kernel.repository import Repository
from headwater.kernel.statements import Prepared
from headwater.kernel.transaction import Transaction, transaction
from headwater.modules.ledger.commands import (
    AMOUNT_MAX,
    AnyCommand,
    Hold,
    Move,
    PostHold,
    Receipt,
    Reverse,
    Status,
    VoidHold,
    columns_of,
    id_of,
    new_id,
    receipts_of,
)
from headwater.modules.ledger.models import SYSTEM, Account, Asset, Transfer, TransferState
from headwater.modules.ledger.poster import Poster

__all__ = [
    "AMOUNT_MAX",
    "AnyCommand",
    "AssetRepository",
    "Entry",
    "Hold",
    "LedgerRepository",
    "Move",
    "PostHold",
    "Receipt",
    "Reverse",
    "Status",
    "VoidHold",
    "id_of",
    "new_id",
]

QUERIES = Queries.load(__package__)
_POST = QUERIES["post"].sql
_TRANSFER = QUERIES["transfer"].sql
_NEWEST = 2**63 - 1


class Entry(msgspec.Struct, frozen=True):
    """A line of a statement: what a transfer did to one account. `change` is signed; a hold changes nothing."""

    version: int
    change: int
    balance: int
    counterpart_id: int
    id: UUID
    state: TransferState
    amount: int
    created_at: datetime
    pending_id: UUID | None
    reverses_id: UUID | None
    reference: str | None
    metadata: dict[str, Any] | None


class AssetRepository(Repository[Asset]):
    """What is counted. Made by LedgerRepository.open_asset."""


class LedgerRepository(Repository[Account]):
    """Accounts and what moves between them. Amounts are whole numbers in the smallest unit of the asset."""

    # -- assets and accounts -----------------------------------------------------------------------------------------

    async def open_asset(self, tx: Runner, code: str, *, scale: int) -> Asset:
        """The asset with this code, made when it is not there. Raises StateConflict when it has another scale."""
        asset = await self._asset(tx, code)
        if asset is None:
            await tx.execute(QUERIES["open_asset"], code=code, scale=scale)
            asset = await self._asset(tx, code)
            assert asset is not None
        if asset.scale != scale:
            raise StateConflict(
                f"ledger.assets: '{code}' has {asset.scale} decimal places, not {scale}.",
                remedy="Use its scale, or another code.",
                scale=asset.scale,
            )
        return asset

    async def account(
        self,
        tx: Runner,
        owner_kind: str,
        owner_id: UUID | None,
        asset: str,
        *,
        purpose: str = "main",
        credit_limit: int | None = 0,
    ) -> Account:
        """The account of this owner in this asset, made when it is not there.

        `owner_id` None is the one owner of its kind. `credit_limit` is how far a new account may be overdrawn; None:
        without a limit. Raises MissingReference when there is no such asset.
        """
        owner = SYSTEM if owner_id is None else owner_id
        found = await self._accounts(tx, owner_kind, [owner], asset, purpose)
        if not found:
            found = await self.accounts(tx, owner_kind, [owner], asset, purpose=purpose, credit_limit=credit_limit)
        return found[owner]

    async def accounts(
        self,
        tx: Runner,
        owner_kind: str,
        owner_ids: Iterable[UUID],
        asset: str,
        *,
        purpose: str = "main",
        credit_limit: int | None = 0,
    ) -> dict[UUID, Account]:
        """The accounts of many owners, by owner; those that are not there are made. Raises MissingReference."""
        owners = list(dict.fromkeys(owner_ids))
        limit = None if credit_limit is None else str(_amount(credit_limit))
        await tx.execute(
            QUERIES["open_accounts"],
            owner_kind=owner_kind,
            owner_ids=owners,
            asset=asset,
            purpose=purpose,
            credit_limit=limit,
        )
        found = await self._accounts(tx, owner_kind, owners, asset, purpose)
        if len(found) < len(owners):
            if await self._asset(tx, asset) is None:
                raise MissingReference(
                    f"ledger.accounts: there is no asset '{asset}'.",
                    remedy="Make it with open_asset(tx, code, scale=…).",
                )
            raise StateConflict("ledger.accounts: an account was made meanwhile.", remedy="Run the work again.")
        return found

    async def find_account(
        self,
        owner_kind: str,
        owner_id: UUID | None,
        asset: str,
        *,
        purpose: str = "main",
        tx: Runner | None = None,
    ) -> Account | None:
        """The account of this owner in this asset, or None."""
        owner = SYSTEM if owner_id is None else owner_id
        return (await self._accounts(tx or self.postgres, owner_kind, [owner], asset, purpose)).get(owner)

    async def lock_accounts(self, tx: Transaction, account_ids: Iterable[int]) -> None:
        """Lock accounts in the order of their ids, before a transaction touches them in several calls."""
        tx.require_block("lock_accounts()")
        await tx.fetch(QUERIES["lock_accounts"], ids=list(account_ids))

    async def set_credit_limit(self, tx: Runner, account_id: int, credit_limit: int | None) -> None:
        """Change how far an account may be overdrawn. Raises NotFound, StateConflict when it is overdrawn further."""
        if self._alone(tx):
            async with transaction(self.postgres) as own:
                return await self.set_credit_limit(own, account_id, credit_limit)
        limit = None if credit_limit is None else str(_amount(credit_limit))
        if not await tx.execute(QUERIES["set_credit_limit"], account_id=account_id, credit_limit=limit):
            await self.get(account_id, tx=tx)
            raise StateConflict(
                f"ledger.accounts: {account_id} is overdrawn further than that.",
                remedy="Bring its balance up, or end its holds, first.",
            )
        return None

    async def close_account(self, tx: Runner, account_id: int) -> None:
        """Let nothing move any more. Raises NotFound, StateConflict while there is a balance or a hold."""
        if self._alone(tx):
            async with transaction(self.postgres) as own:
                return await self.close_account(own, account_id)
        if not await tx.execute(QUERIES["close_account"], account_id=account_id):
            await self.get(account_id, tx=tx)
            raise StateConflict(
                f"ledger.accounts: {account_id} cannot be closed while it has a balance or a hold.",
                remedy="Move the balance away and end its holds first.",
            )
        return None

    # -- one command, in the caller's transaction --------------------------------------------------------------------

    async def transfer(
        self,
        tx: Runner,
        *,
        debit: int,
        credit: int,
        amount: int,
        id: UUID | None = None,
        up_to: bool = False,
        up_to_debt: bool = False,
        reference: str | None = None,
        metadata: dict[str, Any] | None = None,
    ) -> Receipt:
        """Move an amount from one account to another; one statement. The receipt tells a refusal, no error does.

        Raises InvalidValue for what is no amount, TransientError when the work is to be run again.
        """
        key = new_id() if id is None else id
        if type(amount) is not int or not 1 <= amount <= AMOUNT_MAX:
            raise _not_an_amount(amount)
        flags = (2 if up_to else 0) | (4 if up_to_debt else 0)
        answer = await self._call(tx, _TRANSFER, (key, debit, credit, str(amount), flags, reference, metadata))
        status, moved, debit_balance, credit_balance, repeated = answer
        return Receipt(
            key,
            Status(status),
            int(moved),
            None if debit_balance is None else int(debit_balance),
            None if credit_balance is None else int(credit_balance),
            repeated,
        )

    async def hold(
        self,
        tx: Runner,
        *,
        debit: int,
        credit: int,
        amount: int,
        id: UUID | None = None,
        expires_at: datetime | None = None,
        up_to: bool = False,
        reference: str | None = None,
        metadata: dict[str, Any] | None = None,
    ) -> Receipt:
        """Reserve an amount of one account for another. The receipt's id is the hold's."""
        command = Hold(
            id=id or new_id(), debit=debit, credit=credit, amount=amount, expires_at=expires_at, up_to=up_to,
            reference=reference, metadata=metadata,
        )  # fmt: skip
        return (await self.post(tx, (command,)))[0]

    async def post_hold(
        self,
        tx: Runner,
        hold: UUID,
        amount: int | None = None,
        *,
        keep_rest: bool = False,
        id: UUID | None = None,
        reference: str | None = None,
        metadata: dict[str, Any] | None = None,
    ) -> Receipt:
        """Move what is held, or a part. The rest is released, or with `keep_rest` stays held for another part."""
        command = PostHold(
            id=id or new_id(), hold=hold, amount=amount, keep_rest=keep_rest, reference=reference, metadata=metadata
        )
        return (await self.post(tx, (command,)))[0]

    async def void_hold(
        self, tx: Runner, hold: UUID, *, id: UUID | None = None, reference: str | None = None
    ) -> Receipt:
        """Release what is still held."""
        return (await self.post(tx, (VoidHold(id=id or new_id(), hold=hold, reference=reference),)))[0]

    async def reverse(
        self, tx: Runner, transfer: UUID, *, id: UUID | None = None, reference: str | None = None
    ) -> Receipt:
        """Move the amount of a transfer back, as a new transfer. Once."""
        return (await self.post(tx, (Reverse(id=id or new_id(), transfer=transfer, reference=reference),)))[0]

    # -- many commands -----------------------------------------------------------------------------------------------

    async def post(self, tx: Runner, commands: Sequence[AnyCommand]) -> list[Receipt]:
        """Run commands in the order given, each with its receipt; one statement.

        Raises InvalidValue for what is no amount or an open chain, TransientError when the work is to be run again.
        """
        if not commands:
            return []
        columns = columns_of(commands)
        return receipts_of(columns[0], await self._call(tx, _POST, columns))

    async def post_one(self, command: AnyCommand) -> Receipt:
        """Run one command, committed when this returns. Concurrent callers travel together."""
        if command.linked:
            raise InvalidValue("A linked command is not alone.", remedy="Use post_chain().")
        return (await self._poster().submit((command,)))[0]

    async def post_chain(self, commands: Sequence[AnyCommand]) -> list[Receipt]:
        """Run commands all or none, committed when this returns. Travels together with other callers."""
        if not commands:
            return []
        last = len(commands) - 1
        linked = [
            one if one.linked == (at < last) else msgspec.structs.replace(one, linked=at < last)
            for at, one in enumerate(commands)
        ]
        return await self._poster().submit(linked)

    async def expire_holds(self, tx: Runner, *, most: int = 1_000) -> int:
        """Release holds whose time is over, at most so many; returns how many.

        An account that is about to spend releases its own by itself, and where a ticker leads the module's upkeep
        releases all within a second or two; this is for who cannot wait.
        """
        if self._alone(tx):
            async with transaction(self.postgres) as own:
                return await self.expire_holds(own, most=most)
        return int(await tx.fetch_value(QUERIES["expire"], most=most))

    # -- reads -------------------------------------------------------------------------------------------------------

    async def balance_at(self, account_id: int, instant: datetime, *, tx: Runner | None = None) -> int:
        """The balance of an account at an instant. Raises NotFound."""
        found = await (tx or self.postgres).fetch_value(QUERIES["balance_at"], account_id=account_id, instant=instant)
        if found is None:
            raise self._absent(account_id)
        return int(found)

    async def statement(
        self, account_id: int, *, limit: int = 50, cursor: str | None = None, tx: Runner | None = None
    ) -> Page[Entry]:
        """A page of what happened to an account, the newest first. Raises NotFound, InvalidCursor."""
        before = _NEWEST if cursor is None else _read_cursor(cursor, account_id)
        runner = tx or self.postgres
        rows = await runner.fetch(QUERIES["statement"], account_id=account_id, before=before, limit=limit + 1)
        if not rows and cursor is None:
            await self.get(account_id, tx=tx)
        entries = tuple(
            Entry(
                r.version, int(r.change), int(r.balance), r.counterpart_id, r.id, TransferState(r.state),
                int(r.amount), r.created_at, r.pending_id, r.reverses_id, r.reference, r.metadata,
            )
            for r in rows[:limit]
        )  # fmt: skip
        return Page(entries, _cursor(account_id, entries[-1].version) if len(rows) > limit else None)

    async def find_transfer(self, transfer_id: UUID, *, tx: Runner | None = None) -> Transfer | None:
        """A transfer by its id, or None."""
        found: Transfer | None = await (tx or self.postgres).fetch_one(
            select(Transfer).where(Transfer.id == transfer_id)
        )
        return found

    async def get_transfer(self, transfer_id: UUID, *, tx: Runner | None = None) -> Transfer:
        """A transfer by its id. Raises NotFound."""
        found = await self.find_transfer(transfer_id, tx=tx)
        if found is None:
            raise NotFound(
                f"ledger.transfers: there is no row with the key {transfer_id}.", remedy="Check the key.",
                key=str(transfer_id),
            )  # fmt: skip
        return found

    # -- inside ------------------------------------------------------------------------------------------------------

    async def _call(self, tx: Runner, sql: str, arguments: Sequence[Any]) -> Any:
        if self._alone(tx):
            async with transaction(self.postgres) as own:
                return await self._call(own, sql, arguments)
        records, _ = await tx._run(Prepared(sql, arguments, None, False))
        return records[0]

    def _alone(self, tx: Runner) -> bool:
        """Whether balances are cached and the write came without a transaction: its mark goes before its COMMIT."""
        return self._cached is not None and not isinstance(tx, Transaction)

    def _poster(self) -> Poster:
        made = self.postgres.loaders.get(Poster)
        if made is None:
            made = self.postgres.loaders[Poster] = Poster(self._post_alone)
        assert isinstance(made, Poster)
        return made

    async def _post_alone(self, commands: Sequence[AnyCommand]) -> list[Receipt]:
        one = commands[0]
        if len(commands) == 1 and isinstance(one, Move):  # the shorter function: alone there is nothing to gain
            return [
                await self.transfer(
                    self.postgres, id=one.id, debit=one.debit, credit=one.credit, amount=one.amount, up_to=one.up_to,
                    up_to_debt=one.up_to_debt, reference=one.reference, metadata=one.metadata,
                )
            ]  # fmt: skip
        return await self.post(self.postgres, commands)

    async def _asset(self, tx: Runner, code: str) -> Asset | None:
        found: Asset | None = await tx.fetch_one(select(Asset).where(Asset.code == code))
        return found

    async def _accounts(
        self, tx: Runner, owner_kind: str, owner_ids: Sequence[UUID], asset: str, purpose: str
    ) -> dict[UUID, Account]:
        rows = await tx.fetch(accounts_of(owner_kind, owner_ids, asset, purpose))
        return {row.owner_id: row for row in rows}


def accounts_of(owner_kind: str, owner_ids: Sequence[UUID], asset: str, purpose: str) -> Select[Account]:
    """The accounts of these owners, by their key.

    `asset_id + 0`: before the first ANALYZE the index on the asset alone looks as good, and reads all its accounts.
    """
    return select(Account).where(
        and_(
            Account.owner_kind == owner_kind,
            Account.owner_id.in_(owner_ids),
            Account.asset_id + 0 == select(Asset.id).where(Asset.code == asset).scalar_subquery(),
            Account.purpose == purpose,
        )
    )


def _amount(value: int) -> int:
    if type(value) is not int or not 0 <= value <= AMOUNT_MAX:
        raise _not_an_amount(value)
    return value


def _not_an_amount(value: object) -> InvalidValue:
    return InvalidValue(
        f"{value!r} is not an amount.", remedy=f"Pass a whole number from 1 to {AMOUNT_MAX}.", field="amount"
    )


def _cursor(account_id: int, version: int) -> str:
    return base64.urlsafe_b64encode(f"{account_id}.{version}".encode()).decode().rstrip("=")


def _read_cursor(cursor: str, account_id: int) -> int:
    try:
        said = base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)).decode()
        account, _, version = said.partition(".")
        if int(account) == account_id and 0 < int(version) <= _NEWEST:
            return int(version)
    except (binascii.Error, ValueError):
        pass
    raise InvalidCursor("The cursor is damaged, or belongs to another statement.", remedy="Begin without a cursor.")
