"""Docs: the operations as one page of plain HTML, made from the OpenAPI document. No script, nothing from elsewhere."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterator
from html import escape
from typing import Any

import msgspec

from headwater.service.problems import KINDS, Kind

_STYLE = """
body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;color:#1d2733;background:#fff}
h1,h2{line-height:1.2}h2{margin-top:2.5rem;border-bottom:1px solid #d5dce4}
details{border:1px solid #d5dce4;border-radius:6px;margin:.5rem 0;padding:.4rem .8rem}summary{cursor:pointer}
code,pre{font:14px/1.45 ui-monospace,monospace}pre{background:#f4f6f8;padding:.8rem;overflow:auto;border-radius:6px}
table{border-collapse:collapse}td,th{text-align:left;padding:.15rem 1rem .15rem 0;vertical-align:top}
.method{display:inline-block;min-width:4.5rem;font-weight:700}
"""
STYLE_HASH = f"sha256-{base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()}"


def _document(title: str, body: str) -> str:
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>{escape(title)}</title><style>{_STYLE}</style></head><body>{body}</body></html>"
    )


def operations_page(document: dict[str, Any]) -> str:
    """Every operation with its parameters, examples and answers."""
    by_tag: dict[str, list[str]] = {}
    for path, item in document["paths"].items():
        for method, operation in item.items():
            tag = operation.get("tags", ["service"])[0]
            by_tag.setdefault(tag, []).append("".join(_operation(method.upper(), path, operation)))
    info = document["info"]
    parts = [
        f"<h1>{escape(info['title'])}</h1><p>{escape(info['description'])}</p>",
        '<p>Machine-readable: <a href="/openapi.json">/openapi.json</a>; for generators of clients, with cursors and '
        'If-Match as parameters: <a href="/openapi.json?for=clients">/openapi.json?for=clients</a></p>',
    ]
    parts += [f"<h2>{escape(tag)}</h2>{''.join(operations)}" for tag, operations in by_tag.items()]
    rows = "".join(
        f'<tr><td><a href="{kind.type}">{escape(kind.slug)}</a></td><td>{kind.status}</td>'
        f"<td>{escape(kind.title)}</td></tr>"
        for kind in KINDS.values()
    )
    parts.append(f"<h2>Problems</h2><table><tr><th>type</th><th>status</th><th>title</th></tr>{rows}</table>")
    return _document(info["title"], "".join(parts))


def problem_page(kind: Kind) -> str:
    """What one type of problem means and what to do about it."""
    return _document(
        kind.title,
        f"<h1>{escape(kind.title)}</h1><p><code>{escape(kind.type)}</code>, status {kind.status}</p>"
        f"<p>{escape(kind.meaning)}</p><h2>What to do</h2><p>{escape(kind.remedy)}</p>",
    )


def _operation(method: str, path: str, operation: dict[str, Any]) -> Iterator[str]:
    yield f'<details><summary><span class="method">{method}</span> <code>{escape(path)}</code> '
    yield f"{escape(operation['summary'])}</summary><p>{escape(operation.get('description', ''))}</p>"
    if operation.get("parameters"):
        yield "<table><tr><th>parameter</th><th>in</th><th></th></tr>"
        for parameter in operation["parameters"]:
            said = parameter.get("description", "")
            yield f"<tr><td><code>{escape(parameter['name'])}</code></td><td>{parameter['in']}</td>"
            yield f"<td>{escape(said)}</td></tr>"
        yield "</table>"
    for issued in operation.get("x-issued-parameters", ()):
        yield f"<p>Also takes: <code>{escape(issued['$ref'].rpartition('/')[2])}</code>, issued by the service.</p>"
    for media in operation.get("requestBody", {}).get("content", {}).values():
        if "example" in media:
            yield f"<p>Body</p><pre>{_pretty(media['example'])}</pre>"
        break
    yield "<table><tr><th>status</th><th></th></tr>"
    for status, response in operation["responses"].items():
        yield f"<tr><td>{status}</td><td>{escape(response['description'])}</td></tr>"
    yield "</table>"
    for status, response in operation["responses"].items():
        example = response.get("content", {}).get("application/json", {}).get("example")
        if status.startswith("2") and example is not None:
            yield f"<p>Answer</p><pre>{_pretty(example)}</pre>"
    yield "</details>"


def _pretty(value: Any) -> str:
    return escape(msgspec.json.format(msgspec.json.encode(value), indent=2).decode())
