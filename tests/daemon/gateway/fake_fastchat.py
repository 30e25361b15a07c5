"""A FastChat worker that answers by script: templates, counts and frames as the real ones send them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import msgspec

from daemon.dispatch import Target
from tests.daemon.harness import STREAM_END, Received, chunk, whole

VICUNA = {
    "name": "vicuna_v1.1",
    "system_template": "{system_message}",
    "system_message": "Be short.",
    "roles": ["USER", "ASSISTANT"],
    "messages": [],
    "offset": 0,
    "sep_style": 2,
    "sep": " ",
    "sep2": "</s>",
    "stop_str": None,
    "stop_token_ids": None,
}
HEAD = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
"""Without a content type, as FastChat's."""


def frame(text: str, reason: str | None = None, *, done: int = 1, prompt: int = 7, **more: Any) -> bytes:
    usage = {"prompt_tokens": prompt, "completion_tokens": done, "total_tokens": prompt + done}
    said = {"text": text, "error_code": 0, "usage": usage, "finish_reason": reason, "logprobs": None, **more}
    return json.dumps(said).encode() + b"\0"


def error_frame(code: int, reason: str) -> bytes:
    text = f"**NETWORK ERROR DUE TO HIGH TRAFFIC. PLEASE REGENERATE OR REFRESH THIS PAGE.**\n\n({reason})"
    return json.dumps({"text": text, "error_code": code}).encode() + b"\0"


Frames = list[bytes | Awaitable[Any] | None]
"""Bytes are sent as one chunk, an awaitable is waited for, None breaks the connection."""


@dataclass
class FakeFastChat:
    """Answers its script to every generation. `conv` None has no such route."""

    frames: Callable[[dict[str, Any]], Frames]
    conv: dict[str, Any] = field(default_factory=lambda: dict(VICUNA))
    context: int = 100
    count: int = 7
    asked: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    embeddings: Any = None

    def paths(self) -> list[str]:
        return [path for path, _ in self.asked]

    def generations(self) -> list[dict[str, Any]]:
        return [body for path, body in self.asked if path == "/worker_generate_stream"]

    async def __call__(self, request: Received, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        body = json.loads(request.body or b"{}")
        self.asked.append((request.path, body))
        if request.path == "/worker_generate_stream":
            await self._generate(body, reader, writer)
            return
        answers: dict[str, Any] = {
            "/worker_get_conv_template": {"conv": self.conv},
            "/model_details": {"context_length": self.context},
            "/count_token": {"count": self.count, "error_code": 0},
            "/worker_get_status": {"model_names": ["m"], "speed": 1, "queue_length": 0},
        }
        if self.embeddings is not None:
            answers["/worker_get_embeddings"] = self.embeddings(body)
        if request.path in answers:
            writer.write(whole("200 OK", json.dumps(answers[request.path]).encode()))
        else:
            writer.write(whole("404 Not Found", b'{"detail":"Not Found"}'))
        await writer.drain()

    async def _generate(self, body: dict[str, Any], reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(HEAD)
        for piece in self.frames(body):
            if piece is None:
                writer.transport.abort()
                return
            if isinstance(piece, bytes):
                writer.write(chunk(piece))
                await writer.drain()
                continue
            coming, leaving = asyncio.ensure_future(piece), asyncio.ensure_future(reader.read(1))
            done, _ = await asyncio.wait({coming, leaving}, return_when=asyncio.FIRST_COMPLETED)
            for each in (coming, leaving):
                each.cancel()
            if leaving in done:
                raise ConnectionError("the client left")
        writer.write(STREAM_END)
        await writer.drain()


def always(*pieces: bytes | Awaitable[Any] | None) -> Callable[[dict[str, Any]], Frames]:
    return lambda body: list(pieces)


def as_fastchat(target: Target) -> Target:
    return msgspec.structs.replace(target, dialect="fastchat")
