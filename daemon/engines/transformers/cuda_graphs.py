"""The decode step of the lean forward as CUDA graphs: one launch instead of hundreds.

A graph is captured for a number of rows; a batch takes the smallest that holds it, and the rows that are left over read
and write the store's scratch place. What changes from step to step is copied into the graph's own input first.
"""

from __future__ import annotations

import gc
import itertools
import logging
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cache
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch

from daemon.engines.transformers.arena import ArenaStore
from daemon.engines.transformers.attention import Step
from daemon.engines.transformers.flash_rows import FlashBatch, RowTensors
from daemon.engines.transformers.lean import LeanDecoder

log = logging.getLogger("fcd.engine")
BUCKETS = (1, 2, 4, 8, 16, 24, 32, 48, 64, 96, 128, 192, 256)
MEMORY = (256 << 20, 2 << 30)
"""At least and at most so many bytes may all graphs together take, in between an eighth of the KV budget; without room
for another, steps of its size run without one."""
_STAGES = 3
"""Host buffers that take turns: one may still be on its way to the device while the next is filled."""


class Captured(Protocol):
    def replay(self) -> None: ...


Capture = Callable[[Callable[[], None], Any], Captured]
"""(what to run, the memory pool) -> something that runs it again."""


def bucket_of(rows: int, buckets: Sequence[int] = BUCKETS) -> int | None:
    """The smallest bucket that holds so many rows."""
    return next((bucket for bucket in buckets if bucket >= rows), None)


def buckets_up_to(most: int) -> tuple[int, ...]:
    """The buckets that batches of up to `most` rows need."""
    last = bucket_of(most)
    return tuple(b for b in BUCKETS if last is None or b <= last)


def pad_inputs(
    ids: Sequence[int], positions: Sequence[int], bases: Sequence[int], bucket: int
) -> npt.NDArray[np.int32]:
    """One array for one copy: ids, positions, places of the new tokens, starts (one more), lengths.

    Rows beyond the batch are token 0 at position 0 of the scratch place.
    """
    rows = len(ids)
    packed = np.zeros(5 * bucket + 1, np.int32)
    fields = fields_of(packed, bucket)
    fields[0][:rows] = ids
    fields[1][:rows] = positions
    fields[3][:rows] = bases
    fields[2][:rows] = fields[3][:rows] + fields[1][:rows]
    fields[4][:] = 1
    fields[4][:rows] += fields[1][:rows]
    return packed


def fields_of(packed: npt.NDArray[np.int32], bucket: int) -> tuple[npt.NDArray[np.int32], ...]:
    """Views of ids, positions, places, starts and lengths."""
    cuts = (0, bucket, 2 * bucket, 3 * bucket, 4 * bucket + 1, 5 * bucket + 1)
    return tuple(packed[a:b] for a, b in itertools.pairwise(cuts))


@cache
def _capture_stream(device: int) -> torch.cuda.Stream:
    """One for all captures: the libraries keep memory for each stream that they have seen."""
    return torch.cuda.Stream(device)  # type: ignore[no-untyped-call]


def capture_cuda(run: Callable[[], None], pool: Any) -> Captured:
    """Capture with PyTorch; a run before it lets libraries take what they keep."""
    stream = _capture_stream(torch.cuda.current_device())
    stream.wait_stream(torch.cuda.current_stream())
    graph = torch.cuda.CUDAGraph()
    # Collecting garbage in the middle could free what another graph holds.
    collecting = gc.isenabled()
    gc.disable()
    try:
        with torch.cuda.stream(stream):
            run()
            stream.synchronize()
            # Other threads (embeddings) go on using the device meanwhile.
            graph.capture_begin(pool=pool, capture_error_mode="thread_local")
            try:
                run()
            finally:
                graph.capture_end()
    finally:
        if collecting:
            gc.enable()
    torch.cuda.current_stream().wait_stream(stream)
    return graph


@dataclass(eq=False, slots=True)
class _Graph:
    inputs: torch.Tensor
    logits: list[torch.Tensor]
    captured: Captured


class DecodeGraphs:
    """Decode steps of one model, by number of rows.

    Args:
        store: whose tensors the graphs hold; when it takes others, the graphs are made anew.
        most_rows: the largest batch.
        capture: how to capture; tests run the steps as they are.
    """

    def __init__(
        self,
        lean: LeanDecoder,
        store: ArenaStore,
        device: torch.device,
        *,
        most_rows: int,
        capture: Capture | None = None,
    ) -> None:
        self._lean = lean
        self._store = store
        self._device = device
        self._capture = capture or capture_cuda
        self._most_kept = store.pool.max_tokens
        self.buckets = buckets_up_to(most_rows)
        self._graphs: dict[int, _Graph] = {}
        self._generation = -1
        self._pool: Any = None
        self._pinned = device.type == "cuda"
        self._stages = [self._stage() for _ in range(_STAGES)]
        self._turn = 0
        self.bytes = 0
        self._most_bytes = max(MEMORY[0], min(MEMORY[1], store.pool.budget // 8))
        self.failed = ""
        """Why no more graphs are captured."""

    def logits(
        self,
        ids: Sequence[int],
        positions: Sequence[int],
        bases: Sequence[int],
        tokens: torch.Tensor | None = None,
    ) -> torch.Tensor | None:
        """Logits `[rows, vocab]`, valid until the next call; None when no graph can be had.

        Args:
            bases: the place of each row's first token in the store.
            tokens: the ids where they are known to the device only; `ids` are then ignored.
        """
        rows = len(ids)
        self._keep_up()
        bucket = bucket_of(rows, self.buckets)
        if bucket is not None and self.failed:
            # A larger one that is there is still better than none.
            bucket = bucket_of(rows, sorted(self._graphs))
        graph = None if bucket is None else self._graphs.get(bucket) or self._make(bucket)
        if bucket is None or graph is None:
            return None
        graph.inputs.copy_(self._staged(pad_inputs(ids, positions, bases, bucket)), non_blocking=True)
        if tokens is not None:
            graph.inputs[:rows] = tokens
        graph.captured.replay()
        return graph.logits[0][:rows]

    @torch.inference_mode()
    def prepare(self, progress: Callable[[int, int], None]) -> None:
        """Capture every graph now, the largest first: the smaller ones use its memory again."""
        for done, bucket in enumerate(reversed(self.buckets)):
            progress(done, len(self.buckets))
            self._keep_up()
            if self._make(bucket) is None:
                return

    def _keep_up(self) -> None:
        if self._generation != self._store.generation:
            self._graphs.clear()
            if self._pinned:
                # The memory of those stays with PyTorch until it is asked for, and is counted nowhere.
                torch.cuda.empty_cache()
            self.failed = ""
            self._generation = self._store.generation
            self._pool = torch.cuda.graph_pool_handle() if self._pinned else None
            self.bytes = 0

    def _make(self, bucket: int) -> _Graph | None:
        if self.failed:
            return None
        before = self._reserved()
        inputs = torch.from_numpy(pad_inputs([], [], [], bucket)).to(self._device)
        offsets = torch.arange(bucket + 1, dtype=torch.int32, device=self._device)
        held: list[torch.Tensor] = []

        def run() -> None:
            held[:] = [self._forward(inputs, offsets, bucket)]

        try:
            with torch.cuda.device(self._device) if self._pinned else nullcontext():
                captured = self._capture(run, self._pool)
        except (RuntimeError, torch.OutOfMemoryError) as error:
            self.failed = str(error).splitlines()[0] if str(error) else type(error).__name__
            log.warning("no CUDA graph for %d rows: %s; such steps run without one", bucket, self.failed)
            return None
        self.bytes += max(0, self._reserved() - before)
        if self.bytes > self._most_bytes:
            self.failed = "graphs have taken all the memory that they may"
        graph = self._graphs[bucket] = _Graph(inputs, held, captured)
        return graph

    def _forward(self, inputs: torch.Tensor, offsets: torch.Tensor, bucket: int) -> torch.Tensor:
        ids, positions, targets = inputs[: 3 * bucket].view(3, bucket)
        starts, used = inputs[3 * bucket : 4 * bucket + 1], inputs[4 * bucket + 1 :]
        nothing = np.empty(0, np.int32)
        batch = FlashBatch(nothing.astype(np.int64), nothing, nothing, nothing, 1, self._most_kept, bucket)
        batch.places[self._device] = RowTensors(targets.long(), offsets, starts, used)
        step = Step([], [], None, flash=(self._store, batch))
        return self._lean.logits(ids, positions, None, self._most_kept - 1, step)

    def _reserved(self) -> int:
        return torch.cuda.memory_reserved(self._device) if self._pinned else 0

    def _stage(self) -> torch.Tensor:
        return torch.zeros(5 * self.buckets[-1] + 1, dtype=torch.int32, pin_memory=self._pinned)

    def _staged(self, packed: npt.NDArray[np.int32]) -> torch.Tensor:
        self._turn = (self._turn + 1) % _STAGES
        stage = self._stages[self._turn][: len(packed)]
        stage.copy_(torch.from_numpy(packed))
        return stage
