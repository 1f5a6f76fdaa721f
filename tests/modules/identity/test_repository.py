"""Users and API keys on a real database: what is accepted, what is refused, and that a refusal changes nothing."""

from __future__ import annotations

import asyncio
import hashlib
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import pytest
from sqlalchemy import update

from headwater.kernel.caller import Caller
from headwater.kernel.errors import (
    AlreadyExists,
    HeadwaterError,
    InvalidValue,
    MissingReference,
    NotFound,
    Unauthenticated,
    VersionConflict,
)
from headwater.kernel.lifecycle import Headwater
from headwater.kernel.rows import as_dict
from headwater.modules.identity.models import ApiKey, KycStatus, Role, User
from headwater.modules.identity.repository import ApiKeyRepository, RoleRepository, UserRepository, ensure_admin_key

UNKNOWN_KEY = f"hw_{'0' * 32}_{'a' * 43}"


@pytest.fixture
def users(headwater: Headwater) -> UserRepository:
    return headwater.repository(UserRepository)


@pytest.fixture
def keys(headwater: Headwater) -> ApiKeyRepository:
    return headwater.repository(ApiKeyRepository)


# -- users ------------------------------------------------------------------------------------------------------------


async def test_a_new_user_has_the_defaults_of_the_house(headwater: Headwater, users: UserRepository) -> None:
    user = await users.create_user(headwater.autocommit, email="ada@example.org")
    assert (user.language_code, user.timezone) == ("ru", "Europe/Moscow")
    assert user.is_active
    assert user.kyc_status is KycStatus.PENDING
    assert user.metadata_ == {}
    assert (user.name, user.phone, user.version) == (None, None, 1)
    assert await users.get(user.id) == user


async def test_every_field_of_a_user_is_stored(headwater: Headwater, users: UserRepository) -> None:
    user = await users.create_user(
        headwater.autocommit,
        email=" Ada.Lindqvist@Example.org ",
        name="Ada Lindqvist",
        phone="+46 (70) 123-45.67",
        language_code="pt-BR",
        timezone="Asia/Tokyo",
        kyc_status=KycStatus.VERIFIED,
        metadata_={"team": "motion"},
    )
    stored = as_dict(await users.get(user.id))
    assert stored["email"] == "Ada.Lindqvist@Example.org"
    assert stored["phone"] == "+46701234567"
    assert stored["language_code"] == "pt-BR"
    assert stored["timezone"] == "Asia/Tokyo"
    assert stored["kyc_status"] is KycStatus.VERIFIED
    assert stored["metadata"] == {"team": "motion"}


async def test_a_value_never_carries_the_password_hash(headwater: Headwater, users: UserRepository) -> None:
    user = await users.create_user(headwater.autocommit, email="ada@example.org", password_hash="$argon2id$secret")
    assert "password_hash" not in as_dict(user)
    assert "secret" not in repr(user)
    with pytest.raises(AttributeError, match="not part of a value"):
        _ = user.password_hash


async def test_a_user_is_found_by_email_whatever_its_capitals(headwater: Headwater, users: UserRepository) -> None:
    user = await users.create_user(headwater.autocommit, email="Ada@Example.org")
    assert await users.find_by_email(" aDA@eXAMPLE.ORG") == user
    assert await users.find_by_email("bob@example.org") is None


async def test_a_taken_email_is_refused_and_changes_nothing(headwater: Headwater, users: UserRepository) -> None:
    ada = await users.create_user(headwater.autocommit, email="ada@example.org", name="Ada")
    for taken in ("ada@example.org", "ADA@example.org", "ada@EXAMPLE.org"):
        with pytest.raises(AlreadyExists, match="users: this email is already taken") as refused:
            await users.create_user(headwater.autocommit, email=taken, name="Somebody else")
        assert refused.value.detail["columns"] == ["email"]
    assert await users.count() == 1
    assert await users.get(ada.id) == ada


async def test_of_two_creations_of_one_email_at_once_one_wins(headwater: Headwater, users: UserRepository) -> None:
    outcomes = await asyncio.gather(
        *(
            users.create_user(headwater.autocommit, email=email)
            for email in ("ada@example.org", "Ada@example.org", "ADA@example.org", "ada@Example.org")
        ),
        return_exceptions=True,
    )
    assert sorted(type(outcome).__name__ for outcome in outcomes) == ["AlreadyExists"] * 3 + ["User"]
    assert await users.count() == 1


MALFORMED = (
    ("email", ""),
    ("email", "ada"),
    ("email", "ada@localhost"),
    ("email", "ada@@example.org"),
    ("email", "ada lindqvist@example.org"),
    ("email", "ada@example.org\n, bob@example.org"),
    ("email", "ada\0@example.org"),
    ("email", "ada@-example.org"),
    ("email", f"{'a' * 65}@example.org"),
    ("email", f"ada@{'example.' * 40}org"),
    ("name", ""),
    ("name", "Ada\nLindqvist"),
    ("name", "Ada\0"),
    ("name", "a" * 201),
    ("phone", "12345"),
    ("phone", "+0461234567"),
    ("phone", "+46abc1234567"),
    ("phone", "+1234567890123456"),
    ("phone", "+٤٦٧٠١٢٣٤٥٦٧"),
    ("language_code", "Russian"),
    ("language_code", "RU"),
    ("language_code", ""),
    ("timezone", "Moscow"),
    ("timezone", "Europe/Atlantis"),
    ("timezone", "../../etc/passwd"),
    ("timezone", ""),
)


async def test_a_malformed_field_is_refused_by_name_and_changes_nothing(
    headwater: Headwater, users: UserRepository
) -> None:
    user = await users.create_user(headwater.autocommit, email="ada@example.org", name="Ada")
    for field, value in MALFORMED:
        given: dict[str, Any] = {"email": "new@example.org"} | {field: value}
        given_update: dict[str, Any] = {field: value}
        with pytest.raises(InvalidValue) as refused:
            await users.create_user(headwater.autocommit, **given)
        assert refused.value.detail["field"] == field
        assert refused.value.remedy
        with pytest.raises(InvalidValue) as refused:
            await users.update_user(headwater.autocommit, user.id, **given_update)
        assert refused.value.detail["field"] == field
    assert await users.count() == 1
    assert await users.get(user.id) == user


async def test_the_database_refuses_what_bypasses_the_edge(headwater: Headwater, users: UserRepository) -> None:
    with pytest.raises(InvalidValue, match="an email needs an @"):
        await users.create(headwater.autocommit, email="no address")
    with pytest.raises(InvalidValue, match="users_metadata_check"):
        await users.create(headwater.autocommit, email="ada@example.org", metadata_=[1])
    with pytest.raises(InvalidValue, match="'email' must have a value"):
        await users.create(headwater.autocommit, name="Ada")
    assert await users.count() == 0


async def test_an_update_changes_what_is_named_and_raises_the_version(
    headwater: Headwater, users: UserRepository
) -> None:
    user = await users.create_user(headwater.autocommit, email="ada@example.org", name="Ada", phone="+46701234567")
    changed = await users.update_user(headwater.autocommit, user.id, version=1, phone=None, timezone="UTC")
    assert changed.old == user
    assert (changed.new.phone, changed.new.timezone, changed.new.name) == (None, "UTC", "Ada")
    assert changed.new.version == 2
    assert changed.new.updated_at > user.updated_at
    assert changed.new.created_at == user.created_at


async def test_an_update_of_an_old_version_is_refused_with_the_row_as_it_is(
    headwater: Headwater, users: UserRepository
) -> None:
    user = await users.create_user(headwater.autocommit, email="ada@example.org")
    current = (await users.update_user(headwater.autocommit, user.id, name="First")).new
    async with headwater.transaction() as tx:
        with pytest.raises(VersionConflict) as refused:
            await users.update_user(tx, user.id, version=1, name="Second")
    assert refused.value.current == current
    assert await users.get(user.id) == current


async def test_taking_the_email_of_another_user_is_refused(headwater: Headwater, users: UserRepository) -> None:
    await users.create_user(headwater.autocommit, email="ada@example.org")
    bob = await users.create_user(headwater.autocommit, email="bob@example.org")
    with pytest.raises(AlreadyExists, match="email is already taken"):
        await users.update_user(headwater.autocommit, bob.id, email="ADA@example.org")
    assert await users.get(bob.id) == bob


async def test_the_capitals_of_an_own_email_can_change(headwater: Headwater, users: UserRepository) -> None:
    ada = await users.create_user(headwater.autocommit, email="ada@example.org")
    assert (
        await users.update_user(headwater.autocommit, ada.id, email="Ada@example.org")
    ).new.email == "Ada@example.org"


async def test_an_unknown_user_cannot_be_changed(headwater: Headwater, users: UserRepository) -> None:
    with pytest.raises(NotFound):
        await users.update_user(headwater.autocommit, uuid4(), name="Nobody")
    with pytest.raises(NotFound):
        await users.deactivate(headwater.autocommit, uuid4())


async def test_a_user_can_be_written_in_plain_sql_as_the_mission_wrote_it(headwater: Headwater) -> None:
    async with headwater.transaction() as tx:
        row = await tx.connection.fetchrow(
            "INSERT INTO users (email, name, phone) VALUES ($1, $2, $3)"
            " ON CONFLICT (email) DO UPDATE SET name = excluded.name RETURNING *",
            "ada@example.org",
            "Ada",
            "+46701234567",
        )
    assert row is not None
    assert (row["language_code"], row["timezone"], row["kyc_status"]) == ("ru", "Europe/Moscow", "pending")


# -- roles and keys ---------------------------------------------------------------------------------------------------


async def test_the_roles_are_there_after_the_migration(headwater: Headwater) -> None:
    roles = {role.name: role async for role in headwater.repository(RoleRepository).stream()}
    assert set(roles) == {"admin", "writer", "reader", "member"}

    def may(role: str, scope: str) -> bool:
        return Caller(id=uuid4(), name=role, scopes=frozenset(roles[role].scopes)).may(scope)

    assert may("admin", "identity:api_key:admin")
    assert may("writer", "blockchain:asset:write") and not may("writer", "identity:api_key:admin")
    assert may("reader", "identity:user:read") and not may("reader", "identity:user:write")
    assert may("member", "identity:self:write") and not may("member", "identity:user:write")


async def test_an_issued_key_authenticates_its_holder(headwater: Headwater, keys: ApiKeyRepository) -> None:
    user = await headwater.repository(UserRepository).create_user(headwater.autocommit, email="ada@example.org")
    issued = await keys.issue(headwater.autocommit, name="scanner", role="writer", user_id=user.id)
    caller = await keys.authenticate(issued.key)
    assert (caller.id, caller.name, caller.user_id) == (issued.id, "scanner", user.id)
    assert caller.may("trading:order:write")
    assert not caller.may("identity:api_key:admin")


async def test_only_the_hash_of_a_key_is_stored(headwater: Headwater, keys: ApiKeyRepository) -> None:
    issued = await keys.issue(headwater.autocommit, name="scanner", role="reader")
    assert len(issued.key.removeprefix(f"hw_{issued.id.hex}_")) == 43
    assert issued.key not in repr(issued)
    async with headwater.transaction() as tx:
        stored = await tx.connection.fetchrow("SELECT * FROM api_keys")
    assert stored is not None
    assert stored["key_hash"] == hashlib.sha256(issued.key.encode()).digest()
    assert stored["last_four"] == issued.key[-4:]
    assert issued.key.rpartition("_")[2] not in str(dict(stored))
    assert "key_hash" not in as_dict(await keys.get(issued.id))


async def test_every_bad_key_is_refused_in_the_same_words(headwater: Headwater, keys: ApiKeyRepository) -> None:
    users = headwater.repository(UserRepository)
    holder = await users.create_user(headwater.autocommit, email="ada@example.org")
    good = await keys.issue(headwater.autocommit, name="good", role="reader")
    revoked = await keys.issue(headwater.autocommit, name="revoked", role="reader")
    await keys.revoke(headwater.autocommit, revoked.id)
    expired = await keys.issue(
        headwater.autocommit, name="expired", role="reader", expires_at=datetime.now(UTC) + timedelta(hours=1)
    )
    await headwater.autocommit.execute(
        update(ApiKey).where(ApiKey.id == expired.id).values(expires_at=datetime(2020, 1, 1, tzinfo=UTC))
    )
    orphan = await keys.issue(headwater.autocommit, name="inactive", role="reader", user_id=holder.id)
    await users.deactivate(headwater.autocommit, holder.id)
    bad = [
        "",
        "nonsense",
        "hw_",
        UNKNOWN_KEY,
        good.key[:-1],
        good.key + "a",
        good.key[:-1] + ("b" if good.key[-1] == "a" else "a"),
        good.key.upper(),
        good.key + "\0",
        "hw_' or true --_" + "a" * 43,
        revoked.key,
        expired.key,
        orphan.key,
    ]
    messages = set()
    for key in bad:
        with pytest.raises(Unauthenticated) as refused:
            await keys.authenticate(key)
        messages.add(str(refused.value))
    assert len(messages) == 1
    assert (await keys.authenticate(good.key)).name == "good"


async def test_a_key_that_has_not_expired_yet_is_good(headwater: Headwater, keys: ApiKeyRepository) -> None:
    issued = await keys.issue(
        headwater.autocommit, name="soon", role="reader", expires_at=datetime.now(UTC) + timedelta(hours=1)
    )
    assert (await keys.authenticate(issued.key)).id == issued.id


async def test_revoking_twice_keeps_the_first_time(headwater: Headwater, keys: ApiKeyRepository) -> None:
    issued = await keys.issue(headwater.autocommit, name="scanner", role="reader")
    async with headwater.transaction() as tx:
        first = await keys.revoke(tx, issued.id)
    async with headwater.transaction() as tx:
        second = await keys.revoke(tx, issued.id)
    assert first.revoked_at is not None
    assert second.revoked_at == first.revoked_at
    with pytest.raises(NotFound):
        await keys.revoke(headwater.autocommit, uuid4())


async def test_a_key_that_makes_no_sense_is_not_issued(headwater: Headwater, keys: ApiKeyRepository) -> None:
    wrongs: tuple[tuple[dict[str, Any], type[HeadwaterError]], ...] = (
        ({"role": "emperor"}, MissingReference),
        ({"user_id": uuid4()}, MissingReference),
        ({"name": ""}, InvalidValue),
        ({"expires_at": datetime(2020, 1, 1, tzinfo=UTC)}, InvalidValue),
        ({"expires_at": datetime(2090, 1, 1)}, InvalidValue),
    )
    for wrong, error in wrongs:
        with pytest.raises(error):
            await keys.issue(headwater.autocommit, **({"name": "scanner", "role": "reader"} | wrong))
    assert await keys.count() == 0


async def test_an_unknown_role_is_named_as_such(headwater: Headwater, keys: ApiKeyRepository) -> None:
    with pytest.raises(MissingReference, match="there is no such role"):
        await keys.issue(headwater.autocommit, name="scanner", role="emperor")


async def test_the_admin_key_survives_the_next_start(headwater: Headwater, keys: ApiKeyRepository) -> None:
    first = await ensure_admin_key(headwater, None)
    assert (await keys.authenticate(first)).may("anything:at:all")
    assert await ensure_admin_key(headwater, f"{first}\n") == first
    assert await keys.count() == 1


async def test_the_admin_key_of_a_file_is_made_known_to_a_new_database(
    headwater: Headwater, keys: ApiKeyRepository
) -> None:
    key = await ensure_admin_key(headwater, None)
    async with headwater.transaction() as tx:
        await tx.connection.execute("DELETE FROM api_keys")
    assert await ensure_admin_key(headwater, key) == key
    assert (await keys.authenticate(key)).may("*")


async def test_two_starts_at_once_keep_one_admin_key(headwater: Headwater, keys: ApiKeyRepository) -> None:
    key = await ensure_admin_key(headwater, None)
    async with headwater.transaction() as tx:
        await tx.connection.execute("DELETE FROM api_keys")
    assert set(await asyncio.gather(*(ensure_admin_key(headwater, key) for _ in range(5)))) == {key}
    assert await keys.count() == 1


async def test_an_admin_key_that_opens_nothing_is_replaced(headwater: Headwater, keys: ApiKeyRepository) -> None:
    revoked = await ensure_admin_key(headwater, None)
    await keys.revoke(headwater.autocommit, (await keys.authenticate(revoked)).id)
    reader = (await keys.issue(headwater.autocommit, name="reader", role="reader")).key
    other_secret = reader[:-4] + ("aaaa" if reader[-4:] != "aaaa" else "bbbb")
    for useless in (revoked, reader, other_secret, "", "damaged", UNKNOWN_KEY[:-1]):
        replacement = await ensure_admin_key(headwater, useless)
        assert replacement != useless
        assert (await keys.authenticate(replacement)).may("*")
    assert not (await keys.authenticate(reader)).may("identity:user:write")


async def test_a_role_in_use_cannot_be_forgotten(headwater: Headwater, keys: ApiKeyRepository) -> None:
    await keys.issue(headwater.autocommit, name="scanner", role="reader")
    with pytest.raises(HeadwaterError, match="referred to"):
        await headwater.repository(Role).delete(headwater.autocommit, "reader")


async def test_a_user_who_holds_a_key_cannot_be_deleted(headwater: Headwater, keys: ApiKeyRepository) -> None:
    users = headwater.repository(UserRepository)
    user = await users.create_user(headwater.autocommit, email="ada@example.org")
    await keys.issue(headwater.autocommit, name="scanner", role="reader", user_id=user.id)
    with pytest.raises(HeadwaterError, match="referred to"):
        await headwater.repository(User).delete(headwater.autocommit, user.id)
    assert await users.get(user.id) == user
