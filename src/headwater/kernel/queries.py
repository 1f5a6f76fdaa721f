"""Named queries: SQL kept as SQL in `queries.sql` beside the code that uses it, and loaded by name.

A file is a row of blocks:

    -- name: order_book
    -- The open orders of one asset, best price first.
    select ... where asset_id = :asset_id::uuid

`:name` is a parameter; the same name used twice is one value. Casts (`::type`), slices (`a[1:2]`), strings, quoted
identifiers, dollar-quoted bodies and comments are left as they are.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from importlib.resources import files

from headwater.kernel.errors import ProgrammingError

_HEADER = re.compile(r"^[ \t]*--[ \t]*name[ \t]*:[ \t]*(?P<name>.*?)[ \t]*$", re.MULTILINE)
_NAME = re.compile(r"[a-z_][a-z0-9_]*\Z")

# What a colon can be part of without being a parameter comes first, so that it is consumed whole.
_TOKEN = re.compile(
    r"""
      (?P<comment>--[^\n]*)
    | (?P<block>/\*)
    | (?P<dollar>(?<![A-Za-z0-9_$])\$(?P<tag>[A-Za-z_][A-Za-z0-9_]*)?\$)
    | (?P<escape>(?<![A-Za-z0-9_])[eE]'(?:[^'\\]|\\.|'')*')
    | (?P<string>'(?:[^']|'')*')
    | (?P<identifier>"(?:[^"]|"")*")
    | (?P<cast>::|:=)
    | (?P<parameter>(?<![A-Za-z0-9_\])]):(?P<name>[A-Za-z_][A-Za-z0-9_]*))
    """,
    re.VERBOSE | re.DOTALL,
)


@dataclass(frozen=True, slots=True)
class NamedQuery:
    """One statement. `sql` has `$n` where `parameters[n - 1]` goes; `doc` is the comment under its name."""

    name: str
    sql: str
    parameters: tuple[str, ...]
    source: str
    doc: str

    def arguments(self, values: Mapping[str, object]) -> list[object]:
        """The values in the order of `$1, $2, ...`. A missing or unknown name is a ProgrammingError."""
        if len(values) == len(self.parameters):
            try:
                return [values[name] for name in self.parameters]
            except KeyError:
                pass
        missing = [name for name in self.parameters if name not in values]
        unknown = [name for name in values if name not in self.parameters]
        faults = [f"it lacks {', '.join(repr(n) for n in missing)}"] if missing else []
        if unknown:
            faults.append(f"it has no parameter {', '.join(repr(n) for n in unknown)}")
        raise ProgrammingError(
            f"The query '{self.name}' was called wrongly: {', and '.join(faults)}.",
            remedy=_did_you_mean(unknown[0], missing or self.parameters)
            if unknown
            else "Give every parameter by name.",
        )


class Queries(Mapping[str, NamedQuery]):
    """The named queries of one file."""

    def __init__(self, queries: Mapping[str, NamedQuery], source: str) -> None:
        self._queries = dict(queries)
        self.source = source

    @classmethod
    def load(cls, package: str | None, filename: str = "queries.sql") -> Queries:
        """Read `filename` beside the package: `QUERIES = Queries.load(__package__)`."""
        if not package:
            raise ProgrammingError("Queries.load needs the dotted name of a package.", remedy="Pass __package__.")
        resource = files(package) / filename
        source = f"{package}/{filename}"
        try:
            text = resource.read_text(encoding="utf-8")
        except FileNotFoundError:
            raise ProgrammingError(
                f"The package '{package}' has no file '{filename}'.", remedy="Create it, or load another file name."
            ) from None
        return cls.parse(text, source)

    @classmethod
    def parse(cls, text: str, source: str = "<text>") -> Queries:
        """The queries in `text`; `source` names it in errors."""
        headers = list(_HEADER.finditer(text))
        before = text[: headers[0].start()] if headers else text
        if _without_comments(before).strip():
            raise ProgrammingError(
                f"{source}: there is SQL before the first '-- name:' line.", remedy="Give each statement a name."
            )
        found: dict[str, NamedQuery] = {}
        ends = [h.start() for h in headers[1:]] + [len(text)]
        for header, end in zip(headers, ends, strict=True):
            name = header["name"]
            if not _NAME.match(name):
                raise ProgrammingError(
                    f"{source}: '{name}' cannot name a query.", remedy="Use lower case letters, digits and underscores."
                )
            if name in found:
                raise ProgrammingError(f"{source}: two queries are named '{name}'.", remedy="Rename one of them.")
            found[name] = _parse_block(name, text[header.end() : end], source)
        return cls(found, source)

    def __getitem__(self, name: str) -> NamedQuery:
        try:
            return self._queries[name]
        except KeyError:
            raise ProgrammingError(
                f"{self.source} has no query named '{name}'.", remedy=_did_you_mean(name, self._queries)
            ) from None

    def __contains__(self, name: object) -> bool:
        return name in self._queries

    def __iter__(self) -> Iterator[str]:
        return iter(self._queries)

    def __len__(self) -> int:
        return len(self._queries)


def _parse_block(name: str, block: str, source: str) -> NamedQuery:
    lines = block.strip("\n").split("\n")
    doc: list[str] = []
    while lines and (lines[0].strip().startswith("--") or not lines[0].strip()):
        doc.append(lines.pop(0).strip().removeprefix("--").strip())
    sql, parameters = _number("\n".join(lines), name, source)
    sql = sql.strip()
    bare = _without_comments(sql).rstrip()
    if bare.endswith(";") and sql.endswith(";"):
        sql = sql[:-1].rstrip()
        bare = bare[:-1]
    if not bare.strip():
        raise ProgrammingError(f"{source}: the query '{name}' has no SQL.", remedy="Write it, or remove its name.")
    return NamedQuery(name=name, sql=sql, parameters=parameters, source=source, doc="\n".join(doc).strip())


def _number(sql: str, name: str, source: str) -> tuple[str, tuple[str, ...]]:
    """Replace each `:parameter` by its `$n`."""
    numbers: dict[str, int] = {}
    out: list[str] = []
    for token, kind in _tokens(sql, name, source):
        if kind == "parameter":
            number = numbers.setdefault(token[1:], len(numbers) + 1)
            out.append(f"${number}")
        else:
            out.append(token)
    return "".join(out), tuple(numbers)


def _without_comments(sql: str) -> str:
    return "".join(token for token, kind in _tokens(sql, "", "") if kind != "comment")


def _tokens(sql: str, name: str, source: str) -> Iterator[tuple[str, str]]:
    """Split into (text, kind): kind is "parameter", "comment", or "sql" for what stays as it is."""
    at = 0
    while at < len(sql):
        match = _TOKEN.search(sql, at)
        if match is None:
            yield sql[at:], "sql"
            return
        if match.start() > at:
            yield sql[at : match.start()], "sql"
        end, kind = match.end(), "sql"
        if match["comment"] is not None:
            kind = "comment"
        elif match["block"] is not None:
            end, kind = _end_of_block_comment(sql, match.start(), name, source), "comment"
        elif match["dollar"] is not None:
            closing = sql.find(match["dollar"], match.end())
            if closing < 0:
                raise ProgrammingError(f"{source}: in '{name}' the {match['dollar']} is never closed.")
            end = closing + len(match["dollar"])
        elif match["parameter"] is not None:
            kind = "parameter"
        yield sql[match.start() : end], kind
        at = end


def _end_of_block_comment(sql: str, start: int, name: str, source: str) -> int:
    """PostgreSQL nests block comments."""
    depth, at = 0, start
    while at < len(sql):
        if sql.startswith("/*", at):
            depth, at = depth + 1, at + 2
        elif sql.startswith("*/", at):
            depth, at = depth - 1, at + 2
            if depth == 0:
                return at
        else:
            at += 1
    raise ProgrammingError(f"{source}: in '{name}' a comment that begins with /* is never closed.")


def _did_you_mean(name: str, known: Mapping[str, object] | tuple[str, ...] | list[str]) -> str:
    close = get_close_matches(name, list(known), n=1)
    if close:
        return f"Did you mean '{close[0]}'?"
    return f"There are: {', '.join(known)}." if known else "There are none."
