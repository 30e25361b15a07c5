"""Models that the daemon brings to this machine: /api/downloads."""

from __future__ import annotations

from typing import Literal

import msgspec

from fcd.wire.admin import Progress

DownloadState = Literal["downloading", "stopping", "paused", "done", "failed"]


class DownloadRequest(msgspec.Struct, omit_defaults=True, forbid_unknown_fields=True):
    """POST /api/downloads: begin, or go on where it stopped. `/pause` and `/cancel` take the same `repo`."""

    repo: str
    """`owner/name` on the hub."""
    revision: str = ""
    allow_pickle: bool = False


class RepoRequest(msgspec.Struct, forbid_unknown_fields=True):
    """POST /api/downloads/pause and /api/downloads/cancel."""

    repo: str


class Download(msgspec.Struct, omit_defaults=True):
    """One download. What arrived is kept when it is paused or fails; `cancel` removes it."""

    repo: str
    state: DownloadState
    progress: Progress | None = None
    bytes_per_second: float = 0.0
    """Over the last seconds."""
    error: str = ""


class DownloadList(msgspec.Struct):
    """Those of this daemon's life, the newest first."""

    downloads: list[Download]
