"""What each route requires, in one table. A path that the table does not know is refused."""

from __future__ import annotations

import ipaddress
from enum import Enum
from functools import lru_cache
from urllib.parse import urlsplit


class Need(Enum):
    OPEN = "open"
    METRICS = "metrics"
    """Loopback, or an inference key."""
    INFERENCE = "inference"
    """An API key; open on loopback while no key exists."""
    CONTROLLER = "controller"
    """FastChat's controller routes that only read: as INFERENCE, and a join token opens them too."""
    JOIN = "join"
    """A join token, always."""
    ADMIN = "admin"
    """The local admin token or an admin key, always."""


JOIN_PREFIX = "/join/"

_EXACT: dict[str, Need] = {
    "/health": Need.OPEN,
    "/ready": Need.OPEN,
    "/docs": Need.OPEN,
    "/openapi.json": Need.OPEN,
    "/metrics": Need.METRICS,
    "/tokenize": Need.INFERENCE,
    "/detokenize": Need.INFERENCE,
    "/tokenizer_info": Need.INFERENCE,
    "/api/battles": Need.INFERENCE,
    "/api/leaderboard": Need.INFERENCE,
    "/api/head-to-head": Need.INFERENCE,
    "/list_models": Need.CONTROLLER,
    "/list_language_models": Need.CONTROLLER,
    "/list_multimodal_models": Need.CONTROLLER,
    "/get_worker_address": Need.CONTROLLER,
    "/worker_get_status": Need.CONTROLLER,
    "/worker_generate_stream": Need.CONTROLLER,
    "/test_connection": Need.CONTROLLER,
    "/register_worker": Need.JOIN,
    "/receive_heart_beat": Need.JOIN,
    "/refresh_all_workers": Need.JOIN,
}

_PREFIXES: tuple[tuple[str, Need], ...] = (
    ("/v1/", Need.INFERENCE),
    ("/api/battles/", Need.INFERENCE),
    ("/api/", Need.ADMIN),
)


@lru_cache(maxsize=1024)
def need_of(path: str) -> Need | None:
    """What a path requires; None when nothing is known about it, which refuses it."""
    known = _EXACT.get(path.rstrip("/"))
    if known is not None:
        return known
    return next((need for prefix, need in _PREFIXES if path.startswith(prefix)), None)


def takes_json_only(path: str) -> bool:
    """Whether bodies must be labelled JSON, which no web page can send elsewhere without asking first.

    FastChat's clients label nothing, so its controller routes take any label.
    """
    need = need_of(path)
    return need in (Need.INFERENCE, Need.ADMIN)


def split_join_path(path: str) -> tuple[str, str] | None:
    """Token and remaining path of `/join/TOKEN/rest`; None for any other path."""
    if not path.startswith(JOIN_PREFIX):
        return None
    token, slash, rest = path[len(JOIN_PREFIX) :].partition("/")
    return token, slash + rest


@lru_cache(maxsize=1024)
def is_loopback(host: str) -> bool:
    """Whether a host name or address can only be this machine."""
    name = host.strip("[]").lower().rstrip(".")
    if name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


@lru_cache(maxsize=1024)
def host_name(header: str) -> str:
    """The host of a `Host` header without its port, in lower case; empty when it is malformed."""
    try:
        parts = urlsplit(f"//{header}")
        _ = parts.port
    except ValueError:
        return ""
    if parts.path or parts.query or parts.fragment or "@" in parts.netloc:
        return ""
    return (parts.hostname or "").rstrip(".")


def is_same_origin(origin: str, host_header: str) -> bool:
    """Whether an `Origin` header names the very host and port that the request was sent to."""
    scheme, found, netloc = origin.partition("://")
    return bool(found) and scheme in ("http", "https") and netloc.lower() == host_header.lower()
