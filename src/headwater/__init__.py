"""Headwater: PostgreSQL is the one truth; the cache, the documents and the feed follow its change stream."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from headwater.kernel.amounts import WholeNumber as WholeNumber
    from headwater.kernel.cache_policy import CachePolicy as CachePolicy
    from headwater.kernel.cached import Tag as Tag
    from headwater.kernel.cached import cached as cached
    from headwater.kernel.cached import json_of as json_of
    from headwater.kernel.lifecycle import Headwater as Headwater
    from headwater.kernel.models import Keyed as Keyed
    from headwater.kernel.models import Model as Model
    from headwater.kernel.models import Timestamped as Timestamped
    from headwater.kernel.models import Versioned as Versioned
    from headwater.kernel.module import Module as Module
    from headwater.kernel.module import System as System
    from headwater.kernel.orm import orm_session as orm_session
    from headwater.kernel.pages import JsonPage as JsonPage
    from headwater.kernel.pages import Page as Page
    from headwater.kernel.rendering import Json as Json
    from headwater.kernel.repository import Repository as Repository
    from headwater.kernel.settings import Settings as Settings
    from headwater.kernel.tracking import Context as Context
    from headwater.kernel.tracking import Tracked as Tracked
    from headwater.kernel.transaction import Transaction as Transaction

# Loaded when first asked for, so that `headwater --help` does not pay for SQLAlchemy.
_HOMES = {
    "CachePolicy": "cache_policy",
    "Context": "tracking",
    "Headwater": "lifecycle",
    "Json": "rendering",
    "JsonPage": "pages",
    "Keyed": "models",
    "Model": "models",
    "Module": "module",
    "Page": "pages",
    "Repository": "repository",
    "Settings": "settings",
    "System": "module",
    "Tag": "cached",
    "Tracked": "tracking",
    "Timestamped": "models",
    "Transaction": "transaction",
    "Versioned": "models",
    "WholeNumber": "amounts",
    "cached": "cached",
    "json_of": "cached",
    "orm_session": "orm",
}

__all__ = sorted(_HOMES)  # one list of public names, not two
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"headwater has no '{name}'; it has {', '.join(__all__)}.")
    value = getattr(import_module(f"headwater.kernel.{home}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
