"""Keypairs: Ed25519 keys of wallets, whose public half in base58 is the address, as Solana has it."""

from __future__ import annotations

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from headwater.kernel.errors import InvalidValue

SECRET_BYTES = 32
_ALPHABET = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"
_VALUES = {letter: value for value, letter in enumerate(_ALPHABET)}


class Keypair:
    """A private key and its address. Its repr shows the address only."""

    __slots__ = ("_key", "address")

    def __init__(self, key: Ed25519PrivateKey) -> None:
        self._key = key
        self.address = base58(key.public_key().public_bytes_raw())

    def __repr__(self) -> str:
        return f"Keypair({self.address})"

    @classmethod
    def make(cls) -> Keypair:
        """A new one, at random."""
        return cls(Ed25519PrivateKey.generate())

    @classmethod
    def of(cls, secret: bytes) -> Keypair:
        """The keypair of 32 secret bytes, or of the 64 that Solana's tools write. Raises InvalidValue."""
        if len(secret) not in (SECRET_BYTES, 2 * SECRET_BYTES):
            raise InvalidValue(
                f"A private key has 32 bytes (64 with its public key), not {len(secret)}.",
                remedy="Pass the bytes themselves, decoded.",
                field="secret",
            )
        made = cls(Ed25519PrivateKey.from_private_bytes(secret[:SECRET_BYTES]))
        if len(secret) > SECRET_BYTES and base58(secret[SECRET_BYTES:]) != made.address:
            raise InvalidValue(
                "The two halves of the private key do not belong together.", remedy="Check it.", field="secret"
            )
        return made

    @property
    def secret(self) -> bytes:
        """The 32 bytes that everything follows from."""
        return self._key.private_bytes_raw()

    def sign(self, message: bytes) -> bytes:
        """The signature, 64 bytes."""
        return self._key.sign(message)


def verify(address: str, message: bytes, signature: bytes) -> bool:
    """Whether the owner of the address has signed the message. Raises InvalidValue for what is no address."""
    raw = from_base58(address)
    if len(raw) != SECRET_BYTES:
        raise InvalidValue(f"{address} is not an address.", remedy="Pass a Solana address.", field="address")
    try:
        Ed25519PublicKey.from_public_bytes(raw).verify(signature, message)
    except InvalidSignature:
        return False
    return True


def base58(raw: bytes) -> str:
    """Bytes in base58, as Bitcoin and Solana write them: no 0, O, I or l, a leading 1 for each leading zero byte."""
    number, digits = int.from_bytes(raw), []
    while number:
        number, digit = divmod(number, 58)
        digits.append(_ALPHABET[digit])
    return "1" * (len(raw) - len(raw.lstrip(b"\0"))) + "".join(reversed(digits))


def from_base58(text: str) -> bytes:
    """The bytes that base58 text stands for. Raises InvalidValue."""
    number = 0
    for letter in text:
        if letter not in _VALUES:
            raise InvalidValue(f"{letter!r} is not a letter of base58.", remedy="Check the address.", field="address")
        number = number * 58 + _VALUES[letter]
    zeros = len(text) - len(text.lstrip("1"))
    return b"\0" * zeros + number.to_bytes((number.bit_length() + 7) // 8)
