"""Keyring: secrets encrypted at rest, by keys that have names and can be rotated.

A sealed secret is text, `hw1:<name of the key>:<base64url of nonce and ciphertext>`, made by AES-256-GCM. What it is
bound to (its table, column and row) is authenticated with it: copied into another row, it does not open. The first key
of a keyring seals; all of them open, so that a rotation is: put a new key first, seal again what is old, drop the old
key. The keys come from HEADWATER_KEYRING, or the file that HEADWATER_KEYRING_FILE names; PostgreSQL never sees one.
"""

from __future__ import annotations

import base64
import binascii
import os
import re
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from headwater.kernel.errors import InvalidValue, KeyMissing, SealBroken
from headwater.kernel.settings import Settings

KEY_BYTES = 32
_FORMAT = "hw1"
SEALED = f"{_FORMAT}:"
"""How every sealed secret begins."""
_NONCE_BYTES = 12  # random: one key must not seal more than 2**32 secrets
_TAG_BYTES = 16
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}")
_REMEDY_FORM = "Write name:key, with the base64 of 32 random bytes as key; `headwater keyring new NAME` makes one."


class Keyring:
    """Keys by name, of which the first seals. Neither keys nor secrets are ever shown by repr or in errors."""

    def __init__(self, keys: Mapping[str, bytes]) -> None:
        for name, key in keys.items():
            if not _NAME.fullmatch(name):
                raise InvalidValue(
                    f"{name!r} cannot name a key.",
                    remedy="Use up to 63 lower case letters, digits, dots, dashes or underscores.",
                    field="keyring",
                )
            if len(key) != KEY_BYTES:
                raise InvalidValue(
                    f"The key '{name}' has {len(key)} bytes, not {KEY_BYTES}.", remedy=_REMEDY_FORM, field="keyring"
                )
        self.names = tuple(keys)
        self._ciphers = {name: AESGCM(key) for name, key in keys.items()}

    def __repr__(self) -> str:
        return f"Keyring({', '.join(self.names) or 'empty'})"

    @classmethod
    def parse(cls, text: str) -> Keyring:
        """The keyring in `name:key` pairs, separated by commas or lines; the first one seals. Raises InvalidValue."""
        keys: dict[str, bytes] = {}
        for number, pair in enumerate(filter(None, re.split(r"[\s,]+", text)), 1):
            name, colon, encoded = pair.partition(":")
            if not colon:  # what it is may be the key itself, so it is not shown
                raise InvalidValue(f"Key {number} of the keyring has no name.", remedy=_REMEDY_FORM, field="keyring")
            if name in keys:
                raise InvalidValue(
                    f"The keyring has two keys named '{name}'.", remedy="Rename the newer one.", field="keyring"
                )
            try:
                keys[name] = base64.b64decode(encoded.replace("-", "+").replace("_", "/"), validate=True)
            except binascii.Error:
                raise InvalidValue(
                    f"The key '{name}' of the keyring is not base64.", remedy=_REMEDY_FORM, field="keyring"
                ) from None
        return cls(keys)

    @classmethod
    def of(cls, settings: Settings) -> Keyring:
        """The keyring that the settings name; empty without one. A file that has changed is read again, so that a
        running service learns of a new key. Raises InvalidValue.
        """
        if settings.keyring or not settings.keyring_file:
            return _parsed(settings.keyring)
        path = Path(settings.keyring_file)
        try:
            seen = path.stat()
            return _read_file(path, seen.st_mtime_ns, seen.st_ino)
        except OSError as why:
            raise InvalidValue(
                f"The keyring file {path} cannot be read: {why.strerror}.",
                remedy="Correct HEADWATER_KEYRING_FILE, or the rights of the file.",
                field="keyring_file",
            ) from None

    @property
    def current(self) -> str:
        """The name of the key that seals. Raises KeyMissing when there is none."""
        if not self.names:
            raise KeyMissing(
                "There is no key to encrypt with.",
                remedy="Set HEADWATER_KEYRING=name:key; `headwater keyring new NAME` prints one.",
            )
        return self.names[0]

    def seal(self, secret: bytes, *, bound_to: str) -> str:
        """The secret, encrypted for this place. Raises KeyMissing."""
        name = self.current
        nonce = os.urandom(_NONCE_BYTES)
        body = nonce + self._ciphers[name].encrypt(nonce, secret, _bound(name, bound_to))
        return f"{_FORMAT}:{name}:{base64.urlsafe_b64encode(body).decode().rstrip('=')}"

    def open(self, sealed: str, *, bound_to: str) -> bytes:
        """The secret. Raises KeyMissing when its key is not here, SealBroken when it was changed or moved."""
        name, body = _read(sealed)
        cipher = self._ciphers.get(name)
        if cipher is None:
            raise KeyMissing(
                f"The key '{name}' is not in the keyring, and {bound_to} was encrypted with it.",
                remedy="Put it back into HEADWATER_KEYRING, after the key that encrypts now.",
                key=name,
            )
        try:
            return cipher.decrypt(body[:_NONCE_BYTES], body[_NONCE_BYTES:], _bound(name, bound_to))
        except InvalidTag:
            raise SealBroken(
                f"What is stored for {bound_to} does not open with the key '{name}': it was changed, moved here from "
                "another row, or sealed with another key of that name.",
                remedy="Restore the row from a backup, or the key from where you keep it.",
                key=name,
            ) from None

    def reseal(self, sealed: str, *, bound_to: str) -> str:
        """The same secret under the current key; the same text when that is what it has. Raises as `open` does."""
        if key_of(sealed) == self.current:
            return sealed
        return self.seal(self.open(sealed, bound_to=bound_to), bound_to=bound_to)


def key_of(sealed: str) -> str:
    """The name of the key that a secret was sealed with. Raises SealBroken for what is no sealed secret."""
    return _read(sealed)[0]


def sealed_by(name: str) -> str:
    """How every secret under this key begins: for `starts_with()` in SQL."""
    return f"{_FORMAT}:{name}:"


def new_key(name: str) -> str:
    """A new random key in the form that HEADWATER_KEYRING has. Raises InvalidValue for what cannot be a name."""
    line = f"{name}:{base64.b64encode(os.urandom(KEY_BYTES)).decode()}"
    Keyring.parse(line)
    return line


@lru_cache(maxsize=8)
def _parsed(text: str) -> Keyring:
    return Keyring.parse(text)


@lru_cache(maxsize=8)
def _read_file(path: Path, _changed_ns: int, _inode: int) -> Keyring:
    return Keyring.parse(path.read_text(encoding="utf-8"))


def _read(sealed: str) -> tuple[str, bytes]:
    form, _, rest = sealed.partition(":")
    name, _, encoded = rest.partition(":")
    try:
        body = base64.b64decode(encoded.replace("-", "+").replace("_", "/") + "=" * (-len(encoded) % 4), validate=True)
    except (binascii.Error, ValueError):
        body = b""
    if form != _FORMAT or not _NAME.fullmatch(name) or len(body) < _NONCE_BYTES + _TAG_BYTES:
        raise SealBroken(
            "What is stored is not a secret that a keyring has sealed.", remedy="Seal it, or restore it from a backup."
        )
    return name, body


def _bound(name: str, bound_to: str) -> bytes:
    return f"{_FORMAT}:{name}:{bound_to}".encode()
