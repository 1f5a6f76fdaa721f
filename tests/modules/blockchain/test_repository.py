"""Assets, wallets, transactions and prices on a real database: what is accepted, refused, found and left alone."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID, uuid4

import pytest

from headwater.kernel.errors import (
    AlreadyExists,
    InvalidCursor,
    InvalidValue,
    MissingReference,
    NotFound,
    StateConflict,
    VersionConflict,
)
from headwater.kernel.lifecycle import Headwater
from headwater.kernel.rows import as_dict
from headwater.modules.blockchain import formats, routes
from headwater.modules.blockchain.models import (
    REPUTATION_SCORE_MAX,
    ChainTransaction,
    ChainUser,
    PriceFeed,
    TransactionStatus,
)
from headwater.modules.blockchain.repository import AMOUNT_MAX, AssetRepository, BlockchainRepository
from headwater.modules.blockchain.seeds import tx_hash_of, wallet_of
from headwater.modules.identity.models import KycStatus, User
from headwater.modules.identity.repository import UserRepository

ETHEREUM_HASH = "0x" + "aB" * 32
ETHEREUM_ADDRESS = "0x" + "cD" * 20


@pytest.fixture
def chain(headwater: Headwater) -> BlockchainRepository:
    return headwater.repository(BlockchainRepository)


@pytest.fixture
def assets(headwater: Headwater) -> AssetRepository:
    return headwater.repository(AssetRepository)


async def _user(headwater: Headwater, email: str = "ada@example.org") -> User:
    return await headwater.repository(UserRepository).create_user(headwater.autocommit, email=email, name="Ada")


async def _issuer(headwater: Headwater, number: int = 1) -> UUID:
    user = await _user(headwater, f"issuer{number}@example.org")
    chain = headwater.repository(BlockchainRepository)
    await chain.register_wallet(headwater.autocommit, user_id=user.id, wallet_address=wallet_of(number))
    return user.id


def _part(**changes: Any) -> dict[str, Any]:
    return {
        "asset_type": "harmonic_drive",
        "name": "Strain wave gear unit CSG-20-100",
        "symbol": "CSG-20-100",
        "description": "Zero-backlash gear unit with a cross roller bearing.",
        "specifications": {"ratio": 100, "protocol": "EtherCAT"},
    } | changes


def _transfer(**changes: Any) -> dict[str, Any]:
    return {
        "tx_hash": tx_hash_of(1),
        "from_address": wallet_of(1),
        "to_address": wallet_of(2),
        "amount": 25,
    } | changes


# -- wallets ----------------------------------------------------------------------------------------------------------


async def test_a_registered_wallet_leads_to_its_user(headwater: Headwater, chain: BlockchainRepository) -> None:
    user = await _user(headwater)
    registered = await chain.register_wallet(headwater.autocommit, user_id=user.id, wallet_address=wallet_of(1))
    assert (registered.reputation_score, registered.version) == (0, 1)
    owner = await chain.wallet_owner(wallet_of(1))
    assert (owner.user_id, owner.name, owner.is_active, owner.kyc_status) == (user.id, "Ada", True, KycStatus.PENDING)
    assert await chain.get(user.id) == registered


async def test_what_a_wallet_shows_of_its_owner_leaves_the_email_out(headwater: Headwater) -> None:
    await _issuer(headwater)
    owner = await headwater.repository(BlockchainRepository).wallet_owner(wallet_of(1))
    assert "@" not in repr(owner)


async def test_a_taken_wallet_address_is_refused_and_changes_nothing(
    headwater: Headwater, chain: BlockchainRepository
) -> None:
    owner_id, other = await _issuer(headwater), await _user(headwater, "other@example.org")
    with pytest.raises(AlreadyExists, match="wallet address belongs to someone already"):
        await chain.register_wallet(headwater.autocommit, user_id=other.id, wallet_address=wallet_of(1))
    assert (await chain.wallet_owner(wallet_of(1))).user_id == owner_id
    assert await chain.count() == 1


async def test_of_two_registrations_of_one_wallet_at_once_one_wins(
    headwater: Headwater, chain: BlockchainRepository
) -> None:
    people = [await _user(headwater, f"user{n}@example.org") for n in range(4)]
    outcomes = await asyncio.gather(
        *(
            chain.register_wallet(headwater.autocommit, user_id=person.id, wallet_address=wallet_of(1))
            for person in people
        ),
        return_exceptions=True,
    )
    assert sum(isinstance(outcome, ChainUser) for outcome in outcomes) == 1
    assert sum(isinstance(outcome, AlreadyExists) for outcome in outcomes) == 3


async def test_a_user_has_one_wallet_and_can_move_to_another(headwater: Headwater, chain: BlockchainRepository) -> None:
    user_id, other_id = await _issuer(headwater, 1), await _issuer(headwater, 2)
    with pytest.raises(AlreadyExists):
        await chain.register_wallet(headwater.autocommit, user_id=user_id, wallet_address=wallet_of(3))
    moved = await chain.change_wallet(headwater.autocommit, user_id, wallet_of(3), version=1)
    assert (moved.old.wallet_address, moved.new.wallet_address) == (wallet_of(1), wallet_of(3))
    with pytest.raises(VersionConflict):
        await chain.change_wallet(headwater.autocommit, user_id, wallet_of(4), version=1)
    with pytest.raises(AlreadyExists):
        await chain.change_wallet(headwater.autocommit, other_id, wallet_of(3))
    with pytest.raises(NotFound):
        await chain.wallet_owner(wallet_of(1))


async def test_an_unknown_user_gets_no_wallet(headwater: Headwater, chain: BlockchainRepository) -> None:
    with pytest.raises(MissingReference, match="there is no such user"):
        await chain.register_wallet(headwater.autocommit, user_id=uuid4(), wallet_address=wallet_of(1))
    with pytest.raises(NotFound):
        await chain.change_wallet(headwater.autocommit, uuid4(), wallet_of(1))
    assert await chain.count() == 0


async def test_a_malformed_wallet_address_is_refused(headwater: Headwater, chain: BlockchainRepository) -> None:
    user = await _user(headwater)
    for wrong in ("", "short", "0" * 44, "O" * 44, "1" * 31, "1" * 45, ETHEREUM_ADDRESS, wallet_of(1) + "\n"):
        with pytest.raises(InvalidValue, match="not a wallet address") as refused:
            await chain.register_wallet(headwater.autocommit, user_id=user.id, wallet_address=wrong)
        assert refused.value.detail["field"] == "wallet_address"
    assert await chain.count() == 0


# -- reputation -------------------------------------------------------------------------------------------------------


async def test_reputation_is_added_and_taken(headwater: Headwater, chain: BlockchainRepository) -> None:
    user_id = await _issuer(headwater)
    assert (await chain.change_reputation(headwater.autocommit, user_id, 30)).reputation_score == 30
    changed = await chain.change_reputation(headwater.autocommit, user_id, -10)
    assert (changed.reputation_score, changed.version) == (20, 3)
    assert await chain.get(user_id) == changed


async def test_no_change_of_reputation_is_lost_among_many(headwater: Headwater, chain: BlockchainRepository) -> None:
    user_id = await _issuer(headwater)
    await asyncio.gather(*(chain.change_reputation(headwater.autocommit, user_id, change) for change in range(40)))
    assert (await chain.get(user_id)).reputation_score == sum(range(40))


async def test_reputation_stays_in_its_range(headwater: Headwater, chain: BlockchainRepository) -> None:
    user_id = await _issuer(headwater)
    before = await chain.change_reputation(headwater.autocommit, user_id, 5)
    for change in (-6, REPUTATION_SCORE_MAX, -REPUTATION_SCORE_MAX):
        with pytest.raises(StateConflict, match="reputation") as refused:
            await chain.change_reputation(headwater.autocommit, user_id, change)
        assert refused.value.detail["reputation_score"] == 5
    assert await chain.get(user_id) == before
    with pytest.raises(NotFound):
        await chain.change_reputation(headwater.autocommit, uuid4(), 1)


async def test_the_database_keeps_the_range_too(headwater: Headwater, chain: BlockchainRepository) -> None:
    user_id = await _issuer(headwater)
    for score in (-1, REPUTATION_SCORE_MAX + 1):
        with pytest.raises(InvalidValue, match="between 0 and"):
            await chain.update(headwater.autocommit, user_id, reputation_score=score)


# -- stats ------------------------------------------------------------------------------------------------------------


async def test_the_stats_of_a_user_count_what_they_did(
    headwater: Headwater, chain: BlockchainRepository, assets: AssetRepository
) -> None:
    ada, bob = await _issuer(headwater, 1), await _issuer(headwater, 2)
    await chain.change_reputation(headwater.autocommit, ada, 7)
    await assets.create_asset(headwater.autocommit, issuer_id=ada, **_part())
    await chain.record_transaction(headwater.autocommit, **_transfer())
    await chain.record_transaction(headwater.autocommit, **_transfer(tx_hash=tx_hash_of(2)))
    stats = await chain.user_stats(ada)
    assert (stats.assets_issued, stats.transactions_sent, stats.transactions_received) == (1, 2, 0)
    assert (stats.reputation_score, stats.wallet_address, stats.is_active) == (7, wallet_of(1), True)
    others = await chain.user_stats(bob)
    assert (others.assets_issued, others.transactions_sent, others.transactions_received) == (0, 0, 2)


async def test_a_user_without_a_wallet_has_stats_of_zero(headwater: Headwater, chain: BlockchainRepository) -> None:
    user = await _user(headwater)
    stats = await chain.user_stats(user.id)
    assert (stats.wallet_address, stats.reputation_score, stats.transactions_sent) == (None, 0, 0)
    assert stats.member_since == user.created_at
    with pytest.raises(NotFound):
        await chain.user_stats(uuid4())


# -- assets -----------------------------------------------------------------------------------------------------------


async def test_an_asset_is_stored_as_it_was_issued(headwater: Headwater, assets: AssetRepository) -> None:
    issuer_id = await _issuer(headwater)
    asset = await assets.create_asset(
        headwater.autocommit, issuer_id=issuer_id, metadata_={"lead_time_days": 12}, **_part(symbol="csg-20-100")
    )
    assert asset.symbol == "CSG-20-100"
    assert asset.specifications == {"ratio": 100, "protocol": "EtherCAT"}
    assert asset.metadata_ == {"lead_time_days": 12}
    assert await assets.get(asset.id) == asset
    assert await assets.find_by_symbol("csg-20-100") == asset
    assert await assets.find_by_symbol("nothing") is None


async def test_a_taken_symbol_is_refused_and_changes_nothing(headwater: Headwater, assets: AssetRepository) -> None:
    issuer_id = await _issuer(headwater)
    first = await assets.create_asset(headwater.autocommit, issuer_id=issuer_id, **_part())
    with pytest.raises(AlreadyExists, match="symbol is already taken"):
        await assets.create_asset(headwater.autocommit, issuer_id=issuer_id, **_part(symbol="csg-20-100", name="Fake"))
    assert (await assets.list()).items == (first,)


async def test_an_issuer_without_a_wallet_is_refused(headwater: Headwater, assets: AssetRepository) -> None:
    user = await _user(headwater)
    for issuer_id in (user.id, uuid4()):
        with pytest.raises(MissingReference, match="issuer has no wallet address"):
            await assets.create_asset(headwater.autocommit, issuer_id=issuer_id, **_part())
    assert await assets.count() == 0


async def test_a_malformed_asset_is_refused_by_field_and_changes_nothing(
    headwater: Headwater, assets: AssetRepository
) -> None:
    issuer_id = await _issuer(headwater)
    asset = await assets.create_asset(headwater.autocommit, issuer_id=issuer_id, **_part())
    for field, value in (
        ("asset_type", ""),
        ("asset_type", "Servo Motor"),
        ("asset_type", "x" * 65),
        ("name", ""),
        ("name", "x" * 201),
        ("name", "two\nlines"),
        ("description", "x" * 10_001),
        ("specifications", {"drawing": "x" * formats.SPECIFICATIONS_BYTES_MAX}),
    ):
        wrong: dict[str, Any] = {field: value}
        with pytest.raises(InvalidValue) as refused:
            await assets.create_asset(headwater.autocommit, issuer_id=issuer_id, **_part(symbol="NEW", **wrong))
        assert refused.value.detail["field"] == field
        with pytest.raises(InvalidValue):
            await assets.update_asset(headwater.autocommit, asset.id, **wrong)
    for symbol in ("", "with space", "-starts", "x" * 33, "ümlaut"):
        with pytest.raises(InvalidValue) as refused:
            await assets.create_asset(headwater.autocommit, issuer_id=issuer_id, **_part(symbol=symbol))
        assert refused.value.detail["field"] == "symbol"
    assert (await assets.list()).items == (asset,)


async def test_an_update_replaces_what_is_named(headwater: Headwater, assets: AssetRepository) -> None:
    asset = await assets.create_asset(headwater.autocommit, issuer_id=await _issuer(headwater), **_part())
    changed = await assets.update_asset(
        headwater.autocommit, asset.id, version=1, specifications={"ratio": 120}, asset_type="planetary_gearbox"
    )
    assert changed.new.specifications == {"ratio": 120}
    assert changed.new.name == asset.name
    assert changed.new.version == 2
    with pytest.raises(VersionConflict) as refused:
        await assets.update_asset(headwater.autocommit, asset.id, version=1, name="Late")
    assert refused.value.current == changed.new
    with pytest.raises(NotFound):
        await assets.update_asset(headwater.autocommit, uuid4(), name="Nothing")


async def test_an_empty_patch_of_an_asset_changes_nothing_but_minds_the_version(
    headwater: Headwater, assets: AssetRepository
) -> None:
    asset = await assets.create_asset(headwater.autocommit, issuer_id=await _issuer(headwater), **_part())
    async with headwater.transaction() as tx:
        assert await routes.update_asset(asset.id, routes.AssetPatch(), tx, assets, 1) == asset
        with pytest.raises(VersionConflict):
            await routes.update_asset(asset.id, routes.AssetPatch(), tx, assets, 9)
    async with headwater.transaction() as tx:
        changed = await routes.update_asset(
            asset.id, routes.AssetPatch(description="", metadata={"a": 1}), tx, assets, 1
        )
    assert (changed.description, changed.metadata_, changed.name) == ("", {"a": 1}, asset.name)


# -- search -----------------------------------------------------------------------------------------------------------


async def _shelf(headwater: Headwater, assets: AssetRepository) -> None:
    issuer_id = await _issuer(headwater)
    parts = (
        _part(),
        _part(symbol="CSG-32-120", name="Strain wave gear unit CSG-32-120"),
        _part(
            symbol="LD-3D-16",
            asset_type="lidar",
            name="Lidar scanner LD-3D-16",
            description="Scans for obstacles.",
            specifications={"protocol": "Ethernet UDP", "channels": 16},
        ),
        _part(
            symbol="SM-400",
            asset_type="servo_motor",
            name="Servo motor SM-400",
            description="Brushless motor with a holding brake.",
            specifications={"protocol": "EtherCAT"},
        ),
    )
    for part in parts:
        await assets.create_asset(headwater.autocommit, issuer_id=issuer_id, **part)


async def test_search_finds_words_inflections_beginnings_types_and_specifications(
    headwater: Headwater, assets: AssetRepository
) -> None:
    await _shelf(headwater, assets)
    gears = ["CSG-20-100", "CSG-32-120"]
    for words, expected in (
        ("strain", gears),
        ("STRAIN WAVE", gears),
        ('"strain wave"', gears),
        ('"wave strain"', []),
        ("gears", gears),
        ("harm", gears),
        ("harmonic drives", gears),
        ("csg-20", ["CSG-20-100"]),
        ("CSG-20-100", ["CSG-20-100"]),
        ("ethercat", [*gears, "SM-400"]),
        ("ethercat motor", ["SM-400"]),
        ("obstacle", ["LD-3D-16"]),
        ("scanning", ["LD-3D-16"]),
        ("lidar or servo", ["LD-3D-16", "SM-400"]),
        ("ethercat -gear", ["SM-400"]),
        ("zzz", []),
        ("!!!", []),
        ("' OR 1=1 --", []),
        ("& | ! ( ) <-> :* \\", []),
    ):
        found = await assets.search(words)
        assert sorted(asset.symbol for asset in found.items) == expected, words
    for everything in (None, "", "   "):
        assert len((await assets.search(everything)).items) == 4


async def test_search_narrows_by_type(headwater: Headwater, assets: AssetRepository) -> None:
    await _shelf(headwater, assets)
    assert [a.symbol for a in (await assets.search(asset_type="lidar")).items] == ["LD-3D-16"]
    assert [a.symbol for a in (await assets.search("ethercat", asset_type="servo_motor")).items] == ["SM-400"]
    assert (await assets.search("strain", asset_type="lidar")).items == ()
    assert (await assets.search(asset_type="no_such_type")).items == ()


async def test_a_changed_asset_is_found_by_its_new_words_only(headwater: Headwater, assets: AssetRepository) -> None:
    await _shelf(headwater, assets)
    lidar = await assets.find_by_symbol("LD-3D-16")
    assert lidar is not None
    await assets.update_asset(headwater.autocommit, lidar.id, description="Maps warehouses.")
    assert (await assets.search("obstacle")).items == ()
    assert [a.symbol for a in (await assets.search("warehouse")).items] == ["LD-3D-16"]


async def test_the_pages_of_a_search_hold_every_match_once_by_name(
    headwater: Headwater, assets: AssetRepository
) -> None:
    issuer_id = await _issuer(headwater)
    for number in range(7):
        await assets.create_asset(
            headwater.autocommit, issuer_id=issuer_id, **_part(symbol=f"S{number}", name=f"Servo {number % 3}")
        )
    seen, cursor = [], None
    while True:
        page = await assets.search("servo", limit=3, cursor=cursor)
        assert len(page.items) <= 3
        seen += [(asset.name, asset.symbol) for asset in page.items]
        if page.next is None:
            break
        cursor = page.next
    assert [name for name, _ in seen] == sorted(name for name, _ in seen)
    assert sorted(symbol for _, symbol in seen) == [f"S{n}" for n in range(7)]


async def test_a_damaged_cursor_and_a_senseless_limit_are_refused(assets: AssetRepository) -> None:
    with pytest.raises(InvalidCursor):
        await assets.search("servo", cursor="nonsense")
    for limit in (0, -1, 1_000_000):
        with pytest.raises(InvalidValue):
            await assets.search("servo", limit=limit)


async def test_search_uses_its_index(headwater: Headwater) -> None:
    async with headwater.transaction() as tx:
        await tx.connection.execute("SET LOCAL enable_seqscan = off; SET LOCAL enable_indexscan = off")
        plan = await tx.connection.fetch(
            "EXPLAIN SELECT id FROM blockchain.assets WHERE search @@ blockchain.asset_query('servo')"
        )
    assert any("assets_search_idx" in row[0] for row in plan)


# -- transactions -----------------------------------------------------------------------------------------------------


async def test_a_transaction_is_found_by_its_hash(headwater: Headwater, chain: BlockchainRepository) -> None:
    recorded = await chain.record_transaction(headwater.autocommit, **_transfer(amount=AMOUNT_MAX))
    assert (recorded.status, recorded.network, recorded.block_number) == (TransactionStatus.PENDING, "solana", None)
    assert recorded.amount == AMOUNT_MAX
    assert await chain.transaction_by_hash(tx_hash_of(1)) == recorded
    with pytest.raises(NotFound, match="not recorded"):
        await chain.transaction_by_hash(tx_hash_of(2))


async def test_hexadecimal_hashes_are_the_same_in_any_case(headwater: Headwater, chain: BlockchainRepository) -> None:
    recorded = await chain.record_transaction(
        headwater.autocommit,
        **_transfer(tx_hash=ETHEREUM_HASH, from_address=ETHEREUM_ADDRESS, network="ethereum"),
    )
    assert recorded.tx_hash == ETHEREUM_HASH.lower()
    assert await chain.transaction_by_hash("0x" + "AB" * 32) == recorded
    with pytest.raises(AlreadyExists):
        await chain.record_transaction(headwater.autocommit, **_transfer(tx_hash="0x" + "AB" * 32))


async def test_a_hash_is_recorded_once(headwater: Headwater, chain: BlockchainRepository) -> None:
    first = await chain.record_transaction(headwater.autocommit, **_transfer())
    with pytest.raises(AlreadyExists, match="transaction hash is recorded already"):
        await chain.record_transaction(headwater.autocommit, **_transfer(amount=1))
    assert await chain.transaction_by_hash(tx_hash_of(1)) == first


async def test_a_malformed_transaction_is_refused_by_field_and_changes_nothing(
    headwater: Headwater, chain: BlockchainRepository
) -> None:
    for field, value in (
        ("tx_hash", ""),
        ("tx_hash", "0x12"),
        ("tx_hash", "l" * 80),
        ("from_address", "somewhere"),
        ("to_address", "0x" + "g" * 40),
        ("amount", -1),
        ("amount", AMOUNT_MAX + 1),
        ("network", "Solana Mainnet"),
    ):
        with pytest.raises(InvalidValue) as refused:
            await chain.record_transaction(headwater.autocommit, **_transfer(**{field: value}))
        assert refused.value.detail["field"] == field
    with pytest.raises(InvalidValue):
        await chain.record_transaction(headwater.autocommit, **_transfer(block_number=-1))
    with pytest.raises(MissingReference):
        await chain.record_transaction(headwater.autocommit, **_transfer(asset_id=uuid4()))
    assert await headwater.repository(ChainTransaction).count() == 0


async def test_a_pending_transaction_is_settled_once(headwater: Headwater, chain: BlockchainRepository) -> None:
    await chain.record_transaction(headwater.autocommit, **_transfer())
    confirmed = await chain.settle_transaction(
        headwater.autocommit, tx_hash_of(1), status=TransactionStatus.CONFIRMED, block_number=7
    )
    assert (confirmed.status, confirmed.block_number, confirmed.version) == (TransactionStatus.CONFIRMED, 7, 2)
    again = await chain.settle_transaction(headwater.autocommit, tx_hash_of(1), status=TransactionStatus.CONFIRMED)
    assert again == confirmed
    others: tuple[dict[str, Any], ...] = (
        {"status": TransactionStatus.FAILED},
        {"status": TransactionStatus.CONFIRMED, "block_number": 8},
    )
    for otherwise in others:
        with pytest.raises(StateConflict, match="confirmed"):
            await chain.settle_transaction(headwater.autocommit, tx_hash_of(1), **otherwise)
    assert await chain.transaction_by_hash(tx_hash_of(1)) == confirmed


async def test_confirming_and_failing_at_once_ends_in_one_of_them(
    headwater: Headwater, chain: BlockchainRepository
) -> None:
    await chain.record_transaction(headwater.autocommit, **_transfer())
    outcomes = await asyncio.gather(
        *(
            chain.settle_transaction(headwater.autocommit, tx_hash_of(1), status=status)
            for status in (TransactionStatus.CONFIRMED, TransactionStatus.FAILED)
        ),
        return_exceptions=True,
    )
    assert sorted(type(outcome).__name__ == "StateConflict" for outcome in outcomes) == [False, True]


async def test_settling_needs_a_known_hash_and_an_end(headwater: Headwater, chain: BlockchainRepository) -> None:
    with pytest.raises(NotFound):
        await chain.settle_transaction(headwater.autocommit, tx_hash_of(1), status=TransactionStatus.FAILED)
    with pytest.raises(InvalidValue, match="cannot be settled as pending"):
        await chain.settle_transaction(headwater.autocommit, tx_hash_of(1), status=TransactionStatus.PENDING)


# -- prices -----------------------------------------------------------------------------------------------------------

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)


async def _report(chain: BlockchainRepository, headwater: Headwater, price: str, **more: Any) -> PriceFeed:
    values: dict[str, Any] = {"symbol": "CSG-20-100", "source": "pyth", "observed_at": NOON} | more
    return await chain.record_price(headwater.autocommit, price=Decimal(price), **values)


async def test_the_newest_price_counts_whenever_it_was_written(
    headwater: Headwater, chain: BlockchainRepository
) -> None:
    newest = await _report(chain, headwater, "1184.50")
    await _report(chain, headwater, "1100", observed_at=NOON - timedelta(hours=1))
    await _report(chain, headwater, "90", currency="EUR", observed_at=NOON + timedelta(hours=1))
    await _report(chain, headwater, "7", symbol="SM-400", observed_at=NOON + timedelta(hours=1))
    assert await chain.latest_price("csg-20-100") == newest
    assert newest.price == Decimal("1184.50")
    assert (await chain.latest_price("CSG-20-100", currency="EUR")).price == 90


async def test_a_price_that_is_dated_ahead_waits_for_its_time(
    headwater: Headwater, chain: BlockchainRepository
) -> None:
    now = await _report(chain, headwater, "10", observed_at=None)
    await _report(chain, headwater, "99", observed_at=datetime(2999, 1, 1, tzinfo=UTC))
    assert await chain.latest_price("CSG-20-100") == now


async def test_a_symbol_without_a_price_is_not_found(chain: BlockchainRepository) -> None:
    with pytest.raises(NotFound, match="no price of NOTHING in USD"):
        await chain.latest_price("nothing")
    assert (await chain.price_history("nothing")).items == ()


async def test_a_source_reports_one_price_for_a_moment(headwater: Headwater, chain: BlockchainRepository) -> None:
    await _report(chain, headwater, "10")
    with pytest.raises(AlreadyExists, match="price for that moment already"):
        await _report(chain, headwater, "11")
    await _report(chain, headwater, "12", source="chainlink")
    assert await headwater.repository(PriceFeed).count() == 2


async def test_the_history_runs_backwards_through_pages(headwater: Headwater, chain: BlockchainRepository) -> None:
    for hour in range(5):
        await _report(chain, headwater, str(hour + 1), observed_at=NOON + timedelta(hours=hour))
    first = await chain.price_history("csg-20-100", limit=3)
    second = await chain.price_history("csg-20-100", limit=3, cursor=first.next)
    assert [int(p.price) for p in (*first.items, *second.items)] == [5, 4, 3, 2, 1]
    assert second.next is None


async def test_a_malformed_price_is_refused_by_field_and_changes_nothing(
    headwater: Headwater, chain: BlockchainRepository
) -> None:
    for price in ("0", "-1", "NaN", "Infinity", "1e20", "0.0000000000000000001"):
        with pytest.raises(InvalidValue) as refused:
            await _report(chain, headwater, price)
        assert refused.value.detail["field"] == "price"
    for field, value in (
        ("symbol", "no symbol"),
        ("currency", "dollars"),
        ("source", "Some Oracle"),
        ("observed_at", datetime(2026, 1, 1)),
    ):
        with pytest.raises(InvalidValue) as refused:
            await _report(chain, headwater, "10", **{field: value})
        assert refused.value.detail["field"] == field
    assert await headwater.repository(PriceFeed).count() == 0


async def test_the_database_refuses_prices_that_bypass_the_edge(headwater: Headwater) -> None:
    prices = headwater.repository(PriceFeed)
    for price in ("0", "-1", "NaN", "Infinity"):
        with pytest.raises(InvalidValue):
            await prices.create(headwater.autocommit, symbol="X", price=Decimal(price), source="sql", observed_at=NOON)


async def test_reading_an_asset_does_not_carry_its_words_along(headwater: Headwater, assets: AssetRepository) -> None:
    asset = await assets.create_asset(headwater.autocommit, issuer_id=await _issuer(headwater), **_part())
    assert "search" not in as_dict(asset)
    with pytest.raises(AttributeError, match="not part of a value"):
        _ = asset.search
