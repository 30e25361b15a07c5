"""FastChat's worker routes, called: a worker's template, its context, its token counts, its frames."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from typing import Any

import httpx2 as httpx
import msgspec

from daemon.dispatch import Target
from daemon.gateway.fastchat.conversation import Conversation, UnknownTemplate, read_conversation
from daemon.gateway.upstream import CONNECT_S, UpstreamLost
from daemon.supervisor.probe import authorization, base_url
from fcd.errors import FASTCHAT_CODES, ApiError

_ANSWER_S = 30.0
"""How long a worker may take for its template, its context length or a count."""
_MOST_ANSWER_BYTES = 4 * 1024 * 1024
_LONGEST_FRAME = 16 * 1024 * 1024
_APOLOGY = "**NETWORK ERROR DUE TO HIGH TRAFFIC. PLEASE REGENERATE OR REFRESH THIS PAGE.**"
_STATUS = {
    "invalid_request": 400,
    "out_of_range": 400,
    "context_length_exceeded": 400,
    "model_not_found": 404,
    "rate_limited": 429,
    "overloaded": 429,
    "out_of_memory": 503,
    "no_worker": 503,
    "worker_timeout": 504,
}
_CODES = {number: code for code, number in FASTCHAT_CODES.items()} | {42902: "rate_limited"}


class Facts(msgspec.Struct, frozen=True):
    """What a registration stands for; asked once."""

    target: Target
    conversation: Conversation | None
    """None: the worker gave one that cannot be rendered, for the reason in `problem`."""
    problem: str
    context_length: int
    """0: the worker does not say."""


class Peers:
    """The FastChat workers that this gateway has spoken to."""

    def __init__(self) -> None:
        self._http: httpx.AsyncClient | None = None
        self._facts: dict[tuple[str, str], Facts] = {}

    @property
    def http(self) -> httpx.AsyncClient:
        if self._http is None:
            timeout = httpx.Timeout(None, connect=CONNECT_S)
            # Each request is a connection of its own: closing it is how a worker learns that nobody listens.
            limits = httpx.Limits(max_keepalive_connections=0, max_connections=None)
            self._http = httpx.AsyncClient(timeout=timeout, limits=limits, trust_env=False, follow_redirects=False)
        return self._http

    def facts(self, target: Target, model: str) -> Facts | None:
        """What is known of this very registration."""
        known = self._facts.get((target.worker, model))
        return known if known is not None and known.target is target else None

    def remember(self, model: str, facts: Facts) -> None:
        while len(self._facts) >= 1024:
            self._facts.pop(next(iter(self._facts)))
        self._facts[facts.target.worker, model] = facts


class Peer:
    """One worker, as one request sees it.

    Every method raises UpstreamLost when the worker does not answer as one.

    Args:
        model: the model's name as the worker knows it.
    """

    def __init__(self, peers: Peers, target: Target, model: str) -> None:
        self._peers = peers
        self._target = target
        self._url = base_url(target)
        self._headers = {"Content-Type": "application/json", **authorization(target)}
        self.model = model

    async def facts(self) -> Facts:
        """The model's template and context length, asked once per registration."""
        known = self._peers.facts(self._target, self.model)
        if known is not None:
            return known
        template, details = await asyncio.gather(
            self._ask("/worker_get_conv_template", {}), self._ask("/model_details", {})
        )
        conversation, problem = None, ""
        try:
            conversation = read_conversation(template.get("conv"))
        except UnknownTemplate as error:
            problem = str(error)
        length = details.get("context_length")
        facts = Facts(self._target, conversation, problem, length if type(length) is int and length > 0 else 0)
        self._peers.remember(self.model, facts)
        return facts

    async def count(self, prompt: str) -> int:
        """How many tokens the prompt has; 0 when the worker does not count."""
        count = (await self._ask("/count_token", {"prompt": prompt})).get("count")
        return count if type(count) is int and count > 0 else 0

    async def frames(
        self, params: dict[str, Any], *, first_byte_s: float, stall_s: float
    ) -> AsyncGenerator[dict[str, Any], None]:
        """The frames of one generation as they come; leaving the generator stops the worker.

        Raises:
            ApiError: the worker said what went wrong, or nothing for too long.
            UpstreamLost: the connection ended before the answer did.
        """
        body = msgspec.json.encode({"model": self.model, **params})
        limit = first_byte_s
        try:
            async with asyncio.timeout(None) as clock:
                clock.reschedule(_in(limit))
                url = f"{self._url}/worker_generate_stream"
                async with self._peers.http.stream("POST", url, content=body, headers=self._headers) as answer:
                    if answer.status_code != 200:
                        raise UpstreamLost(f"it answered with HTTP status {answer.status_code}")
                    framed = any(name in answer.headers for name in ("transfer-encoding", "content-length"))
                    rest, ended = b"", False
                    async for chunk in answer.aiter_raw():
                        *pieces, rest = (rest + chunk).split(b"\0")
                        if len(rest) > _LONGEST_FRAME:
                            raise UpstreamLost("its answer has no end")
                        limit = stall_s
                        # Whoever takes the frames may be slower than the worker: its clock stands still meanwhile.
                        clock.reschedule(None)
                        for piece in pieces:
                            if piece.strip():
                                frame = _frame(piece)
                                ended = ended or bool(frame.get("finish_reason"))
                                yield frame
                        clock.reschedule(_in(limit))
                    if rest.strip() or not (framed or ended):
                        raise UpstreamLost("its answer broke off")
        except TimeoutError:
            raise ApiError(504, f"The worker sent nothing for {limit:g} s.", code="worker_timeout") from None
        except (httpx.HTTPError, OSError) as error:
            raise UpstreamLost(str(error) or type(error).__name__) from None

    async def embed(self, texts: list[str], *, limit_s: float) -> tuple[list[list[float]], int]:
        """One vector per text, and how many tokens went in."""
        answer = await self._ask("/worker_get_embeddings", {"input": texts, "encoding_format": None}, limit_s)
        vectors, tokens = answer.get("embedding"), answer.get("token_num")
        try:
            found = msgspec.convert(vectors, list[list[float]])
        except msgspec.ValidationError:
            raise UpstreamLost("its embeddings are not lists of numbers") from None
        if len(found) != len(texts):
            raise UpstreamLost(f"it gave {len(found)} embeddings for {len(texts)} texts")
        return found, tokens if type(tokens) is int else 0

    async def _ask(self, path: str, body: dict[str, Any], limit_s: float = _ANSWER_S) -> dict[str, Any]:
        content = msgspec.json.encode({"model": self.model, **body})
        try:
            async with asyncio.timeout(limit_s):
                answer = await self._peers.http.post(f"{self._url}{path}", content=content, headers=self._headers)
        except TimeoutError:
            raise UpstreamLost(f"no answer to {path} within {limit_s:g} s") from None
        except (httpx.HTTPError, OSError) as error:
            raise UpstreamLost(str(error) or type(error).__name__) from None
        if answer.status_code == 404 and path == "/worker_get_embeddings":
            raise ApiError(400, "This model's worker makes no embeddings.", code="unsupported_model", param="model")
        if answer.status_code != 200:
            raise UpstreamLost(f"it answered {path} with HTTP status {answer.status_code}")
        if len(answer.content) > (_LONGEST_FRAME if "embeddings" in path else _MOST_ANSWER_BYTES):
            raise UpstreamLost(f"its answer to {path} is too long")
        return _frame(answer.content)


def _in(seconds: float) -> float:
    return asyncio.get_running_loop().time() + seconds


def _frame(data: bytes) -> dict[str, Any]:
    try:
        frame = msgspec.json.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise UpstreamLost("it sent what is not JSON") from None
    if not isinstance(frame, dict):
        raise UpstreamLost("it sent what is not an object")
    number = frame.get("error_code", 0)
    if number:
        raise error_of(number, str(frame.get("text", "")))
    return frame


def error_of(number: Any, text: str) -> ApiError:
    """A FastChat error as OpenAI's, with the reason that stands in its apology."""
    reason = text.removeprefix(_APOLOGY).strip()
    if reason.startswith("(") and reason.endswith(")"):
        reason = reason[1:-1]
    code = _CODES.get(number, "internal_error") if isinstance(number, int) else "internal_error"
    said = f": {reason[:500]}" if reason else "."
    return ApiError(_STATUS.get(code, 502), f"The worker answered with FastChat's error {number}{said}", code=code)
