"""Formats: what addresses, hashes, symbols, asset types and prices look like, and the errors that say so.

The patterns are also what the OpenAPI document promises. The tables are laxer: they hold what other chains may need.
"""

from __future__ import annotations

import re
from decimal import Decimal
from typing import Any

import msgspec

from headwater.kernel.errors import InvalidValue

_BASE58 = "[1-9A-HJ-NP-Za-km-z]"
WALLET_PATTERN = f"^{_BASE58}{{32,44}}$"
ADDRESS_PATTERN = f"^({_BASE58}{{32,44}}|0x[0-9a-fA-F]{{40}})$"
TX_HASH_PATTERN = f"^({_BASE58}{{64,88}}|0x[0-9a-fA-F]{{64}})$"
NETWORK_PATTERN = r"^[a-z][a-z0-9-]{1,31}$"
SYMBOL_PATTERN = r"^[A-Z0-9][A-Z0-9._-]{0,31}$"
SYMBOL_ANY_CASE_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,31}$"
ASSET_TYPE_PATTERN = r"^[a-z][a-z0-9_]{0,63}$"
CURRENCY_PATTERN = r"^[A-Z]{3,10}$"
SOURCE_PATTERN = r"^[a-z0-9][a-z0-9._-]{0,63}$"
NAME_PATTERN = r"^[^\u0000-\u001f\u007f]+$"
NAME_LENGTH_MAX = 200
DESCRIPTION_LENGTH_MAX = 10_000
PRICE_PATTERN = r"^(?!0+(\.0+)?$)[0-9]{1,20}(\.[0-9]{1,18})?$"
PRICE_SCALE_MAX = 18
SPECIFICATIONS_BYTES_MAX = 64 * 1024

_PRICE_BOUND = Decimal("1e20")


def checked_wallet(wallet_address: str) -> str:
    """Raises InvalidValue for what is not a Solana address in base58."""
    if not re.fullmatch(WALLET_PATTERN, wallet_address):
        raise InvalidValue(
            f"{_shown(wallet_address)} is not a wallet address.",
            remedy="Pass a Solana address: 32 to 44 characters of base58 (no 0, O, I or l).",
            field="wallet_address",
        )
    return wallet_address


def checked_address(address: str, *, field: str) -> str:
    """An address on some chain: base58, or hexadecimal, which is kept in lower case. Raises InvalidValue."""
    if not re.fullmatch(ADDRESS_PATTERN, address):
        raise InvalidValue(
            f"{_shown(address)} is not an address.",
            remedy="Pass 32 to 44 characters of base58, or 0x and 40 hexadecimal digits.",
            field=field,
        )
    return _hex_in_lower_case(address)


def checked_tx_hash(tx_hash: str) -> str:
    """A Solana signature in base58, or 0x and 64 hexadecimal digits, kept in lower case. Raises InvalidValue."""
    if not re.fullmatch(TX_HASH_PATTERN, tx_hash):
        raise InvalidValue(
            f"{_shown(tx_hash)} is not a transaction hash.",
            remedy="Pass 64 to 88 characters of base58, or 0x and 64 hexadecimal digits.",
            field="tx_hash",
        )
    return _hex_in_lower_case(tx_hash)


def checked_symbol(symbol: str) -> str:
    """The symbol in capitals. Raises InvalidValue."""
    if not re.fullmatch(SYMBOL_ANY_CASE_PATTERN, symbol):
        raise InvalidValue(
            f"{_shown(symbol)} is not a symbol.",
            remedy="Pass 1 to 32 letters, digits, dots, dashes or underscores, like CSG-20-100.",
            field="symbol",
        )
    return symbol.upper()


def checked_price(price: Decimal) -> Decimal:
    """Raises InvalidValue for a price that is not above zero, too large, or finer than 18 places."""
    exponent = price.as_tuple().exponent
    if (
        not price.is_finite()
        or not 0 < price < _PRICE_BOUND
        or (isinstance(exponent, int) and -exponent > PRICE_SCALE_MAX)
    ):
        raise InvalidValue(
            f"{price} is not a price.",
            remedy=f"Pass more than zero and less than 1e20, with at most {PRICE_SCALE_MAX} decimal places.",
            field="price",
        )
    return price


def checked_specifications(specifications: dict[str, Any], *, field: str = "specifications") -> dict[str, Any]:
    """Raises InvalidValue for an object larger than 64 KiB as JSON: its words are indexed."""
    size = len(msgspec.json.encode(specifications))
    if size > SPECIFICATIONS_BYTES_MAX:
        raise InvalidValue(
            f"'{field}' has {size} bytes as JSON.", remedy=f"Keep it within {SPECIFICATIONS_BYTES_MAX}.", field=field
        )
    return specifications


def checked(field: str, text: str, pattern: str, example: str) -> str:
    """`text` itself where the pattern fits all of it. Raises InvalidValue naming the field."""
    if not re.fullmatch(pattern, text):
        raise InvalidValue(f"{_shown(text)} is not a {field}.", remedy=f"Pass one like {example}.", field=field)
    return text


def checked_name(name: str) -> str:
    """Raises InvalidValue for a name that is empty, too long, or holds control characters."""
    if len(name) > NAME_LENGTH_MAX or not re.fullmatch(NAME_PATTERN, name):
        raise InvalidValue(
            f"{_shown(name)} is not a name.",
            remedy=f"Pass 1 to {NAME_LENGTH_MAX} characters without line breaks.",
            field="name",
        )
    return name


def checked_description(description: str) -> str:
    """Raises InvalidValue for one that is too long."""
    if len(description) > DESCRIPTION_LENGTH_MAX:
        raise InvalidValue(
            f"The description has {len(description)} characters.",
            remedy=f"Keep it within {DESCRIPTION_LENGTH_MAX}.",
            field="description",
        )
    return description


def _hex_in_lower_case(text: str) -> str:
    return text.lower() if text.startswith("0x") else text


def _shown(text: str) -> str:
    return repr(text if len(text) <= 60 else text[:57] + "...")
