"""CachePolicy: what a module says of a kind of cached rows, in its `cache.py`: `CACHE = (CachePolicy(...), ...)`.

Levels, from the strongest: `snapshot` (strict, and rows read together are of one moment), `strict` (no row older than a
commit that a library writer has been told of), `bounded` (the default: coherent, at most a second old whatever fails),
`relaxed` (an old value may be served while a new one is loaded). docs/why/cache.md says what bounds each.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from headwater.kernel.errors import ProgrammingError

if TYPE_CHECKING:
    from headwater.kernel.models import Model

Level = Literal["snapshot", "strict", "bounded", "relaxed"]


@dataclass(frozen=True, slots=True, kw_only=True)
class CachePolicy:
    """How the rows of one entity are cached, under `{kind}:{key}`.

    `ttl_seconds` bounds memory, not age. `near` is how many values each process keeps itself; strict and snapshot
    kinds have no near cache, since an invalidation needs a moment to reach it. `stale_seconds` is how long after its
    time a relaxed value may still be served. With `json` an entry also holds the row's JSON, as the service writes it
    and without its private columns: `get_json` gives these bytes as they are. `told_by` names columns of other tracked
    tables, `schema.table.column`, that hold keys of this entity: a change there is one of the entity too, so that a row
    which changes with every row of a history (a balance) need not be told of twice.
    """

    kind: str
    model: type[Model]
    ttl_seconds: float = 300.0
    level: Level = "bounded"
    near: int = 0
    json: bool = False
    stale_seconds: float = 0.0
    told_by: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.level not in ("snapshot", "strict", "bounded", "relaxed"):
            raise ProgrammingError(
                f"There is no consistency level '{self.level}'.",
                remedy="Choose 'snapshot', 'strict', 'bounded' or 'relaxed'.",
            )
        if self.near and self.level in ("snapshot", "strict"):
            raise ProgrammingError(
                f"The kind '{self.kind}' is {self.level} and has a near cache.",
                remedy="A near cache hears of changes a moment later: use level='bounded', or near=0.",
            )
        if self.stale_seconds and self.level != "relaxed":
            raise ProgrammingError(
                f"The kind '{self.kind}' may be served stale but is {self.level}.", remedy="Use level='relaxed'."
            )
