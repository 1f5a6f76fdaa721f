"""Wallets: keypairs that sign, private keys that only the keyring opens, balances that are always the ledger's."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from uuid import UUID, uuid4

import asyncpg
import pytest
import pytest_asyncio
from tests.kernel.caching import trusted

from headwater.followers.invalidation import relaying
from headwater.kernel.errors import (
    AlreadyExists,
    InvalidValue,
    KeyMissing,
    MissingReference,
    NotFound,
    SealBroken,
    StateConflict,
)
from headwater.kernel.keyring import new_key
from headwater.kernel.lifecycle import Headwater
from headwater.kernel.repository import Repository
from headwater.kernel.settings import Settings
from headwater.modules.blockchain.keypairs import Keypair, verify
from headwater.modules.blockchain.models import TokenTransaction, TokenTransactionType, TransactionStatus, Wallet
from headwater.modules.blockchain.repository import QUERIES, TokenRepository, WalletRepository


@pytest_asyncio.fixture
async def connection(database: str, headwater: Headwater) -> AsyncIterator[asyncpg.Connection]:
    """Somebody who knows SQL and nothing of Headwater."""
    opened = await asyncpg.connect(database)
    yield opened
    await opened.close()


@pytest.fixture
def wallets(headwater: Headwater) -> WalletRepository:
    return headwater.repository(WalletRepository)


async def test_a_wallet_has_a_real_keypair_and_signs(
    headwater: Headwater, wallets: WalletRepository, people: list[UUID]
) -> None:
    wallet = await wallets.create_wallet(headwater.autocommit, user_id=people[0])
    assert (wallet.user_id, wallet.wallet_type, wallet.balance, wallet.last_sync) == (people[0], "solana", 0, None)
    signature = await wallets.sign(wallet.public_key, b"pay 5 FODI")
    assert verify(wallet.public_key, b"pay 5 FODI", signature)
    assert not verify(wallet.public_key, b"pay 6 FODI", signature)
    assert await wallets.by_address(wallet.public_key) == wallet
    assert await wallets.wallets_of(people[0]) == (wallet,)


async def test_the_private_key_is_stored_only_sealed_and_leaves_the_database_nowhere(
    headwater: Headwater, wallets: WalletRepository, people: list[UUID], connection: asyncpg.Connection
) -> None:
    pair = Keypair.make()
    wallet = await wallets.create_wallet(headwater.autocommit, user_id=people[0], secret=pair.secret)
    assert wallet.public_key == pair.address
    stored = await connection.fetchval("select encrypted_private_key from blockchain.wallets")
    assert stored.startswith("hw1:test:")
    assert pair.secret.hex() not in stored
    told = await connection.fetchval(
        "select string_agg(coalesce(new::text, '') || coalesce(old::text, ''), '') from headwater.change"
    )
    assert pair.address in told
    assert "encrypted_private_key" not in told
    with pytest.raises(AttributeError, match="deferred"):
        _ = wallet.encrypted_private_key
    assert stored not in repr(wallet)


async def test_a_sealed_key_does_not_open_in_another_row(
    headwater: Headwater, wallets: WalletRepository, people: list[UUID], connection: asyncpg.Connection
) -> None:
    one, two = [await wallets.create_wallet(headwater.autocommit, user_id=person) for person in people[:2]]
    await connection.execute(
        "update blockchain.wallets set encrypted_private_key = (select encrypted_private_key from blockchain.wallets"
        " where id = $1) where id = $2",
        one.id,
        two.id,
    )
    await wallets.sign(one.public_key, b"")
    with pytest.raises(SealBroken, match="moved here from another row"):
        await wallets.sign(two.public_key, b"")


async def test_without_a_key_no_wallet_is_made_and_with_another_one_it_does_not_sign(
    headwater: Headwater, settings: Settings, wallets: WalletRepository, people: list[UUID]
) -> None:
    wallet = await wallets.create_wallet(headwater.autocommit, user_id=people[0])
    async with Headwater.open(headwater.system, replace(settings, keyring="")) as bare:
        with pytest.raises(KeyMissing, match="no key to encrypt with"):
            await bare.repository(WalletRepository).create_wallet(bare.autocommit, user_id=people[0])
    async with Headwater.open(headwater.system, replace(settings, keyring=new_key("other"))) as stranger:
        with pytest.raises(KeyMissing, match="'test' is not in the keyring"):
            await stranger.repository(WalletRepository).sign(wallet.public_key, b"")
    assert await wallets.count() == 1


async def test_a_watched_wallet_cannot_sign(
    headwater: Headwater, wallets: WalletRepository, people: list[UUID]
) -> None:
    wallet = await wallets.watch_wallet(headwater.autocommit, user_id=people[0], public_key=Keypair.make().address)
    with pytest.raises(StateConflict, match="not kept here"):
        await wallets.sign(wallet.public_key, b"")
    with pytest.raises(InvalidValue, match="not a wallet address"):
        await wallets.watch_wallet(headwater.autocommit, user_id=people[0], public_key="0OIl")


async def test_what_cannot_be_a_wallet_is_refused(
    headwater: Headwater, wallets: WalletRepository, people: list[UUID]
) -> None:
    secret = Keypair.make().secret
    await wallets.create_wallet(headwater.autocommit, user_id=people[0], secret=secret)
    with pytest.raises(AlreadyExists, match="public key already"):
        await wallets.create_wallet(headwater.autocommit, user_id=people[1], secret=secret)
    with pytest.raises(MissingReference, match="no such user"):
        await wallets.create_wallet(headwater.autocommit, user_id=uuid4())
    with pytest.raises(NotFound):
        await wallets.by_address(Keypair.make().address)
    with pytest.raises(NotFound):
        await wallets.get_wallet_balance(uuid4())


# -- plain SQL --------------------------------------------------------------------------------------------------------


async def test_the_inserts_and_joins_of_the_mission_work_as_written(
    headwater: Headwater, people: list[UUID], connection: asyncpg.Connection
) -> None:
    await connection.execute(
        "INSERT INTO blockchain.wallets (user_id, public_key, encrypted_private_key, wallet_type, balance)"
        " VALUES ($1, 'FODi111', 'sealed elsewhere', 'solana', 5000000000), ($2, 'FODi222', 'x', 'solana', 0)",
        people[0],
        people[1],
    )
    rows = await connection.fetch(
        "SELECT u.email, w.public_key, w.balance FROM users u JOIN blockchain.wallets w ON w.user_id = u.id"
        " ORDER BY w.balance DESC"
    )
    assert [tuple(row) for row in rows] == [
        ("person0@example.org", "FODi111", 5_000_000_000),
        ("person1@example.org", "FODi222", 0),
    ]
    assert await headwater.repository(TokenRepository).total_supply() == 5_000_000_000
    opening = await connection.fetchrow("select tx_type, status, amount from blockchain.fodi_transactions")
    assert tuple(opening) == ("mint", "confirmed", 5_000_000_000)


async def test_the_first_wallets_of_all_made_at_once_share_one_issuer(
    headwater: Headwater, wallets: WalletRepository, people: list[UUID], connection: asyncpg.Connection
) -> None:
    assert await headwater.repository(TokenRepository).total_supply() == 0
    await asyncio.gather(
        *(wallets.create_wallet(headwater.autocommit, user_id=person) for person in people for _ in range(3))
    )
    assert await connection.fetchval("select count(*) from ledger.assets where code = 'FODI' and scale = 9") == 1
    kinds = dict(await connection.fetch("select owner_kind, count(*) from ledger.accounts group by 1"))
    assert kinds == {"system": 1, "wallet": 9}


async def test_a_balance_is_not_set_by_hand(
    headwater: Headwater, wallets: WalletRepository, people: list[UUID], connection: asyncpg.Connection
) -> None:
    wallet = await wallets.create_wallet(headwater.autocommit, user_id=people[0])
    for statement in (
        "update blockchain.wallets set balance = 7",
        "update blockchain.wallets set public_key = 'another'",
    ):
        with pytest.raises(asyncpg.ObjectNotInPrerequisiteStateError):
            await connection.execute(statement)
    with pytest.raises(StateConflict, match="cannot be set to 7"):
        await wallets.update(headwater.autocommit, wallet.id, balance=7)
    assert await wallets.get(wallet.id) == wallet


async def test_a_wallet_with_tokens_or_history_stays_and_an_empty_one_can_go(
    headwater: Headwater, wallets: WalletRepository, people: list[UUID], connection: asyncpg.Connection
) -> None:
    rich = await wallets.create_wallet(headwater.autocommit, user_id=people[0])
    empty = await wallets.create_wallet(headwater.autocommit, user_id=people[1])
    tokens = headwater.repository(TokenRepository)
    async with headwater.transaction() as tx:
        await tokens.mint(tx, tx_id="m", to_address=rich.public_key, amount=3)
    with pytest.raises(StateConflict, match="holds 3 units"):
        await wallets.delete(headwater.autocommit, rich.id)
    for statement in ("delete from blockchain.fodi_transactions", "truncate users cascade"):
        with pytest.raises(asyncpg.ObjectNotInPrerequisiteStateError):
            await connection.execute(statement)
    await wallets.delete(headwater.autocommit, empty.id)
    assert await wallets.find(empty.id) is None


async def test_no_read_of_a_balance_is_older_than_a_commit_its_writer_was_told_of(
    headwater: Headwater, settings: Settings, wallets: WalletRepository, people: list[UUID]
) -> None:
    """The wallet's row is changed by triggers, and cached by another process: by verbs and by the plain repository."""
    tokens = headwater.repository(TokenRepository)
    wallet = await wallets.create_wallet(headwater.autocommit, user_id=people[0])
    async with Headwater.open(headwater.system, settings) as other, relaying(headwater.system, settings):
        for hw in (headwater, other):
            await trusted(hw)
        elsewhere, cache = other.repository(Wallet), other.postgres.cache
        assert cache is not None
        for n in range(1, 21):
            assert (await _balance(elsewhere, wallet.id)) == 2 * (n - 1)  # now it is cached
            async with headwater.transaction() as tx:
                await tokens.mint(tx, tx_id=f"verb {n}", to_address=wallet.public_key, amount=1)
            assert (await _balance(elsewhere, wallet.id)) == 2 * n - 1
            await headwater.repository(TokenTransaction).create(
                headwater.autocommit,
                tx_id=f"plain {n}",
                to_address=wallet.public_key,
                amount=1,
                tx_type=TokenTransactionType.MINT,
                status=TransactionStatus.CONFIRMED,
            )
            assert (await _balance(elsewhere, wallet.id)) == 2 * n
        for _ in range(20):
            assert (await _balance(elsewhere, wallet.id)) == 40
        assert cache.figures["wallet"].hits > 0
    assert await wallets.get_wallet_balance(people[0]) == 40


async def _balance(repository: Repository[Wallet], wallet_id: UUID) -> int:
    found = await repository.find(wallet_id)
    assert found is not None
    return found.balance


async def test_the_accounts_are_found_by_their_owners(found_by_owner) -> None:
    await found_by_owner(QUERIES["wallet_balance"])
