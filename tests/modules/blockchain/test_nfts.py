"""NFTs: minted once, owned by one, moved only by who owns them."""

from __future__ import annotations

import asyncio

import pytest

from headwater.kernel.errors import AlreadyExists, InvalidValue, NotFound, StateConflict
from headwater.kernel.lifecycle import Headwater
from headwater.modules.blockchain.keypairs import Keypair
from headwater.modules.blockchain.models import Nft
from headwater.modules.blockchain.repository import NftRepository


@pytest.fixture
def nfts(headwater: Headwater) -> NftRepository:
    return headwater.repository(NftRepository)


@pytest.fixture
def owners() -> list[str]:
    return [Keypair.make().address for _ in range(4)]


async def test_an_nft_is_minted_and_found_with_its_owner(
    headwater: Headwater, nfts: NftRepository, owners: list[str]
) -> None:
    made = await nfts.mint_nft(
        headwater.autocommit,
        name="First dinner",
        symbol="dinner",
        uri="https://example.org/1.json",
        owner_address=owners[0],
        metadata_={"table": 4},
    )
    assert (made.symbol, made.metadata_, made.version) == ("DINNER", {"table": 4}, 1)
    assert 32 <= len(made.mint_address) <= 44
    assert await nfts.by_mint_address(made.mint_address) == made
    assert (await nfts.nfts_of(owners[0])).items == (made,)


async def test_a_mint_address_is_minted_once(headwater: Headwater, nfts: NftRepository, owners: list[str]) -> None:
    mint = Keypair.make().address
    await nfts.mint_nft(headwater.autocommit, name="One", owner_address=owners[0], mint_address=mint)
    with pytest.raises(AlreadyExists, match="mint address already"):
        await nfts.mint_nft(headwater.autocommit, name="Two", owner_address=owners[0], mint_address=mint)


async def test_only_the_owner_moves_an_nft(headwater: Headwater, nfts: NftRepository, owners: list[str]) -> None:
    one, two, three, _ = owners
    made = await nfts.mint_nft(headwater.autocommit, name="One", owner_address=one)
    moved = await nfts.transfer_nft(headwater.autocommit, made.mint_address, from_address=one, to_address=two)
    assert (moved.owner_address, moved.version) == (two, 2)
    with pytest.raises(StateConflict, match=f"belongs to {two}"):
        await nfts.transfer_nft(headwater.autocommit, made.mint_address, from_address=one, to_address=three)
    with pytest.raises(NotFound):
        await nfts.transfer_nft(headwater.autocommit, Keypair.make().address, from_address=one, to_address=two)
    assert (await nfts.nfts_of(one)).items == ()


async def test_of_many_transfers_at_once_one_happens(
    headwater: Headwater, nfts: NftRepository, owners: list[str]
) -> None:
    made = await nfts.mint_nft(headwater.autocommit, name="One", owner_address=owners[0])
    outcomes = await asyncio.gather(
        *(
            nfts.transfer_nft(headwater.autocommit, made.mint_address, from_address=owners[0], to_address=to)
            for to in owners[1:] * 3
        ),
        return_exceptions=True,
    )
    moved = [outcome for outcome in outcomes if isinstance(outcome, Nft)]
    assert len(moved) == 1
    assert all(isinstance(outcome, (Nft, StateConflict)) for outcome in outcomes)
    assert await nfts.by_mint_address(made.mint_address) == moved[0]


@pytest.mark.parametrize(
    ("field", "wrong"),
    [
        ("name", ""),
        ("symbol", "no good"),
        ("uri", "not a uri"),
        ("owner_address", "0OIl"),
        ("mint_address", "short"),
        ("metadata_", {"long": "x" * 70_000}),
    ],
)
async def test_what_is_wrong_is_refused_by_its_name(
    headwater: Headwater, nfts: NftRepository, owners: list[str], field: str, wrong: object
) -> None:
    given = {"name": "One", "owner_address": owners[0]} | {field: wrong}
    with pytest.raises(InvalidValue) as refused:
        await nfts.mint_nft(headwater.autocommit, **given)  # type: ignore[arg-type]  # wrong on purpose
    assert refused.value.detail["field"] == field.rstrip("_")
