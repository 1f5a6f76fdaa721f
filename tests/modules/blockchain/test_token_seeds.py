"""The seeds of tokens: planted once, true in the ledger, and gone again without a trace in any balance."""

from __future__ import annotations

import pytest
from sqlalchemy import text

from headwater.kernel.lifecycle import Headwater
from headwater.kernel.rows import as_dict
from headwater.kernel.seeds import clear, seed
from headwater.modules.blockchain.keypairs import verify
from headwater.modules.blockchain.models import Nft, Reward, TokenTransaction, TransactionStatus, Wallet
from headwater.modules.blockchain.repository import NftRepository, TokenRepository, WalletRepository
from headwater.modules.blockchain.token_routes import TOKEN_ROUTES
from headwater.modules.blockchain.token_seeds import keypair_of


async def _supply(headwater: Headwater) -> tuple[int, int, int]:
    """The issuer's, the wallets', and what all accounts of wallets have, whether their wallet is there or not."""
    issued = await headwater.repository(TokenRepository).total_supply()
    row = await headwater.postgres.fetch_one(
        text(
            "select (select coalesce(sum(balance), 0) from blockchain.wallets)::bigint as wallets,"
            " (select coalesce(sum(balance), 0) from ledger.accounts where owner_kind = 'wallet')::bigint as accounts"
        )
    )
    assert row is not None
    return issued, row["wallets"], row["accounts"]


async def _planted(headwater: Headwater) -> list[dict[str, object]]:
    moving = ("transfer_id", "last_sync")  # of this run
    return [
        {name: value for name, value in as_dict(row).items() if name not in moving}
        for entity in (Wallet, TokenTransaction, Reward, Nft)
        async for row in headwater.repository(entity).stream()
    ]


async def test_the_demo_is_planted_once_cleared_without_a_trace_and_planted_again(headwater: Headwater) -> None:
    await seed(headwater)
    issued, wallets, accounts = await _supply(headwater)
    assert issued == wallets == accounts > 24_000 * 10**9
    planted = await _planted(headwater)
    assert sum((await seed(headwater)).added.values()) == 0
    assert await _supply(headwater) == (issued, wallets, accounts)
    transactions = headwater.repository(TokenTransaction)
    for status in TransactionStatus:
        assert await transactions.count(TokenTransaction.status == status) > 0
    report = await clear(headwater)
    assert report.removed["blockchain.wallets"] == 24
    assert not {name for name in report.kept if name.startswith("blockchain.")}
    assert await _supply(headwater) == (0, 0, 0)
    await seed(headwater)
    assert await _planted(headwater) == planted
    assert await _supply(headwater) == (issued, wallets, accounts)


async def test_seeded_wallets_sign(headwater: Headwater) -> None:
    await seed(headwater)
    address = keypair_of(1).address
    signature = await headwater.repository(WalletRepository).sign(address, b"hello")
    assert verify(address, b"hello", signature)


async def test_a_wallet_that_others_have_used_stays(headwater: Headwater) -> None:
    await seed(headwater)
    tokens, one, two = headwater.repository(TokenRepository), keypair_of(1).address, keypair_of(2).address
    async with headwater.transaction() as tx:
        await tokens.create_transaction(tx, tx_id="mine", from_address=one, to_address=two, amount=5)
    report = await clear(headwater)
    assert report.kept["blockchain.wallets"] == 2
    assert (await tokens.by_tx_id("mine")).status is TransactionStatus.PENDING
    issued, wallets, accounts = await _supply(headwater)
    assert issued == wallets == accounts


async def test_a_load_adds_to_the_demo(headwater: Headwater) -> None:
    await seed(headwater)
    load = await seed(headwater, "load:3000")
    assert load.added["blockchain.wallets"] == 60 - 24
    assert load.added["blockchain.fodi_transactions"] >= 3_000 * 0.05 - 80
    issued, wallets, accounts = await _supply(headwater)
    assert issued == wallets == accounts


async def test_the_examples_of_the_routes_exist_in_the_demo(headwater: Headwater) -> None:
    await seed(headwater)
    for route in TOKEN_ROUTES:
        for name, value in route.path_examples.items():
            if name == "public_key":
                await headwater.repository(WalletRepository).by_address(value)
            elif name == "tx_id":
                found = await headwater.repository(TokenRepository).by_tx_id(value)
                ends = route.path.endswith(("/confirm", "/fail"))
                assert (found.status is TransactionStatus.PENDING) is ends
            elif name == "mint_address":
                await headwater.repository(NftRepository).by_mint_address(value)


@pytest.mark.parametrize("number", [1, 2])
def test_the_keypair_of_a_number_is_the_same_everywhere(number: int) -> None:
    assert (
        keypair_of(number).address
        == (
            "3wvTg9H8ydCaYBwd9ShCMgFjUDooLijFoLmVZqNBJNfB",
            "2qr2NCaA2WvbK5mCR3PfxVuHUYuqJTtf4Qjw8tyCgSxc",
        )[number - 1]
    )
