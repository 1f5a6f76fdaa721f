"""What addresses, hashes, symbols and prices look like: accepted as they will be stored, or refused by name."""

from __future__ import annotations

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headwater.kernel.errors import InvalidValue
from headwater.modules.blockchain import formats
from headwater.modules.blockchain.seeds import tx_hash_of, wallet_of


@given(st.integers(min_value=1, max_value=10**9))
def test_what_the_seeds_make_has_the_form_that_is_checked(number: int) -> None:
    assert formats.checked_wallet(wallet_of(number)) == wallet_of(number)
    assert formats.checked_tx_hash(tx_hash_of(number)) == tx_hash_of(number)


@given(st.text())
def test_whatever_the_text_a_format_returns_it_or_says_invalid_value(text: str) -> None:
    for check in (formats.checked_wallet, formats.checked_tx_hash, formats.checked_symbol, formats.checked_name):
        try:
            stored = check(text)
        except InvalidValue as refused:
            assert refused.detail["field"] and refused.remedy
        else:
            assert check(stored) == stored


@given(st.decimals())
def test_a_price_is_kept_exactly_or_refused(price: Decimal) -> None:
    try:
        assert formats.checked_price(price) is price
    except InvalidValue:
        assert not (price.is_finite() and Decimal("0.01") <= price <= 10**9 and price == round(price, 2))


@given(st.from_regex(r"[0-9]{1,20}(\.[0-9]{1,18})?", fullmatch=True))
def test_the_pattern_of_prices_and_their_check_agree(text: str) -> None:
    import re

    try:
        formats.checked_price(Decimal(text))
    except InvalidValue:
        assert not re.search(formats.PRICE_PATTERN, text)
    else:
        assert re.search(formats.PRICE_PATTERN, text)


def test_real_addresses_and_hashes_are_accepted() -> None:
    assert formats.checked_wallet("11111111111111111111111111111111")
    assert formats.checked_wallet("EPjFWdd5AufqSSqeM2qN1xzybapC8G4wEGGkZwyTDt1v")
    assert formats.checked_address("0xA0b86991c6218b36c1d19D4a2e9Eb0cE3606eB48", field="x").startswith("0xa0b8")
    with pytest.raises(InvalidValue) as refused:
        formats.checked_address("0x12", field="from_address")
    assert refused.value.detail["field"] == "from_address"


def test_the_size_of_specifications_is_bounded() -> None:
    fits = {"a": "x" * (formats.SPECIFICATIONS_BYTES_MAX - 8)}
    assert formats.checked_specifications(fits) is fits
    with pytest.raises(InvalidValue, match="bytes as JSON"):
        formats.checked_specifications({"a": "x" * (formats.SPECIFICATIONS_BYTES_MAX - 7)})
