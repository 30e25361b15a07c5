"""/docs: the description as one page without scripts, fonts or anything else from elsewhere."""

from __future__ import annotations

import html
from collections.abc import Mapping
from typing import Any

_STYLE = """
:root{color-scheme:light dark;--line:#8884;--quiet:#888}
body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem}
h1{margin-bottom:0}h2{margin-top:2.5rem;border-bottom:1px solid var(--line)}
details{border-bottom:1px solid var(--line);padding:.4rem 0}
summary{cursor:pointer}code,.m{font-family:ui-monospace,monospace;font-size:.92em}
.m{display:inline-block;min-width:4.5rem;font-weight:600}.q{color:var(--quiet)}
table{border-collapse:collapse;margin:.5rem 0;width:100%}td,th{text-align:left;vertical-align:top;padding:.15rem .6rem}
td{border-top:1px solid var(--line)}
"""

POLICY = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"


def page(described: Mapping[str, Any]) -> str:
    """HTML of an OpenAPI document."""
    schemas = described["components"]["schemas"]
    groups: dict[str, list[str]] = {}
    for path, methods in described["paths"].items():
        for method, operation in methods.items():
            groups.setdefault(operation["tags"][0], []).append(_operation(method, path, operation))
    parts = [f"<h2>{_text(name)}</h2>{''.join(entries)}" for name, entries in groups.items()]
    parts.append("<h2>Schemas</h2>" + "".join(_schema(name, schema) for name, schema in sorted(schemas.items())))
    info = described["info"]
    return (
        "<!doctype html><html lang=en><meta charset=utf-8>"
        "<meta name=viewport content='width=device-width,initial-scale=1'>"
        f"<title>{_text(info['title'])} {_text(info['version'])}</title><style>{_STYLE}</style>"
        f"<h1>{_text(info['title'])} <span class=q>{_text(info['version'])}</span></h1>"
        f"<p>{_text(info['description'])} As data: <a href=/openapi.json>/openapi.json</a>.</p>{''.join(parts)}</html>"
    )


def _operation(method: str, path: str, operation: Mapping[str, Any]) -> str:
    inside = ""
    for parameter in operation.get("parameters", []):
        inside += _row(parameter["name"], _kind(parameter["schema"]), f"in the {parameter['in']}")
    body = operation.get("requestBody", {}).get("content", {})
    for media, content in body.items():
        inside += _row("body", _kind(content["schema"]), media)
    for status, answer in operation["responses"].items():
        kinds = ", ".join(dict.fromkeys(_kind(each["schema"]) for each in answer["content"].values()))
        inside += _row(status, kinds, answer["description"])
    title = f"<span class=m>{method.upper()}</span> <code>{_text(path)}</code>"
    summary = f"<span class=q>{_text(operation['summary'])}</span>"
    return f"<details><summary>{title} {summary}</summary><table>{inside}</table></details>"


def _schema(name: str, schema: Mapping[str, Any]) -> str:
    needed = set(schema.get("required", []))
    rows = "".join(
        _row(field + ("" if field in needed else "?"), _kind(kind), kind.get("description", ""))
        for field, kind in schema.get("properties", {}).items()
    )
    values = ", ".join(map(str, schema.get("enum", [])))
    described = f"<p>{_text(schema.get('description', ''))} {_text(values)}</p>"
    title = f"<summary><code>{_text(name)}</code></summary>"
    return f"<details id='{_text(name)}'>{title}{described}<table>{rows}</table></details>"


def _row(name: str, kind: str, text: str) -> str:
    return f"<tr><td><code>{_text(name)}</code><td>{kind}<td>{_text(text)}"


def _kind(schema: Mapping[str, Any]) -> str:
    """A type in few words, as HTML."""
    if "$ref" in schema:
        name = _text(str(schema["$ref"]).rpartition("/")[2])
        return f"<a href='#{name}'>{name}</a>"
    if "anyOf" in schema:
        return " or ".join(dict.fromkeys(_kind(each) for each in schema["anyOf"]))
    if "enum" in schema:
        return _text(" | ".join(map(str, schema["enum"])))
    if schema.get("type") == "array":
        return f"list of {_kind(schema.get('items') or {})}"
    return _text(str(schema.get("type", "any")))


def _text(text: str) -> str:
    return html.escape(str(text))
