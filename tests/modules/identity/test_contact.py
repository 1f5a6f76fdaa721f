"""What contact data look like: whatever the text, it is accepted as it will be stored, or refused by name."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headwater.kernel.errors import InvalidValue
from headwater.modules.identity import contact
from headwater.modules.identity.contact import (
    checked_email,
    checked_language_code,
    checked_name,
    checked_phone,
    checked_timezone,
    time_zones,
)


@given(st.text())
def test_whatever_the_text_a_check_returns_it_or_says_invalid_value(text: str) -> None:
    for check in (checked_email, checked_name, checked_phone, checked_language_code, checked_timezone):
        try:
            stored = check(text)
        except InvalidValue as refused:
            assert refused.detail["field"] and refused.remedy
        else:
            assert check(stored) == stored
            assert "\0" not in stored


@given(st.from_regex(r"\+[1-9][0-9]{6,14}", fullmatch=True), st.sampled_from([" ", "-", ".", ""]))
def test_separators_in_a_phone_number_do_not_matter(phone: str, separator: str) -> None:
    assert checked_phone(separator.join(phone)) == phone


def test_the_time_zones_do_not_depend_on_the_machine() -> None:
    assert {"Europe/Moscow", "UTC", "America/Sao_Paulo"} <= time_zones()
    assert len(time_zones()) > 500


@pytest.mark.parametrize(
    "email", ["a@b.co", "ada.lindqvist+parts@mail.example.org", "o'neill@example.org", "x@xn--p1ai.ru"]
)
def test_ordinary_emails_are_accepted(email: str) -> None:
    assert checked_email(f" {email} ") == email


@given(st.emails(domains=st.just("example.org")))
def test_what_others_call_an_email_is_accepted(email: str) -> None:
    assert checked_email(email) == email


@pytest.mark.parametrize("pattern", ["EMAIL_PATTERN", "NAME_PATTERN", "PHONE_PATTERN", "LANGUAGE_PATTERN"])
def test_the_patterns_are_anchored_and_known_to_json_schema_too(pattern: str) -> None:
    text = getattr(contact, pattern)
    assert text.startswith("^") and text.endswith("$")
    assert "(?P" not in text and "\\Z" not in text and "\\d" not in text
    re.compile(text)


def test_a_long_text_is_cut_in_the_message() -> None:
    with pytest.raises(InvalidValue) as refused:
        checked_email("x" * 100_000)
    assert len(refused.value.message) < 120
