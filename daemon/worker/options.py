"""What a worker is told when it starts."""

from __future__ import annotations

import msgspec

from fcd.wire.admin import ModelOptions


class WorkerOptions(msgspec.Struct, frozen=True, kw_only=True):
    """One worker's command line, read and checked."""

    model: str
    """A built-in name, a name from config.toml, a folder or a repo."""
    model_options: ModelOptions = msgspec.field(default_factory=ModelOptions)
    names: tuple[str, ...] = ()
    """The names that requests call it by; empty: the model's own."""
    controllers: tuple[str, ...] = ()
    """Base URLs to register at; a URL may carry `/join/TOKEN`. Empty: it serves by itself."""
    join_token: str = ""
    host: str = "127.0.0.1"
    port: int = 0
    """0 lets the system choose."""
    socket: str = ""
    address: str = ""
    """The URL by which controllers reach it; empty: worked out."""
    worker_id: str = ""
    command: str = ""
    """What starts the server of the command engine; empty: as config.toml or the kind of file says."""
    concurrency: int = 0
    """How many completions run at once; 0 leaves it to the settings."""
    kv_bytes: int = 0
    """What the KV cache may take, where the settings say nothing; 0 is worked out from what is free."""
    heartbeat_s: float = 15.0
    drain_s: float = 30.0
    max_body_bytes: int = 32 * 1024 * 1024
    api_key: str = ""
    """What callers from beyond this machine must show; never needed on loopback or the unix socket."""
    watched: bool = False
    """A parent reads events from stdout and holds stdin open for as long as it lives."""
