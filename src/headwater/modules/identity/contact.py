"""Contact: what an email address, a name, a phone number, a language and a time zone look like.

The patterns are also what the OpenAPI document promises, so that a value it allows is a value that is accepted.
"""

from __future__ import annotations

import re
from functools import cache
from importlib.resources import files

from headwater.kernel.errors import InvalidValue

EMAIL_LENGTH_MAX = 254
# The HTML standard's pattern for email fields, with at least one dot in the domain. Other scripts come as punycode.
EMAIL_PATTERN = (
    r"^[A-Za-z0-9.!#$%&'*+/=?^_`{|}~-]{1,64}"
    r"@[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?(\.[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?)+$"
)
NAME_LENGTH_MAX = 200
NAME_PATTERN = r"^[^\u0000-\u001f\u007f]+$"
PHONE_PATTERN = r"^\+[1-9][0-9]{6,14}$"
LANGUAGE_PATTERN = r"^[a-z]{2,3}(-[A-Z]{2})?$"

_email, _name = re.compile(EMAIL_PATTERN), re.compile(NAME_PATTERN)
_phone, _language = re.compile(PHONE_PATTERN), re.compile(LANGUAGE_PATTERN)
_PHONE_SEPARATORS = re.compile(r"[ ().\-]")


def checked_email(email: str) -> str:
    """The email as it is stored: as written, without spaces around it. Raises InvalidValue."""
    stripped = email.strip()
    if len(stripped) > EMAIL_LENGTH_MAX or not _email.fullmatch(stripped):
        raise InvalidValue(
            f"{_shown(email)} is not an email address.", remedy="Pass one like ada@example.org.", field="email"
        )
    return stripped


def checked_name(name: str) -> str:
    """Raises InvalidValue for a name that is empty, too long, or holds control characters."""
    if len(name) > NAME_LENGTH_MAX or not _name.fullmatch(name):
        raise InvalidValue(
            f"{_shown(name)} is not a name.",
            remedy=f"Pass 1 to {NAME_LENGTH_MAX} characters without line breaks.",
            field="name",
        )
    return name


def checked_phone(phone: str) -> str:
    """The number in E.164 form; spaces, dots, dashes and brackets are dropped. Raises InvalidValue."""
    compact = _PHONE_SEPARATORS.sub("", phone)
    if not _phone.fullmatch(compact):
        raise InvalidValue(
            f"{_shown(phone)} is not a phone number.",
            remedy="Pass it with its country code, like +79161234567.",
            field="phone",
        )
    return compact


def checked_language_code(language_code: str) -> str:
    """Raises InvalidValue for what is not an ISO 639 code, with an ISO 3166 region if need be."""
    if not _language.fullmatch(language_code):
        raise InvalidValue(
            f"{_shown(language_code)} is not a language code.",
            remedy="Pass one like ru or pt-BR.",
            field="language_code",
        )
    return language_code


def checked_timezone(timezone: str) -> str:
    """Raises InvalidValue for a zone the IANA database does not name."""
    if timezone not in time_zones():
        raise InvalidValue(
            f"There is no time zone {_shown(timezone)}.",
            remedy="Pass a name of the IANA database, like Europe/Moscow.",
            field="timezone",
        )
    return timezone


@cache
def time_zones() -> frozenset[str]:
    """The names of the IANA database. They come with the package tzdata, so that every machine knows the same ones."""
    return frozenset(files("tzdata").joinpath("zones").read_text(encoding="utf-8").split())


def _shown(text: str) -> str:
    return repr(text if len(text) <= 60 else text[:57] + "...")
