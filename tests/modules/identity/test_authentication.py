"""Registration, signing in and out, and what a credential is worth, with real PostgreSQL and Valkey."""

from __future__ import annotations

from dataclasses import replace

import msgspec
import pytest
from argon2 import PasswordHasher
from sqlalchemy import select

from headwater.kernel.errors import (
    AlreadyExists,
    Forbidden,
    InvalidValue,
    MissingReference,
    NotFound,
    StateConflict,
    Unauthenticated,
    Unreachable,
    VersionConflict,
)
from headwater.kernel.lifecycle import Headwater
from headwater.kernel.routes import PageQuery
from headwater.kernel.rows import as_dict
from headwater.kernel.sessions import Sessions
from headwater.kernel.settings import Settings
from headwater.modules.identity import routes
from headwater.modules.identity.authentication import authenticate, sign_in, sign_out
from headwater.modules.identity.models import KycStatus, User
from headwater.modules.identity.repository import ApiKeyRepository, RoleRepository, UserRepository, ensure_admin_key

PASSWORD = "harmonic-drive-100"


@pytest.fixture
def users(headwater: Headwater) -> UserRepository:
    return headwater.repository(UserRepository)


async def _register(headwater: Headwater, email: str = "ada@example.org") -> User:
    return await routes.register(routes.Registration(email=email, password=PASSWORD), headwater)


async def _signed_in(headwater: Headwater, email: str = "ada@example.org") -> str:
    answer = await routes.login(routes.Credentials(email=email, password=PASSWORD), headwater)
    return answer.token


# -- registering and signing in ---------------------------------------------------------------------------------------


async def test_who_registers_can_sign_in_and_is_known_by_the_token(headwater: Headwater) -> None:
    user = await _register(headwater)
    answer = await routes.login(routes.Credentials(email="ADA@example.org", password=PASSWORD), headwater)
    assert answer.token_type == "Bearer"
    assert answer.user_id == user.id
    assert answer.expires_in > 0
    caller = await authenticate(headwater, answer.token)
    assert caller.user_id == user.id
    assert caller.name == "ada@example.org"
    assert caller.may("identity:self:write")
    assert not caller.may("identity:user:write")
    assert (await routes.me(caller)).user_id == user.id


async def test_the_password_is_stored_as_an_argon2id_hash(headwater: Headwater) -> None:
    user = await _register(headwater)
    stored = await headwater.postgres.fetch_value(select(User.password_hash).where(User.id == user.id))
    assert stored.startswith("$argon2id$")
    assert PASSWORD not in stored


async def test_registering_a_taken_email_is_refused_and_keeps_the_first_password(
    headwater: Headwater, users: UserRepository
) -> None:
    await _register(headwater)
    with pytest.raises(AlreadyExists):
        await routes.register(routes.Registration(email="Ada@Example.org", password="another-password"), headwater)
    assert await users.count() == 1
    await sign_in(headwater, email="ada@example.org", password=PASSWORD)
    with pytest.raises(Unauthenticated):
        await sign_in(headwater, email="ada@example.org", password="another-password")


async def test_every_failed_sign_in_says_the_same(headwater: Headwater, users: UserRepository) -> None:
    await _register(headwater)
    await users.create_user(headwater.autocommit, email="keys-only@example.org")
    gone = await _register(headwater, "gone@example.org")
    await users.deactivate(headwater.autocommit, gone.id)
    said = set()
    for email, password in (
        ("ada@example.org", "wrong-password"),
        ("ada@example.org", ""),
        ("nobody@example.org", PASSWORD),
        ("keys-only@example.org", PASSWORD),
        ("keys-only@example.org", "nobody has this password"),
        ("gone@example.org", PASSWORD),
        ("' or true --", PASSWORD),
    ):
        with pytest.raises(Unauthenticated) as refused:
            await sign_in(headwater, email=email, password=password)
        said.add((str(refused.value), str(refused.value.detail)))
    assert len(said) == 1


async def test_a_hash_of_an_older_cost_is_replaced_at_the_next_sign_in(
    headwater: Headwater, users: UserRepository
) -> None:
    weak = PasswordHasher(time_cost=1, memory_cost=8 * 1024, parallelism=1).hash(PASSWORD)
    user = await users.create_user(headwater.autocommit, email="ada@example.org", password_hash=weak)
    await sign_in(headwater, email="ada@example.org", password=PASSWORD)
    stored = await headwater.postgres.fetch_value(select(User.password_hash).where(User.id == user.id))
    assert stored != weak
    found = await users.get(user.id)
    assert found.version == 2
    assert as_dict(found) == as_dict(user) | {"version": 2, "updated_at": found.updated_at}
    await sign_in(headwater, email="ada@example.org", password=PASSWORD)


# -- sessions ---------------------------------------------------------------------------------------------------------


async def test_signing_out_ends_this_session_and_no_other(headwater: Headwater) -> None:
    await _register(headwater)
    first, second = await _signed_in(headwater), await _signed_in(headwater)
    await routes.logout(await authenticate(headwater, first), headwater)
    with pytest.raises(Unauthenticated, match="session has ended"):
        await authenticate(headwater, first)
    assert (await authenticate(headwater, second)).name == "ada@example.org"


async def test_a_session_ends_when_its_user_is_deactivated(headwater: Headwater, users: UserRepository) -> None:
    user = await _register(headwater)
    token = await _signed_in(headwater)
    await users.deactivate(headwater.autocommit, user.id)
    with pytest.raises(Unauthenticated, match="session has ended"):
        await authenticate(headwater, token)


async def test_a_made_up_session_token_is_refused(headwater: Headwater) -> None:
    for token in ("hws_", "hws_" + "a" * 43, "hws_\0"):
        with pytest.raises(Unauthenticated, match="session has ended"):
            await authenticate(headwater, token)


async def test_a_key_has_no_session_to_sign_out_of(headwater: Headwater) -> None:
    caller = await authenticate(headwater, await ensure_admin_key(headwater, None))
    with pytest.raises(StateConflict, match="API key"):
        await sign_out(headwater, caller)


async def test_with_valkey_down_signing_in_is_unavailable_and_keys_still_work(
    headwater: Headwater, settings: Settings, unused_tcp_port: int
) -> None:
    await _register(headwater)
    token, key = await _signed_in(headwater), await ensure_admin_key(headwater, None)
    for url in (f"redis://127.0.0.1:{unused_tcp_port}", ""):
        async with Headwater.open(headwater.system, replace(settings, valkey_url=url)) as degraded:
            with pytest.raises(Unreachable):
                await sign_in(degraded, email="ada@example.org", password=PASSWORD)
            with pytest.raises(Unreachable):
                await authenticate(degraded, token)
            assert (await authenticate(degraded, key)).may("*")


async def test_a_session_is_where_the_mission_says(headwater: Headwater) -> None:
    await _register(headwater)
    caller = await authenticate(headwater, await _signed_in(headwater))
    assert headwater.valkey is not None
    assert await headwater.valkey.exists(f"session:{caller.id}") == 1
    assert await Sessions(headwater.valkey).delete(caller.id)


# -- what routes allow ------------------------------------------------------------------------------------------------


async def test_a_signed_in_user_changes_themselves_and_nobody_else(headwater: Headwater, users: UserRepository) -> None:
    ada, bob = await _register(headwater), await _register(headwater, "bob@example.org")
    caller = await authenticate(headwater, await _signed_in(headwater))
    async with headwater.transaction() as tx:
        changed = await routes.update_user(ada.id, routes.UserPatch(name="Ada"), caller, tx, users, 1)
    assert changed.name == "Ada"
    for user_id, patch in (
        (bob.id, routes.UserPatch(name="Hacked")),
        (ada.id, routes.UserPatch(kyc_status=KycStatus.VERIFIED)),
        (ada.id, routes.UserPatch(is_active=False, name="Both")),
    ):
        with pytest.raises(Forbidden):
            async with headwater.transaction() as tx:
                await routes.update_user(user_id, patch, caller, tx, users, None)
    assert await users.get(bob.id) == bob
    assert await users.get(ada.id) == changed


async def test_an_administrator_changes_anybody(headwater: Headwater, users: UserRepository) -> None:
    ada = await _register(headwater)
    caller = await authenticate(headwater, await ensure_admin_key(headwater, None))
    patch = routes.UserPatch(kyc_status=KycStatus.VERIFIED, phone="+46701234567", is_active=False)
    async with headwater.transaction() as tx:
        changed = await routes.update_user(ada.id, patch, caller, tx, users, None)
    assert (changed.kyc_status, changed.phone, changed.is_active) == (KycStatus.VERIFIED, "+46701234567", False)


async def test_an_empty_change_changes_nothing_but_minds_the_version(
    headwater: Headwater, users: UserRepository
) -> None:
    ada = await _register(headwater)
    caller = await authenticate(headwater, await ensure_admin_key(headwater, None))
    async with headwater.transaction() as tx:
        assert await routes.update_user(ada.id, routes.UserPatch(), caller, tx, users, 1) == ada
        with pytest.raises(VersionConflict):
            await routes.update_user(ada.id, routes.UserPatch(), caller, tx, users, 2)


async def test_nobody_hands_out_more_than_they_have(headwater: Headwater) -> None:
    keys, roles = headwater.repository(ApiKeyRepository), headwater.repository(RoleRepository)
    admin = await authenticate(headwater, await ensure_admin_key(headwater, None))
    clerk = replace(admin, scopes=frozenset({"identity:api_key:admin", "*:*:read"}))
    async with headwater.transaction() as tx:
        await routes.issue_key(routes.NewKey(name="fine", role="reader"), clerk, tx, keys, roles)
        await routes.issue_key(routes.NewKey(name="fine", role="admin"), admin, tx, keys, roles)
    for role in ("admin", "writer", "member"):
        with pytest.raises(Forbidden):
            async with headwater.transaction() as tx:
                await routes.issue_key(routes.NewKey(name="more", role=role), clerk, tx, keys, roles)
    with pytest.raises(MissingReference):
        async with headwater.transaction() as tx:
            await routes.issue_key(routes.NewKey(name="none", role="emperor"), admin, tx, keys, roles)
    assert await keys.count() == 3


async def test_a_key_issued_over_http_works_until_it_is_revoked(headwater: Headwater) -> None:
    keys, roles = headwater.repository(ApiKeyRepository), headwater.repository(RoleRepository)
    admin = await authenticate(headwater, await ensure_admin_key(headwater, None))
    async with headwater.transaction() as tx:
        issued = await routes.issue_key(routes.NewKey(name="scanner", role="writer"), admin, tx, keys, roles)
    assert (await authenticate(headwater, issued.key)).name == "scanner"
    async with headwater.transaction() as tx:
        assert (await routes.revoke_key(issued.id, tx, keys)).revoked_at is not None
    with pytest.raises(Unauthenticated):
        await authenticate(headwater, issued.key)
    listed = await routes.list_keys(PageQuery(limit=1), keys)
    assert msgspec.json.decode(listed.items)[0]["name"] == "scanner"
    assert listed.next is not None


async def test_update_of_an_unknown_user_is_not_found(headwater: Headwater, users: UserRepository) -> None:
    admin = await authenticate(headwater, await ensure_admin_key(headwater, None))
    for patch in (routes.UserPatch(name="Nobody"), routes.UserPatch()):
        with pytest.raises(NotFound):
            async with headwater.transaction() as tx:
                await routes.update_user(admin.id, patch, admin, tx, users, None)


async def test_registration_checks_what_it_is_given(headwater: Headwater, users: UserRepository) -> None:
    for registration in (
        routes.Registration(email="ada@example.org", password="short"),
        routes.Registration(email="no address", password=PASSWORD),
        routes.Registration(email="ada@example.org", password=PASSWORD, phone="12"),
    ):
        with pytest.raises(InvalidValue):
            await routes.register(registration, headwater)
    assert await users.count() == 0
