"""Who registered, and what each said of itself. Records are frozen; only the supervisor replaces them."""

from __future__ import annotations

import re
from typing import Literal
from urllib.parse import urlsplit

import msgspec

from daemon.dispatch import Target
from fcd.wire.controller import EngineGauges, FcdExtension, WorkerStatus

_HOST = re.compile(r"[A-Za-z0-9._:%-]{1,255}", re.ASCII)
_PATH = re.compile(r"[A-Za-z0-9._~%!$&'()*+,;=:@/-]{0,512}", re.ASCII)
_KEY = re.compile(r"[!-~]{0,512}", re.ASCII)

_PARALLEL_UNKNOWN = 64
_SLOTS_PER_PARALLEL = 2
"""A few more than run at once, so that the engine finds the next request when one ends."""
_MOST_SLOTS = 4096
DAEMON = "daemon"
"""The engine of a daemon that joined this one."""
_CHECKING = ("transformers", DAEMON)
"""Engines of programs that check every field of a request themselves."""


class Record(msgspec.Struct, frozen=True):
    """One registration."""

    name: str
    url: str
    """FastChat's `worker_name`, which is an address and an identity; kept as it was sent."""
    local: bool
    status: WorkerStatus
    target: Target
    multimodal: bool = False
    check_beat: bool = True
    attached: bool = False
    """The owner named it here; it knows nothing of controllers."""
    fcd: FcdExtension = msgspec.field(default_factory=FcdExtension)
    gauges: EngineGauges = msgspec.field(default_factory=EngineGauges)
    registered_at: float = 0.0

    @property
    def passes_on(self) -> bool:
        """Whether it is, or may be, a daemon. What was attached does not say what it is."""
        return self.attached or self.fcd.engine == DAEMON

    @property
    def limit(self) -> int:
        """How many requests it may have at once."""
        parallel = self.fcd.parallel
        return min(_MOST_SLOTS, parallel * _SLOTS_PER_PARALLEL) if parallel > 0 else _PARALLEL_UNKNOWN


class Registry:
    """The only table of who exists."""

    def __init__(self) -> None:
        self._by_name: dict[str, Record] = {}
        self._by_url: dict[str, str] = {}

    def get(self, name: str) -> Record | None:
        return self._by_name.get(name)

    def __contains__(self, name: str) -> bool:
        return name in self._by_name

    def by_url(self, url: str) -> Record | None:
        name = self._by_url.get(url)
        return self._by_name.get(name) if name is not None else None

    def all(self) -> list[Record]:
        """In order of registration."""
        return list(self._by_name.values())

    def put(self, record: Record) -> None:
        before = self._by_name.get(record.name)
        if before is not None and before.url != record.url:
            self._by_url.pop(before.url, None)
        self._by_name[record.name] = record
        self._by_url[record.url] = record.name

    def remove(self, name: str) -> Record | None:
        record = self._by_name.pop(name, None)
        if record is not None and self._by_url.get(record.url) == name:
            del self._by_url[record.url]
        return record

    def name_for(self, url: str) -> str:
        """A name for a worker elsewhere that people can type: its host and port."""
        known = self._by_url.get(url)
        if known is not None:
            return known
        parts = urlsplit(url)
        base = (parts.netloc + parts.path.rstrip("/")).replace("/", "-") or "worker"
        name, number = base, 1
        while name in self._by_name:
            number += 1
            name = f"{base}-{number}"
        return name


def images_of(said: FcdExtension | None, *, multimodal: bool = False) -> Literal["checks", "takes", "refuses"]:
    """What a worker does with images; see `Target.images`. FastChat's workers say `multimodal`."""
    if said is None or said.dialect == "fastchat":
        return "takes" if multimodal else "refuses"
    if said.engine in _CHECKING:
        return "checks"
    return "takes" if "vision" in said.capabilities else "refuses"


def target_of(name: str, url: str, *, dialect: str = "openai", socket: str = "", api_key: str = "") -> Target:
    """Where requests for the worker at `url` go.

    Raises:
        ValueError: not an http(s) URL with a host.
    """
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError(f"'{url[:200]}' is not an http:// or https:// address with a host.")
    if parts.username or parts.password or parts.query or parts.fragment:
        raise ValueError(f"'{parts.hostname}': an address has no user, query or fragment.")
    # These are written into request lines and headers.
    if not _HOST.fullmatch(parts.hostname) or not _PATH.fullmatch(parts.path) or not _KEY.fullmatch(api_key):
        raise ValueError("The worker's address or key has characters that cannot stand in an HTTP request.")
    return Target(
        worker=name,
        dialect=dialect,
        host=parts.hostname,
        port=parts.port or (443 if parts.scheme == "https" else 80),
        socket=socket,
        tls=parts.scheme == "https",
        base_path=parts.path.rstrip("/"),
        api_key=api_key,
    )
