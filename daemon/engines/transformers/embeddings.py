"""Vectors for texts from a model's last hidden states."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch

from daemon.engines.transformers.attention import PrefillChunk, Step, running
from daemon.engines.transformers.lora import Adapters, applied
from daemon.engines.transformers.pooling import Pooling

MAX_TOKENS = 2048
"""Tokens in one forward; longer lists of inputs take several."""


class Embedder:
    """Pools the last hidden states of the body (for encoder-decoder models: of the encoder).

    Runs in the caller's thread beside the engine's: the weights are only read.
    """

    def __init__(
        self, model: Any, *, packed: bool, adapters: Adapters | None = None, pooling: Pooling | None = None
    ) -> None:
        self._adapters = adapters
        self._pooling = pooling or Pooling()
        self._model = model
        self._packed = packed
        self._lock = threading.Lock()
        self._pool: ThreadPoolExecutor | None = None
        self._asking = 0

    async def ask(self, inputs: Sequence[Sequence[int]], adapter: str = "") -> list[list[float]]:
        """`embed` in a thread; cancelled, it ends with the forward that is under way.

        The thread ends with the last of those who ask, and the OpenMP threads that it used go with it: more of them
        than there are cores would not spin, and the engine's steps would be slower from then on (see `spinning`).
        """
        left = threading.Event()
        pool = self._pool = self._pool or ThreadPoolExecutor(1, thread_name_prefix="fcd-embed")
        self._asking += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(pool, self.embed, inputs, adapter, left)
        finally:
            left.set()
            self._asking -= 1
            if not self._asking:
                pool.shutdown(wait=False)
                self._pool = None

    @torch.inference_mode()
    def embed(
        self, inputs: Sequence[Sequence[int]], adapter: str = "", left: threading.Event | None = None
    ) -> list[list[float]]:
        """One vector for each list of token ids; fewer once nobody waits for them (`left`)."""
        vectors: list[list[float]] = []
        with self._lock:
            for group in batches(inputs, MAX_TOKENS):
                if left is not None and left.is_set():
                    break
                states = self._packed_states(group, adapter) if self._packed else self._padded_states(group)
                vectors.extend(self._pooling(hidden).tolist() for hidden in states)
        return vectors

    def _packed_states(self, group: Sequence[Sequence[int]], adapter: str) -> list[torch.Tensor]:
        """The last hidden states of each text, `[tokens, width]`."""
        device = self._model.get_input_embeddings().weight.device
        chunks: list[PrefillChunk] = []
        first = 0
        for ids in group:
            chunks.append(PrefillChunk(0, first, 0, 0, len(ids)))
            first += len(ids)
        packed = torch.tensor([[i for ids in group for i in ids]], device=device)
        positions = torch.tensor([[p for ids in group for p in range(len(ids))]], device=device)
        users = [(adapter, first)]
        batch = None if self._adapters is None else self._adapters.batch(users, None)
        with running(Step([], chunks, None)), applied(batch):
            body = self._model.base_model
            hidden = body(input_ids=packed, position_ids=positions, use_cache=False).last_hidden_state[0]
        return [hidden[c.first : c.first + c.count] for c in chunks]

    def _padded_states(self, group: Sequence[Sequence[int]]) -> list[torch.Tensor]:
        body = self._model.get_encoder() if self._model.config.is_encoder_decoder else self._model.base_model
        device = self._model.get_input_embeddings().weight.device
        longest = max(len(ids) for ids in group)
        ids = torch.tensor([[*row, *[0] * (longest - len(row))] for row in group], device=device)
        mask = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in group], device=device)
        hidden = body(input_ids=ids, attention_mask=mask).last_hidden_state
        return [states[: len(row)] for states, row in zip(hidden, group, strict=True)]


def batches(inputs: Sequence[Sequence[int]], limit: int) -> list[list[Sequence[int]]]:
    """Neighbouring inputs together, up to `limit` tokens; a longer one goes alone."""
    groups: list[list[Sequence[int]]] = []
    size = 0
    for ids in inputs:
        if not groups or size + len(ids) > limit:
            groups.append([])
            size = 0
        groups[-1].append(ids)
        size += len(ids)
    return groups
