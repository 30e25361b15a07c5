"""What every in-process engine offers to the worker program around it.

The worker's event loop speaks HTTP, renders templates and tokenises; the engine turns token ids into deltas. Anything
here may be called from the event loop and returns at once or awaits; the model itself lives in the engine's own thread.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any, Literal, Protocol

import msgspec

FinishReason = Literal["stop", "length", "abort"]


class SamplingParams(msgspec.Struct, frozen=True):
    """How the next token is chosen and when a completion ends. Already validated: every value is in range."""

    max_tokens: int = 16
    min_tokens: int = 0
    temperature: float = 1.0
    """0 is greedy."""
    top_p: float = 1.0
    top_k: int = 0
    """0 is off."""
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: dict[int, float] = {}
    seed: int | None = None
    """The same seed gives the same text whatever else runs; choice i of n uses its own stream derived from it."""
    stop: tuple[str, ...] = ()
    stop_token_ids: tuple[int, ...] = ()
    """Besides the model's own end-of-sequence ids."""
    include_stop: bool = False
    ignore_eos: bool = False
    logprobs: int | None = None
    """None: none. k: the chosen token's and the k most likely ones' at each position."""
    prompt_logprobs: int | None = None
    skip_special_tokens: bool = True


class TokenMask(Protocol):
    """Which tokens one completion may go on with. The engine's thread is its only user."""

    vocab_size: int
    finished: bool
    """Nothing can follow: the completion has ended."""

    failure: str
    """Why a token was not accepted."""

    def fill(self, bits: Any, row: int) -> bool:
        """Write the allowed tokens into `bits[row]`, an int32 array `[rows, ceil(vocab / 32)]` in main memory: bit
        `t % 32` of word `t // 32` stands for token t. False when every token is allowed."""
        ...

    def accept(self, token_id: int) -> bool:
        """Go on behind a token; False when that cannot be, and the completion must be given up."""
        ...


class Grammar(Protocol):
    """The form that an answer must have, compiled for one model; shared by every completion that has to keep to it."""

    def start(self) -> TokenMask:
        """The mask of one more completion, at its beginning."""
        ...


class SchemaSource(msgspec.Struct, frozen=True):
    """A JSON schema of a request."""

    schema: Any
    param: str
    """The field that holds it, for errors."""
    strict: bool = False
    """Refuse what cannot be enforced exactly, instead of enforcing it as far as possible."""


class GrammarSpec(msgspec.Struct, frozen=True):
    """A form to compile.

    `format` is an xgrammar structural tag's format as plain JSON; `{"type": "schema", "index": i}` in it stands for a
    JSON text that fits `schemas[i]`.
    """

    format: Any
    schemas: tuple[SchemaSource, ...] = ()
    param: str = "response_format"
    """The field to name when no single schema is at fault."""


class ImageInput(msgspec.Struct, frozen=True):
    """An image of a request, as it came."""

    data: bytes
    """A PNG, JPEG, WebP or GIF file."""
    detail: Literal["auto", "low", "high"] = "auto"
    param: str = "messages"
    """The field that holds it, for errors."""


class ImagePrompt(msgspec.Struct, frozen=True):
    """A prompt with images, as the model takes it."""

    ids: list[int]
    """With the tokens that stand for the images."""
    tensors: dict[str, Any]
    """What the model's forward takes beside them: the engine's own business."""


class GenerationRequest(msgspec.Struct, frozen=True):
    """One prompt, `n` completions that share its prefill."""

    request_id: str
    prompt_ids: Sequence[int]
    params: SamplingParams
    n: int = 1
    best_of: int = 1
    """Sample this many (at least n) and give back the n with the highest mean log-probability."""
    grammar: Grammar | None = None
    """The form that each completion must have; its tokens are sampled among the allowed ones only."""
    adapter: str = ""
    """The LoRA adapter that computes it, one of `EngineInfo.adapters`; empty for the model as it is."""
    images: ImagePrompt | None = None
    """What `prompt_ids` were made with, where the prompt has images."""


class TokenLogprob(msgspec.Struct, frozen=True):
    """One position: the token that stands there and the likeliest alternatives, best first. Natural logarithms."""

    token_id: int
    token: str
    logprob: float | None
    """None for a prompt's first token, which nothing predicts."""
    top: tuple[tuple[int, str, float], ...] = ()
    begin: int = 0
    """How many characters of the text stand before it. Tokens that share a character, and those that are not shown, do
    not add up: lengths of `token` say nothing of it. A prompt's text has its special tokens in it."""


class Delta(msgspec.Struct, frozen=True):
    """What a step added to one choice.

    `text` holds whole characters only and never part of a stop string that may still complete; deltas concatenate to
    the answer. `token_ids` are the tokens generated since the last delta of this choice (the end-of-sequence token that
    ended it included, as usage counts it). The last delta of each choice carries `finish_reason`.
    """

    index: int
    text: str
    token_ids: tuple[int, ...] = ()
    logprobs: tuple[TokenLogprob, ...] = ()
    finish_reason: FinishReason | None = None
    stop_reason: str | int | None = None
    """The stop string or id that ended it, None for the model's own end; the reason of an abort."""
    prompt_logprobs: tuple[TokenLogprob, ...] | None = None
    """On the first delta of the request, when asked for: one entry per prompt token."""
    cached_tokens: int = 0
    """On the first delta of the request: prompt tokens that were not computed again."""


class EngineStats(msgspec.Struct, frozen=True):
    running: int = 0
    waiting: int = 0
    kv_used: float = 0.0
    """Share of the KV cache in use, 0 to 1."""
    tokens_per_second: float = 0.0
    """Output tokens over the last seconds."""
    ttft_ms: float = 0.0
    """Median time to first token of the last requests."""
    generated_tokens: int = 0
    prompt_tokens: int = 0
    memory_bytes: int = 0


class EngineInfo(msgspec.Struct, frozen=True):
    """What was loaded, after loading."""

    model: str
    """Folder or repo that was loaded."""
    architecture: str
    context_length: int
    """Prompt and completion together, in tokens."""
    device: str
    dtype: str
    quantization: str = ""
    parallel: int = 1
    """How many completions run at once."""
    is_encoder_decoder: bool = False
    eos_token_ids: tuple[int, ...] = ()
    vocab_size: int = 0
    memory_bytes: int = 0
    capabilities: tuple[str, ...] = ("chat", "completions")
    blind: str = ""
    """Why a model that was made to see images does not here."""
    adapters: tuple[str, ...] = ()
    """LoRA adapters that requests may name."""


class LoadOptions(msgspec.Struct, frozen=True):
    """How to load a model; empty means: decide from the model and the machine."""

    path: str
    """A local folder in Hugging Face's layout: downloads happen before."""
    device: str = ""
    dtype: str = ""
    quantization: str = ""
    num_gpus: int = 0
    gpus: str = ""
    max_gpu_memory: str = ""
    max_batch: int = 0
    max_waiting: int = 256
    kv_bytes: int = 0
    trust_remote_code: bool = False
    lora_modules: dict[str, str] = {}
    """LoRA adapters: name -> folder, in PEFT's layout."""


LoadProgress = Callable[[str, float, float], None]
"""(stage, done, total): total 0 when not known. Called from any thread."""


class Engine(Protocol):
    """An engine that has loaded one model."""

    info: EngineInfo
    tokenizer: Any
    """The model's transformers tokenizer; thread-safe for encoding from the event loop's executor."""

    def generate(self, request: GenerationRequest) -> AsyncIterator[Delta]:
        """Yield deltas until every choice has finished.

        Closing the iterator (or cancelling the task) ends the request within one step and frees what it held.

        Raises:
            ApiError: 429 when the waiting queue is full, 400 when the prompt cannot fit, 503/500 when the engine died.
        """
        ...

    async def compile_grammar(self, spec: GrammarSpec) -> Grammar:
        """Compile a form for this model, off the event loop and within a time limit.

        Raises:
            ApiError: 400 naming the field whose schema cannot be used.
        """
        ...

    async def read_images(self, text: str, images: Sequence[ImageInput], *, specials: bool) -> ImagePrompt:
        """Put images into a rendered prompt that has places for them, off the event loop.

        Raises:
            ApiError: 400; an image cannot be read, the prompt has other places, or the model sees none.
        """
        ...

    async def embed(self, inputs: Sequence[Sequence[int]], adapter: str = "") -> list[list[float]]:
        """Vectors, one for each list of token ids, by the model or one of its adapters."""
        ...

    def stats(self) -> EngineStats: ...

    async def close(self) -> None:
        """Stop the engine's thread and free the model; running requests end with an ApiError."""
        ...
