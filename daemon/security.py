"""Who may call what: Host and Origin checks, keys, join tokens. `daemon.access` holds the table that it applies."""

from __future__ import annotations

import hmac
import secrets
import time
from collections.abc import Callable
from typing import Literal

import msgspec

from daemon.access import Need, host_name, is_loopback, is_same_origin, need_of, split_join_path, takes_json_only
from daemon.http import check_encoding
from daemon.store import credentials
from daemon.store.credentials import Credential, Kind, Scope
from daemon.store.store import Store
from fcd.errors import ApiError, FcdError
from fcd.instance import write_private
from fcd.paths import Paths
from fcd.settings import DaemonSettings
from fcd.wire.access import CredentialInfo

_CORS_MAX_AGE_S = 600
EXPOSED_HEADERS = "X-Request-Id, Retry-After, X-Fcd-Battle, X-Fcd-Daemon"
"""What a web page of an allowed origin may read of an answer, besides its body."""


class Call(msgspec.Struct, frozen=True):
    """What the checks look at of a request."""

    method: str
    path: str
    host: str
    """The Host header."""
    origin: str = ""
    authorization: str = ""
    content_type: str = ""
    has_body: bool = False
    peer: str = ""
    """The client's address; empty for a unix socket."""
    local: str = ""
    """The address of ours that it connected to."""
    content_encoding: str = ""


class Caller(msgspec.Struct, frozen=True):
    """Who is calling, once the checks have passed."""

    kind: Literal["anonymous", "key", "token", "worker", "admin"] = "anonymous"
    name: str = ""
    """The key's or token's id, or the name of the worker that the supervisor made a token for."""


class Admission(msgspec.Struct, frozen=True):
    """A request that may go on. `path` is the one to route: `/join/TOKEN` is taken off."""

    path: str
    caller: Caller
    cors: dict[str, str] = {}


class Security:
    """The keys and tokens that are good now, and the checks."""

    def __init__(
        self,
        settings: DaemonSettings,
        store: Store,
        *,
        admin_token: str,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._settings = settings
        self._store = store
        self._clock = clock
        self._admin_token = admin_token
        self._credentials: dict[str, Credential] = {}
        self._workers: dict[str, str] = {}
        self._peers: dict[str, str] = {}

    @classmethod
    async def open(cls, settings: DaemonSettings, store: Store, paths: Paths) -> Security:
        """Load the keys and write a fresh admin token that only this user can read.

        Raises:
            FcdError: the daemon would listen beyond this machine without a key.
        """
        security = cls(settings, store, admin_token=f"fcd-a-{secrets.token_urlsafe(32)}")
        await security.reload()
        security.check_exposure()
        write_private(paths.admin_token, security._admin_token.encode())
        return security

    async def reload(self) -> None:
        rows = await self._store.run(credentials.load)
        self._credentials = {row.info.id: row for row in rows}

    def check_exposure(self) -> None:
        """Refuse to listen where others can reach it while nothing asks who they are."""
        if not is_loopback(self._settings.host) and not self._has_keys():
            raise FcdError(
                f"The daemon will not listen on {self._settings.host} without an API key: anyone could use it.",
                hint="Make one with `fcd key create`, then start again; or listen on 127.0.0.1.",
            )

    @property
    def owner_token(self) -> str:
        """For the daemon's calls of its own routes."""
        return self._admin_token

    # Making and revoking

    async def create(self, kind: Kind, *, name: str, scope: Scope, ttl_s: float = 0.0) -> tuple[str, CredentialInfo]:
        now = self._clock()
        made = await self._store.run(
            lambda db: credentials.create(db, kind, name=name, scope=scope, now=now, ttl_s=ttl_s)
        )
        await self.reload()
        return made

    async def revoke(self, kind: Kind, wanted: str) -> CredentialInfo:
        """Raises NotFound."""
        now = self._clock()
        info = await self._store.run(lambda db: credentials.revoke(db, kind, wanted, now))
        await self.reload()
        return info

    def list(self, kind: Kind) -> list[CredentialInfo]:
        return [row.info for row in self._credentials.values() if row.kind == kind]

    def issue_worker_token(self, name: str) -> str:
        """A token for one worker that this daemon starts, good until it is withdrawn; it is only in memory."""
        token = f"fcd-w-{secrets.token_urlsafe(32)}"
        self._workers[token] = name
        return token

    def withdraw_worker_token(self, token: str) -> None:
        self._workers.pop(token, None)

    def issue_peer_key(self, name: str) -> str:
        """A key with which a daemon that this one joined sends requests here; it is only in memory."""
        key = f"fcd-p-{secrets.token_urlsafe(32)}"
        self._peers[key] = name
        return key

    def withdraw_peer_key(self, key: str) -> None:
        self._peers.pop(key, None)

    # Checking

    def admit(self, call: Call) -> Admission:
        """Let a request on, or say why not.

        Raises:
            ApiError: 400, 401, 403, 404 or 415.
        """
        self._check_host(call)
        cors = self._check_origin(call)
        joined = split_join_path(call.path)
        path = joined[1] if joined else call.path
        need = need_of(path)
        if need is None or (joined and need not in (Need.JOIN, Need.CONTROLLER)):
            raise ApiError(404, "There is no such route here.", code="not_found")
        if call.method == "OPTIONS" and cors:
            return Admission(path, Caller(), cors)
        caller = self._check_join(joined[0]) if joined else self._check_need(need, call)
        if call.has_body and takes_json_only(path) and not _is_json(call.content_type):
            raise ApiError(
                415,
                "The body must be JSON and say so: send the header 'Content-Type: application/json'.",
                code="unsupported_media_type",
            )
        if call.has_body:
            check_encoding(call.content_encoding)
        return Admission(path, caller, cors)

    def _check_host(self, call: Call) -> None:
        name = host_name(call.host)
        if not name:
            raise ApiError(400, "The Host header is missing or malformed.", code="bad_host")
        allowed = {each.lower() for each in self._settings.allowed_hosts}
        if is_loopback(name) or name in allowed or name in (self._settings.host.lower(), call.local):
            return
        raise ApiError(
            403,
            f"This daemon does not answer to the host name '{name}'. Add it to daemon.allowed_hosts if it should.",
            code="host_not_allowed",
        )

    def _check_origin(self, call: Call) -> dict[str, str]:
        """CORS headers for an origin that the settings allow; nothing for requests that no web page sent."""
        if not call.origin or is_same_origin(call.origin, call.host):
            return {}
        allowed = self._settings.allowed_origins
        if call.origin not in allowed and "*" not in allowed:
            raise ApiError(
                403,
                f"Web pages from '{call.origin[:200]}' may not call this daemon."
                " Add the origin to daemon.allowed_origins if they should.",
                code="origin_not_allowed",
            )
        return {"Access-Control-Allow-Origin": call.origin, "Vary": "Origin"} | (
            _preflight() if call.method == "OPTIONS" else {"Access-Control-Expose-Headers": EXPOSED_HEADERS}
        )

    def _check_need(self, need: Need, call: Call) -> Caller:
        if need is Need.OPEN or (need is Need.METRICS and _is_local_peer(call.peer)):
            return Caller()
        secret = _bearer(call.authorization)
        scopes = _SCOPES[need]
        if not secret:
            if need in (Need.INFERENCE, Need.CONTROLLER) and self._is_open(call):
                return Caller()
            raise ApiError(401, _MISSING[need], code="invalid_api_key")
        caller, scope = self._identify(secret)
        if scope not in scopes:
            if scope or not (need in (Need.INFERENCE, Need.CONTROLLER) and self._is_open(call)):
                raise _refused(scope, need)
            return Caller()
        return caller

    def _check_join(self, token: str) -> Caller:
        caller, scope = self._identify(token)
        if scope != "join":
            raise ApiError(401, _MISSING[Need.JOIN], code="invalid_join_token")
        return caller

    def _identify(self, secret: str) -> tuple[Caller, str]:
        """Who holds this secret, and its scope; an empty scope for nobody."""
        encoded = secret.encode("utf-8", "surrogatepass")
        if hmac.compare_digest(encoded, self._admin_token.encode()):
            return Caller("admin"), "admin"
        for token, name in self._workers.items():
            if hmac.compare_digest(encoded, token.encode()):
                return Caller("worker", name), "join"
        for key, name in self._peers.items():
            if hmac.compare_digest(encoded, key.encode()):
                return Caller("key", name), "inference"
        row = self._credentials.get(credentials.id_of(secret))
        if row is None or not row.matches(secret, self._clock()):
            return Caller(), ""
        return Caller(row.kind, row.info.id), row.scope

    def _is_open(self, call: Call) -> bool:
        """Whether no key is asked for: nobody made one, and only this machine can call."""
        return not self._has_keys() and is_loopback(self._settings.host) and _is_local_peer(call.peer)

    def _has_keys(self) -> bool:
        return any(row.kind == "key" for row in self._credentials.values())


_SCOPES: dict[Need, frozenset[str]] = {
    Need.METRICS: frozenset({"inference", "admin"}),
    Need.INFERENCE: frozenset({"inference", "admin"}),
    Need.CONTROLLER: frozenset({"inference", "admin", "join"}),
    Need.JOIN: frozenset({"join", "admin"}),
    Need.ADMIN: frozenset({"admin"}),
}

_MISSING: dict[Need, str] = {
    Need.METRICS: "Metrics need an API key from other machines: 'Authorization: Bearer KEY'.",
    Need.INFERENCE: "An API key is needed: 'Authorization: Bearer KEY'. `fcd key create` makes one.",
    Need.CONTROLLER: "An API key or a join token is needed: 'Authorization: Bearer KEY'.",
    Need.JOIN: "A join token is needed: 'Authorization: Bearer TOKEN', or /join/TOKEN before the path."
    " `fcd token create` makes one.",
    Need.ADMIN: "The admin token or an admin key is needed: `fcd key create --scope admin` makes one.",
}


def _refused(scope: str, need: Need) -> ApiError:
    if not scope:
        return ApiError(
            401, f"This key or token is not known, or no longer good. {_MISSING[need]}", code="invalid_api_key"
        )
    return ApiError(403, f"This key or token may not do that. {_MISSING[need]}", code="forbidden")


def _bearer(header: str) -> str:
    scheme, _, value = header.partition(" ")
    return value.strip() if scheme.lower() == "bearer" else ""


def _is_json(content_type: str) -> bool:
    kind = content_type.partition(";")[0].strip().lower()
    return kind == "application/json" or (kind.startswith("application/") and kind.endswith("+json"))


def _is_local_peer(peer: str) -> bool:
    """A unix socket has no address, and only this user can reach it."""
    return not peer or is_loopback(peer.removeprefix("::ffff:"))


def _preflight() -> dict[str, str]:
    return {
        "Access-Control-Allow-Methods": "GET, POST, PUT, PATCH, DELETE",
        # OpenAI's client for browsers sends headers of its own; a wildcard never stands for Authorization.
        "Access-Control-Allow-Headers": "Authorization, Content-Type, X-Request-Id, *",
        "Access-Control-Max-Age": str(_CORS_MAX_AGE_S),
    }
