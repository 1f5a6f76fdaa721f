"""Exits: each error has its code; it is told in a sentence, and in JSON."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from headwater.cli import exits
from headwater.kernel import errors


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errors.HeadwaterError("x"), 1),
        (errors.ProgrammingError("x"), 1),
        (errors.InvalidValue("x"), 2),
        (errors.PendingMigrations("x"), 3),
        (errors.ChecksumMismatch("x"), 4),
        (errors.SchemaDrift("x"), 4),
        (errors.LockNotAvailable("x"), 7),
        (errors.StatementTimeout("x"), 7),
        (errors.RefusedError("x"), 8),
        (errors.Unreachable("x"), 9),
        (exits.CommandError("x", exit_code=6), 6),
    ],
    ids=lambda given: type(given).__name__ if isinstance(given, Exception) else str(given),
)
def test_each_error_has_its_exit_code(error: errors.HeadwaterError, code: int) -> None:
    assert exits.exit_code_of(error) == code


def failing(error: BaseException) -> Callable[[], object]:
    def run() -> object:
        raise error

    return run


def test_an_error_is_one_sentence_and_with_json_one_object(capsys: pytest.CaptureFixture[str]) -> None:
    error = errors.RefusedError("It would do harm.", remedy="Do not.", table="users")
    assert exits.ending(failing(error), as_json=True) == 8
    out, err = capsys.readouterr()
    assert json.loads(out) == {
        "error": {
            "type": "refused",
            "message": "It would do harm.",
            "remedy": "Do not.",
            "detail": {"table": "users"},
            "exit_code": 8,
        }
    }
    assert err == "headwater: It would do harm. Do not.\n"


def test_what_nobody_foresaw_is_told_without_a_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    assert exits.ending(failing(KeyError("odd")), as_json=False) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert "KeyError" in err
    assert "Traceback" not in err


def test_an_interrupted_command_ends_with_130(capsys: pytest.CaptureFixture[str]) -> None:
    assert exits.ending(failing(KeyboardInterrupt()), as_json=False) == 130
    assert "Interrupted" in capsys.readouterr().err
