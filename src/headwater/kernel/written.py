"""Written: what a transaction has written, as far as the cache is concerned: cached rows, and the tags of results."""

from __future__ import annotations

import enum
from collections.abc import Container, Mapping, Sequence
from typing import TYPE_CHECKING, Any
from uuid import UUID

from headwater.kernel.models import Model
from headwater.kernel.rows import shape
from headwater.kernel.tracking import table_name

if TYPE_CHECKING:
    from headwater.kernel.cache import Cache
    from headwater.kernel.cache_policy import CachePolicy
    from headwater.kernel.cached_rows import Entity

CHANGES_MAX = 1_000
"""More than these are not told one by one."""
_TAG_LENGTH_MAX = 128
_CAPTURED = """SELECT "table", op::text, key, new, old FROM headwater.change
WHERE id > $1 AND xid = pg_current_xact_id_if_assigned() LIMIT $2"""

Said = Mapping[str, Any] | None
"""A row's key, its new or its old values, as a change tells them."""


class Written:
    """Rows by their kind and key, and tags."""

    __slots__ = ("_cache", "rows", "tags")

    def __init__(self, cache: Cache) -> None:
        self._cache = cache
        self.rows: set[tuple[Entity, Any]] = set()
        self.tags: set[bytes] = set()

    def __bool__(self) -> bool:
        return bool(self.rows or self.tags)

    def add_values(self, model: type[Model], values: Sequence[Any]) -> None:
        """What a verb has written concerns: the row, and the lists it was and is in."""
        tracked = model.__tracked__
        if tracked.policy == "off":
            return
        known, entity = shape(model), self._cache.entities.get(model)
        table = table_name(model)
        self.tags.add(tag_name(table))
        columns = [known.table.columns[name] for name in tracked.tags]
        for value in values:
            if entity is not None:
                self.rows.add((entity, known.key_of(value)))
            for column in (*known.key_columns, *columns):
                self.tags.add(tag_name(table, column.name, getattr(value, known.name_of[column])))

    async def add_captured(self, connection: Any) -> bool:
        """Add what was written past the verbs, as the change stream captured it. False: it cannot be told by keys."""
        rows = await connection.fetch(_CAPTURED, self._cache.changes_from, CHANGES_MAX + 1)
        for row in rows:
            self.add_change(row["table"], row["key"], row["new"], row["old"])
        return len(rows) <= CHANGES_MAX and not any(row["op"] == "t" for row in rows)

    def add_change(self, table: str, key: Said, new: Said, old: Said) -> None:
        """What a captured change concerns."""
        for entity, column in self._cache.told_by.get(table, ()):
            for said in (key, new, old):
                if said is not None and said.get(column) is not None:
                    self.rows.add((entity, entity._key_type(str(said[column]))))
                    self.tags.update(tags_of_row(entity.policy, said[column]))
        self.tags.update(tags_of(table, key, new, old))


def tags_of(table: str, key: Said, new: Said, old: Said, columns: Container[str] | None = None) -> set[bytes]:
    """The tags a change concerns: its table, and each column of its key and of its old and new tag values.

    `columns` are those by which results may depend on the table (Tag takes no others); None: not known here.
    """
    found = {tag_name(table)}
    for said in (key, new, old):
        for column, value in (said if isinstance(said, dict) else {}).items():
            if isinstance(value, (str, int)) and (columns is None or column in columns):
                found.add(tag_name(table, column, value))
    return found


def tag_name(table: str, column: str = "", value: Any = None) -> bytes:
    """The Valkey key of a tag. A value that a change may tell otherwise (null, a time, a long text) means the table."""
    plain = value.value if isinstance(value, enum.Enum) else value
    if not column or not isinstance(plain, (str, int, UUID)) or len(spoken := json_text(plain)) > _TAG_LENGTH_MAX:
        return f"tag:{table}".encode()
    return f"tag:{table}:{column}={spoken}".encode()


def columns_that_tell(policy: CachePolicy) -> list[tuple[str, str]]:
    """The table and column of each change that concerns rows of a kind: its own key, and what its policy adds."""
    own = (table_name(policy.model), shape(policy.model).key_columns[0].name)
    others = [name.rpartition(".")[::2] for name in policy.told_by]
    return [own, *((table, column) for table, column in others)]


def tags_of_row(policy: CachePolicy, key: Any) -> set[bytes]:
    """The tags of a row of a kind, whatever table told of its change."""
    table = table_name(policy.model)
    return {tag_name(table), tag_name(table, shape(policy.model).key_columns[0].name, key)}


def json_text(value: Any) -> str:
    """A value as jsonb would show it without quotes."""
    return str(value).lower() if isinstance(value, bool) else str(value)
