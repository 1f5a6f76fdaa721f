"""cached: results of queries and functions in the cache, valid while the rows they were made from stand still.

A result carries the stamps of its tags, taken before anything was read. A change deletes the tags it concerns, by its
old and its new values; a deleted tag gets another stamp, and a result with the old one is no result any more. So an
invalidation costs one DEL, however many results depend on it, and a result made from old rows is dead on arrival.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
import sys
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from time import monotonic
from typing import Any, Concatenate, ParamSpec, TypeVar, cast, get_type_hints

import msgspec

from headwater.kernel.cache import Cache
from headwater.kernel.cache_policy import Level
from headwater.kernel.cached_rows import HEAD, UNREACHABLE, Codec, Kind, Loaded
from headwater.kernel.errors import HeadwaterError, ProgrammingError
from headwater.kernel.models import Model
from headwater.kernel.postgres import Postgres
from headwater.kernel.rendering import Json, written
from headwater.kernel.repository import Repository
from headwater.kernel.rows import model_of, shape
from headwater.kernel.tracking import table_name
from headwater.kernel.written import tag_name

P = ParamSpec("P")
R = TypeVar("R")
S = TypeVar("S")

_TAG_MS = 24 * 3600 * 1000
_NO_SNAPSHOT = "1:1:"  # stamps say what a result has seen


class Tag:
    """Rows a result depends on: all of a table, or those with one value in a tracked column.

    `Tag(Asset)`, `Tag(Order, asset_id=asset_id)`.
    """

    __slots__ = ("name",)

    def __init__(self, model: type[Model], **column: Any) -> None:
        tracked = model.__tracked__
        keys = [c.name for c in shape(model).key_columns]
        if tracked.policy == "off" or len(column) > 1 or not set(column) <= {*tracked.tags, *keys}:
            raise ProgrammingError(
                f"A result cannot depend on {model.__name__}({', '.join(column)}): its changes do not tell of it.",
                remedy="Name one column of the key or of `__tracked__.tags`, or none.",
            )
        name, value = next(iter(column.items()), ("", None))
        self.name = tag_name(table_name(model), name, value)


def cached(
    kind: str,
    *,
    tags: Callable[..., Iterable[Tag]],
    ttl_seconds: float,
    level: Level = "bounded",
    stale_seconds: float = 0.0,
    timeless: bool = True,
) -> Callable[[Callable[Concatenate[S, P], Awaitable[R]]], Callable[Concatenate[S, P], Awaitable[R]]]:
    """Keep what an async function returns, under `{kind}:{arguments}`.

    Its first argument is a Repository or a Headwater; the others tell results apart and are given to `tags`. A call
    with `tx=` reads PostgreSQL. The return annotation says how the result is decoded: Structs, values, pages of values.
    Results that a change of the clock alone would alter do not belong here, unless their readers know how old they may
    be: such are not `timeless`, and `headwater cache verify` passes them by.
    """
    if (level not in ("bounded", "relaxed")) or (stale_seconds and level != "relaxed"):
        raise ProgrammingError(
            f"The kind '{kind}' cannot be kept at the level '{level}' with {stale_seconds:g} s of staleness.",
            remedy="Results are 'bounded', or 'relaxed' with stale_seconds.",
        )

    def decorate(function: Callable[Concatenate[S, P], Awaitable[R]]) -> Callable[Concatenate[S, P], Awaitable[R]]:
        bind = _binder(function)

        async def kept(owner: S, as_json: bool, args: Any, kwargs: Any) -> Any:
            """The result, or its Json: written beforehand where it comes from the cache."""
            cache = _cache(owner)
            if cache is None or kwargs.get("tx") is not None:
                made = await function(owner, *args, **kwargs)
                return written(made) if as_json else made
            told = bind(owner, args, kwargs)
            named = [tag.name for tag in tags(**told)]
            return await results_in(cache).find(told, named, lambda: function(owner, *args, **kwargs), as_json=as_json)

        def results_in(cache: Cache) -> _Results:
            results = cache.results.get(function)
            if results is None:
                results = cache.results[function] = _Results(
                    cache, kind, function, ttl_seconds=ttl_seconds, stale_seconds=stale_seconds
                )
            return cast(_Results, results)

        @functools.wraps(function)
        async def read(owner: S, /, *args: P.args, **kwargs: P.kwargs) -> R:
            return cast(R, await kept(owner, False, args, kwargs))

        _KEPT[read] = _Kept(function, kept, results_in, tags, timeless)
        return read

    return decorate


@dataclass(frozen=True, slots=True)
class _Kept:
    """A function whose results are kept: as it was written, how it is read, its results in a cache, its tags."""

    function: Callable[..., Any]
    read: Callable[[Any, bool, Any, Any], Awaitable[Any]]
    results_in: Callable[[Cache], _Results]
    tags: Callable[..., Iterable[Tag]]
    timeless: bool


_KEPT: dict[Any, _Kept] = {}
_WITH_JSON: set[Any] = set()
"""The functions whose results are also wanted as JSON, and kept so."""


def json_of(
    function: Callable[Concatenate[S, P], Awaitable[R]],
) -> Callable[Concatenate[S, P], Awaitable[Json[R]]]:
    """The same cached function, giving what the service would write: `order_book_json = json_of(order_book)`.

    From the cache it gives the bytes that lie there, without decoding anything.
    """
    kept = _KEPT[function]
    _WITH_JSON.add(kept.function)

    @functools.wraps(function)
    async def read(owner: S, /, *args: P.args, **kwargs: P.kwargs) -> Json[R]:
        return cast("Json[R]", await kept.read(owner, True, args, kwargs))

    read.__name__ = f"{function.__name__}_json"
    read.__doc__ = f"What `{function.__name__}` gives, as JSON."
    return read


def _binder(function: Callable[..., Any]) -> Callable[[Any, Sequence[Any], Mapping[str, Any]], dict[str, Any]]:
    """What a call says, by parameter, defaults included; without the owner and `tx`. Raises TypeError as a call would.

    `inspect.Signature.bind` costs as much as the read itself: it is asked only about calls that look wrong.
    """
    signature = inspect.signature(function)
    told = [parameter for parameter in list(signature.parameters.values())[1:] if parameter.name != "tx"]
    by_place = [parameter.name for parameter in told if parameter.kind is parameter.POSITIONAL_OR_KEYWORD]
    plain = all(parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY) for parameter in told)
    empty = {parameter.name: parameter.default for parameter in told}

    def bind(owner: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
        if plain and len(args) <= len(by_place) and kwargs.keys().isdisjoint(by_place[: len(args)]):
            given = {**empty, **dict(zip(by_place, args, strict=False)), **kwargs}
            given.pop("tx", None)
            if len(given) == len(told) and inspect.Parameter.empty not in given.values():
                return given
        bound = signature.bind(owner, *args, **kwargs)
        bound.apply_defaults()
        said = dict(list(bound.arguments.items())[1:])
        said.pop("tx", None)
        return said

    return bind


def _cache(owner: Any) -> Cache | None:
    postgres = getattr(owner, "postgres", owner)
    return postgres.cache if isinstance(postgres, Postgres) else None


class _Results(Kind):
    """The results of one function in one process."""

    def __init__(
        self, cache: Cache, kind: str, function: Callable[..., Any], *, ttl_seconds: float, stale_seconds: float
    ) -> None:
        returns = get_type_hints(function).get("return", Any)
        self._with_json = function in _WITH_JSON
        super().__init__(
            cache,
            kind,
            ttl_seconds=ttl_seconds,
            stale_seconds=stale_seconds,
            form=f"{function.__qualname__} {self._with_json} {returns!r} {_form(returns)!r}",
        )
        self._decoder = msgspec.msgpack.Decoder(returns, dec_hook=_from_bytes)
        self._encoder = msgspec.msgpack.Encoder(enc_hook=_to_bytes)
        self._loads = asyncio.Semaphore(4)
        cache.add(self)

    def decode(self, payload: bytes) -> Any:
        return self._decoder.decode(_parts(payload)[0])

    async def find(
        self, told: dict[str, Any], tags: list[bytes], make: Callable[[], Awaitable[Any]], *, as_json: bool = False
    ) -> Any:
        """The result for these arguments, or its Json."""
        cache = self.cache
        name = f"{self.name}:{':'.join(map(_spoken, told.values()))}".encode()
        if monotonic() >= cache.good_until:
            return _given(await self._direct(name, make), as_json)
        wire, stem = cache.wire, self.prefix
        try:
            raw, *stamps = await wire.send(b"MGET", name, *tags)
            for i, (tag, stamp) in enumerate(zip(tags, stamps, strict=True)):
                if stamp is None:
                    token = cache.token()
                    there = await wire.send(b"SET", tag, token, b"NX", b"GET", b"PX", _TAG_MS)
                    stamps[i] = token if there is None else there
        except UNREACHABLE:
            return _given(await self._direct(name, make), as_json)
        if not cache.believes():  # another server may have answered in between
            return _given(await self._direct(name, make), as_json)
        prefix = stem + b"".join(stamps)
        load = functools.partial(self._load, make, kept=True)
        if raw is not None and raw.startswith(prefix):
            self.figures.hits += 1
            expiry, load_seconds, length = HEAD.unpack_from(raw, len(prefix))
            if load_seconds and cache.should_refresh(expiry - time.time(), load_seconds):
                cache.refresh(self, name, prefix, _NO_SNAPSHOT.encode(), load)
            payload = raw[len(prefix) + HEAD.size + length :]
            return Json(*_parts(payload)[1:]) if as_json else self.decode(payload)
        return _given(await cache.missed(self, name, prefix, raw, load), as_json)

    async def _direct(self, name: bytes, make: Callable[[], Awaitable[Any]]) -> Any:
        self.figures.bypasses += 1
        return (await self.cache.past.load(name, functools.partial(self._load, make, kept=False))).value

    async def _load(self, make: Callable[[], Awaitable[Any]], *, kept: bool) -> Loaded:
        async with self._loads:
            value = await make()
        return Loaded(value, self._encode(value) if kept else None, _NO_SNAPSHOT)

    def _encode(self, value: Any) -> bytes | None:
        """`[result, its JSON, version]`: the one to be decoded, the other sent as it is where it is asked for."""
        try:
            json = written(value) if self._with_json else Json(b"")
            return _pack((msgspec.Raw(self._encoder.encode(value)), json.body, json.version))
        except (TypeError, OverflowError, ValueError, NotImplementedError):
            return None


class Remade:
    """The results of one function, made again to be compared with what the cache says of them."""

    def __init__(self, kept: _Kept, owner: Any, cache: Cache) -> None:
        self._kept = kept
        self._owner = owner
        self._results = kept.results_in(cache)
        hints = get_type_hints(kept.function)
        told = list(inspect.signature(kept.function).parameters)[1:]
        self._arguments = {name: hints.get(name, Any) for name in told if name != "tx"}
        self.name = self._results.name

    def name_of(self, key: str) -> bytes:
        """The Valkey key of a result."""
        return f"{self.name}:{key}".encode()

    async def differs(self, name: bytes) -> bool | None:
        """Whether a result, the same before and after it was made again, says something else than what was made.

        None when there is none that a reader would believe, or its arguments cannot be read from its name.
        """
        results = self._results
        told = self._told(name)
        if told is None:
            return None
        tags = [tag.name for tag in self._kept.tags(**told)]
        before = await results.cache.wire.send(b"MGET", name, *tags)
        raw, stamps = before[0], before[1:]
        prefix = results.prefix + b"".join(stamp or b"-" for stamp in stamps)
        if raw is None or not raw.startswith(prefix):
            return None
        try:
            made = results._encode(await self._kept.function(self._owner, **told))
        except HeadwaterError:  # what it was made from is gone, and the function says so
            made = b""
        if await results.cache.wire.send(b"MGET", name, *tags) != before:
            return False
        length = HEAD.unpack_from(raw, len(prefix))[2]
        payload = raw[len(prefix) + HEAD.size + length :]
        return made is not None and payload != made and not (made and results.decode(payload) == results.decode(made))

    def _told(self, name: bytes) -> dict[str, Any] | None:
        said = name.decode().partition(":")[2]
        spoken = said.split(":") if said else []
        if len(spoken) != len(self._arguments):
            return None
        told = {}
        for (parameter, hint), word in zip(self._arguments.items(), spoken, strict=True):
            text = word[1:].replace("%3A", ":").replace("%25", "%")
            try:
                told[parameter] = None if word == "-" else msgspec.convert(text, hint, strict=False)
            except (msgspec.ValidationError, TypeError):
                return None
            if _spoken(told[parameter]) != word:
                return None
        return told


def remade(cache: Cache, owner_of: Callable[[type[Any]], Any]) -> list[Remade]:
    """Every timeless cached method of a repository that this program knows; `owner_of` gives the one of a class."""
    found = []
    for kept in _KEPT.values():
        if not kept.timeless:
            continue
        owner: Any = sys.modules.get(kept.function.__module__)
        for step in kept.function.__qualname__.split(".")[:-1]:
            owner = getattr(owner, step, None)
        if inspect.isclass(owner) and issubclass(owner, Repository):
            found.append(Remade(kept, owner_of(owner), cache))
    return found


_pack = msgspec.msgpack.Encoder().encode
_parts = msgspec.msgpack.Decoder(tuple[msgspec.Raw, bytes, int | None]).decode


def _given(value: Any, as_json: bool) -> Any:
    return written(value) if as_json else value


_CODECS: dict[type[Model], Codec] = {}


def _codec(model: type[Model]) -> Codec:
    known = _CODECS.get(model)
    if known is None:
        known = _CODECS[model] = Codec(shape(model))
    return known


def _to_bytes(value: Any) -> Any:
    if isinstance(value, Model):
        encoded = _codec(model_of(value)).encode(value)
        if encoded is not None:
            return encoded
    raise TypeError(f"{type(value).__name__} cannot be kept in the cache")


def _from_bytes(kind: Any, stored: Any) -> Any:
    return _codec(kind).decode(stored)


def _form(returns: Any) -> Any:
    """What a result looks like, so that one made by an older program is not taken for one of this."""
    if inspect.isclass(returns) and issubclass(returns, Model):
        return [(c.name, repr(c.type)) for c in shape(returns).columns]
    if inspect.isclass(returns) and issubclass(returns, msgspec.Struct):
        return [(f.name, _form(f.type) or repr(f.type)) for f in msgspec.structs.fields(returns)]
    return [_form(argument) for argument in getattr(returns, "__args__", ())]


def _spoken(argument: Any) -> str:
    """An argument inside a key; what separates arguments is written otherwise inside one."""
    if argument is None:
        return "-"
    return "'" + str(argument).replace("%", "%25").replace(":", "%3A")
