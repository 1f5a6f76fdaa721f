"""Sealed columns: found by their declaration, sealed again under a new key while others work, and counted by key."""

from __future__ import annotations

from dataclasses import replace

import pytest

from headwater.kernel.errors import KeyMissing, ProgrammingError, SealBroken
from headwater.kernel.keyring import Keyring, new_key
from headwater.kernel.lifecycle import Headwater
from headwater.kernel.sealed import count_by_key, reseal, sealed_column, sealed_columns
from headwater.kernel.settings import Settings
from headwater.modules.blockchain.models import Wallet
from headwater.modules.blockchain.repository import WalletRepository
from headwater.modules.identity.models import User

COLUMN = sealed_column(Wallet, "encrypted_private_key")


async def _wallets(headwater: Headwater, total: int) -> list[str]:
    owner = (await headwater.repository(User).create(headwater.autocommit, email="ada@example.org")).id
    wallets = headwater.repository(WalletRepository)
    async with headwater.transaction() as tx:
        return [(await wallets.create_wallet(tx, user_id=owner)).public_key for _ in range(total)]


def test_a_system_knows_its_sealed_columns(headwater: Headwater) -> None:
    assert "blockchain.wallets.encrypted_private_key" in [column.name for column in sealed_columns(headwater.system)]
    assert COLUMN.place("abc") == "blockchain.wallets.encrypted_private_key/abc"
    with pytest.raises(ProgrammingError, match="is not sealed"):
        sealed_column(Wallet, "balance")


async def test_a_rotation_seals_everything_again_in_steps_and_loses_nothing(
    headwater: Headwater, settings: Settings
) -> None:
    addresses = await _wallets(headwater, 510)
    new = new_key("new")
    both = Keyring.parse(f"{new},{settings.keyring}")
    assert await count_by_key(headwater.postgres, COLUMN) == {"test": 510}
    steps = []
    while not steps or steps[-1]:
        async with headwater.transaction() as tx:
            steps.append(await reseal(tx, COLUMN, both))
    assert steps == [500, 10, 0]
    assert await count_by_key(headwater.postgres, COLUMN) == {"new": 510}
    async with Headwater.open(headwater.system, replace(settings, keyring=new)) as after:
        for address in addresses[::100]:
            assert len(await after.repository(WalletRepository).sign(address, b"still here")) == 64


async def test_a_rotation_passes_over_rows_that_others_work_on(headwater: Headwater, settings: Settings) -> None:
    busy, _ = await _wallets(headwater, 2)
    both = Keyring.parse(f"{new_key('new')},{settings.keyring}")
    wallets = headwater.repository(WalletRepository)
    async with headwater.transaction() as other:
        await wallets.lock(other, (await wallets.by_address(busy)).id)
        async with headwater.transaction() as tx:
            assert await reseal(tx, COLUMN, both) == 1
    async with headwater.transaction() as tx:
        assert await reseal(tx, COLUMN, both) == 1
        assert await reseal(tx, COLUMN, both) == 0


async def test_a_secret_whose_key_is_gone_or_that_was_moved_stops_the_rotation_and_is_named(
    headwater: Headwater, settings: Settings
) -> None:
    (address,) = await _wallets(headwater, 1)
    with pytest.raises(KeyMissing, match=f"'test' is not in the keyring, and blockchain.wallets.*{address}"):
        async with headwater.transaction() as tx:
            await reseal(tx, COLUMN, Keyring.parse(new_key("new")))
    stranger = Keyring.parse(settings.keyring).seal(b"x" * 32, bound_to="elsewhere")
    wallets = headwater.repository(WalletRepository)
    wallet = await wallets.by_address(address)
    await wallets.update(headwater.autocommit, wallet.id, encrypted_private_key=stranger)
    with pytest.raises(SealBroken, match=address):
        async with headwater.transaction() as tx:
            await reseal(tx, COLUMN, Keyring.parse(f"{new_key('new')},{settings.keyring}"))


async def test_what_no_keyring_has_sealed_is_counted_and_left_as_it_is(
    headwater: Headwater, settings: Settings
) -> None:
    """Rows written by somebody else's SQL, before or beside Headwater."""
    address, _ = await _wallets(headwater, 2)
    wallets = headwater.repository(WalletRepository)
    await wallets.update(
        headwater.autocommit, (await wallets.by_address(address)).id, encrypted_private_key="of another system"
    )
    assert await count_by_key(headwater.postgres, COLUMN) == {"test": 1, "": 1}
    async with headwater.transaction() as tx:
        assert await reseal(tx, COLUMN, Keyring.parse(f"{new_key('new')},{settings.keyring}")) == 1
    assert await count_by_key(headwater.postgres, COLUMN) == {"new": 1, "": 1}
    with pytest.raises(SealBroken, match="not a secret that a keyring has sealed"):
        await wallets.sign(address, b"")
