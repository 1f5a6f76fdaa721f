"""The seeded people: from many countries, each of them valid, and each the same in every profile."""

from __future__ import annotations

from typing import Any

from headwater.kernel.lifecycle import Headwater
from headwater.kernel.module import System
from headwater.kernel.seeds import Sowing, seed
from headwater.kernel.settings import Settings
from headwater.modules import identity
from headwater.modules.identity import contact
from headwater.modules.identity.models import KycStatus, User
from headwater.modules.identity.repository import UserRepository
from headwater.modules.identity.seeds import COUNTRIES, USERS_DEMO, people


def _people(total: int, profile: Any = "demo") -> list[dict[str, Any]]:
    sowing = Sowing(None, profile, total, "identity", lambda *_: None)  # type: ignore[arg-type]  # nothing is planted
    return [dict(row) for row in people(sowing, total)]


def test_every_seeded_person_would_be_accepted_at_the_edge() -> None:
    for person in _people(2_000):
        assert contact.checked_email(person["email"]) == person["email"]
        assert contact.checked_name(person["name"]) == person["name"]
        assert person["phone"] is None or contact.checked_phone(person["phone"]) == person["phone"]
        contact.checked_language_code(person["language_code"])
        contact.checked_timezone(person["timezone"])
        assert person["created_at"] <= Sowing.now


def test_emails_and_keys_never_repeat() -> None:
    rows = _people(20_000)
    assert len({row["email"] for row in rows}) == len({row["id"] for row in rows}) == 20_000


def test_a_person_is_the_same_in_every_profile() -> None:
    assert _people(5_000, "load")[:USERS_DEMO] == _people(USERS_DEMO)


def test_the_demo_has_every_country_and_every_state() -> None:
    rows = _people(USERS_DEMO)
    assert {row["timezone"] for row in rows} == {country.timezone for country in COUNTRIES}
    assert {row["kyc_status"] for row in rows} == set(KycStatus)
    assert {row["is_active"] for row in rows} == {True, False}
    assert any(row["phone"] is None for row in rows)


async def test_identity_can_be_seeded_alone(settings: Settings) -> None:
    async with Headwater.open(System("alone", [identity.MODULE]), settings) as headwater:
        assert (await seed(headwater)).added == {"users": USERS_DEMO}
        ada = await headwater.repository(UserRepository).find_by_email("ada.lindqvist@example.org")
        assert ada is not None
        assert (ada.name, ada.is_active, ada.kyc_status) == ("Ada Lindqvist", True, KycStatus.VERIFIED)
        assert await headwater.repository(User).count() == USERS_DEMO
