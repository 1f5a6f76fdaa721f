"""Module and System: a module is data about itself (tables, routes, seeds, migrations); a system is a list of them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from graphlib import CycleError, TopologicalSorter
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from headwater.kernel.errors import ProgrammingError

if TYPE_CHECKING:
    from headwater.kernel.cache_policy import CachePolicy
    from headwater.kernel.models import Model
    from headwater.kernel.routes import Route
    from headwater.kernel.seeds import Sowing
    from headwater.kernel.upkeep import Upkeep

Seed = Callable[["Sowing"], Awaitable[None]]


@dataclass(frozen=True, kw_only=True)
class Module:
    """One domain: one package, one branch of migrations, the tables it owns.

    `package` is the dotted name of the package; `migrations/` inside it holds the revisions of the branch `name`.
    `depends_on` names the modules whose front door it may import and whose tables its foreign keys may point to;
    the kernel is always there. `models`, `routes`, `cache`, `upkeep` and `seed` are read from those submodules on
    first use, so that naming a module costs nothing.
    """

    name: str
    package: str
    summary: str
    depends_on: tuple[str, ...] = ()
    extras: Mapping[str, object] = field(default_factory=dict, hash=False)

    @property
    def migrations(self) -> Path:
        """The folder that holds this module's revisions."""
        origin = import_module(self.package).__file__
        assert origin is not None
        return Path(origin).parent / "migrations"

    @cached_property
    def models(self) -> tuple[type[Model], ...]:
        """The entities this module owns, in order of declaration."""
        from headwater.kernel.models import Model  # the declaration of a module must not import SQLAlchemy

        module = self._submodule("models")
        if module is None:
            return ()
        return tuple(
            value
            for value in vars(module).values()
            if isinstance(value, type)
            and issubclass(value, Model)
            and value.__module__ == module.__name__
            and "__table__" in vars(value)
        )

    @cached_property
    def routes(self) -> tuple[Route, ...]:
        """`ROUTES` of the submodule `routes`."""
        module = self._submodule("routes")
        return () if module is None else tuple(module.ROUTES)

    @cached_property
    def cache(self) -> tuple[CachePolicy, ...]:
        """`CACHE` of the submodule `cache`: how this module's rows are cached."""
        if find_spec(self.package) is None:  # asked for whenever a system is opened, also of what is only named
            return ()
        module = self._submodule("cache")
        return () if module is None else tuple(module.CACHE)

    @cached_property
    def upkeep(self) -> tuple[Upkeep, ...]:
        """`UPKEEP` of the submodule `upkeep`: what is done again and again by itself."""
        if find_spec(self.package) is None:
            return ()
        module = self._submodule("upkeep")
        return () if module is None else tuple(module.UPKEEP)

    @cached_property
    def seed(self) -> Seed | None:
        """`seed` of the submodule `seeds`: an async function of one Sowing."""
        module = self._submodule("seeds")
        return None if module is None else module.seed

    def _submodule(self, name: str) -> Any:
        full = f"{self.package}.{name}"
        try:
            return import_module(full)
        except ModuleNotFoundError as missing:
            if missing.name == full:
                return None
            raise


@dataclass(frozen=True)
class System:
    """A composition of modules. The order given does not matter; `modules` is sorted by `depends_on`."""

    name: str
    summary: str
    modules: tuple[Module, ...]

    def __init__(self, name: str, modules: Iterable[Module], summary: str = "") -> None:
        by_name: dict[str, Module] = {}
        for module in modules:
            if by_name.setdefault(module.name, module) != module:
                raise ProgrammingError(
                    f"The system '{name}' has two modules named '{module.name}'.", remedy="Rename or leave out one."
                )
        for module in by_name.values():
            for needed in module.depends_on:
                if needed not in by_name:
                    raise ProgrammingError(
                        f"The system '{name}' has the module '{module.name}', but not '{needed}', on which it depends.",
                        remedy=f"Add '{needed}' to the modules of '{name}'.",
                    )
        try:
            order = TopologicalSorter({m.name: set(m.depends_on) for m in by_name.values()}).static_order()
            ordered = tuple(by_name[n] for n in order)
        except CycleError as ring:
            raise ProgrammingError(
                f"The modules of '{name}' depend on each other in a ring: {' -> '.join(ring.args[1])}.",
                remedy="Let one of them hear of the other's changes from the change stream instead.",
            ) from None
        object.__setattr__(self, "name", name)
        object.__setattr__(self, "summary", summary)
        object.__setattr__(self, "modules", ordered)

    def __contains__(self, module_name: str) -> bool:
        return any(module.name == module_name for module in self.modules)
