"""Looks after a vLLM that runs: reads its figures, and notices when it is dead or makes no tokens any more."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from daemon.engines.base import EngineStats
from daemon.worker.child.server import ChildServer
from daemon.worker.vllm.metrics import Figures, Meter, read_figures
from fcd.errors import ApiError

_EVERY_S = 2.0
"""vLLM writes its figures on the loop that streams answers: not too often."""
_SILENT_LOOKS = 3
"""So many looks without an answer, each of up to five seconds, and it hangs."""


class Watch:
    """One running vLLM.

    Args:
        memory_bytes: what it holds on each GPU.
        stall_s: with requests under way and no step for this long, it is tried with one token.
        on_figures: is told its figures.
        on_dead: is told once why it is of no use any more.
    """

    def __init__(
        self,
        server: ChildServer,
        *,
        memory_bytes: int,
        stall_s: float,
        on_figures: Callable[[EngineStats], None],
        on_dead: Callable[[str], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._server = server
        self._memory_bytes = memory_bytes
        self._stall_s = stall_s
        self._on_figures = on_figures
        self._on_dead = on_dead
        self._clock = clock
        self._meter = Meter()
        self._last = Figures()
        self._moved_at = clock()
        self._silent = 0
        self.asleep = False
        """Set while it sleeps: then it makes no tokens, and none are asked of it."""

    async def run(self) -> None:
        """Look until it is dead."""
        while True:
            reason = await self.look()
            if reason:
                self._on_dead(reason)
                return
            await asyncio.sleep(_EVERY_S)

    async def look(self) -> str:
        """One look; why it is dead, empty while it lives."""
        status = await self._server.health()
        if status >= 500:
            return "vLLM's engine process died."
        self._silent = 0 if status else self._silent + 1
        if self._silent >= _SILENT_LOOKS:
            return "vLLM hangs: it does not answer its health checks any more."
        if not status:
            return ""
        figures = await self.measure()
        if figures is None or self.asleep or not self._stalled(figures):
            return ""
        return await self._try_one_token()

    async def measure(self) -> Figures | None:
        """Its figures now; None when it gives none."""
        text = await self._server.get("/metrics")
        if not text:
            return None
        figures = read_figures(text.decode("utf-8", "replace"))
        self._on_figures(self._meter.stats(figures, self._clock(), memory_bytes=self._memory_bytes))
        return figures

    def _stalled(self, figures: Figures) -> bool:
        before, self._last = self._last, figures
        moved = (figures.steps, figures.generated_tokens, figures.prompt_tokens) != (
            before.steps,
            before.generated_tokens,
            before.prompt_tokens,
        )
        if moved or not figures.busy:
            self._moved_at = self._clock()
        return self._clock() - self._moved_at >= self._stall_s

    async def _try_one_token(self) -> str:
        try:
            async with asyncio.timeout(self._stall_s):
                async for _ in self._server.complete({"prompt": "a", "max_tokens": 1, "temperature": 0.0}):
                    pass
        except TimeoutError:
            return f"vLLM hangs: it answers its health checks, but made no token for {2 * self._stall_s:g} s."
        except ApiError as error:
            if error.status >= 500:
                return f"vLLM makes no tokens any more: {error.message}"
        self._moved_at = self._clock()
        return ""
