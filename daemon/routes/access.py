"""API keys and join tokens: /api/keys and /api/tokens."""

from __future__ import annotations

from typing import Any

from sanic import Blueprint
from sanic.request import Request
from sanic.response import HTTPResponse

from daemon.context import DaemonContext
from daemon.http import decode_body, json_response
from fcd.errors import invalid
from fcd.wire.access import CreatedCredential, CreateKey, CreateToken, CredentialList


def access_routes(context: DaemonContext) -> Blueprint:
    routes = Blueprint("access")
    security = context.security

    @routes.get("/api/keys")
    async def list_keys(request: Request[Any, Any]) -> HTTPResponse:
        return json_response(CredentialList(security.list("key")))

    @routes.post("/api/keys")
    async def create_key(request: Request[Any, Any]) -> HTTPResponse:
        wanted = decode_body(request, CreateKey)
        _check(wanted)
        secret, info = await security.create("key", name=wanted.name, scope=wanted.scope, ttl_s=wanted.ttl_s)
        return json_response(CreatedCredential(secret, info))

    @routes.delete("/api/keys/<wanted:str>")
    async def revoke_key(request: Request[Any, Any], wanted: str) -> HTTPResponse:
        return json_response(await security.revoke("key", wanted))

    @routes.get("/api/tokens")
    async def list_tokens(request: Request[Any, Any]) -> HTTPResponse:
        return json_response(CredentialList(security.list("token")))

    @routes.post("/api/tokens")
    async def create_token(request: Request[Any, Any]) -> HTTPResponse:
        wanted = decode_body(request, CreateToken)
        _check(wanted)
        secret, info = await security.create("token", name=wanted.name, scope="join", ttl_s=wanted.ttl_s)
        return json_response(CreatedCredential(secret, info))

    @routes.delete("/api/tokens/<wanted:str>")
    async def revoke_token(request: Request[Any, Any], wanted: str) -> HTTPResponse:
        return json_response(await security.revoke("token", wanted))

    return routes


def _check(wanted: CreateKey | CreateToken) -> None:
    if len(wanted.name) > 100 or not wanted.name.isprintable():
        raise invalid("name", "'name' must be at most 100 printable characters.")
    if not 0 <= wanted.ttl_s < 10**10:
        raise invalid("ttl_s", "'ttl_s' must be a number of seconds, or 0 for ever.")
