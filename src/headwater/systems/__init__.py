"""Systems: compositions of modules, and how the name given on a command line becomes one."""

from __future__ import annotations

from difflib import get_close_matches
from importlib import import_module

from headwater.kernel.errors import InvalidValue
from headwater.kernel.module import System

_KNOWN = {
    "construct": ("headwater.systems.construct", "CONSTRUCT"),
    "abunfi": ("headwater.systems.abunfi", "ABUNFI"),
    "all": ("headwater.systems.everything", "EVERYTHING"),
}


def find(name: str) -> System:
    """The system of that name, or `package.module:NAME` for one of your own. InvalidValue when there is none."""
    if name in _KNOWN:
        module_name, attribute = _KNOWN[name]
    elif ":" in name:
        module_name, _, attribute = name.partition(":")
    else:
        close = get_close_matches(name, list(_KNOWN), n=1)
        hint = f"Did you mean '{close[0]}'?" if close else f"There are: {', '.join(_KNOWN)}."
        raise InvalidValue(
            f"There is no system '{name}'.", remedy=f"{hint} A system of your own is named as package.module:NAME."
        )
    try:
        module = import_module(module_name)
    except ModuleNotFoundError as missing:
        if missing.name is None or not f"{module_name}.".startswith(f"{missing.name}."):
            raise  # the module is there; something that it imports is not
        raise InvalidValue(
            f"There is no system '{name}': the module '{missing.name}' cannot be found.",
            remedy="Check the name, and that it can be imported from here (PYTHONPATH).",
        ) from None
    except ValueError:
        raise InvalidValue(f"'{name}' does not name a system.", remedy="Write package.module:NAME.") from None
    system = getattr(module, attribute, None)
    if not isinstance(system, System):
        others = [key for key, value in vars(module).items() if isinstance(value, System)]
        raise InvalidValue(
            f"'{attribute}' in '{module_name}' is not a System.",
            remedy=f"It has: {', '.join(others)}." if others else "Declare one: NAME = System(...).",
        )
    return system
