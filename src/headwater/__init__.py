"""Headwater: PostgreSQL is the one truth; the cache, the documents and the feed follow its change stream."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from headwater.followers.follow import follow as follow
    from headwater.kernel.amounts import WholeNumber as WholeNumber
    from headwater.kernel.cache_policy import CachePolicy as CachePolicy
    from headwater.kernel.cached import Tag as Tag
    from headwater.kernel.cached import cached as cached
    from headwater.kernel.cached import json_of as json_of
    from headwater.kernel.changes import emit as emit
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
    "CachePolicy": "kernel.cache_policy",
    "Context": "kernel.tracking",
    "Headwater": "kernel.lifecycle",
    "Json": "kernel.rendering",
    "JsonPage": "kernel.pages",
    "Keyed": "kernel.models",
    "Model": "kernel.models",
    "Module": "kernel.module",
    "Page": "kernel.pages",
    "Repository": "kernel.repository",
    "Settings": "kernel.settings",
    "System": "kernel.module",
    "Tag": "kernel.cached",
    "Tracked": "kernel.tracking",
    "Timestamped": "kernel.models",
    "Transaction": "kernel.transaction",
    "Versioned": "kernel.models",
    "WholeNumber": "kernel.amounts",
    "cached": "kernel.cached",
    "emit": "kernel.changes",
    "follow": "followers.follow",
    "json_of": "kernel.cached",
    "orm_session": "kernel.orm",
}

__all__ = sorted(_HOMES)  # one list of public names, not two
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"headwater has no '{name}'; it has {', '.join(__all__)}.")
    value = getattr(import_module(f"headwater.{home}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
