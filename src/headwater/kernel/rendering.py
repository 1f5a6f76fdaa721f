"""Rendering: the JSON of what the service answers with, written once: by the service, or beforehand for the cache."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import msgspec

from headwater.kernel.models import Model
from headwater.kernel.pages import Page
from headwater.kernel.rows import model_of
from headwater.kernel.views import view

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Json(Generic[T]):
    """An entity or a result written already; the version is that of an entity that has one."""

    body: bytes
    version: int | None = None


class PageAnswer(msgspec.Struct, frozen=True):
    """How a page is written: its items, and the cursor of the next page or null."""

    items: list[Any]
    next: str | None


def written(value: Any) -> Json[Any]:
    """A value as it leaves the process: entities without their private columns."""
    if not isinstance(value, Model):
        return Json(encode(value))
    shown = view(model_of(value))
    version = None if shown.version_name is None else getattr(value, shown.version_name)
    return Json(encode(shown.show(value)), version)


def _encode_custom(value: Any) -> Any:
    if isinstance(value, Model):
        return view(model_of(value)).show(value)
    if isinstance(value, Page):
        return PageAnswer(list(value.items), value.next)
    if isinstance(value, tuple) and hasattr(value, "_asdict"):
        return value._asdict()
    if isinstance(value, str):  # a str subclass
        return str(value)
    as_items = getattr(value, "items", None)  # a record of a named query
    if callable(as_items):
        return dict(as_items())
    raise NotImplementedError(f"A value of type {type(value).__name__} cannot be written as JSON.")


encode = msgspec.json.Encoder(enc_hook=_encode_custom).encode
