"""Revision files: the migrations a system brings, read from its modules' folders and put in order.

They are ordinary Alembic revisions (`revision`, `down_revision`, `branch_labels`, `depends_on`, `upgrade`); Alembic's
own commands can read them too. We order them ourselves, because Alembic answers a missing module with a bare KeyError.

SQL files with the revision's number (`0003_tally.sql` beside `0003_tallies.py`) belong to it and to its checksum. Two
names of ours can be set in a file: `transactional = False` for what cannot run in a transaction (CREATE INDEX
CONCURRENTLY; such a revision must be written so that it can run again), and `lock_timeout_ms` (1,500 lets an autovacuum
that is in the way notice and yield; the default does not wait that long, because everybody else would wait too).
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from types import ModuleType
from typing import Any

from headwater.kernel.errors import MigrationError
from headwater.kernel.module import System

KERNEL = "kernel"
KERNEL_FOLDER = Path(__file__).parent / "revisions"
_REVISION_FILE = re.compile(r"(?!__|\.)[^/]*\.py\Z")


@dataclass(frozen=True, slots=True)
class Revision:
    """One file. `down` are the revisions before it on its own branch, `depends_on` those of other modules."""

    module: str
    revision: str
    name: str
    path: Path
    sha256: str
    down: tuple[str, ...]
    depends_on: tuple[str, ...]
    transactional: bool
    lock_timeout_ms: int | None
    upgrade: Callable[[], object] = field(repr=False, compare=False)

    @property
    def requires(self) -> tuple[str, ...]:
        """What must be applied before it."""
        return (*self.down, *self.depends_on)


@dataclass(frozen=True, slots=True)
class Revisions:
    """All revisions of a system: `order` is the order in which they are applied."""

    system: str
    branches: dict[str, Path]
    order: tuple[Revision, ...]

    def __getitem__(self, revision: str) -> Revision:
        return next(r for r in self.order if r.revision == revision)

    def __contains__(self, revision: object) -> bool:
        return any(r.revision == revision for r in self.order)

    def of(self, module: str) -> tuple[Revision, ...]:
        """A module's revisions in order."""
        return tuple(r for r in self.order if r.module == module)

    def heads(self, module: str) -> tuple[Revision, ...]:
        """A module's revisions that no other revision of it follows. More than one cannot be applied."""
        mine = self.of(module)
        followed = {down for r in mine for down in r.down}
        return tuple(r for r in mine if r.revision not in followed)


def branches(system: System) -> dict[str, Path]:
    """The folder of revisions of each module, the kernel's first."""
    return {KERNEL: KERNEL_FOLDER, **{module.name: module.migrations for module in system.modules}}


def read(system: System) -> Revisions:
    """Read and order every revision. MigrationError names what is wrong with which file."""
    folders = branches(system)
    found: dict[str, Revision] = {}
    for module, folder in folders.items():
        for path in _files(folder):
            revision = _read_file(module, path)
            twin = found.get(revision.revision)
            if twin is not None:
                raise MigrationError(
                    f"Two files are revision '{revision.revision}': {twin.path} and {path}.",
                    remedy="Give one of them another id.",
                )
            found[revision.revision] = revision
    _check_requirements(system, found)
    revisions = Revisions(system.name, folders, tuple(_ordered(found.values(), found)))
    for module in folders:
        heads = revisions.heads(module)
        if len(heads) > 1:
            raise MigrationError(
                f"The module '{module}' has {len(heads)} heads: {', '.join(h.revision for h in heads)}.",
                remedy="Let one of them follow the other: set its down_revision.",
            )
    return revisions


def _files(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if _REVISION_FILE.match(path.name))


def _read_file(module: str, path: Path) -> Revision:
    content = _content(path)
    checked = b"".join(_content(part) for part in (path, *_companions(path)))
    namespace = ModuleType(f"{module}_{path.stem}")
    namespace.__file__ = str(path)
    try:
        # Not imported: a stale .pyc must not run in place of the text that was hashed.
        exec(compile(content, str(path), "exec"), namespace.__dict__)  # noqa: S102
    except Exception as error:
        raise MigrationError(
            f"The revision file {path} cannot be read: {type(error).__name__}: {error}", remedy="Mend the file."
        ) from error
    identifier: Any = getattr(namespace, "revision", None)
    upgrade: Any = getattr(namespace, "upgrade", None)
    if not isinstance(identifier, str) or not callable(upgrade):
        raise MigrationError(
            f"The file {path} is not a revision: it needs 'revision = \"...\"' and a function 'upgrade'.",
            remedy="Write both, or move the file elsewhere.",
        )
    doc = (namespace.__doc__ or "").strip().split("\n")[0].rstrip(".")
    return Revision(
        module=module,
        revision=identifier,
        name=doc or path.stem,
        path=path,
        sha256=hashlib.sha256(checked).hexdigest(),
        down=_as_tuple(getattr(namespace, "down_revision", None)),
        depends_on=_as_tuple(getattr(namespace, "depends_on", None)),
        transactional=bool(getattr(namespace, "transactional", True)),
        lock_timeout_ms=getattr(namespace, "lock_timeout_ms", None),
        upgrade=upgrade,
    )


def _content(path: Path) -> bytes:
    return path.read_bytes().replace(b"\r\n", b"\n")  # a checkout with other line ends is no edit


def _companions(path: Path) -> list[Path]:
    """SQL files with the number of the revision (0003_*.sql) are part of it."""
    number = path.name.partition("_")[0]
    return sorted(path.parent.glob(f"{number}_*.sql"))


def _as_tuple(value: str | Iterable[str] | None) -> tuple[str, ...]:
    if value is None:
        return ()
    return (value,) if isinstance(value, str) else tuple(value)


def _check_requirements(system: System, found: dict[str, Revision]) -> None:
    may_need = {KERNEL: {KERNEL}}
    for module in system.modules:
        may_need[module.name] = {KERNEL, module.name}.union(*(may_need[needed] for needed in module.depends_on))
    for revision in found.values():
        for needed in revision.requires:
            if needed not in found:
                owner = needed.rpartition("_")[0]
                close = get_close_matches(needed, list(found), n=1)
                if owner and owner not in may_need:
                    remedy = f"Add the module '{owner}' to the system '{system.name}'."
                else:
                    remedy = f"Did you mean '{close[0]}'?" if close else "Restore that file."
                raise MigrationError(
                    f"The revision '{revision.revision}' of '{revision.module}' needs '{needed}', "
                    f"which no module of the system '{system.name}' has.",
                    remedy=remedy,
                    revision=revision.revision,
                    missing=needed,
                )
            owner = found[needed].module
            if owner not in may_need[revision.module]:
                raise MigrationError(
                    f"The revision '{revision.revision}' needs '{needed}' of '{owner}', "
                    f"but the module '{revision.module}' does not depend on '{owner}'.",
                    remedy=f"Add '{owner}' to depends_on of the module '{revision.module}'.",
                )


def _ordered(revisions: Iterable[Revision], found: dict[str, Revision]) -> Iterator[Revision]:
    """Depth first, in the order of modules and file names: what is needed comes before who needs it."""
    done: set[str] = set()

    def visit(revision: Revision, path: tuple[str, ...]) -> Iterator[Revision]:
        if revision.revision in done:
            return
        if revision.revision in path:
            ring = (*path[path.index(revision.revision) :], revision.revision)
            raise MigrationError(
                f"These revisions need each other in a ring: {' -> '.join(ring)}.", remedy="Cut one of the links."
            )
        for needed in revision.requires:
            yield from visit(found[needed], (*path, revision.revision))
        done.add(revision.revision)
        yield revision

    for revision in revisions:
        yield from visit(revision, ())
