"""A scripted engine and a tokenizer of single characters, behind the worker's real app on real sockets."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import httpx2 as httpx

from daemon.engines.base import Delta, EngineInfo, EngineStats, GenerationRequest, TokenLogprob
from daemon.worker.defaults import SamplingDefaults
from daemon.worker.fastchat import fastchat_routes
from daemon.worker.options import WorkerOptions
from daemon.worker.probes import probe_routes
from daemon.worker.profiles import Profiles
from daemon.worker.prompts import Prompter
from daemon.worker.routes import openai_routes
from daemon.worker.server import Listeners, new_app
from daemon.worker.state import Model, Worker
from daemon.worker.tokens import TokenTable
from fcd.errors import ApiError
from fcd.settings import Settings
from fcd.templates import ConvTemplate

CONTEXT = 64
BOS = 1


class FakeTokenizer:
    """Every character is a token; BOS is `^`. Its chat template is `role:text|` and an open `assistant:`."""

    bos_token_id = BOS
    bos_token = "^"
    eos_token = "$"
    chat_template = "{% if fail %}{% endif %}{{ messages }}"

    def encode(self, text: str, *, add_special_tokens: bool = True, verbose: bool = True) -> list[int]:
        ids = [BOS if char == "^" else ord(char) for char in text]
        return [BOS, *ids] if add_special_tokens else ids

    def decode(self, ids: Sequence[int], **_: Any) -> str:
        return "".join("^" if token == BOS else chr(token) for token in ids)

    def convert_ids_to_tokens(self, ids: Any) -> Any:
        return [self.decode([token]) for token in ids] if isinstance(ids, list) else self.decode([ids])

    def apply_chat_template(
        self, messages: list[dict[str, Any]], *, tokenize: bool, add_generation_prompt: bool, **kwargs: Any
    ) -> str:
        if kwargs.get("fail"):
            raise ValueError("roles must alternate")
        text = "".join(f"{message['role']}:{message['content']}|" for message in messages)
        return text + ("assistant:" if add_generation_prompt else "")


class FakeEngine:
    """Answers each choice with `text`, a character at a time; `hold` stops it before the character of that number."""

    def __init__(self, text: str = "Hello", *, hold: int | None = None, fail: ApiError | None = None) -> None:
        self.text = text
        self.hold = hold
        self.fail = fail
        self.fail_after: int = 0
        self.go = asyncio.Event()
        self.tokenizer = FakeTokenizer()
        self.requests: list[GenerationRequest] = []
        self.running = 0
        self.cancelled = 0
        self.closed = False
        self.info = EngineInfo(
            model="fake",
            architecture="Fake",
            context_length=CONTEXT,
            device="cpu",
            dtype="float32",
            parallel=4,
            vocab_size=0x110000,
            eos_token_ids=(2,),
            capabilities=("chat", "completions", "embeddings"),
        )

    async def generate(self, request: GenerationRequest) -> AsyncIterator[Delta]:
        self.requests.append(request)
        self.running += 1
        finished = False
        try:
            for position in range(min(len(self.text), request.params.max_tokens)):
                if self.fail is not None and position == self.fail_after:
                    raise self.fail
                if self.hold == position:
                    await self.go.wait()
                await asyncio.sleep(0)
                for index in range(request.n):
                    yield self._delta(request, position, index)
            if request.params.max_tokens == 0:
                for index in range(request.n):
                    yield Delta(index, "", finish_reason="length", prompt_logprobs=self._prompt(request, index))
            finished = True
        finally:
            self.running -= 1
            self.cancelled += not finished

    def _delta(self, request: GenerationRequest, position: int, index: int) -> Delta:
        char = self.text[position]
        last = position == min(len(self.text), request.params.max_tokens) - 1
        wanted = request.params.logprobs
        return Delta(
            index,
            char,
            (ord(char),),
            () if wanted is None else (self._entry(char, wanted, position),),
            ("stop" if len(self.text) <= request.params.max_tokens else "length") if last else None,
            prompt_logprobs=self._prompt(request, index) if position == 0 else None,
            cached_tokens=3 if position == 0 and index == 0 else 0,
        )

    def _prompt(self, request: GenerationRequest, index: int) -> tuple[TokenLogprob, ...] | None:
        wanted = request.params.prompt_logprobs
        if wanted is None or index:
            return None
        texts = [(token, self.tokenizer.decode([token])) for token in request.prompt_ids]
        first, *rest = texts
        return (
            TokenLogprob(*first, None),
            *(TokenLogprob(token, text, -1.0, self._top(text, wanted), at) for at, (token, text) in enumerate(rest, 1)),
        )

    def _entry(self, char: str, wanted: int, position: int) -> TokenLogprob:
        return TokenLogprob(ord(char), char, -0.5, self._top(char, wanted), position)

    def _top(self, char: str, count: int) -> tuple[tuple[int, str, float], ...]:
        likeliest = [(ord(char), char, -0.5), (ord("z"), "z", -1.5), (ord("y"), "y", -2.5)]
        return tuple(likeliest[:count])

    async def embed(self, inputs: Sequence[Sequence[int]], adapter: str = "") -> list[list[float]]:
        return [[0.6, 0.8, 0.0] for _ in inputs]

    def stats(self) -> EngineStats:
        return EngineStats(running=self.running, generated_tokens=7)

    async def close(self) -> None:
        self.closed = True


class Served:
    """A worker's app, listening."""

    def __init__(self, worker: Worker, listeners: Listeners, engine: FakeEngine) -> None:
        self.worker = worker
        self.listeners = listeners
        self.engine = engine
        self.url = f"http://127.0.0.1:{listeners.port}"

    def client(self, **options: Any) -> httpx.AsyncClient:
        return httpx.AsyncClient(base_url=self.url, timeout=10, **options)

    def unix_client(self) -> httpx.AsyncClient:
        transport = httpx.AsyncHTTPTransport(uds=self.worker.options.socket)
        return httpx.AsyncClient(base_url="http://worker", transport=transport, timeout=10)


def with_worker(
    test: Callable[[Served], Awaitable[None]],
    engine: FakeEngine | Callable[[], FakeEngine] | None = None,
    *,
    socket: Path | None = None,
    template: ConvTemplate | None = None,
    ready: bool = True,
    comment_s: float = 10.0,
    api_key: str = "",
    settings: Settings | None = None,
) -> None:
    """Serve a fake engine as model `fake`, run `test`, close."""

    async def main() -> None:
        used = engine() if callable(engine) else engine or FakeEngine()
        options = WorkerOptions(model="fake", socket=str(socket or ""), api_key=api_key)
        worker = Worker(options, ["fake"], comment_s=comment_s, profiles=Profiles(settings or Settings()))
        if ready:
            prompter = Prompter(used.tokenizer, template)
            worker.model = Model(used, prompter, TokenTable(used.tokenizer), SamplingDefaults())
            worker.status = "ok"
        listeners = Listeners(
            new_app(worker, [openai_routes(worker), fastchat_routes(worker), probe_routes(worker)]), options
        )
        await listeners.open()
        try:
            await test(Served(worker, listeners, used))
        finally:
            listeners.close()
            listeners.abort()

    asyncio.run(main())


async def until(condition: Callable[[], bool], within: float = 5.0) -> None:
    """Wait for a condition; fails when it does not come true in time."""
    async with asyncio.timeout(within):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.005)


def events_of(text: str) -> list[tuple[str, str]]:
    """The server-sent events of a body: (event, data)."""
    found: list[tuple[str, str]] = []
    for block in text.split("\n\n"):
        name, data = "", ""
        for line in block.splitlines():
            if line.startswith("event:"):
                name = line[6:].strip()
            elif line.startswith("data:"):
                data = line[5:].strip()
        if data:
            found.append((name, data))
    return found
