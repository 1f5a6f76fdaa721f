"""Keypairs: the vectors of RFC 8032, addresses as Solana writes them, and what is no key."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headwater.kernel.errors import InvalidValue
from headwater.modules.blockchain.keypairs import Keypair, base58, from_base58, verify

# RFC 8032, 7.1, test 2: secret, public key, message, signature.
SECRET = bytes.fromhex("4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb")
PUBLIC = bytes.fromhex("3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c")
MESSAGE = bytes.fromhex("72")
SIGNATURE = bytes.fromhex(
    "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da"
    "085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00"
)


def test_signatures_are_those_of_the_rfc() -> None:
    pair = Keypair.of(SECRET)
    assert from_base58(pair.address) == PUBLIC
    assert pair.secret == SECRET
    assert pair.sign(MESSAGE) == SIGNATURE
    assert verify(pair.address, MESSAGE, SIGNATURE)
    assert not verify(pair.address, MESSAGE + b"x", SIGNATURE)


def test_the_64_bytes_of_solana_are_understood_and_checked() -> None:
    assert Keypair.of(SECRET + PUBLIC).address == Keypair.of(SECRET).address
    with pytest.raises(InvalidValue, match="do not belong together"):
        Keypair.of(SECRET + bytes(32))
    with pytest.raises(InvalidValue, match="not 31"):
        Keypair.of(SECRET[:31])


def test_a_known_address_is_written_as_solana_writes_it() -> None:
    """The system program: 32 zero bytes. The wrapped SOL mint is the best known address beside it."""
    assert base58(bytes(32)) == "1" * 32
    wrapped_sol = "So11111111111111111111111111111111111111112"
    assert base58(from_base58(wrapped_sol)) == wrapped_sol
    assert len(from_base58(wrapped_sol)) == 32


@given(st.binary(max_size=80))
def test_base58_gives_every_byte_back(raw: bytes) -> None:
    assert from_base58(base58(raw)) == raw


@pytest.mark.parametrize("text", ["0", "O", "I", "l", "abc def", "ä"])
def test_what_is_no_base58_is_refused(text: str) -> None:
    with pytest.raises(InvalidValue, match="not a letter of base58"):
        from_base58(text)


def test_what_is_no_address_verifies_nothing() -> None:
    with pytest.raises(InvalidValue, match="is not an address"):
        verify("abc", MESSAGE, SIGNATURE)


def test_a_keypair_never_shows_its_private_key() -> None:
    pair = Keypair.make()
    assert pair.secret.hex() not in repr(pair)
    assert pair.address in repr(pair)
    assert Keypair.make().address != pair.address
