"""The routes of identity over HTTP: who may do what, and what a bad request is told."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import httpx
import msgspec
import pytest

from headwater.kernel.lifecycle import Headwater
from headwater.modules.identity import MODULE
from headwater.modules.identity.repository import UserRepository
from headwater.modules.identity.routes import NewUser, Registration, TimeZone

ClientWithRole = Callable[[str], Awaitable[httpx.AsyncClient]]
ClientOf = Callable[[str | None], Awaitable[httpx.AsyncClient]]

ADA = {"email": "ada@example.org", "name": "Ada", "timezone": "Europe/Stockholm", "metadata": {"team": "motion"}}
REGISTRATION = {"email": "ada@example.org", "password": "harmonic-drive-100"}


async def test_a_user_is_created_read_and_changed(client_with_role: ClientWithRole, anyone: httpx.AsyncClient) -> None:
    writer = await client_with_role("writer")
    created = await writer.post("/api/users", json=ADA)
    assert created.status_code == 201
    user = created.json()
    assert created.headers["location"].endswith(f"/api/users/{user['id']}")
    assert (user["language_code"], user["kyc_status"], user["is_active"], user["version"]) == ("ru", "pending", True, 1)
    assert "password_hash" not in user
    read = await anyone.get(f"/api/users/{user['id']}")
    assert read.json() == user
    changed = await client_with_role("admin")
    answer = await changed.patch(
        f"/api/users/{user['id']}",
        json={"name": None, "phone": "+46701234567", "kyc_status": "verified"},
        headers={"If-Match": read.headers["etag"]},
    )
    assert answer.status_code == 200
    assert (answer.json()["name"], answer.json()["kyc_status"], answer.json()["version"]) == (None, "verified", 2)
    late = await writer.patch(f"/api/users/{user['id']}", json={}, headers={"If-Match": read.headers["etag"]})
    assert late.status_code == 412


async def test_what_a_user_cannot_be_is_refused_and_nobody_is_created(
    client_with_role: ClientWithRole, headwater: Headwater
) -> None:
    admin = await client_with_role("admin")
    wrongs: tuple[dict[str, Any], ...] = (
        {"email": "no address"},
        {"email": 7},
        {"email": None},
        {"name": ""},
        {"phone": "12"},
        {"language_code": "Russian"},
        {"timezone": "Europe/Atlantis"},
        {"metadata": []},
        {"metadata": {"nul": "\0"}},
        {"password_hash": "x"},
        {"id": str(uuid4())},
        {"is_active": False},
        {"version": 9},
    )
    for wrong in wrongs:
        refused = await admin.post("/api/users", json=ADA | wrong)
        assert refused.status_code == 422, wrong
        assert refused.headers["content-type"] == "application/problem+json"
        assert refused.json()["errors"], wrong
    assert (await admin.post("/api/users", json={})).status_code == 422
    assert await headwater.repository(UserRepository).count() == 0


async def test_a_taken_email_is_a_conflict(client_with_role: ClientWithRole) -> None:
    writer = await client_with_role("writer")
    assert (await writer.post("/api/users", json=ADA)).status_code == 201
    taken = await writer.post("/api/users", json=ADA | {"email": "ADA@example.org"})
    assert taken.status_code == 409
    assert taken.json()["type"] == "/problems/already-exists"
    assert "email is already taken" in taken.json()["detail"]


async def test_an_unknown_or_malformed_user_id(anyone: httpx.AsyncClient) -> None:
    assert (await anyone.get(f"/api/users/{uuid4()}")).status_code == 404
    assert (await anyone.get("/api/users/7")).status_code == 422


async def test_someone_registers_signs_in_looks_at_themselves_and_signs_out(
    anyone: httpx.AsyncClient, client_of: ClientOf
) -> None:
    registered = await anyone.post("/api/auth/register", json=REGISTRATION)
    assert registered.status_code == 201
    user = registered.json()
    signed_in = await anyone.post("/api/auth/login", json=REGISTRATION)
    assert signed_in.status_code == 200
    me = await client_of(signed_in.json()["token"])
    assert (await me.get("/api/auth/me")).json() == {
        "name": "ada@example.org",
        "scopes": ["*:*:read", "identity:self:write"],
        "user_id": user["id"],
    }
    renamed = await me.patch(f"/api/users/{user['id']}", json={"name": "Ada Lindqvist"})
    assert renamed.json()["name"] == "Ada Lindqvist"
    assert (await me.patch(f"/api/users/{user['id']}", json={"kyc_status": "verified"})).status_code == 403
    assert (await me.post("/api/users", json=ADA | {"email": "b@example.org"})).status_code == 403
    assert (await me.post("/api/auth/logout")).status_code == 204
    assert (await me.get("/api/auth/me")).status_code == 401


async def test_a_failed_sign_in_tells_nothing(anyone: httpx.AsyncClient) -> None:
    await anyone.post("/api/auth/register", json=REGISTRATION)
    answers = [
        await anyone.post("/api/auth/login", json=REGISTRATION | wrong)
        for wrong in ({"password": "wrong"}, {"email": "nobody@example.org"})
    ]
    assert {answer.status_code for answer in answers} == {401}
    assert len({(a.json()["type"], a.json()["title"], a.json()["detail"]) for a in answers}) == 1


async def test_a_bad_registration_is_told_which_field(anyone: httpx.AsyncClient) -> None:
    for wrong in ({"password": "short"}, {"email": "x"}, {"timezone": "Mars/Olympus"}, {"kyc_status": "verified"}):
        refused = await anyone.post("/api/auth/register", json=REGISTRATION | wrong)
        assert refused.status_code == 422
        assert refused.json()["errors"][0]["pointer"].endswith(next(iter(wrong)))


async def test_only_an_administrator_issues_lists_and_revokes_keys(
    client_with_role: ClientWithRole, anyone: httpx.AsyncClient, client_of: ClientOf
) -> None:
    body = {"name": "scanner", "role": "writer"}
    for role in ("writer", "reader", "member"):
        other = await client_with_role(role)
        assert (await other.post("/api/admin/keys", json=body)).status_code == 403
        assert (await other.get("/api/admin/keys")).status_code == 403
        assert (await other.post("/api/admin/seed", json={"profile": "demo"})).status_code == 403
        assert (await other.post("/api/admin/migrate")).status_code == 403
        assert (await other.get("/api/admin/migration-status")).status_code == 403
    assert (await anyone.get("/api/admin/keys")).status_code == 401
    admin = await client_with_role("admin")
    issued = await admin.post("/api/admin/keys", json=body | {"lifetime_days": 2})
    assert issued.status_code == 201
    scanner = await client_of(issued.json()["key"])
    assert (await scanner.get("/api/auth/me")).json()["name"] == "scanner"
    listed = (await admin.get("/api/admin/keys", params={"limit": 1})).json()
    assert listed["items"][0]["id"] == issued.json()["id"]
    assert "key_hash" not in listed["items"][0]
    left = datetime.fromisoformat(listed["items"][0]["expires_at"]) - datetime.now(UTC)
    assert timedelta(days=1) < left <= timedelta(days=2)
    assert (await admin.post("/api/admin/keys", json=body | {"lifetime_days": 0})).status_code == 422
    revoked = await admin.delete(f"/api/admin/keys/{issued.json()['id']}")
    assert revoked.status_code == 200
    assert revoked.json()["revoked_at"]
    assert (await admin.post("/api/admin/keys", json=body | {"role": "emperor"})).status_code == 409


def test_only_registering_and_signing_in_are_open_to_everybody() -> None:
    writing = [route for route in MODULE.routes if route.method != "GET"]
    assert {route.path for route in writing if route.public} == {"/api/auth/register", "/api/auth/login"}
    assert all(route.scope for route in writing if not route.public)
    assert all(route.scope for route in MODULE.routes if route.path.startswith("/api/admin/"))


def test_a_time_zone_is_one_of_those_that_are_documented() -> None:
    user = msgspec.json.decode(b'{"email": "ada@example.org", "timezone": "Asia/Tokyo"}', type=NewUser)
    assert user.timezone.value == "Asia/Tokyo"
    assert NewUser(email="x@example.org").timezone.value == "Europe/Moscow"
    assert len(TimeZone) > 500
    with pytest.raises(msgspec.ValidationError):
        msgspec.json.decode(b'{"email": "a@example.org", "password": "12345678", "timezone": ""}', type=Registration)
