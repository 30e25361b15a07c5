"""Registers at a controller and beats, with FastChat's bodies and fcd's own keys beside them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any

import httpx2 as httpx
import msgspec

from daemon.worker.state import Worker
from fcd.errors import FcdError, api_error_from_body
from fcd.wire.controller import (
    EngineGauges,
    FcdExtension,
    HeartBeat,
    HeartBeatReply,
    RegisterWorker,
    WorkerStatus,
)

log = logging.getLogger("fcd.worker")

_FIRST_WAIT_S = 1.0
_LONGEST_WAIT_S = 30.0
_TIMEOUT_S = 10.0
PASSING = frozenset({408, 425, 429})
"""Refusals that may be over in a moment."""


class Refused(FcdError):
    """The controller will not have this worker; asking again would not change it."""


class Registration:
    """One controller's view of this worker, kept up to date.

    Args:
        url: the controller's base URL; it may carry `/join/TOKEN`.
        extension: what fcd's controllers learn beyond FastChat's body.
        say: tells a person or the log what happens.
    """

    def __init__(
        self,
        worker: Worker,
        url: str,
        *,
        address: str,
        extension: FcdExtension,
        say: Callable[[str], None],
        client: httpx.AsyncClient | None = None,
    ) -> None:
        self._worker = worker
        self._url = url.rstrip("/")
        self._address = address
        self._extension = extension
        self._say = say
        token = worker.options.join_token
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        self._http = client or httpx.AsyncClient(timeout=_TIMEOUT_S, headers=headers, trust_env=False)
        self.registered = asyncio.Event()

    @property
    def shown(self) -> str:
        """The controller's URL without its token."""
        return shown_url(self._url)

    async def run(self) -> None:
        """Register, then beat for ever.

        Raises:
            Refused: the controller said no for good.
        """
        try:
            await self._register()
            while True:
                await asyncio.sleep(self._worker.options.heartbeat_s)
                await self._beat_safely()
        finally:
            await self._http.aclose()

    async def _register(self) -> None:
        wait, told = _FIRST_WAIT_S, ""
        while True:
            problem = await self._try_register()
            if not problem:
                self.registered.set()
                if told:
                    self._say(f"Registered at {self.shown}.")
                return
            if problem != told:
                self._say(f"Not registered at {self.shown} yet: {problem}. Trying again until it answers.")
                told = problem
            await asyncio.sleep(wait)
            wait = min(wait * 2, _LONGEST_WAIT_S)

    async def _try_register(self) -> str:
        """An empty string, or why it did not work this time."""
        body = RegisterWorker(
            worker_name=self._address,
            check_heart_beat=True,
            worker_status=WorkerStatus(self._worker.names, 1, self._worker.queue_length),
            multimodal="vision" in self._extension.capabilities,
            fcd=self._extension,
        )
        try:
            answer = await self._post("/register_worker", body)
        except httpx.HTTPError as error:
            return str(error) or type(error).__name__
        if answer.status_code < 300:
            return ""
        refusal = api_error_from_body(answer.status_code, decoded(answer))
        if refusal.code == "worker_unreachable" and self.registered.is_set():
            # It was reached before: the way back will be there again.
            return refusal.message.rstrip(".")
        if 400 <= answer.status_code < 500 and answer.status_code not in PASSING:
            raise Refused(
                f"The controller {self.shown} refused this worker (status {answer.status_code}): {refusal.message}",
                hint=next_step(answer.status_code),
            )
        return f"status {answer.status_code}: {refusal.message}"

    async def _beat_safely(self) -> None:
        """One beat. Nothing but a refusal for good may end the beating."""
        if self._worker.status != "ok":
            return
        try:
            await self._beat()
        except Refused:
            raise
        except Exception as error:
            log.warning("no heartbeat reached %s: %s", self.shown, str(error) or type(error).__name__)

    async def _beat(self) -> None:
        stats = self._worker.stats()
        gauges = EngineGauges(
            running=stats.running,
            waiting=stats.waiting,
            tokens_per_second=stats.tokens_per_second,
            ttft_ms=stats.ttft_ms,
            memory_bytes=stats.memory_bytes,
            kv_used=stats.kv_used,
            prompt_tokens=stats.prompt_tokens,
            generated_tokens=stats.generated_tokens,
        )
        answer = await self._post(
            "/receive_heart_beat", HeartBeat(self._address, stats.running + stats.waiting, gauges)
        )
        answer.raise_for_status()
        known = decoded(answer)
        if isinstance(known, dict) and not msgspec.convert(known, HeartBeatReply).exist:
            self._say(f"{self.shown} no longer knows this worker; registering again.")
            await self._register()

    async def _post(self, path: str, body: msgspec.Struct) -> httpx.Response:
        return await self._http.post(
            self._url + path, content=msgspec.json.encode(body), headers={"Content-Type": "application/json"}
        )


def shown_url(url: str) -> str:
    """A controller's URL without the token that it may carry."""
    head, found, _ = url.rstrip("/").partition("/join/")
    return f"{head}/join/***" if found else head


def decoded(answer: httpx.Response) -> Any:
    """A body as JSON, or the beginning of its text."""
    try:
        return msgspec.json.decode(answer.content)
    except msgspec.DecodeError:
        return answer.text[:300]


def next_step(status: int) -> str:
    """What a person can do about a refusal; empty when that is not known."""
    return {
        401: "Give it a join token: `fcd token create` on the controller's machine, then --token-file F.",
        403: "Its join token does not allow this, or the address is not permitted: see --worker-address.",
        404: "The URL is not a controller's: give the daemon's base URL, such as http://host:8000.",
        409: "The name or address is taken: see --model-names and --worker-address.",
    }.get(status, "")
