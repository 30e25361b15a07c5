"""OpenAPI 3.1 as plain data."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import msgspec

from daemon.access import Need
from daemon.openapi.operations import EVENTS, JSON, Answer, Operation, operations
from fcd import __version__

_REFERENCE = "#/components/schemas/{name}"

ERRORS: Mapping[int, str] = {
    400: "The request cannot be used; `param` names the field.",
    401: "A key or a token is missing, or not known.",
    403: "The key, the host or the origin may not do this.",
    404: "There is no such model, worker or thing; near names are given.",
    408: "The body did not arrive in time.",
    409: "It is in the way of something that is there.",
    413: "The body is larger than daemon.max_body_bytes, or the address longer than can be read.",
    415: "The body is not labelled application/json, or it is compressed.",
    429: "Too much waits already; Retry-After says when to come back.",
    500: "A fault of fcd's own.",
    501: "The worker that serves this model cannot do it.",
    502: "The worker died, or another machine could not be reached.",
    503: "It cannot be done now: loading failed, memory is short, or the daemon stops.",
    504: "The worker was too slow.",
    507: "The disk is full.",
    508: "Daemons that lead to each other passed it round.",
}
_ALWAYS = (400, 403)
_KEYED = (401,)
_WITH_BODY = (408, 413, 415)
_RELAYED = (404, 429, 500, 501, 502, 503, 504, 508)
_OWNED = (404, 409, 429, 502, 503, 504, 507)
_ERROR_SCHEMA = {
    "title": "Error",
    "description": "OpenAI's error object.",
    "type": "object",
    "properties": {
        "error": {
            "type": "object",
            "properties": {
                "message": {"type": "string"},
                "type": {"type": "string"},
                "param": {"type": ["string", "null"]},
                "code": {"type": ["string", "null"]},
                "fastchat_code": {"type": "integer"},
            },
            "required": ["message", "type", "param", "code"],
        }
    },
    "required": ["error"],
}


def document(url: str = "") -> dict[str, Any]:
    """The description of every route. `url` is where the daemon listens."""
    found = operations()
    types = list(dict.fromkeys(kind for each in found for kind in _types(each)))
    schemas, components = msgspec.json.schema_components(types, ref_template=_REFERENCE)
    by_type = dict(zip(types, schemas, strict=True))
    paths: dict[str, dict[str, Any]] = {}
    for operation in found:
        paths.setdefault(operation.path, {})[operation.method.lower()] = _describe(operation, by_type)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "fcd",
            "version": __version__,
            "description": "Local language models: OpenAI's routes, FastChat's controller, and the daemon's own.",
        },
        "servers": [{"url": url or "/"}],
        "paths": paths,
        "components": {
            "schemas": {**components, "Error": _ERROR_SCHEMA},
            "securitySchemes": {"bearer": {"type": "http", "scheme": "bearer"}},
        },
    }


def _types(operation: Operation) -> list[Any]:
    kinds = [answer.kind for answer in operation.answers.values()]
    return [kind for kind in (operation.body, *kinds) if kind is not None]


def _describe(operation: Operation, schemas: Mapping[Any, Any]) -> dict[str, Any]:
    described: dict[str, Any] = {
        "summary": operation.summary,
        "operationId": _identifier(operation),
        "tags": [operation.group],
        "responses": _responses(operation, schemas),
    }
    parameters = [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string", "minLength": 1}}
        for name in re.findall(r"{(\w+)}", operation.path)
    ]
    parameters += [{"name": name, "in": "query", "schema": dict(schema)} for name, schema in operation.query.items()]
    if parameters:
        described["parameters"] = parameters
    if operation.body is not None:
        content = {JSON: {"schema": schemas[operation.body]}}
        described["requestBody"] = {"required": True, "content": content}
    if operation.need is not Need.OPEN:
        # An empty entry: on loopback, while no key exists, these are open.
        optional = [] if operation.need in (Need.ADMIN, Need.JOIN) else [dict[str, Any]()]
        described["security"] = [{"bearer": []}, *optional]
    return described


def _responses(operation: Operation, schemas: Mapping[Any, Any]) -> dict[str, Any]:
    statuses = {*_ALWAYS}
    if operation.need is not Need.OPEN:
        statuses |= {*_KEYED}
    if operation.method != "GET":
        statuses |= {*_WITH_BODY}
    if operation.query:
        statuses |= {413}
    if operation.need in (Need.INFERENCE, Need.CONTROLLER):
        statuses |= {*_RELAYED}
    if operation.need in (Need.ADMIN, Need.JOIN) or operation.path.startswith("/api/"):
        statuses |= {*_OWNED}
    error = {JSON: {"schema": {"$ref": _REFERENCE.format(name="Error")}}}
    found = {str(status): {"description": ERRORS[status], "content": error} for status in sorted(statuses)}
    for status, answer in operation.answers.items():
        found[str(status)] = {"description": "Done." if status < 400 else ERRORS[status], **_content(answer, schemas)}
    return dict(sorted(found.items()))


def _content(answer: Answer, schemas: Mapping[Any, Any]) -> dict[str, Any]:
    schema = schemas[answer.kind] if answer.kind is not None else {}
    return {"content": {media: {"schema": {"type": "string"} if media == EVENTS else schema} for media in answer.media}}


def _identifier(operation: Operation) -> str:
    return operation.method.lower() + re.sub(r"\W+", "_", operation.path).rstrip("_")
