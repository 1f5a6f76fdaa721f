"""Translation: what asyncpg and PostgreSQL raise becomes one of our errors, by SQLSTATE and constraint, not by text."""

from __future__ import annotations

import re
from typing import Any, NoReturn

import asyncpg
from sqlalchemy import CheckConstraint, Constraint, ForeignKeyConstraint, Table, UniqueConstraint

from headwater.kernel.errors import (
    AlreadyExists,
    DeadlockDetected,
    HeadwaterError,
    InvalidValue,
    LockNotAvailable,
    MissingReference,
    ProgrammingError,
    SerializationFailure,
    StateConflict,
    StatementTimeout,
    StillReferenced,
    TransientError,
    Unreachable,
)
from headwater.kernel.models import Model

BROKEN = (
    asyncpg.PostgresConnectionError,
    asyncpg.AdminShutdownError,
    asyncpg.CrashShutdownError,
    asyncpg.CannotConnectNowError,
    asyncpg.InternalClientError,  # what the driver raises when it is told of the end between two statements
    OSError,
    EOFError,
)
"""What says that a connection is gone."""


def raise_translated(error: BaseException) -> NoReturn:
    """Raise our error for this one, caused by it; or the error itself when it is not the store's."""
    ours = translate(error)
    if ours is None or ours is error:
        raise error
    raise ours from error


def translate(error: BaseException) -> HeadwaterError | None:
    """Our error for one of the driver's or the server's, or None when it is not theirs."""
    if isinstance(error, HeadwaterError):
        return error
    if isinstance(error, asyncpg.PostgresError):
        return _by_sqlstate(error)
    if isinstance(error, asyncpg.exceptions.OutdatedSchemaCacheError):
        return TransientError(
            "The schema changed while the statement was being prepared.", remedy="Run the work again."
        )
    if isinstance(error, (asyncpg.DataError, OverflowError)) or (
        isinstance(error, asyncpg.InterfaceError) and isinstance(error, ValueError)
    ):
        return InvalidValue(
            f"A value does not fit its column: {error}.", remedy="Pass a value of the column's type and range."
        )
    if isinstance(error, asyncpg.InterfaceError):
        if "closed" in str(error):  # the driver's own message; it has no code for this
            return Unreachable("The connection to PostgreSQL is closed.", remedy="Run the work again.")
        return ProgrammingError(f"The driver refused the call: {error}.")
    if isinstance(error, BROKEN):
        return Unreachable(
            f"PostgreSQL does not answer: {error or type(error).__name__}.",
            remedy="Check that the server runs and that the DSN points to it.",
        )
    return None


def _by_sqlstate(error: Any) -> HeadwaterError:
    state: str = error.sqlstate or ""
    facts = {"sqlstate": state}
    table = _table(error)
    name = f"{error.schema_name}.{error.table_name}" if error.table_name else ""
    constraint = _constraint(table, error.constraint_name)
    if error.constraint_name:
        facts["constraint"] = error.constraint_name
    own = _own_message(table, constraint, error.constraint_name)
    if state == "23505":
        columns = _columns(constraint, table, error.constraint_name)
        what = " and ".join(columns) or "value"
        return AlreadyExists(
            own or f"{name}: this {what} is already taken.", remedy="Use another one, or update the row that has it.",
            columns=columns, **facts,
        )  # fmt: skip
    if state == "23503":
        if isinstance(constraint, ForeignKeyConstraint) and not _on_referred_side(error, constraint):
            columns = [c.name for c in constraint.columns]
            target = constraint.elements[0].target_fullname.rsplit(".", 1)[0]
            return MissingReference(
                own or f"{name}: no row of {target} has the given {' and '.join(columns)}.",
                remedy="Create it first, or refer to one that exists.", columns=columns, **facts,
            )  # fmt: skip
        return StillReferenced(
            f"The row is still referred to by {name}.", remedy="Remove or move those rows first.", **facts
        )
    if state == "23001":
        return StillReferenced(f"The row is still referred to by {name}.", remedy="Remove those rows first.", **facts)
    if state == "23502":
        return InvalidValue(
            f"{name}: '{error.column_name}' must have a value.",
            remedy="Give it one.",
            columns=[error.column_name],
            **facts,
        )
    if state == "23514":
        columns = _checked(constraint, table)
        return InvalidValue(
            own or f"{name}: the row breaks the rule '{error.constraint_name}'.",
            remedy="Correct the value.", columns=columns, **facts,
        )  # fmt: skip
    if state == "21000":
        return InvalidValue(
            "One statement names the same row twice.", remedy="Keep one entry per key in a batch.", **facts
        )
    if state == "23P01":
        return AlreadyExists(own or f"{name}: the row overlaps another one.", remedy="Change its range.", **facts)
    if state.startswith("22"):
        return InvalidValue(f"PostgreSQL refused a value: {error.args[0]}.", remedy="Correct the value.", **facts)
    if state == "40001":
        return SerializationFailure("Another transaction changed the same rows.", remedy="Run the work again.", **facts)
    if state == "40P01":
        return DeadlockDetected("Two transactions waited for each other.", remedy="Run the work again.", **facts)
    if state == "55P03":
        return LockNotAvailable("A lock was not free in time.", remedy="Run the work again.", **facts)
    if state in ("57014", "25P04"):
        return StatementTimeout(
            "PostgreSQL ended the statement: it ran longer than statement_timeout or was cancelled.",
            remedy="Narrow the query, or raise HEADWATER_STATEMENT_TIMEOUT_MS.", **facts,
        )  # fmt: skip
    if state.startswith(("08", "57P", "53")) or state in ("28P01", "28000", "3D000", "25P03"):
        return Unreachable(
            f"PostgreSQL cannot serve: {error.args[0]}.", remedy="Check the server and the DSN.", **facts
        )
    if isinstance(error, asyncpg.InvalidCachedStatementError):
        return TransientError("The table changed under a prepared statement.", remedy="Run the work again.", **facts)
    if state == "55000":  # object_not_in_prerequisite_state, which functions of ours raise for a step that is not open
        return StateConflict(str(error.args[0]) + ".", remedy=error.hint or "", **facts)
    if state == "P0001":
        return InvalidValue(own or str(error.args[0]), remedy=error.hint or "", **facts)
    if state == "25006":
        return ProgrammingError("The transaction is read only.", remedy="Open it with read_only=False.", **facts)
    if state == "25P02":
        return ProgrammingError(
            "An earlier statement failed and this transaction can only be rolled back.",
            remedy="Let the first error leave the `async with`, or wrap what may fail in tx.savepoint().", **facts,
        )  # fmt: skip
    if state == "42P01":
        return ProgrammingError(
            f"PostgreSQL: {error.args[0]}.", remedy="Run `headwater migrate`, or check the name.", **facts
        )
    return ProgrammingError(f"PostgreSQL refused the statement: {error.args[0]} (SQLSTATE {state}).", **facts)


def _table(error: Any) -> Table | None:
    if not error.table_name:
        return None
    tables = Model.metadata.tables
    found = tables.get(f"{error.schema_name}.{error.table_name}")
    return found if found is not None else tables.get(error.table_name)


def _constraint(table: Table | None, name: str | None) -> Constraint | None:
    if table is None or name is None:
        return None
    return next((c for c in table.constraints if str(c.name or "") == name), None)


def _own_message(table: Table | None, constraint: Constraint | None, name: str | None) -> str | None:
    """The message a model gives itself: `info={"message": ...}` on constraint, foreign key, index or unique column."""
    if constraint is not None and "message" in constraint.info:
        return str(constraint.info["message"])
    if isinstance(constraint, ForeignKeyConstraint):
        for element in constraint.elements:  # SQLAlchemy leaves the info of a ForeignKey(...) where it was given
            if "message" in element.info:
                return str(element.info["message"])
    if table is not None and name is not None:
        for index in table.indexes:
            if index.name == name and "message" in index.info:
                return str(index.info["message"])
        if isinstance(constraint, UniqueConstraint) and len(constraint.columns) == 1:
            message = next(iter(constraint.columns)).info.get("message")
            return None if message is None else str(message)
    return None


def _columns(constraint: Constraint | None, table: Table | None, name: str | None) -> list[str]:
    if constraint is not None:
        return [c.name for c in getattr(constraint, "columns", ())]
    if table is not None:
        for index in table.indexes:
            if index.name == name:
                return [c.name for c in index.columns]
    return []


def _checked(constraint: Constraint | None, table: Table | None) -> list[str]:
    """The columns a CHECK speaks of. SQLAlchemy does not look into one that is written as text."""
    if not isinstance(constraint, CheckConstraint) or table is None:
        return []
    words = set(re.findall(r"\w+", str(constraint.sqltext)))
    return [c.name for c in constraint.columns] or [c.name for c in table.columns if c.name in words]


_KEY_IN_DETAIL = re.compile(r"\(([^()]*)\)=\(")


def _on_referred_side(error: Any, constraint: ForeignKeyConstraint) -> bool:
    """Whether a foreign key was broken by removing the row it refers to: SQLSTATE and constraint are the same.

    The detail lists the columns of the table that was written and ends with the other table's name, in every language.
    """
    detail = error.detail or ""
    listed = _KEY_IN_DETAIL.search(detail)
    if listed is None:
        return False
    columns = [c.strip() for c in listed[1].split(",")]
    own = [c.name for c in constraint.columns]
    referred = [e.column.name for e in constraint.elements]
    if own != referred:
        return columns == referred
    tail = detail.rpartition(")")[2]
    return error.table_name in tail and constraint.referred_table.name not in tail
