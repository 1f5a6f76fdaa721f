"""Tracking: which tables the change stream captures, and in whose name a transaction changes them.

A model says it with one line, `__tracked__ = Tracked("full")`; a revision carries it into the database by
`SELECT headwater.track(...)`, which `headwater migrate --new` writes. From then on every writer is captured, with or
without Headwater.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from headwater.kernel.errors import ProgrammingError

if TYPE_CHECKING:
    from sqlalchemy import Table

    from headwater.kernel.models import Model

_encode = msgspec.json.Encoder().encode


@dataclass(frozen=True, slots=True)
class Tracked:
    """What the change stream holds of a table.

    `full`: the row before and after each change, without its private columns. `keys`: the key and the `tags` only.
    `off`: nothing. `tags` are columns by whose values, old and new, a follower finds what a change concerns.
    `writes_more` says that triggers of the table change rows of other tracked tables: what a verb has written is then
    read from the stream before COMMIT, so that strict rows among them are marked too.
    """

    policy: Literal["full", "keys", "off"] = "full"
    tags: tuple[str, ...] = ()
    writes_more: bool = False

    def __post_init__(self) -> None:
        if self.policy not in ("full", "keys", "off"):
            raise ProgrammingError(
                f"There is no tracking policy '{self.policy}'.", remedy="Use 'full', 'keys' or 'off'."
            )


@dataclass(frozen=True, slots=True)
class Context:
    """In whose name something is changed: it stands on each change of the transaction."""

    actor: str | None = None
    request: str | None = None
    reason: str | None = None

    def as_json(self) -> str:
        """What the transaction carries; parts that are not known are left out."""
        known = {"actor": self.actor, "request": self.request, "reason": self.reason}
        return _encode({name: value for name, value in known.items() if value is not None}).decode()


@dataclass(frozen=True, slots=True)
class TrackedTable:
    """A table as the database tracks it. `name` has its schema."""

    name: str
    policy: str
    keys: tuple[str, ...]
    tags: tuple[str, ...]
    private: tuple[str, ...]


def table_name(table: str | type[Model]) -> str:
    """The name of a table as the stream tells it: with its schema."""
    if isinstance(table, str):
        return table
    known: Any = table.__table__
    return f"{known.schema or 'public'}.{known.name}"


def tracked_table(model: type[Model]) -> TrackedTable | None:
    """What a model declares, in the words of the database; None when it is not tracked.

    Raises ProgrammingError for a tag that is no column.
    """
    declared: Any = getattr(model, "__tracked__", None)
    if declared is None or declared.policy == "off":
        return None
    table: Table = model.__table__  # type: ignore[assignment]  # a mapped class has a Table
    unknown = [name for name in declared.tags if name not in table.columns]
    if unknown:
        raise ProgrammingError(
            f"{table.fullname} is tracked by {', '.join(unknown)}, which it does not have.",
            remedy="Name columns of the table in `__tracked__`.",
        )
    return TrackedTable(
        name=table_name(model),
        policy=declared.policy,
        keys=tuple(column.name for column in table.primary_key.columns),
        tags=tuple(declared.tags),
        private=tuple(column.name for column in table.columns if column.info.get("private")),
    )


def call_to_track(table: TrackedTable) -> str:
    """The statement of a revision that makes it so."""
    words = [_literal(table.name), _literal(table.policy)]
    if table.tags or table.private:
        words.append(_literal("{" + ",".join(table.tags) + "}"))
    if table.private:
        words.append(_literal("{" + ",".join(table.private) + "}"))
    return f"select headwater.track({', '.join(words)})"


def call_to_untrack(name: str) -> str:
    """The statement of a revision that ends it."""
    return f"select headwater.untrack({_literal(name)})"


def _literal(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"
