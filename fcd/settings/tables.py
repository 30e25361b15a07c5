"""Every key of config.toml, as a field of its table, with its default."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import msgspec

DEFAULT_PORT = 8000
DEFAULT_MODEL = "guide"
MOST_REPLICAS = 64


class DaemonSettings(msgspec.Struct, forbid_unknown_fields=True):
    """Where the daemon listens and what bounds it."""

    host: str = "127.0.0.1"
    """The address listened on; one that others can reach needs an API key."""
    port: int = DEFAULT_PORT
    """0 takes a free one."""
    allowed_hosts: list[str] = []
    """Host headers answered besides loopback names and the address listened on."""
    allowed_origins: list[str] = []
    """Web origins that may call; empty keeps CORS closed."""
    max_body_bytes: int = 32 * 1024 * 1024
    """The largest request."""
    max_queue: int = 256
    """Requests that may wait for one model, those being loaded included."""
    load_stall_s: float = 300.0
    """A load with no progress for this long has failed."""
    first_byte_s: float = 600.0
    """How long a worker may take before its first byte."""
    stall_s: float = 300.0
    """A stream with no byte for this long has stalled."""
    drain_s: float = 30.0
    """How long running requests may go on after a stop."""
    keep_alive: str = "30m"
    """How long an unused model stays loaded; `-1` is for ever."""
    sse_comment_s: float = 10.0
    """A waiting stream gets a comment this often, so that nothing between cuts it."""
    heartbeat_s: float = 90.0
    """A worker not heard of for this long is lost."""
    dispatch: Literal["shortest_queue", "lottery", "prefix_affinity"] = "shortest_queue"
    """How one of several workers with the same model is chosen; `prefix_affinity` sends a chat back to the worker whose
    cache holds how it begins, unless that one has much more to do than the others."""
    log_level: Literal["debug", "info", "warning", "error"] = "info"


class WorkerSettings(msgspec.Struct, forbid_unknown_fields=True):
    """How workers that this machine starts run models."""

    device: str = "auto"
    """`auto`, `cpu`, `cuda` or `mps`."""
    dtype: str = "auto"
    """`auto`, `float32`, `float16` or `bfloat16`."""
    max_batch: int = 32
    """Completions that run at once in one worker."""
    max_waiting: int = 256
    """Requests that may wait in one worker."""
    kv_bytes: int = 0
    """Memory for the KV cache; 0 decides from what is free."""
    threads: int = 0
    """CPU threads for a worker; 0 decides from the cores."""
    heartbeat_s: float = 15.0
    """How often a worker reports; FastChat's controllers expect 45 or less."""


class ChatSettings(msgspec.Struct, forbid_unknown_fields=True):
    """Defaults of `fcd chat` and the interface."""

    model: str = DEFAULT_MODEL
    """The model when none is named."""
    temperature: float | None = None
    """Not set leaves it to the model."""
    top_p: float | None = None
    """Not set leaves it to the model."""
    max_tokens: int = 0
    """0 leaves it to what the context holds."""
    system: str = ""
    """The system message; empty is none."""
    style: Literal["simple", "rich", "programmatic"] = "rich"
    """How answers look; `rich` is `simple` where there are no colours."""


class TuiSettings(msgspec.Struct, forbid_unknown_fields=True):
    theme: str = "dark"
    ascii: bool = False
    keys: dict[str, str] = {}
    """Action name to key, replacing the one that is built in."""


class ArenaSettings(msgspec.Struct, forbid_unknown_fields=True):
    """Battles and the board."""

    pairing: Literal["uniform", "weighted", "fewest_votes", "most_informative"] = "uniform"
    """How the two models of a blind battle are drawn."""
    pools: dict[str, list[str]] = {}
    """Name of a pool to the models that it draws from."""
    weights: dict[str, float] = {}
    """How often `weighted` draws a model, relative to 1; 0 is never."""
    undo_s: float = 5.0
    """How long a vote can be taken back, unless the names were shown."""
    votes_per_hour: int = 0
    """Votes that one voter may give in an hour; 0 is no limit."""
    max_running: int = 16
    """Battles that may write at once."""
    max_turns: int = 50
    """Questions in one battle."""
    max_prompt_chars: int = 30_000
    """The longest question."""
    anchor: str = ""
    """The model that has `anchor_rating` on the board; empty puts the mean at 1000."""
    anchor_rating: float = 1000.0
    """What `anchor` is rated."""


class VllmSettings(msgspec.Struct, forbid_unknown_fields=True):
    """vLLM, which lives in an environment of its own; with nothing set, that of `fcd engine install vllm`."""

    python: str = ""
    """The interpreter of an environment that has vLLM."""
    command: str = ""
    """What `serve MODEL ...` is added to, such as `vllm` or `docker run ... vllm`; goes before `python`."""
    env: dict[str, str] = {}
    """Environment variables for it."""
    stall_s: float = 60.0
    """With requests under way and no token for this long it is asked for one; without an answer it is started again."""
    sleep_ttl: str = "30m"
    """How long a model that was put to sleep keeps its RAM before it is unloaded; `0` lets no model sleep."""


class EnginesSettings(msgspec.Struct, forbid_unknown_fields=True):
    """Engines that are programs with an environment of their own."""

    vllm: VllmSettings = msgspec.field(default_factory=VllmSettings)


class ModelSettings(msgspec.Struct, forbid_unknown_fields=True):
    """One `[models.NAME]` table: a name of one's own for a model and how to load it."""

    path: str = ""
    """A folder or a repo; empty means that NAME itself is one."""
    engine: Literal["", "transformers", "vllm", "command"] = ""
    device: str = ""
    dtype: str = ""
    quantization: Literal["", "8bit", "4bit"] = ""
    num_gpus: int = 0
    gpus: str = ""
    max_gpu_memory: str = ""
    revision: str = ""
    conv_template: str = ""
    tokenizer: str = ""
    """A folder or repo whose tokenizer is taken instead of the model's own; for vLLM."""
    quantize_with: str = ""
    """vLLM's own name of a way to quantize, such as `awq` or `fp8`."""
    gpu_memory_utilization: float = 0.0
    """The share of each GPU's whole memory that vLLM takes; 0 leaves it to be worked out."""
    max_model_len: int = 0
    """The longest context that vLLM makes room for; 0 is the model's own."""
    trust_remote_code: bool = False
    """Let vLLM run the Python that the model's repo brings."""
    engine_args: list[str] = []
    """Words for vLLM's own command line, such as `["--enforce-eager"]`."""
    keep_alive: str = ""
    replicas: int = 1
    """How many workers it has while it is loaded, as far as memory allows."""
    command: str = ""
    """For `engine = "command"`: what starts an OpenAI-compatible server, such as `llama-server -m {model} --port
    {port}`; `{host}`, `{name}` and `{key}` are filled in too."""
    health: str = "/health"
    """Where that server says that it can answer."""
    env: dict[str, str] = {}
    """Environment variables for it; `{key}` is filled in here too, where others on the machine cannot read it."""
    stop_signal: str = "SIGTERM"
    """What asks it to end."""
    vision: bool | None = None
    """Whether its model sees images; left out, as far as the server says."""
    preload: bool = False
    """Load it when the daemon starts."""
    system: str = ""
    """The system message of chats that bring none. This and what follows makes the name a profile: other names of the
    same model, loaded the same way, share its worker and keep their own defaults."""
    temperature: float | None = None
    """For requests that leave it out, as are those below."""
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    max_tokens: int | None = None
    """The longest answer to a request that sets no limit."""
    stop: list[str] = []
    """Texts that end an answer."""
    adapters: dict[str, str] = {}
    """LoRA adapters over this model, each a model of its own for requests: name -> folder, in PEFT's layout."""


class Settings(msgspec.Struct, forbid_unknown_fields=True):
    """All of config.toml."""

    daemon: DaemonSettings = msgspec.field(default_factory=DaemonSettings)
    worker: WorkerSettings = msgspec.field(default_factory=WorkerSettings)
    chat: ChatSettings = msgspec.field(default_factory=ChatSettings)
    tui: TuiSettings = msgspec.field(default_factory=TuiSettings)
    arena: ArenaSettings = msgspec.field(default_factory=ArenaSettings)
    engines: EnginesSettings = msgspec.field(default_factory=EnginesSettings)
    models: dict[str, ModelSettings] = {}
    aliases: dict[str, str] = {}


PROFILE_RANGES: Mapping[str, tuple[float, float]] = {
    "temperature": (0, 2),
    "top_p": (0, 1),
    "top_k": (-1, 2**31 - 1),
    "min_p": (0, 1),
    "repetition_penalty": (0.01, 100),
    "presence_penalty": (-2, 2),
    "frequency_penalty": (-2, 2),
    "max_tokens": (1, 2**31 - 1),
}
"""The sampling defaults of a profile, with the values that requests may have."""

PROFILE_FIELDS = (*PROFILE_RANGES, "system", "stop")

SECTIONS: Mapping[str, type[msgspec.Struct]] = {
    "daemon": DaemonSettings,
    "worker": WorkerSettings,
    "chat": ChatSettings,
    "tui": TuiSettings,
    "arena": ArenaSettings,
    "engines.vllm": VllmSettings,
}
"""Tables with a fixed set of keys, each of which an environment variable can set."""
