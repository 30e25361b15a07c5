"""Asks workers whether they live, at the address where requests would go."""

from __future__ import annotations

import asyncio
from typing import Protocol

import httpx2 as httpx

from daemon.dispatch import Target


class Prober(Protocol):
    async def __call__(self, target: Target) -> bool:
        """Whether the worker answered in time."""
        ...


class HttpProber:
    """GET /health of workers that speak OpenAI's routes, /worker_get_status of FastChat's."""

    def __init__(self, timeout_s: float) -> None:
        self._timeout_s = timeout_s

    async def __call__(self, target: Target) -> bool:
        try:
            async with asyncio.timeout(self._timeout_s):
                return await self._ask(target)
        except (httpx.HTTPError, OSError, TimeoutError):
            return False

    async def _ask(self, target: Target) -> bool:
        # A connection of its own each time: one that was kept open says nothing about the next.
        transport = httpx.AsyncHTTPTransport(uds=target.socket or None, verify=target.tls)
        async with httpx.AsyncClient(transport=transport, timeout=self._timeout_s) as client:
            headers = authorization(target)
            if target.dialect == "fastchat":
                answer = await client.post(f"{base_url(target)}/worker_get_status", headers=headers)
                return answer.status_code == 200
            answer = await client.get(f"{base_url(target)}/health", headers=headers)
            # Servers of others may have no such route; that they say so is a sign of life.
            return answer.status_code < 400 or answer.status_code in (401, 403, 404)


def authorization(target: Target) -> dict[str, str]:
    return {"Authorization": f"Bearer {target.api_key}"} if target.api_key else {}


def base_url(target: Target) -> str:
    scheme = "https" if target.tls else "http"
    host = f"[{target.host}]" if ":" in target.host else target.host
    port = f":{target.port}" if target.port else ""
    return f"{scheme}://{host}{port}{target.base_path}"
