"""The server behind a worker as it is spoken to: its health, its models, its completions."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from typing import Any

import httpx2 as httpx
import msgspec

from fcd.errors import ApiError, api_error_from_body
from fcd.modalities import llama_entry, says_vision

_PROBE_S = 5.0
_ANSWER_S = 60.0
_CONTEXT_UNKNOWN = 2048
"""What FastChat takes for models that do not say."""


class ChildServer:
    """Its base URL, the key that it asks for, and the unix socket that it listens on, if it does."""

    def __init__(self, url: str, key: str = "", health: str = "/health", *, socket: str = "") -> None:
        self.url = url
        self.socket = socket
        self._health = health
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        limits = httpx.Limits(max_keepalive_connections=0)
        self._http = httpx.AsyncClient(
            base_url=url,
            headers=headers,
            timeout=httpx.Timeout(None, connect=_PROBE_S),
            transport=httpx.AsyncHTTPTransport(uds=socket or None, limits=limits, trust_env=False),
            trust_env=False,
        )
        self.model = ""
        """What it calls its model."""
        self.models: tuple[str, ...] = ()
        """All that it lists."""
        self.context_length = 0
        self.sees = False
        """Whether it says that its model sees images."""

    async def close(self) -> None:
        await self._http.aclose()

    async def is_healthy(self) -> bool:
        status = await self.health()
        return 0 < status < 400

    async def health(self) -> int:
        """The status of its health route; 0 when it does not answer in time."""
        try:
            return (await self._http.get(self._health, timeout=_PROBE_S)).status_code
        except httpx.HTTPError:
            return 0

    async def get(self, path: str, timeout_s: float = _PROBE_S) -> bytes:
        """What it answers a GET with, empty when it does not answer with status 200."""
        try:
            answer = await self._http.get(path, timeout=timeout_s)
        except httpx.HTTPError:
            return b""
        return answer.content if answer.status_code == 200 else b""

    async def tell(self, path: str, timeout_s: float) -> None:
        """A POST without a body.

        Raises:
            ApiError: it refused, or does not answer.
        """
        try:
            async with asyncio.timeout(timeout_s):
                answer = await self._http.post(path)
        except (httpx.HTTPError, TimeoutError) as error:
            raise ApiError(502, f"The model's server does not answer: {error}", code="worker_died") from None
        if answer.status_code >= 400:
            raise _error(answer.status_code, answer.content)

    async def look(self, name: str) -> None:
        """Learn what it calls its model, and how long its context is, and whether it sees images."""
        answer = await self._json("GET", "/v1/models")
        listed = answer.get("data")
        models = [model for model in listed if isinstance(model, dict)] if isinstance(listed, list) else []
        chosen = next((model for model in models if model.get("id") == name), models[0] if models else {})
        self.model = str(chosen.get("id", ""))
        self.models = tuple(str(model["id"]) for model in models if "id" in model)
        meta = chosen.get("meta")
        found = chosen.get("max_model_len") or (meta.get("n_ctx") if isinstance(meta, dict) else 0)
        self.sees = says_vision(chosen) or says_vision(llama_entry(answer, self.model))
        if not found or not self.sees:
            props = await self._json("GET", "/props")
            self.sees = self.sees or says_vision({}, props)
            defaults = props.get("default_generation_settings")
        if not found:
            found = defaults.get("n_ctx") if isinstance(defaults, dict) else 0
        self.context_length = found if type(found) is int and found > 0 else 0

    @property
    def context(self) -> int:
        return self.context_length or _CONTEXT_UNKNOWN

    async def count(self, prompt: str) -> int:
        """Tokens of a text, as vLLM and llama.cpp count them; 0 when it does not."""
        answer = await self._json("POST", "/tokenize", {"model": self.model, "prompt": prompt, "content": prompt})
        tokens, count = answer.get("tokens"), answer.get("count")
        if type(count) is int:
            return count
        return len(tokens) if isinstance(tokens, list) else 0

    async def embed(self, texts: list[str], model: str = "") -> tuple[list[list[float]], int]:
        """Raises ApiError when it makes no embeddings."""
        answer = await self._post("/v1/embeddings", {"model": model or self.model, "input": texts})
        usage = answer.get("usage") or {}
        vectors = [list(each["embedding"]) for each in sorted(answer["data"], key=lambda each: int(each["index"]))]
        return vectors, int(usage.get("prompt_tokens") or 0)

    async def complete(self, body: dict[str, Any]) -> AsyncGenerator[dict[str, Any], None]:
        """The chunks of POST /v1/completions.

        Raises:
            ApiError: it refused, or broke off.
        """
        content = msgspec.json.encode({"model": self.model, **body, "stream": True})
        ended = False
        try:
            async with self._http.stream(
                "POST", "/v1/completions", content=content, headers={"Content-Type": "application/json"}
            ) as answer:
                if answer.status_code != 200:
                    raise _error(answer.status_code, await answer.aread())
                async for line in answer.aiter_lines():
                    if not line.startswith("data:"):
                        continue
                    data = line[5:].strip()
                    if data == "[DONE]":
                        ended = True
                        break
                    chunk = msgspec.json.decode(data)
                    if "error" in chunk:
                        raise api_error_from_body(502, chunk)
                    yield chunk
        except (httpx.HTTPError, msgspec.MsgspecError) as error:
            raise ApiError(502, f"The model's server broke off: {error}", code="worker_died") from None
        if not ended:
            raise ApiError(502, "The model's server broke off.", code="worker_died")

    async def _post(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        try:
            async with asyncio.timeout(_ANSWER_S):
                answer = await self._http.post(path, content=msgspec.json.encode(body), headers=_JSON)
        except (httpx.HTTPError, TimeoutError) as error:
            raise ApiError(502, f"The model's server does not answer: {error}", code="worker_died") from None
        if answer.status_code != 200:
            raise _error(answer.status_code, answer.content)
        decoded: dict[str, Any] = msgspec.json.decode(answer.content, type=dict[str, Any])
        return decoded

    async def _json(self, method: str, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        """What it answers, empty when that is not an object."""
        content = msgspec.json.encode(body) if body is not None else None
        try:
            answer = await self._http.request(method, path, content=content, headers=_JSON, timeout=_PROBE_S)
            found: dict[str, Any] = msgspec.json.decode(answer.content, type=dict[str, Any])
        except (httpx.HTTPError, msgspec.MsgspecError):
            return {}
        return found if answer.status_code == 200 else {}


_JSON = {"Content-Type": "application/json"}


def _error(status: int, body: bytes) -> ApiError:
    try:
        decoded = msgspec.json.decode(body)
    except msgspec.MsgspecError:
        decoded = body[:300].decode("utf-8", "replace")
    return api_error_from_body(status, decoded)
