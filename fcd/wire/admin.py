"""What fcd's own routes under /api/ say and take.

A request with a field that is not known is refused: a misspelt option must not pass for one that was honoured. Replies
are read without that, so that a newer daemon may say more.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from fcd.wire.devices import DeviceReading

WorkerState = Literal[
    "pending", "starting", "loading", "ready", "asleep", "stopping", "stopped", "backoff", "failed", "lost"
]
"""`pending`: a cluster has no room for it yet."""


class Progress(msgspec.Struct, omit_defaults=True):
    """How far something is that takes a while. `total` 0 means: not known."""

    stage: str
    done: float = 0
    total: float = 0
    unit: str = ""
    detail: str = ""


class ModelOptions(msgspec.Struct, omit_defaults=True, forbid_unknown_fields=True):
    """How a model is to be loaded; empty values mean: decide from the model and the machine."""

    engine: Literal["", "transformers", "vllm", "command"] = ""
    device: str = ""
    dtype: str = ""
    quantization: Literal["", "8bit", "4bit"] = ""
    num_gpus: int = 0
    gpus: str = ""
    max_gpu_memory: str = ""
    revision: str = ""
    conv_template: str = ""
    model_names: list[str] = []
    keep_alive: str = ""
    """`5m`, seconds, `-1` for ever, `0` unload when idle."""
    lora_modules: dict[str, str] = {}
    """LoRA adapters over the model: the name that requests call each by -> its folder, in PEFT's layout."""
    tokenizer: str = ""
    """A folder or repo whose tokenizer is taken instead of the model's own."""
    quantize_with: str = ""
    """The engine's own name of a way to quantize, such as vLLM's `awq` or `fp8`; goes before `quantization`."""
    gpu_memory_utilization: float = 0
    """Share of each GPU's whole memory that vLLM takes, 0 to 1; 0 leaves it to be worked out."""
    max_model_len: int = 0
    """The longest context that vLLM makes room for; 0 is the model's own."""
    trust_remote_code: bool = False
    """Run the Python that the model's repo brings."""
    engine_args: list[str] = []
    """Words for the engine's own command line."""


class PlaceRequest(msgspec.Struct, omit_defaults=True, forbid_unknown_fields=True):
    """Where workers are to run that a cluster places, and what each reserves there."""

    on: str
    """`ray`, the cluster that this machine is a node of; or `ray://HEAD[:PORT]`."""
    cpus: int = 1
    memory: str = ""
    """RAM, such as `8GiB`; empty: as the model's files say, where they are here."""
    vram: str = ""
    """GPU memory, of nodes that say how much they have."""


class LoadRequest(msgspec.Struct, omit_defaults=True, forbid_unknown_fields=True):
    """POST /api/models/load. `model` may be a path: this route is for the machine's owner."""

    model: str
    options: ModelOptions = msgspec.field(default_factory=ModelOptions)
    replicas: int = 0
    """How many workers it is to have; 0 leaves that to config.toml."""
    place: PlaceRequest | None = None
    """POST /api/workers only: let a cluster choose the machine."""


class DeviceShare(msgspec.Struct):
    """What a model would take of one device, and what that has; bytes."""

    device: str
    """`cpu` is RAM; a GPU is named by its UUID."""
    name: str
    """For people: `RAM`, `GPU 0 (NVIDIA H100)`."""
    bytes: int
    free: int


class EstimateReply(msgspec.Struct, omit_defaults=True):
    """POST /api/models/estimate: what a load would take and where it would go. Nothing is loaded."""

    model: str
    known: bool
    """False when the model's files are not here: then the sizes are 0."""
    loaded: bool = False
    parameters: int = 0
    dtype: str = ""
    quantization: str = ""
    weights_bytes: int = 0
    kv_bytes_per_token: int = 0
    context_length: int = 0
    needed_bytes: int = 0
    """Weights, the KV cache of a few thousand tokens, and the worker itself."""
    full_context_bytes: int = 0
    fits: bool = True
    devices: list[DeviceShare] = []
    """Where it would go."""
    unloads: list[str] = []
    """Idle or busy workers that would have to leave first; busy ones finish."""
    sleeps: list[str] = []
    """Idle workers that would be put to sleep first."""
    gpus: int = 0
    """For vLLM: over how many GPUs it would be cut."""
    gpu_memory_utilization: float = 0.0
    """For vLLM: the share of each that it would take."""
    reason: str = ""
    """Why it does not fit."""


class UnloadRequest(msgspec.Struct, forbid_unknown_fields=True):
    model: str


class WorkerInfo(msgspec.Struct, omit_defaults=True):
    """One worker as the registry and the supervisor know it."""

    name: str
    models: list[str]
    state: WorkerState
    local: bool = True
    """Started by this daemon's supervisor."""
    address: str = ""
    pid: int = 0
    engine: str = ""
    device: str = ""
    dtype: str = ""
    quantization: str = ""
    context_length: int = 0
    running: int = 0
    waiting: int = 0
    tokens_per_second: float = 0.0
    ttft_ms: float = 0.0
    memory_bytes: int = 0
    gpus: list[int] = []
    """The GPUs that it was given, by number."""
    kv_used: float = 0.0
    """Share of the KV cache in use, 0 to 1."""
    prompt_tokens: int = 0
    """Since it started."""
    generated_tokens: int = 0
    restarts: int = 0
    progress: Progress | None = None
    error: str = ""
    started_at: float = 0.0
    """Unix time in seconds."""
    last_used: float = 0.0
    capabilities: list[str] = []
    adapters: list[str] = []
    """Those of its models that are LoRA adapters over the first."""
    log: str = ""
    """Path of the worker's log file on the daemon's machine."""
    on: str = ""
    """The cluster that it was placed on; empty: none."""
    node: str = ""
    """The address of the cluster's node that it runs on."""
    notes: list[str] = []
    """What a person should know of how it was started, such as a context that was shortened to fit."""


class WorkerList(msgspec.Struct):
    workers: list[WorkerInfo]


class DaemonStatus(msgspec.Struct):
    """GET /api/status and the core of `fcd daemon status --json`."""

    pid: int
    url: str
    version: str
    ready: bool
    uptime_s: float
    workers: list[WorkerInfo]
    reasons: list[str] = []
    """Why it is not ready."""
    warnings: list[str] = []
    """What is wrong though it is ready, such as a config.toml that cannot be used."""


class ModelInfo(msgspec.Struct, omit_defaults=True):
    """One model that a name here reaches."""

    name: str
    source: Literal["builtin", "config", "cache", "worker", "path"]
    state: str = "available"
    """`available`, or the state of its best worker."""
    path: str = ""
    size_bytes: int = 0
    context_length: int = 0
    description: str = ""
    default: bool = False
    parent: str = ""
    """Of an adapter: the model that it is over."""
    capabilities: list[str] = []
    """What the workers that serve it can do, `vision` among it; empty while none does."""


class ModelInfoList(msgspec.Struct):
    models: list[ModelInfo]


class LoadEvent(msgspec.Struct, omit_defaults=True):
    """One SSE `data:` line of POST /api/models/load: progress lines, then one `ready` or `error`."""

    type: Literal["progress", "ready", "error"]
    model: str = ""
    """The name to put in a request's `model` field."""
    worker: WorkerInfo | None = None
    progress: Progress | None = None
    error: str = ""
    notes: list[str] = []
    """With `ready`: what was asked for and does nothing here."""


class WorkerEvent(msgspec.Struct, omit_defaults=True):
    """One JSON line that a worker program writes on stdout for the supervisor that started it."""

    event: Literal["progress", "ready", "error", "follow"]
    progress: Progress | None = None
    address: str = ""
    error: str = ""
    follow: str = ""
    """The line for the engine's other nodes, which are to start their parts now."""


class LogLines(msgspec.Struct):
    lines: list[str]


class DaemonEvent(msgspec.Struct, omit_defaults=True):
    """One SSE event of GET /api/events; `event:` carries the same word as `type`."""

    type: Literal["worker", "worker_gone", "models", "ready", "arena", "config", "devices", "chats"]
    worker: WorkerInfo | None = None
    name: str = ""
    message: str = ""
    """Of `config`: what became of a changed config.toml. Of `chats`: what became of the chat that `name` names, or of
    all of them when it is empty."""
    devices: list[DeviceReading] = []
    """Of `devices`: sent every two seconds to those who watch."""
