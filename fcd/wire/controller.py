"""FastChat's controller messages, with fcd's own keys under one name that FastChat ignores."""

from __future__ import annotations

import msgspec


class WorkerStatus(msgspec.Struct):
    """What FastChat calls worker status; all three are required on its wire."""

    model_names: list[str]
    speed: float = 1
    queue_length: int = 0


class FcdExtension(msgspec.Struct, omit_defaults=True):
    """What an fcd worker says of itself beyond FastChat's body, under the key `fcd`."""

    dialect: str = "openai"
    """How the worker is spoken to: `openai` (bytes are relayed) or `fastchat` (frames are translated)."""
    openai_url: str = ""
    """Base URL of the OpenAI routes, such as `http://127.0.0.1:41001` (without `/v1`)."""
    socket: str = ""
    """Unix socket that serves the same routes, for a daemon on the same machine."""
    worker_id: str = ""
    """The name that the supervisor gave a worker which it started; empty for others."""
    pid: int = 0
    engine: str = "transformers"
    device: str = "cpu"
    dtype: str = ""
    quantization: str = ""
    context_length: int = 0
    memory_bytes: int = 0
    parallel: int = 0
    """How many requests run at once."""
    capabilities: list[str] = []
    """Of `chat`, `completions`, `embeddings`, `tools`, `vision`; `sleep`: it can be put to sleep."""
    adapters: list[str] = []
    """Those of the worker's names that are adapters over its model."""
    version: str = ""
    api_key: str = ""
    """What the controller must show this worker (`Authorization: Bearer`); empty on loopback."""
    served_as: str = ""
    """What the server at `openai_url` calls its model, where that is none of the worker's names."""
    serves: list[str] = []
    """All names that the server at `openai_url` answers to, where it refuses every other; empty: it does not."""
    fields: dict[str, list[str]] = {}
    """Route -> the fields that the server reads, where it passes over others without a word."""
    notes: list[str] = []
    """What a person should know of how it was started, such as a context that was shortened to fit."""
    daemon_id: str = ""
    """Of a whole daemon that joins another: tells rings of daemons."""


class EngineGauges(msgspec.Struct, omit_defaults=True):
    """Numbers that a worker sends with each heartbeat, under the key `fcd`."""

    running: int = 0
    waiting: int = 0
    tokens_per_second: float = 0.0
    ttft_ms: float = 0.0
    """Median over the last requests."""
    memory_bytes: int = 0
    kv_used: float = 0.0
    """Share of the KV cache in use, 0 to 1."""
    prompt_tokens: int = 0
    """Since the worker started."""
    generated_tokens: int = 0


class RegisterWorker(msgspec.Struct):
    worker_name: str
    check_heart_beat: bool
    worker_status: WorkerStatus | None = None
    multimodal: bool = False
    fcd: FcdExtension | None = None


class HeartBeat(msgspec.Struct):
    worker_name: str
    queue_length: int
    fcd: EngineGauges | None = None


class HeartBeatReply(msgspec.Struct):
    exist: bool


class ModelList(msgspec.Struct):
    models: list[str]


class ModelQuery(msgspec.Struct):
    model: str


class WorkerAddress(msgspec.Struct, omit_defaults=True):
    address: str
    error: str = ""
    """Why there is none, where that is known; FastChat's clients pass over it."""
