"""A worker that somebody else runs, as FastChat's or as fcd's, in the test's own process."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any


class Foreign:
    """Answers status and health; `up` false hangs up on everybody."""

    def __init__(self, *models: str) -> None:
        self.models = list(models)
        self.queue_length = 0
        self.up = True
        self.asked: list[str] = []
        self.url = ""

    def status(self) -> dict[str, Any]:
        return {"model_names": self.models, "speed": 1, "queue_length": self.queue_length}

    def registration(self, **changes: Any) -> dict[str, Any]:
        return {
            "worker_name": self.url,
            "check_heart_beat": True,
            "worker_status": self.status(),
            "multimodal": False,
            "a key of the future": [1],
        } | changes

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            path = head.split(b" ", 2)[1].decode()
            self.asked.append(path)
            if self.up:
                frames = b'{"text": "Hi", "error_code": 0}\0{"text": "Hi there", "error_code": 0}\0'
                body = frames if path == "/worker_generate_stream" else json.dumps(self.status()).encode()
                writer.write(b"HTTP/1.1 200 OK\r\nConnection: close\r\n")
                writer.write(f"Content-Length: {len(body)}\r\n\r\n".encode() + body)
                await writer.drain()
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()


@asynccontextmanager
async def foreign(*models: str) -> AsyncIterator[Foreign]:
    worker = Foreign(*models)
    server = await asyncio.start_server(worker.serve, "127.0.0.1", 0)
    worker.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield worker
    finally:
        server.close()
