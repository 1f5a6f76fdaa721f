"""Exits: what a command's end means to the shell, and how an error is told: a sentence, and JSON."""

from __future__ import annotations

import json
import os
import sys
import traceback
from collections.abc import Callable
from typing import Any

import click

from headwater.kernel.errors import (
    ChecksumMismatch,
    HeadwaterError,
    InputError,
    LockNotAvailable,
    PendingMigrations,
    PoolExhausted,
    RefusedError,
    SchemaDrift,
    StatementTimeout,
    TransientError,
    Unreachable,
)

OK = 0
FAILED = 1
USAGE = 2
PENDING = 3
DRIFT = 4
UNSAFE = 5
VERIFICATION_FAILED = 6
EXHAUSTED = 7
REFUSED = 8
UNREACHABLE = 9
INTERRUPTED = 130

# The first class that fits decides; the more special come first.
_CODES: tuple[tuple[type[HeadwaterError], int], ...] = (
    (PendingMigrations, PENDING),
    (ChecksumMismatch, DRIFT),
    (SchemaDrift, DRIFT),
    (LockNotAvailable, EXHAUSTED),
    (StatementTimeout, EXHAUSTED),
    (PoolExhausted, EXHAUSTED),
    (TransientError, EXHAUSTED),
    (RefusedError, REFUSED),
    (Unreachable, UNREACHABLE),
    (InputError, USAGE),
)


_KINDS = {USAGE: "usage", UNREACHABLE: "unreachable", INTERRUPTED: "interrupted"}


class CommandError(HeadwaterError):
    """An error that arrives with its exit code: from a child process, or one that only the command line knows."""

    slug = "failed"

    def __init__(
        self, message: str, *, remedy: str = "", exit_code: int = FAILED, kind: str = "", **detail: Any
    ) -> None:
        super().__init__(message, remedy=remedy, **detail)
        self.exit_code = exit_code
        self.kind = kind or _KINDS.get(exit_code, self.slug)


def exit_code_of(error: HeadwaterError) -> int:
    """The exit code of an error."""
    if isinstance(error, CommandError):
        return error.exit_code
    return next((code for kind, code in _CODES if isinstance(error, kind)), FAILED)


def told(error: HeadwaterError) -> dict[str, Any]:
    """An error for programs."""
    kind = error.kind if isinstance(error, CommandError) else error.slug
    facts: dict[str, Any] = {"type": kind, "message": error.message}
    if error.remedy:
        facts["remedy"] = error.remedy
    if error.detail:
        facts["detail"] = error.detail
    return facts | {"exit_code": exit_code_of(error)}


def ending(run: Callable[[], object], *, as_json: bool) -> int:
    """Run a command and turn its end into an exit code. Whatever went wrong is one sentence on stderr, no traceback.

    With `as_json` the error is also one JSON object on stdout. HEADWATER_TRACEBACK=1 shows where it came from.
    """
    try:
        result = run()
    except HeadwaterError as error:
        return _failed(error, as_json)
    except click.exceptions.Exit as ended:
        return ended.exit_code
    except click.ClickException as wrong:
        context = getattr(wrong, "ctx", None)
        remedy = f"See `{context.command_path} --help`." if context is not None else ""
        code = USAGE if isinstance(wrong, click.UsageError) else FAILED
        return _failed(CommandError(wrong.format_message(), remedy=remedy, exit_code=code), as_json)
    except (KeyboardInterrupt, click.Abort):
        return _failed(CommandError("Interrupted.", exit_code=INTERRUPTED), as_json)
    except BrokenPipeError:
        # Whoever read our output has gone; Python would complain once more when it flushes on the way out.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    except Exception as unforeseen:
        return _failed(
            CommandError(
                f"This should not have happened: {type(unforeseen).__name__}: {unforeseen}",
                remedy="HEADWATER_TRACEBACK=1 shows where it came from; please report it.",
            ),
            as_json,
            cause=unforeseen,
        )
    return result if isinstance(result, int) else OK


def _failed(error: HeadwaterError, as_json: bool, *, cause: BaseException | None = None) -> int:
    if os.environ.get("HEADWATER_TRACEBACK"):
        traceback.print_exception(cause or error)
    if as_json:
        click.echo(json.dumps({"error": told(error)}, default=str))
    click.echo(f"headwater: {error}", err=True)
    return exit_code_of(error)
