"""What fcd's own routes say and take of servers elsewhere: those attached as workers, and daemons that were joined."""

from __future__ import annotations

import msgspec


class AttachRequest(msgspec.Struct, omit_defaults=True, forbid_unknown_fields=True):
    """POST /api/workers/attach: use a server that speaks OpenAI's routes as a worker."""

    url: str
    """Its base URL, with or without `/v1`."""
    name: str = ""
    """What the worker is called here; empty: its host and port."""
    models: dict[str, str] = {}
    """Name here to name there; empty: all that it lists, under their own names."""
    api_key: str = ""
    """What it wants as `Authorization: Bearer`; no route ever tells it again."""
    vision: bool | None = None
    """Whether its models see images; null: as far as the server says."""


class JoinRequest(msgspec.Struct, forbid_unknown_fields=True):
    """POST /api/heads: offer this daemon's models at another daemon."""

    url: str
    token: str
    """A join token of the other daemon."""


class LeaveRequest(msgspec.Struct, forbid_unknown_fields=True):
    """POST /api/heads/leave."""

    url: str


class Head(msgspec.Struct, omit_defaults=True):
    """One daemon that this one has joined."""

    url: str
    state: str
    """`joined`, `joining` or `refused`."""
    models: list[str] = []
    """What is offered there."""
    error: str = ""
    """Why it is not joined."""


class HeadList(msgspec.Struct):
    heads: list[Head]
