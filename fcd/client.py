"""The daemon's client, used by the command line and the interface.

It speaks HTTP to a running daemon and nothing else: no model code is ever imported here.
"""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import aclosing, asynccontextmanager
from types import TracebackType
from typing import Any, Self, TypeVar
from urllib.parse import quote

import httpx2 as httpx
import msgspec

from fcd.client_arena import ArenaCalls
from fcd.client_chats import ChatCalls
from fcd.errors import ApiError, NotRunning, api_error_from_body
from fcd.paths import Paths, resolve_paths
from fcd.wire.admin import (
    DaemonEvent,
    DaemonStatus,
    EstimateReply,
    LoadEvent,
    LoadRequest,
    LogLines,
    ModelInfo,
    ModelInfoList,
    UnloadRequest,
    WorkerInfo,
    WorkerList,
)
from fcd.wire.devices import DeviceList
from fcd.wire.downloads import Download, DownloadList, DownloadRequest, RepoRequest
from fcd.wire.neighbours import AttachRequest, Head, HeadList, JoinRequest, LeaveRequest

T = TypeVar("T")

_CONNECT_S = 3.0


class Address(msgspec.Struct, frozen=True):
    """Where a daemon is and what opens it."""

    url: str
    api_key: str = ""


def find_daemon(environ: Mapping[str, str] | None = None, paths: Paths | None = None) -> Address:
    """`FCD_URL` and `FCD_API_KEY` where they are set, else the running daemon's own files, else the default address."""
    env = os.environ if environ is None else environ
    here = paths or resolve_paths(env)
    key = env.get("FCD_API_KEY", "")
    if env.get("FCD_URL"):
        return Address(env["FCD_URL"].rstrip("/"), key)
    url = _recorded_url(here) or f"http://127.0.0.1:{env.get('FCD_PORT', '8000')}"
    return Address(url, key or _read_token(here))


def _recorded_url(paths: Paths) -> str:
    try:
        record = msgspec.json.decode(paths.pidfile.read_bytes())
    except (OSError, msgspec.DecodeError):
        return ""
    return str(record.get("url", "")) if isinstance(record, dict) else ""


def _read_token(paths: Paths) -> str:
    try:
        return paths.admin_token.read_text(encoding="utf-8").strip()
    except OSError:
        return ""


class ServerSentEvent(msgspec.Struct, frozen=True):
    event: str
    data: str


class Client(ArenaCalls, ChatCalls):
    """One daemon. Use it as an async context manager.

    Every method raises `NotRunning` when nothing answers and `ApiError` when the daemon refuses.
    """

    def __init__(self, address: Address | None = None, *, timeout_s: float = 30.0) -> None:
        self.address = address or find_daemon()
        headers = {"Authorization": f"Bearer {self.address.api_key}"} if self.address.api_key else {}
        self._http = httpx.AsyncClient(
            base_url=self.address.url,
            headers=headers,
            timeout=httpx.Timeout(timeout_s, connect=_CONNECT_S),
            trust_env=False,
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        await self._http.aclose()

    async def is_alive(self) -> bool:
        """Whether a daemon answers at all."""
        try:
            return (await self._http.get("/health", timeout=_CONNECT_S)).status_code == 200
        except httpx.HTTPError:
            return False

    async def status(self) -> DaemonStatus:
        return await self._get("/api/status", DaemonStatus)

    async def workers(self) -> list[WorkerInfo]:
        return (await self._get("/api/workers", WorkerList)).workers

    async def devices(self) -> DeviceList:
        """What GPUs, CPU and RAM are doing."""
        return await self._get("/api/devices", DeviceList)

    async def models(self) -> list[ModelInfo]:
        return (await self._get("/api/models", ModelInfoList)).models

    async def start_worker(self, request: LoadRequest) -> WorkerInfo:
        """Start a worker without waiting for it to load."""
        return msgspec.convert(await self.json("POST", "/api/workers", request), WorkerInfo)

    async def estimate(self, request: LoadRequest) -> EstimateReply:
        """What a load would take and where it would go; nothing is loaded."""
        return msgspec.convert(await self.json("POST", "/api/models/estimate", request), EstimateReply)

    async def stop_worker(self, name: str) -> None:
        await self.json("DELETE", f"/api/workers/{name}")

    async def attach_worker(self, request: AttachRequest) -> WorkerInfo:
        """Use a server that speaks OpenAI's routes as a worker."""
        return msgspec.convert(await self.json("POST", "/api/workers/attach", request), WorkerInfo)

    async def heads(self) -> list[Head]:
        """Daemons that this one has joined."""
        return (await self._get("/api/heads", HeadList)).heads

    async def join(self, request: JoinRequest) -> Head:
        """Offer this daemon's models at another."""
        return msgspec.convert(await self.json("POST", "/api/heads", request), Head)

    async def leave(self, url: str) -> None:
        await self.json("POST", "/api/heads/leave", LeaveRequest(url))

    async def detach_worker(self, name: str) -> None:
        await self.json("POST", f"/api/workers/{quote(name, safe='')}/detach")

    async def downloads(self) -> list[Download]:
        return (await self._get("/api/downloads", DownloadList)).downloads

    async def download(self, request: DownloadRequest) -> Download:
        """Begin a download, or go on with one, without waiting for it."""
        return msgspec.convert(await self.json("POST", "/api/downloads", request), Download)

    async def pause_download(self, repo: str) -> None:
        await self.json("POST", "/api/downloads/pause", RepoRequest(repo))

    async def cancel_download(self, repo: str) -> None:
        """End it and remove what arrived."""
        await self.json("POST", "/api/downloads/cancel", RepoRequest(repo))

    async def restart_worker(self, name: str) -> None:
        await self.json("POST", f"/api/workers/{name}/restart")

    async def unload(self, model: str) -> None:
        await self.json("POST", "/api/models/unload", UnloadRequest(model))

    async def worker_log(self, name: str, lines: int = 200) -> list[str]:
        return (await self._get(f"/api/workers/{name}/log?lines={lines}", LogLines)).lines

    async def daemon_log(self, lines: int = 200) -> list[str]:
        return (await self._get(f"/api/logs?lines={lines}", LogLines)).lines

    async def load(self, request: LoadRequest) -> AsyncGenerator[LoadEvent, None]:
        """Load a model (or find it loaded): progress, then one `ready` or `error`. Closing it does not unload."""
        async with aclosing(self.events("POST", "/api/models/load", request)) as events:
            async for event in events:
                yield msgspec.json.decode(event.data, type=LoadEvent)

    async def watch(self) -> AsyncGenerator[DaemonEvent, None]:
        """What changes in the daemon, from now until the connection ends."""
        async with aclosing(self.events("GET", "/api/events")) as events:
            async for event in events:
                yield msgspec.json.decode(event.data, type=DaemonEvent)

    async def chat(self, body: Mapping[str, Any]) -> AsyncGenerator[dict[str, Any], None]:
        """Stream /v1/chat/completions: each chunk as OpenAI sends it. An `error` event is raised as ApiError."""
        async with aclosing(self.events("POST", "/v1/chat/completions", {**body, "stream": True})) as events:
            async for event in events:
                if event.data == "[DONE]":
                    return
                chunk = msgspec.json.decode(event.data)
                if event.event == "error" or "error" in chunk:
                    raise api_error_from_body(500, chunk)
                yield chunk
        raise ApiError(502, "The answer broke off: the connection ended before it was complete.", code="worker_died")

    async def json(self, method: str, path: str, body: Any = None) -> Any:
        """One request and its decoded answer."""
        try:
            answer = await self._http.request(method, path, **_content(body))
        except httpx.HTTPError as error:
            raise self._unreachable(error) from error
        _raise_for_status(answer)
        return msgspec.json.decode(answer.content) if answer.content else None

    async def events(self, method: str, path: str, body: Any = None) -> AsyncGenerator[ServerSentEvent, None]:
        """The server-sent events of one request; comments are passed over."""
        async with self._open_stream(method, path, body) as answer:
            name, data = "", list[str]()
            async for line in answer.aiter_lines():
                if line.startswith("data:"):
                    data.append(line[5:].removeprefix(" "))
                elif line.startswith("event:"):
                    name = line[6:].strip()
                elif not line and data:
                    yield ServerSentEvent(name, "\n".join(data))
                    name, data = "", []

    async def raw(self, method: str, path: str, body: bytes | None = None) -> AsyncGenerator[bytes, None]:
        """The bytes of one answer as they come."""
        async with self._open_stream(method, path, body) as answer:
            async for piece in answer.aiter_bytes():
                yield piece

    @asynccontextmanager
    async def _open_stream(self, method: str, path: str, body: Any) -> AsyncIterator[httpx.Response]:
        timeout = httpx.Timeout(None, connect=_CONNECT_S)
        try:
            async with self._http.stream(method, path, timeout=timeout, **_content(body)) as answer:
                if answer.status_code >= 400:
                    await answer.aread()
                    _raise_for_status(answer)
                yield answer
        except httpx.HTTPError as error:
            raise self._unreachable(error) from error

    async def _get(self, path: str, kind: type[T]) -> T:
        return msgspec.convert(await self.json("GET", path), kind)

    def _unreachable(self, error: Exception) -> NotRunning:
        reason = str(error) or type(error).__name__
        return NotRunning(
            f"The daemon does not answer at {self.address.url} ({reason}).", hint="Start it with `fcd daemon start`."
        )


def _content(body: Any) -> dict[str, Any]:
    if body is None:
        return {}
    return {"content": msgspec.json.encode(body), "headers": {"Content-Type": "application/json"}}


def _raise_for_status(answer: httpx.Response) -> None:
    if answer.status_code < 400:
        return
    try:
        body = msgspec.json.decode(answer.content)
    except msgspec.DecodeError:
        body = answer.text[:500]
    raise api_error_from_body(answer.status_code, body)
