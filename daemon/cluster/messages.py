"""What the daemon and its cluster agent say to each other: JSON lines over the agent's stdin and stdout."""

from __future__ import annotations

from typing import Literal

import msgspec

from daemon.store.placements import Need
from fcd.wire.admin import Progress

HostState = Literal["starting", "loading", "ready", "backoff", "failed", "stopping", "stopped"]


class Node(msgspec.Struct, frozen=True, omit_defaults=True):
    """One machine of the cluster that lives."""

    id: str
    address: str
    host: str = ""
    total: dict[str, float] = {}
    """Ray's resources: `CPU`, `GPU`, `memory` in bytes, and what its owner gave it."""
    free: dict[str, float] = {}


class PartStatus(msgspec.Struct, frozen=True, omit_defaults=True):
    """One further node of a worker that is spread over several."""

    node: str = ""
    """Its address; empty: it has not said."""
    state: Literal["idle", "starting", "loading", "ready", "ended", "unknown"] = "unknown"
    error: str = ""
    pid: int = 0


class HostStatus(msgspec.Struct, frozen=True, omit_defaults=True):
    """What the actor says of the worker program that it runs."""

    state: HostState
    error: str = ""
    restarts: int = 0
    pid: int = 0
    node: str = ""
    """The node's address."""
    controller: str = ""
    """Where its worker registers."""
    token_id: str = ""
    """Of the join token that its worker registers with; the token itself is never told. Empty: an actor that an earlier
    version made does not say."""
    started_at: float = 0.0
    progress: Progress | None = None
    log: str = ""
    """On the node."""
    parts: list[PartStatus] = []
    """Its further nodes."""


class Seen(msgspec.Struct, frozen=True, omit_defaults=True):
    """What the cluster knows of one placement."""

    group: str = ""
    """State of the reservation: `PENDING`, `CREATED`, `RESCHEDULING`; empty when there is none."""
    node_id: str = ""
    actor: bool = False
    """Whether the cluster knows the actor."""
    status: HostStatus | None = None
    problem: str = ""
    """Why the actor did not answer."""
    parts: int = 0
    """How many actors of further nodes it knows."""


class Picture(msgspec.Struct, frozen=True, omit_defaults=True):
    """The cluster as it is now."""

    nodes: list[Node] = []
    seen: dict[str, Seen] = {}
    """By the actor's name, those that were not asked for too, if they bear the prefix."""


class Launch(msgspec.Struct, frozen=True):
    """What the actor is to run."""

    arguments: tuple[str, ...]
    controller: str
    token: str
    token_id: str
    version: str
    """The daemon's, so that another one on a node can be named in an error."""
    on_loopback: bool
    """The daemon and all nodes are one machine, so the worker listens on loopback too."""
    gpus: int = 0
    """On this node."""
    parts: tuple[str, ...] = ()
    """The actors of further nodes, where it is spread over several."""


class Ask(msgspec.Struct, frozen=True, omit_defaults=True):
    """One line to the agent."""

    id: int
    op: Literal["connect", "poll", "place", "call", "remove"]
    cluster: str = ""
    prefix: str = ""
    actor: str = ""
    siblings: list[str] = []
    """Actors of the same model, which should be on other nodes."""
    need: Need = Need()
    """Of the whole."""
    launch: Launch | None = None
    method: Literal["", "logs", "restart", "stop", "update"] = ""
    amount: float = 0.0
    """Lines for `logs`, seconds for `stop`."""


class Reply(msgspec.Struct, frozen=True, omit_defaults=True):
    """One line from the agent."""

    id: int
    error: str = ""
    hint: str = ""
    code: str = ""
    picture: Picture | None = None
    lines: list[str] = []


class AgentError(Exception):
    """What the agent cannot do, for people. `hint` is the next step."""

    def __init__(self, message: str, *, hint: str = "", code: str = "cluster_failed") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.code = code
