"""What may be asked of a JSON schema: checked and put into the form that the compiler enforces. Pure.

A schema comes from outside, so it is checked for size, depth, types of keywords and references before
any compiler sees it. `strict` schemas may only say what is enforced exactly; others are enforced as far as possible.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

from fcd.errors import ApiError, invalid

MAX_BYTES: Final = 256 * 1024
MAX_NODES: Final = 5_000
MAX_DEPTH: Final = 32
MAX_ENUM: Final = 1_000

TYPES: Final = ("object", "array", "string", "integer", "number", "boolean", "null")

_MAPS: Final = ("properties", "patternProperties", "$defs", "definitions", "dependentSchemas")
_LISTS: Final = ("allOf", "anyOf", "oneOf", "prefixItems")
_SINGLES: Final = (
    "items",
    "additionalProperties",
    "propertyNames",
    "not",
    "if",
    "then",
    "else",
    "contains",
    "unevaluatedItems",
    "unevaluatedProperties",
)
_UNENFORCED: Final = (
    "not",
    "if",
    "then",
    "else",
    "dependentRequired",
    "dependentSchemas",
    "dependencies",
    "contains",
    "minContains",
    "maxContains",
    "uniqueItems",
)
"""Keywords that no context-free grammar here stands for."""
_REFERENCES: Final = ("$dynamicRef", "$recursiveRef")
_ANNOTATIONS: Final = frozenset(
    {
        "$schema",
        "$id",
        "$comment",
        "$defs",
        "definitions",
        "title",
        "description",
        "default",
        "examples",
        "example",
        "deprecated",
        "readOnly",
        "writeOnly",
        "discriminator",
        "nullable",
    }
)
_KIND_OF: Final[dict[str, tuple[str, ...]]] = {
    "number": ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"),
    "string": ("minLength", "maxLength", "pattern", "format"),
    "array": ("items", "prefixItems", "minItems", "maxItems"),
    "object": ("properties", "required", "additionalProperties", "patternProperties", "minProperties", "maxProperties"),
}


def _is_count(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and value >= 0 and value == int(value)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_names(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(name, str) for name in value)


_KEYWORDS: Final[dict[str, tuple[Callable[[Any], bool], str]]] = {
    **dict.fromkeys(_MAPS, (lambda v: isinstance(v, dict), "an object")),
    **dict.fromkeys(_LISTS, (lambda v: isinstance(v, list) and bool(v), "a list that is not empty")),
    **dict.fromkeys(
        ("minLength", "maxLength", "minItems", "maxItems", "minProperties", "maxProperties"),
        (_is_count, "a whole number, 0 or more"),
    ),
    **dict.fromkeys(("minimum", "maximum"), (_is_number, "a number")),
    **dict.fromkeys(
        ("exclusiveMinimum", "exclusiveMaximum"), (lambda v: _is_number(v) or isinstance(v, bool), "a number")
    ),
    "multipleOf": (lambda v: _is_number(v) and v > 0, "a number above 0"),
    **dict.fromkeys(("pattern", "format", "$ref"), (lambda v: isinstance(v, str), "a string")),
    "required": (_is_names, "a list of names"),
    "enum": (lambda v: isinstance(v, list) and 0 < len(v) <= MAX_ENUM, f"a list of 1 to {MAX_ENUM} values"),
    "uniqueItems": (lambda v: isinstance(v, bool), "true or false"),
}


def prepare(schema: Any, param: str, *, strict: bool) -> Any:
    """The schema as the compiler takes it.

    Args:
        param: the request's field that holds it, for errors.
        strict: refuse what cannot be enforced exactly.

    Raises:
        ApiError: 400 naming `param`, with the place in the schema.
    """
    if not isinstance(schema, dict | bool):
        raise invalid(param, f"'{param}' must be a JSON schema: an object, not {_name(schema)}.")
    try:
        size = len(json.dumps(schema))
    except (ValueError, RecursionError):
        raise invalid(param, f"'{param}' is nested too deeply.") from None
    if size > MAX_BYTES:
        raise invalid(param, f"'{param}' has {size} bytes; {MAX_BYTES} are allowed.")
    _Checker(schema, param, strict).check()
    return _normal(schema)


class _Checker:
    def __init__(self, root: Any, param: str, strict: bool) -> None:
        self._root = root
        self._param = param
        self._strict = strict
        self._nodes = 0
        self._targets: dict[str, str | None] = {}

    def check(self) -> None:
        self._visit(self._root, "#", 0)
        _refuse_circles(self._root, self._refuse)

    def _refuse(self, where: str, message: str) -> ApiError:
        return invalid(self._param, f"'{self._param}' cannot be used: at {where[:200]}, {message}.")

    def _visit(self, node: Any, where: str, depth: int) -> None:
        self._nodes += 1
        if self._nodes > MAX_NODES:
            raise self._refuse(where, f"it has more than {MAX_NODES} parts")
        if depth > MAX_DEPTH:
            raise self._refuse(where, f"it is nested deeper than {MAX_DEPTH} levels")
        if isinstance(node, bool):
            return
        if not isinstance(node, dict):
            raise self._refuse(where, f"a schema must be an object or a boolean, not {_name(node)}")
        self._check_keywords(node, where)
        if self._strict:
            self._check_enforced(node, where)
        for step, child in _children(node):
            self._visit(child, f"{where}/{step}", depth + 1)

    def _check_keywords(self, node: Mapping[str, Any], where: str) -> None:
        for name, (fits, expected) in _KEYWORDS.items():
            if name in node and not fits(node[name]):
                raise self._refuse(where, f"'{name}' must be {expected}, not {_name(node[name])}")
        kinds = node.get("type")
        if "type" in node:
            listed = kinds if isinstance(kinds, list) else [kinds]
            if not listed or not all(isinstance(kind, str) and kind in TYPES for kind in listed):
                raise self._refuse(where, f"'type' must be one of {', '.join(TYPES)}, or a list of them")
        for name in _REFERENCES:
            if name in node:
                raise self._refuse(where, f"'{name}' is not supported; use '$ref'")
        for low, high in (("minLength", "maxLength"), ("minItems", "maxItems"), ("minimum", "maximum")):
            if low in node and high in node and node[low] > node[high]:
                raise self._refuse(where, f"'{low}' ({node[low]}) is above '{high}' ({node[high]})")
        if "$ref" in node:
            resolve(self._root, node["$ref"], lambda message: self._refuse(where, message))

    def _check_enforced(self, node: Mapping[str, Any], where: str) -> None:
        for name in _UNENFORCED:
            if name in node and node[name] is not False:
                raise self._refuse(where, f"'{name}' cannot be enforced, and the schema is strict")
        constraints = [name for name in node if name not in _ANNOTATIONS]
        for name in ("$ref", "anyOf", "oneOf", "allOf"):
            beside = [other for other in constraints if other not in (name, "type")]
            if name in node and beside:
                raise self._refuse(where, f"'{beside[0]}' beside '{name}' cannot be enforced, and the schema is strict")
        if len(node.get("allOf", ())) > 1:
            raise self._refuse(where, "'allOf' of several schemas cannot be enforced, and the schema is strict")
        if "pattern" in node and ("minLength" in node or "maxLength" in node):
            raise self._refuse(where, "lengths beside 'pattern' cannot be enforced, and the schema is strict")


def resolve(root: Any, reference: str, refuse: Callable[[str], ApiError]) -> Any:
    """What a local reference points to.

    Raises:
        ApiError: it points elsewhere (nothing is ever fetched), or to nothing.
    """
    if reference != "#" and not reference.startswith("#/"):
        raise refuse(f"'$ref' may only point into the same schema ('#/...'), not to '{reference[:80]}'")
    node = root
    for part in reference.split("/")[1:]:
        part = part.replace("~1", "/").replace("~0", "~")
        if isinstance(node, dict) and part in node:
            node = node[part]
        elif isinstance(node, list) and part.isdigit() and int(part) < len(node):
            node = node[int(part)]
        else:
            raise refuse(f"'$ref' points to '{reference[:80]}', which does not exist")
    if not isinstance(node, dict | bool):
        raise refuse(f"'$ref' points to '{reference[:80]}', which is no schema")
    return node


def _refuse_circles(root: Any, refuse: Callable[[str, str], ApiError]) -> None:
    """A reference that leads back to where it stands would allow answers without an end."""
    open_nodes: dict[int, str] = {}
    done: set[int] = set()

    def visit(node: Any, where: str) -> None:
        if not isinstance(node, dict) or id(node) in done:
            return
        if id(node) in open_nodes:
            raise refuse(where, f"the schema is recursive: it leads back to {open_nodes[id(node)]}; write levels out")
        open_nodes[id(node)] = where
        for step, child in _children(node, definitions=False):
            visit(child, f"{where}/{step}")
        if "$ref" in node:
            visit(resolve(root, node["$ref"], lambda message: refuse(where, message)), node["$ref"])
        del open_nodes[id(node)]
        done.add(id(node))

    visit(root, "#")
    for name in ("$defs", "definitions"):
        for key, child in root.get(name, {}).items() if isinstance(root, dict) else ():
            visit(child, f"#/{name}/{key}")


def _children(node: Mapping[str, Any], *, definitions: bool = True) -> Iterator[tuple[str, Any]]:
    for name in _MAPS:
        if name in node and (definitions or name not in ("$defs", "definitions")):
            for key, child in node[name].items():
                yield f"{name}/{key}", child
    for name in _LISTS:
        for position, child in enumerate(node.get(name, ())):
            yield f"{name}/{position}", child
    for name in _SINGLES:
        if name in node:
            yield name, node[name]


def _normal(node: Any) -> Any:
    """The same schema, or a narrower one, in words that the compiler enforces."""
    if not isinstance(node, dict):
        return node
    made = dict(node)
    for name in _MAPS:
        if name in made:
            made[name] = {key: _normal(child) for key, child in made[name].items()}
    for name in _LISTS:
        if name in made:
            made[name] = [_normal(child) for child in made[name]]
    for name in _SINGLES:
        if name in made:
            made[name] = _normal(made[name])
    _lift_single_all_of(made)
    _infer_type(made)
    _declare_required(made)
    _filter_enum(made)
    for name in ("minLength", "maxLength", "minItems", "maxItems", "minProperties", "maxProperties"):
        if name in made:
            made[name] = int(made[name])
    return made


def _lift_single_all_of(node: dict[str, Any]) -> None:
    """`{"allOf": [X], "description": ...}` is how generators put an annotation beside a reference."""
    parts = node.get("allOf")
    if (
        parts is not None
        and len(parts) == 1
        and isinstance(parts[0], dict)
        and not set(node) - _ANNOTATIONS - {"allOf"}
    ):
        del node["allOf"]
        node.update(parts[0])


def _infer_type(node: dict[str, Any]) -> None:
    if {"type", "enum", "const", "$ref", "anyOf", "oneOf", "allOf"} & set(node):
        return
    for kind, keywords in _KIND_OF.items():
        if any(name in node for name in keywords):
            node["type"] = kind
            return


def _declare_required(node: dict[str, Any]) -> None:
    """A required name that is not declared may hold whatever additional properties may."""
    missing = [name for name in node.get("required", ()) if name not in node.get("properties", {})]
    if missing:
        other = node.get("additionalProperties", True)
        node["properties"] = {**node.get("properties", {}), **dict.fromkeys(missing, other)}


def _filter_enum(node: dict[str, Any]) -> None:
    if "enum" in node and "type" in node:
        kinds = node["type"] if isinstance(node["type"], list) else [node["type"]]
        node["enum"] = [value for value in node["enum"] if any(_is_kind(value, kind) for kind in kinds)] or node["enum"]


def _is_kind(value: Any, kind: str) -> bool:
    if kind in ("integer", "number"):
        return _is_number(value) and (kind == "number" or value == int(value))
    fits: dict[str, Any] = {"object": dict, "array": list, "string": str, "boolean": bool, "null": type(None)}
    return isinstance(value, fits[kind])


def _name(value: Any) -> str:
    """A JSON value's kind, in words."""
    if isinstance(value, list):
        return f"a list of {len(value)}"
    names = {dict: "an object", str: "a string", bool: "a boolean", type(None): "null"}
    return names.get(type(value), f"{value}"[:40])
