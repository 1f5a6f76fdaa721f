"""The keyring: what it seals only it opens, only in its place, and keys are replaced without losing anything."""

from __future__ import annotations

import base64
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headwater.kernel.errors import InvalidValue, KeyMissing, SealBroken
from headwater.kernel.keyring import KEY_BYTES, Keyring, key_of, new_key, sealed_by
from headwater.kernel.settings import Settings

OLD, NEW = new_key("2025"), new_key("2026")
PLACE = "blockchain.wallets.encrypted_private_key/abc"


@given(st.binary(max_size=300), st.text(max_size=50))
def test_a_secret_opens_in_its_place_alone(secret: bytes, place: str) -> None:
    keyring = Keyring.parse(OLD)
    sealed = keyring.seal(secret, bound_to=place)
    assert keyring.open(sealed, bound_to=place) == secret
    with pytest.raises(SealBroken, match="moved here from another row"):
        keyring.open(sealed, bound_to=place + "x")


def test_the_same_secret_is_sealed_differently_each_time() -> None:
    keyring = Keyring.parse(OLD)
    assert len({keyring.seal(b"secret", bound_to=PLACE) for _ in range(100)}) == 100


def test_a_changed_letter_is_noticed_wherever_it_is() -> None:
    keyring = Keyring.parse(f"{NEW},{OLD}")
    sealed = keyring.seal(b"a secret of some length", bound_to=PLACE)
    for at in range(len(sealed) - 1):  # the last letter has bits that stand for nothing
        for letter in "aA0:_-. é\0":
            if letter != sealed[at]:
                with pytest.raises((SealBroken, KeyMissing)):
                    keyring.open(sealed[:at] + letter + sealed[at + 1 :], bound_to=PLACE)


def test_a_seal_cannot_be_renamed_to_another_key() -> None:
    keyring = Keyring.parse(f"{NEW},{OLD.replace('2025', '2024')}")
    sealed = keyring.seal(b"x", bound_to=PLACE)
    with pytest.raises(SealBroken):
        keyring.open(sealed.replace("2026", "2024"), bound_to=PLACE)


def test_a_rotation_puts_the_new_key_first_and_drops_the_old_one_at_the_end() -> None:
    before, during, after = Keyring.parse(OLD), Keyring.parse(f"{NEW}\n{OLD}\n"), Keyring.parse(NEW)
    sealed = before.seal(b"secret", bound_to=PLACE)
    assert (key_of(sealed), during.current, during.names) == ("2025", "2026", ("2026", "2025"))
    assert during.open(sealed, bound_to=PLACE) == b"secret"
    with pytest.raises(KeyMissing, match="'2025' is not in the keyring"):
        after.open(sealed, bound_to=PLACE)
    anew = during.reseal(sealed, bound_to=PLACE)
    assert anew.startswith(sealed_by("2026"))
    assert after.open(anew, bound_to=PLACE) == b"secret"
    assert during.reseal(anew, bound_to=PLACE) == anew
    with pytest.raises(SealBroken):
        during.reseal(sealed, bound_to="elsewhere")


def test_without_a_key_nothing_is_sealed_and_the_error_says_what_to_do() -> None:
    empty = Keyring.of(Settings())
    assert empty.names == ()
    with pytest.raises(KeyMissing, match="HEADWATER_KEYRING=name:key"):
        empty.seal(b"x", bound_to=PLACE)
    with pytest.raises(KeyMissing):
        empty.open(Keyring.parse(OLD).seal(b"x", bound_to=PLACE), bound_to=PLACE)


def test_neither_keys_nor_secrets_are_shown() -> None:
    keyring = Keyring.parse(f"{NEW},{OLD}")
    assert repr(keyring) == "Keyring(2026, 2025)"
    assert OLD.partition(":")[2] not in repr(Settings(keyring=OLD))
    wrong = base64.b64encode(b"only sixteen byt").decode()
    for text in (wrong, f"name:{wrong}", f"name:{wrong[:-3]}"):
        with pytest.raises(InvalidValue) as refused:
            Keyring.parse(text)
        assert wrong[:-3] not in str(refused.value)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("bm8gbmFtZQ==", "has no name"),
        ("name:not base64", "has no name|not base64"),
        ("name:###", "not base64"),
        ("Name:" + OLD.partition(":")[2], "cannot name a key"),
        ("a:" + base64.b64encode(os.urandom(16)).decode(), "has 16 bytes, not 32"),
        (f"{OLD},{OLD}", "two keys named '2025'"),
    ],
)
def test_what_is_no_keyring_is_refused(text: str, said: str) -> None:
    with pytest.raises(InvalidValue, match=said):
        Keyring.parse(text)


@pytest.mark.parametrize(
    "text", ["", "plain text", "hw1:2025:", "hw1:2025:AAAA", "hw2:2025:" + "A" * 60, "hw1:A:" + "A" * 60]
)
def test_what_was_never_sealed_is_told_apart_from_a_wrong_key(text: str) -> None:
    with pytest.raises(SealBroken, match="not a secret that a keyring has sealed"):
        Keyring.parse(OLD).open(text, bound_to=PLACE)


def test_both_alphabets_of_base64_are_read() -> None:
    key = bytes(range(224, 256))
    assert len(key) == KEY_BYTES
    sealed = Keyring.parse("k:" + base64.b64encode(key).decode()).seal(b"x", bound_to=PLACE)
    assert Keyring.parse("k:" + base64.urlsafe_b64encode(key).decode()).open(sealed, bound_to=PLACE) == b"x"


def test_a_keyring_file_that_changes_is_read_again(tmp_path: Path) -> None:
    file = tmp_path / "keyring"
    settings = Settings(keyring_file=str(file))
    with pytest.raises(InvalidValue, match="cannot be read"):
        Keyring.of(settings)
    file.write_text(OLD)
    assert Keyring.of(settings).current == "2025"
    replacement = tmp_path / "next"
    replacement.write_text(f"{NEW}\n{OLD}\n")
    replacement.replace(file)
    assert Keyring.of(settings).names == ("2026", "2025")
    assert Keyring.of(Settings(keyring=OLD, keyring_file=str(file))).names == ("2025",)
