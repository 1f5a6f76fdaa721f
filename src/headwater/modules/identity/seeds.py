"""Seeds of identity: people from a dozen countries. User number n is the same in every profile."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import timedelta
from hashlib import blake2b
from typing import Any, NamedTuple

from headwater.kernel.seeds import Sowing
from headwater.modules.identity.models import KycStatus, User

USERS_DEMO = 60
LOAD_SHARE = 0.10
"""Which part of the rows of `load:N` are users."""


class Country(NamedTuple):
    """Where people come from: what they are called, as written and as in an email address."""

    language_code: str
    timezone: str
    phone_prefix: str
    given: tuple[tuple[str, str], ...]
    family: tuple[tuple[str, str], ...]


COUNTRIES = (
    Country(
        "sv",
        "Europe/Stockholm",
        "+4670",
        (("Ada", "ada"), ("Björn", "bjorn"), ("Linnéa", "linnea")),
        (("Lindqvist", "lindqvist"), ("Åkesson", "akesson"), ("Sjöberg", "sjoberg")),
    ),
    Country(
        "ru",
        "Europe/Moscow",
        "+7916",
        (("Анна", "anna"), ("Дмитрий", "dmitri"), ("Ольга", "olga")),
        (("Воронина", "voronina"), ("Ковальчук", "kovalchuk"), ("Шевченко", "shevchenko")),
    ),
    Country(
        "ja",
        "Asia/Tokyo",
        "+8190",
        (("陽菜", "hina"), ("大輔", "daisuke"), ("美咲", "misaki")),
        (("佐藤", "sato"), ("中村", "nakamura"), ("小林", "kobayashi")),
    ),
    Country(
        "pt-BR",
        "America/Sao_Paulo",
        "+5511",
        (("João", "joao"), ("Beatriz", "beatriz"), ("Thiago", "thiago")),
        (("Araújo", "araujo"), ("Conceição", "conceicao"), ("Siqueira", "siqueira")),
    ),
    Country(
        "en",
        "Africa/Lagos",
        "+23480",
        (("Chiamaka", "chiamaka"), ("Emeka", "emeka"), ("Folake", "folake")),
        (("Okafor", "okafor"), ("Adeyemi", "adeyemi"), ("Nwosu", "nwosu")),
    ),
    Country(
        "de",
        "Europe/Berlin",
        "+4915",
        (("Jürgen", "juergen"), ("Käthe", "kaethe"), ("Moritz", "moritz")),
        (("Müller-Lüdenscheidt", "mueller-luedenscheidt"), ("Weiß", "weiss"), ("Brandt", "brandt")),
    ),
    Country(
        "hi",
        "Asia/Kolkata",
        "+9198",
        (("अनन्या", "ananya"), ("रोहन", "rohan"), ("Priya", "priya")),
        (("शर्मा", "sharma"), ("Iyer", "iyer"), ("Chatterjee", "chatterjee")),
    ),
    Country(
        "ko",
        "Asia/Seoul",
        "+8210",
        (("지우", "jiwoo"), ("민준", "minjun"), ("서연", "seoyeon")),
        (("김", "kim"), ("박", "park"), ("최", "choi")),
    ),
    Country(
        "ar",
        "Africa/Cairo",
        "+2010",
        (("ليلى", "layla"), ("Omar", "omar"), ("Yusuf", "yusuf")),
        (("حداد", "haddad"), ("El-Sayed", "el-sayed"), ("Mansour", "mansour")),
    ),
    Country(
        "es-MX",
        "America/Mexico_City",
        "+5255",
        (("María José", "maria.jose"), ("Íñigo", "inigo"), ("Ximena", "ximena")),
        (("Hernández", "hernandez"), ("Nuñez", "nunez"), ("Zamora", "zamora")),
    ),
    Country(
        "en-US",
        "America/New_York",
        "+1646",
        (("Grace", "grace"), ("Marcus", "marcus"), ("Siobhan", "siobhan")),
        (("O'Neill", "oneill"), ("Washington", "washington"), ("Kowalski", "kowalski")),
    ),
    Country(
        "fr",
        "Europe/Paris",
        "+3361",
        (("Zoé", "zoe"), ("Étienne", "etienne"), ("Maëlle", "maelle")),
        (("Lefèvre", "lefevre"), ("Dubois", "dubois"), ("N'Diaye", "ndiaye")),
    ),
)
_TEAMS = ("motion", "perception", "gripping", "power", "assembly", "procurement")
_FAMILY_FIRST = ("ja", "ko")


async def seed(sowing: Sowing) -> None:
    """Sixty users, or a tenth of the rows of a load."""
    total = USERS_DEMO if sowing.profile == "demo" else max(1, int(sowing.rows * LOAD_SHARE))
    await sowing.plant(User, people(sowing, total), total=total)


def people(sowing: Sowing, total: int) -> Iterator[Mapping[str, Any]]:
    """The rows of users 1 to `total`, the latest registration last."""
    for number in range(1, total + 1):
        country = COUNTRIES[(number - 1) % len(COUNTRIES)]
        turn = (number - 1) // len(COUNTRIES)
        given, given_ascii = country.given[turn % 3]
        family, family_ascii = country.family[turn // 3 % 3]
        namesakes = turn // 9  # how many before them have the same name
        draw = int.from_bytes(blake2b(f"user/{number}".encode(), digest_size=8).digest())
        created_at = sowing.now - timedelta(days=400, seconds=-300 * (number % 100_000))
        yield {
            "id": sowing.key("users", number),
            "email": f"{given_ascii}.{family_ascii}{namesakes + 1 if namesakes else ''}@example.org",
            "name": f"{family} {given}" if country.language_code in _FAMILY_FIRST else f"{given} {family}",
            "phone": f"{country.phone_prefix}{draw % 10_000_000:07d}" if draw % 7 else None,
            "language_code": country.language_code,
            "timezone": country.timezone,
            "is_active": draw % 20 != 0 or number == 1,
            "kyc_status": _kyc_status(draw) if number > 1 else KycStatus.VERIFIED,
            "metadata_": {"team": _TEAMS[draw % len(_TEAMS)]},
            "created_at": created_at,
            "updated_at": created_at,
        }


def _kyc_status(draw: int) -> KycStatus:
    share = draw // 20 % 10
    return KycStatus.VERIFIED if share < 7 else KycStatus.PENDING if share < 9 else KycStatus.REJECTED
