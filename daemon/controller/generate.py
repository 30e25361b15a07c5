"""FastChat's /worker_generate_stream at the controller: the frames of a worker, passed on as they come."""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator
from typing import TYPE_CHECKING, Any

import httpx2 as httpx
import msgspec

from daemon.controller.registry import target_of
from daemon.supervisor.probe import authorization, base_url
from fcd.errors import ApiError

if TYPE_CHECKING:
    from daemon.controller.controller import Controller

log = logging.getLogger("fcd.controller")

NO_WORKER = 50005
WORKER_TIMEOUT = 50006
_APOLOGY = "**NETWORK ERROR DUE TO HIGH TRAFFIC. PLEASE REGENERATE OR REFRESH THIS PAGE.**"


class _Params(msgspec.Struct):
    model: str = ""


def frame(code: int, reason: str = "") -> bytes:
    """An error frame: FastChat's clients look at `error_code`, and show `text`."""
    text = f"{_APOLOGY}\n\n({reason})" if reason else _APOLOGY
    return msgspec.json.encode({"text": text, "error_code": code}) + b"\0"


async def relay(controller: Controller, body: bytes) -> AsyncGenerator[bytes, None]:
    """Frames, each ended by a NUL byte. Failures are frames too, as FastChat's clients expect: always HTTP 200."""
    try:
        model = msgspec.json.decode(body, type=_Params).model
        lease = await controller.acquire(model)
    except ApiError as error:
        yield frame(NO_WORKER, error.message)
        yield frame(WORKER_TIMEOUT, error.message)
        return
    except msgspec.MsgspecError as error:
        yield frame(40001, f"The request body cannot be used: {error}")
        return
    failure = ""
    try:
        async for chunk in _frames(controller, lease.target.worker, body):
            yield chunk
    except (httpx.HTTPError, OSError) as error:
        failure = str(error) or type(error).__name__
        yield frame(WORKER_TIMEOUT, f"The worker did not answer: {failure}")
    finally:
        lease.release(failed=bool(failure), reason=failure)


async def _frames(controller: Controller, worker: str, body: bytes) -> AsyncGenerator[bytes, None]:
    record = controller.registry.get(worker)
    if record is None:
        raise OSError("it left")
    target = target_of(worker, record.url, dialect="fastchat", api_key=record.target.api_key)
    limits: Any = httpx.Timeout(10.0, read=controller.stall_s)
    async with (
        httpx.AsyncClient(timeout=limits, trust_env=False, verify=target.tls) as client,
        client.stream(
            "POST",
            f"{base_url(target)}/worker_generate_stream",
            content=body,
            headers={"Content-Type": "application/json", **authorization(target)},
        ) as answer,
    ):
        if answer.status_code != 200:
            raise OSError(f"it answered with HTTP status {answer.status_code}")
        async for chunk in answer.aiter_raw():
            yield chunk
