"""Answers: from what a handler returns to bytes and headers: views, pages with `Link`, ETags and 304, Location."""

from __future__ import annotations

import types
import typing
from collections.abc import Callable
from hashlib import sha256
from typing import Any, NamedTuple, Union
from urllib.parse import quote

import msgspec

from headwater.kernel.models import Model
from headwater.kernel.pages import JsonPage, Page
from headwater.kernel.rendering import Json, PageAnswer, encode
from headwater.kernel.views import view

JSON = (b"content-type", b"application/json")
PROBLEM_JSON = (b"content-type", b"application/problem+json")


class Answer(NamedTuple):
    """What goes back to the client."""

    status: int
    headers: list[tuple[bytes, bytes]]
    body: bytes


def shown_type(annotation: Any) -> Any:
    """The annotation with models replaced by their views and pages by their written form, for schemas and encoders."""
    if isinstance(annotation, type) and issubclass(annotation, Model):
        return view(annotation).struct
    origin = typing.get_origin(annotation)
    if origin in (Page, JsonPage):
        (item,) = typing.get_args(annotation)
        return _page_struct(shown_type(item))
    if origin is Json:
        return shown_type(typing.get_args(annotation)[0])
    if origin in (Union, types.UnionType):
        return Union[tuple(shown_type(part) for part in typing.get_args(annotation))]  # noqa: UP007  # at run time
    if origin in (list, tuple, dict):
        return origin[tuple(shown_type(p) if p is not ... else p for p in typing.get_args(annotation))]
    return annotation


_pages: dict[Any, type[msgspec.Struct]] = {}


def _page_struct(item: Any) -> type[msgspec.Struct]:
    known = _pages.get(item)
    if known is None:
        name = getattr(item, "__name__", "Item")
        known = _pages[item] = msgspec.defstruct(
            f"{name}Page",
            [("items", list[item]), ("next", str | None)],
            module=getattr(item, "__module__", __name__),
        )
        known.__doc__ = "A page: `items`, and `next`, the cursor of the page after it, or null at the end."
    return known


Render = Callable[[Any], tuple[bytes, bytes | None]]
"""From a handler's result to the body and, for a versioned entity, its ETag."""


def renderer(annotation: Any) -> Render:
    """How results of this return annotation are written."""
    if isinstance(annotation, type) and issubclass(annotation, Model):
        show, tag_of_value = view(annotation).show, _tagger(annotation)
        return lambda value: (encode(show(value)), tag_of_value(value))
    origin = typing.get_origin(annotation)
    arguments = typing.get_args(annotation)
    if origin is Json:
        tag_of = _tagger(arguments[0])
        return lambda json: (json.body, tag_of(json))
    if origin is Page and isinstance(arguments[0], type) and issubclass(arguments[0], Model):
        show_item = view(arguments[0]).show
        return lambda page: (encode(PageAnswer([show_item(item) for item in page.items], page.next)), None)
    if origin is JsonPage:
        return lambda page: (b'{"items":%s,"next":%s}' % (page.items, encode(page.next)), None)
    if origin is list and isinstance(arguments[0], type) and issubclass(arguments[0], Model):
        show_one = view(arguments[0]).show
        return lambda values: (encode([show_one(value) for value in values]), None)
    return lambda value: (encode(value), None)


def _tagger(annotation: Any) -> Callable[[Any], bytes | None]:
    """From an entity, or its Json, to its ETag; None for what has no version."""
    if not (isinstance(annotation, type) and issubclass(annotation, Model)) or view(annotation).version_name is None:
        return lambda _: None
    tag = f'"%d-{view(annotation).fingerprint}"'
    return lambda value: (tag % value.version).encode()


def body_tag(body: bytes) -> bytes:
    """The strong ETag of a representation that has no version: a hash of its bytes."""
    return b'"%s"' % sha256(body).hexdigest()[:24].encode()  # in hardware: half the time of blake2b for a page


def matches(header: bytes, tag: bytes) -> bool:
    """Whether an If-None-Match header names this tag: `*`, one of a list, weak tags compared weakly."""
    if header == tag:
        return True
    if header.strip() == b"*":
        return True
    return any(one.strip().removeprefix(b"W/") == tag for one in header.split(b","))


def next_link(prefix: str, path: str, query: bytes, cursor: str) -> tuple[bytes, bytes]:
    """The Link header that leads to the next page."""
    kept = [part for part in query.decode("latin-1").split("&") if part and part.partition("=")[0] != "cursor"]
    kept.append(f"cursor={quote(cursor, safe='')}")
    target = f"{prefix}{quote(path, safe='/:@')}?{'&'.join(kept)}"
    return b"link", f'<{target}>; rel="next"'.encode("latin-1")
