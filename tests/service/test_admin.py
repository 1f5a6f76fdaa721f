"""Admin: the operator's verbs over HTTP do what the command line does."""

from __future__ import annotations

from tests.service.conftest import client_of

from headwater.kernel.lifecycle import Headwater
from headwater.kernel.module import System
from headwater.kernel.settings import Settings
from headwater.service.app import create_app


async def test_an_admin_migrates_and_seeds_over_http(headwater: Headwater, empty_database: str) -> None:
    from uuid import UUID

    from headwater.kernel.caller import Caller

    async def admin(_: str) -> Caller:
        return Caller(id=UUID(int=9), name="admin", scopes=frozenset({"*:*:*"}))

    identity = System("small", [m for m in headwater.system.modules if m.name == "identity"])
    async with (
        Headwater.open(identity, Settings(database_url=empty_database)) as opened,
        client_of(create_app(opened, authenticate=admin), "admin") as client,
    ):
        before = (await client.get("/api/admin/migration-status")).json()
        assert before["pending"] >= 2
        applied = (await client.post("/api/admin/migrate")).json()["applied"]
        assert len(applied) == before["pending"]
        assert (await client.post("/api/admin/migrate")).json()["applied"] == []
        assert (await client.get("/api/admin/migration-status")).json()["pending"] == 0
        assert (await client.get("/ready")).status_code == 200
        seeded = (await client.post("/api/admin/seed", json={"profile": "demo"})).json()
        assert sum(seeded["added"].values()) > 0
        again = (await client.post("/api/admin/seed", json={"profile": "demo"})).json()
        assert sum(again["added"].values()) == 0
        assert (await client.post("/api/admin/seed", json={"profile": "all"})).status_code == 422
