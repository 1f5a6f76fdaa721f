"""Parsing: from text and JSON to the annotated types of handlers, so that nothing malformed reaches PostgreSQL.

Beyond msgspec's own checks: integers are bounded to bigint, unknown names are refused in every struct, decimals are
finite and written as text, instants carry a zone, and no text holds a NUL character, which PostgreSQL cannot store.
An integer written as `1.0` is an integer in JSON Schema; it is accepted on a second, slower path.
"""

from __future__ import annotations

import enum
import math
import re
import types
import typing
from collections.abc import Callable, Mapping
from datetime import datetime, time
from decimal import Decimal
from typing import Annotated, Any, Literal, TypeVar, Union
from urllib.parse import parse_qsl

import msgspec

from headwater.kernel.errors import ProgrammingError
from headwater.service.problems import FieldError, Refusal

S = TypeVar("S", bound=msgspec.Struct)

BIGINT_MIN, BIGINT_MAX = -(2**63), 2**63 - 1
DECIMAL_PATTERN = r"^-?[0-9]{1,28}(\.[0-9]{1,18})?$"
NO_NUL_PATTERN = r"^[^\u0000]*$"
_DECIMAL = re.compile(DECIMAL_PATTERN, re.ASCII)
_WHOLE = re.compile(r"^-?[0-9]{1,19}\.0+$", re.ASCII)
_AT = re.compile(r" - at (?:the key in )?`\$(?P<path>.*)`$")
_STEP = re.compile(r"\.([^.\[\]]+)|\[([^\]]*)\]")
_FIELD = re.compile(r"field `([^`]*)`")
_NUL = "Text cannot hold the NUL character."


class FiniteDecimal(Decimal):
    """A decimal as a body may write it: text, digits and at most one point; never NaN, Infinity or an exponent."""

    def __reduce__(self) -> Any:
        return Decimal, (str(self),)


def _decode_custom(kind: type[Any], value: Any) -> Any:
    if kind is FiniteDecimal:
        if not isinstance(value, str) or not _DECIMAL.match(value):
            raise ValueError("Expected a decimal written as text, such as '12.50'")
        return FiniteDecimal(value)
    raise NotImplementedError(f"Values of type {kind.__name__} cannot be read from a request.")


_hardened_structs: dict[type[msgspec.Struct], type[msgspec.Struct]] = {}


def hardened(kind: Any) -> Any:
    """The same type with the bounds that PostgreSQL has anyway, and unknown names refused."""
    if kind is int:
        return Annotated[int, msgspec.Meta(ge=BIGINT_MIN, le=BIGINT_MAX)]
    if kind is Decimal:
        return FiniteDecimal
    if kind in (datetime, time):
        return Annotated[kind, msgspec.Meta(tz=True)]
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        return _hardened_struct(kind)
    origin = typing.get_origin(kind)
    if origin is Annotated:
        inner, *notes = typing.get_args(kind)
        metas = [note for note in notes if isinstance(note, msgspec.Meta)]
        if inner is int:
            low = any(m.ge is not None or m.gt is not None for m in metas)
            high = any(m.le is not None or m.lt is not None for m in metas)
            if not low:
                notes.append(msgspec.Meta(ge=BIGINT_MIN))
            if not high:
                notes.append(msgspec.Meta(le=BIGINT_MAX))
        elif inner in (datetime, time):
            if not any(m.tz is not None for m in metas):
                notes.append(msgspec.Meta(tz=True))
        else:
            inner = hardened(inner)
        return Annotated[(inner, *notes)]
    if origin in (Union, types.UnionType):
        return Union[tuple(hardened(part) for part in typing.get_args(kind))]  # noqa: UP007  # built at run time
    if origin in (list, set, frozenset, tuple, dict):
        return origin[tuple(hardened(part) if part is not ... else part for part in typing.get_args(kind))]
    return kind


def _hardened_struct(struct: type[msgspec.Struct]) -> type[msgspec.Struct]:
    known = _hardened_structs.get(struct)
    if known is not None:
        return known
    fields: list[Any] = []
    for spec in msgspec.structs.fields(struct):
        kind = hardened(spec.type)
        if spec.default is not msgspec.NODEFAULT:
            fields.append((spec.name, kind, msgspec.field(default=spec.default, name=spec.encode_name)))
        elif spec.default_factory is not msgspec.NODEFAULT:
            fields.append((spec.name, kind, msgspec.field(default_factory=spec.default_factory, name=spec.encode_name)))
        else:
            fields.append((spec.name, kind, msgspec.field(name=spec.encode_name)))
    config = struct.__struct_config__
    made = msgspec.defstruct(
        struct.__name__,
        fields,
        bases=(struct,),
        forbid_unknown_fields=True,
        kw_only=True,
        frozen=config.frozen,
        tag=config.tag,
        tag_field=config.tag_field,
        module=struct.__module__,
    )
    made.__doc__ = struct.__doc__ if struct.__doc__ and not struct.__doc__.startswith(f"{struct.__name__}(") else ""
    _hardened_structs[struct] = made
    return made


def without_none(kind: Any) -> Any:
    """`X` of `X | None`."""
    if typing.get_origin(kind) in (Union, types.UnionType):
        members = [part for part in typing.get_args(kind) if part is not type(None)]
        if len(members) == 1:
            return members[0]
        return Union[tuple(members)]  # noqa: UP007  # built at run time
    return kind


def bare(kind: Any) -> Any:
    """`X` of `Annotated[X, ...]` and of `X | None`."""
    kind = without_none(kind)
    return bare(typing.get_args(kind)[0]) if typing.get_origin(kind) is Annotated else kind


TextParser = Callable[[str], Any]


def text_parser(kind: Any) -> TextParser:
    """Reads one path segment or query value. Raises msgspec.ValidationError."""
    target = hardened(without_none(kind))
    base = bare(kind)
    if base is bool:
        return _boolean
    lax = base in (int, float) or _whole_numbers(base)

    def parse(text: str) -> Any:
        if "\0" in text:
            raise msgspec.ValidationError(_NUL)
        if lax and _WHOLE.match(text):
            text = text.partition(".")[0]
        value = msgspec.convert(text, target, strict=not lax, dec_hook=_decode_custom)
        if base is float and not math.isfinite(value):
            raise msgspec.ValidationError("Expected a finite number")
        return value

    return parse


def _boolean(text: str) -> bool:
    if text == "true":
        return True
    if text == "false":
        return False
    raise msgspec.ValidationError("Expected `true` or `false`")


def _whole_numbers(base: Any) -> bool:
    if isinstance(base, type) and issubclass(base, enum.Enum):
        return all(isinstance(member.value, int) for member in base)
    return typing.get_origin(base) is Literal and all(isinstance(one, int) for one in typing.get_args(base))


class QueryReader(typing.Generic[S]):
    """Fills a Struct from the query string. A list field takes every value of its name, another at most one."""

    def __init__(self, struct: type[S]) -> None:
        self.struct = struct
        self._make: Callable[..., S] = struct
        self._parsers: dict[str, tuple[str, TextParser, bool]] = {}
        self._required: list[str] = []
        for spec in msgspec.structs.fields(struct):
            kind = without_none(spec.type)
            many = typing.get_origin(bare(kind)) is list
            if many:
                kind = typing.get_args(bare(kind))[0]
            self._parsers[spec.encode_name] = (spec.name, text_parser(kind), many)
            if spec.required:
                self._required.append(spec.encode_name)

    def __call__(self, query: bytes) -> S:
        if not query and not self._required:
            return self._make()
        try:
            pairs = parse_qsl(query.decode("ascii"), keep_blank_values=True, errors="strict", max_num_fields=200)
        except ValueError:
            raise Refusal("malformed", "The query string cannot be decoded.") from None
        values: dict[str, Any] = {}
        wrong: list[FieldError] = []
        for name, text in pairs:
            known = self._parsers.get(name)
            if known is None:
                expected = ", ".join(self._parsers)
                wrong.append(FieldError(parameter=name, detail=f"There is no such parameter; known are: {expected}."))
                continue
            attribute, parse, many = known
            try:
                value = parse(text)
            except msgspec.ValidationError as error:
                wrong.append(FieldError(parameter=name, detail=_sentence(str(error))))
                continue
            if many:
                values.setdefault(attribute, []).append(value)
            elif attribute in values:
                wrong.append(FieldError(parameter=name, detail="The parameter is given more than once."))
            else:
                values[attribute] = value
        given = {name for name, _ in pairs}
        wrong += [
            FieldError(parameter=n, detail="The parameter is required.") for n in self._required if n not in given
        ]
        if wrong:
            raise Refusal("invalid-value", "The query string has errors.", errors=list(dict.fromkeys(wrong))[:20])
        try:
            return self._make(**values)
        except (ValueError, TypeError) as error:
            raise Refusal(
                "invalid-value",
                "The query string has errors.",
                errors=[FieldError(parameter="", detail=_sentence(str(error)))],
            ) from None


def no_query(query: bytes) -> None:
    """An operation without parameters refuses every name."""
    pairs = parse_qsl(query.decode("latin-1"), keep_blank_values=True, max_num_fields=200) if query else ()
    if pairs:
        raise Refusal(
            "invalid-value",
            "The operation takes no query parameters.",
            errors=[FieldError(parameter=name, detail="There is no such parameter.") for name, _ in pairs],
        )


class BodyReader:
    """Fills the annotated type of a handler's `body` from JSON."""

    def __init__(self, kind: Any) -> None:
        self.kind = hardened(kind)
        self._struct = self.kind if isinstance(self.kind, type) and issubclass(self.kind, msgspec.Struct) else None
        try:
            self._decode = msgspec.json.Decoder(self.kind, dec_hook=_decode_custom).decode
        except TypeError as error:
            raise ProgrammingError(f"A body of type {kind} cannot be read: {error}") from None

    def __call__(self, raw: bytes) -> Any:
        try:
            value = self._decode(raw)
        except msgspec.ValidationError:
            value = self._slowly(raw)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise malformed(error) from None
        if b"\\u0000" in raw:
            self._refuse_nul(raw)
        return value

    def _slowly(self, raw: bytes) -> Any:
        """Once more, with `1.0` as an integer; then with every error of the first level named."""
        try:
            loose = _whole(msgspec.json.decode(raw))
        except msgspec.ValidationError as error:
            raise Refusal("invalid-value", "The body has errors.", errors=[_located(str(error), "")]) from None
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise malformed(error) from None
        try:
            return msgspec.convert(loose, self.kind, dec_hook=_decode_custom)
        except msgspec.ValidationError as error:
            wrong = self._each(loose) or [_located(str(error), "")]
        raise Refusal("invalid-value", "The body has errors.", errors=wrong)

    def _each(self, loose: Any) -> list[FieldError]:
        if self._struct is None or not isinstance(loose, Mapping):
            return []
        wrong: list[FieldError] = []
        specs = {spec.encode_name: spec for spec in msgspec.structs.fields(self._struct)}
        for name in loose.keys() - specs.keys() - {self._struct.__struct_config__.tag_field}:
            known = ", ".join(specs)
            wrong.append(FieldError(pointer=_pointer([name]), detail=f"There is no such field; known are: {known}."))
        for name, spec in specs.items():
            if name not in loose:
                if spec.required:
                    wrong.append(FieldError(pointer=_pointer([name]), detail="The field is required."))
                continue
            try:
                msgspec.convert(loose[name], spec.type, dec_hook=_decode_custom)
            except msgspec.ValidationError as error:
                wrong.append(_located(str(error), _pointer([name])))
        return wrong

    @staticmethod
    def _refuse_nul(raw: bytes) -> None:
        wrong = [FieldError(pointer=p, detail=_NUL) for p in _nul_pointers(msgspec.json.decode(raw), [])]
        if wrong:
            raise Refusal("invalid-value", "The body has errors.", errors=wrong)


def malformed(error: Exception) -> Refusal:
    """The refusal of a body that is not JSON."""
    said = "it is nested too deeply" if isinstance(error, RecursionError) else str(error)
    return Refusal("malformed", f"The body is not well-formed JSON: {said}.")


def refused_parameter(name: str, error: msgspec.ValidationError) -> Refusal:
    """The refusal of one malformed path parameter."""
    return Refusal(
        "invalid-value",
        f"The path parameter '{name}' is malformed.",
        errors=[FieldError(parameter=name, detail=_sentence(str(error)))],
    )


def _whole(value: Any) -> Any:
    """Floats that are whole numbers as integers, as far as a float can tell whole numbers apart."""
    if isinstance(value, float):
        return int(value) if abs(value) <= 2**53 and value.is_integer() else value
    if isinstance(value, dict):
        return {name: _whole(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [_whole(inner) for inner in value]
    return value


def _nul_pointers(value: Any, path: list[str]) -> list[str]:
    if isinstance(value, str):
        return [_pointer(path)] if "\0" in value else []
    if isinstance(value, dict):
        found = [_pointer(path) for name in value if "\0" in name]
        return found + [p for name, inner in value.items() for p in _nul_pointers(inner, [*path, name])]
    if isinstance(value, list):
        return [p for index, inner in enumerate(value) for p in _nul_pointers(inner, [*path, str(index)])]
    return []


def _located(message: str, prefix: str) -> FieldError:
    """msgspec writes `... - at `$.a[0]``; a problem says the JSON pointer `/a/0`."""
    at = _AT.search(message)
    path: list[str] = []
    if at:
        message = message[: at.start()]
        path = [name or ("" if index == "..." else index) for name, index in _STEP.findall(at["path"])]
    named = _FIELD.search(message)
    if named and message.startswith("Object"):
        path.append(named[1])
    return FieldError(pointer=prefix + _pointer(path), detail=_sentence(message))


def _pointer(path: list[str]) -> str:
    return "".join("/" + step.replace("~", "~0").replace("/", "~1") for step in path)


def _sentence(message: str) -> str:
    return message if message.endswith((".", "!")) else f"{message}."
