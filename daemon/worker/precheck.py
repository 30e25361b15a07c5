"""Asks the controllers whether they are there and take the join token, before minutes go into loading a model."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

import httpx2 as httpx
import msgspec

from daemon.worker.registration import PASSING, Refused, decoded, next_step, shown_url
from fcd.errors import FcdError, api_error_from_body
from fcd.wire.controller import EngineGauges, HeartBeat

_TIMEOUT_S = 5.0
_TRIES = 3
_PAUSE_S = 1.0


async def check_controllers(
    urls: Sequence[str],
    address: str,
    token: str,
    say: Callable[[str], None],
    *,
    client: httpx.AsyncClient | None = None,
    pause_s: float = _PAUSE_S,
) -> None:
    """One heartbeat to each, for an address that it need not know: it costs nothing, and wants what registering wants.

    FastChat's controllers, which want no token, answer it too. One of several that is away is waited for later.

    Raises:
        Refused: one of them will not have this worker.
        FcdError: none of them can be reached.
    """
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    http = client or httpx.AsyncClient(timeout=_TIMEOUT_S, headers=headers, trust_env=False)
    async with http:
        problems = await asyncio.gather(*(_check(http, url.rstrip("/"), address, pause_s) for url in urls))
    lost = [(url, problem) for url, problem in zip(urls, problems, strict=True) if problem]
    if lost and len(lost) == len(urls):
        shown = "; ".join(f"{shown_url(url)}: {problem}" for url, problem in lost)
        raise FcdError(
            f"The controller cannot be reached, so nothing was loaded: {shown}",
            hint="Check that it runs (`fcd daemon status` there), that it listens beyond its own machine"
            " (`fcd daemon start --host ADDRESS`), and that no firewall is in between.",
        )
    for url, problem in lost:
        say(f"The controller {shown_url(url)} cannot be reached yet: {problem}. It is tried again after loading.")


async def _check(http: httpx.AsyncClient, url: str, address: str, pause_s: float) -> str:
    """An empty string, or why it could not be reached."""
    problem = ""
    for number in range(_TRIES):
        if number:
            await asyncio.sleep(pause_s)
        try:
            answer = await http.post(
                f"{url}/receive_heart_beat",
                content=msgspec.json.encode(HeartBeat(address, 0, EngineGauges())),
                headers={"Content-Type": "application/json"},
            )
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            problem = str(error) or type(error).__name__
            continue
        if answer.status_code < 300 or answer.status_code >= 500 or answer.status_code in PASSING:
            return ""
        refusal = api_error_from_body(answer.status_code, decoded(answer))
        raise Refused(
            f"The controller {shown_url(url)} refused this worker (status {answer.status_code}), so nothing was"
            f" loaded: {refusal.message}",
            hint=next_step(answer.status_code),
        )
    return problem
